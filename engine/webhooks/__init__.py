"""Events on their way to the URLs of organisations (docs/webhooks.md)."""
