"""Providers with an HTTP API, described by settings."""
