"""The web console: pages for people on the address of the operators (docs/console.md)."""
