from supervisor.simulator.counts import Key

def take_submits(
    chunk: bytes, at: int, number: int, order: list[Key], seen: list[set[Key]], repeated: dict[Key, int]
) -> tuple[int, int, bytes]:
    """Count and answer the submits from `at` on, up to the first octets that are no whole submit_sm of a
    message with one segment: (where those are, how many submits, the PDUs that accept them).

    `number`: the last id that was given. `order`, `seen`, `repeated`: those of a `Counts`; there are a power
    of two of `seen`.
    """
