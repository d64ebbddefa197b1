from collections.abc import Sequence

from engine.records import Entry

def sent_rows(
    entries: Sequence[Entry],
    ids: list[str],
    latency_us: list[int],
    provider: str,
    code: str,
    now_us: int,
    receipts_by: int,
) -> list[bytes]:
    """Of each entry the packed `ActivityRow` of its event `sent`, without the text. The rest is as in
    `engine.delivery.sent`. Raises ValueError when the lists are not equally long."""
