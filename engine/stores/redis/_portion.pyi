from engine.records import Submission
from engine.stores.redis.link import Argument

class Portion:
    """Submissions that are let in together or not at all. For one thread."""

    def __init__(self, index: int, kept: bytes, texts: bool) -> None:
        """`index`: the first of its submissions in the flush. `kept`: what is kept under the key of a
        submission that has one, else b"". `texts`: whether the texts are recorded."""

    def add(self, submission: Submission) -> None:
        """Put a submission behind those that are here."""

    def arguments(self) -> list[Argument]:
        """The arguments of `admit` in functions/queue: the index, what is kept, the units by organisation,
        how many rows there are and they themselves, how many bundles and scheduled messages, and these:
        (queue, how many messages, whose they are, the records) of each bundle, (queue, due, message) of each
        other. Call it once, when all are here."""
