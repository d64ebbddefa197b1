"""The lines of the log: how they are configured, written, and kept few."""
