"""Which provider carries a message, and how fast."""
