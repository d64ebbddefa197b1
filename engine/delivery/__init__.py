"""From a queue to a provider, and what becomes of a message there."""
