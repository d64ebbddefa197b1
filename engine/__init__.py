"""smsengine: the engine. Start reading at `records` and `lifecycle`."""

__version__ = "0.1.0"
