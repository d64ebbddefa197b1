"""smsengine: the engine. Start reading at `records`, `lifecycle` and `ports`."""

__version__ = "0.1.0"
