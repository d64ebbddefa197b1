"""ClickHouse's format Native: a block of rows, column by column. No I/O.

https://clickhouse.com/docs/interfaces/formats/Native
"""

from __future__ import annotations

from collections.abc import Sequence

from clickhouse_connect.driver.compression import get_compressor

# What `compressed` makes, as HTTP names it.
COMPRESSION = "lz4"


def block(names: Sequence[str], types: Sequence[str], rows: int, columns: Sequence[bytes]) -> list[bytes]:
    """The octets of one block, in parts; `columns`: the values of each column, packed as Native has them."""
    parts = [_number(len(names)) + _number(rows)]
    for name, kind, values in zip(names, types, columns, strict=True):
        parts += (_text(name) + _text(kind), values)
    return parts


def compressed(parts: Sequence[bytes]) -> list[bytes]:
    """The same octets, compressed, as one part."""
    return [bytes(get_compressor(COMPRESSION).compress_block(b"".join(parts)))]


def _number(value: int) -> bytes:
    """A positive number in LEB128."""
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    octets.append(value)
    return bytes(octets)


def _text(value: str) -> bytes:
    octets = value.encode()
    return _number(len(octets)) + octets
