"""smsengine: an SMS sending engine with prepaid credit.

Start reading at `records` and `lifecycle`, then at the `ports` of a room (`docs/architecture.md`).
"""

__version__ = "0.1.0"
