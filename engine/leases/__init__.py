"""What one of several processes does: the one that has the lease."""
