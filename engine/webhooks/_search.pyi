def has_four(octets: bytes, four: bytes) -> bool:
    """Whether `four`, four octets, stand among `octets`: as `in`. Raises ValueError for any other number."""
