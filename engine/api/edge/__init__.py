"""The calls that submit messages, answered without aiohttp."""
