"""From a request to an admitted message."""
