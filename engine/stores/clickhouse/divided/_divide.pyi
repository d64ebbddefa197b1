def divide(
    columns: list[bytes], widths: list[int], rows: int, organisations: int, divisions: int
) -> list[tuple[int, list[bytes]]]:
    """The rows of a block by division: how many, and the values of each column, packed as in the block.

    `widths`: octets of each value of a column, 0 for strings. `organisations`: the place of the column whose
    numbers say which division a row is in (`engine.shards.shard_of`); `divisions`: how many there are, at
    most `engine.config.stores.DIVISIONS_MAX`. Rows keep their order. Raises ValueError for more, and when the
    columns have not so many rows.
    """
