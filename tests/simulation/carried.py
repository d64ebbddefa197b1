"""What is canceled is never given to the carrier, and was not taken by it."""

from __future__ import annotations


class Carried:
    """What the carrier was given, as far as anything is promised of it: not behind a Redis that went back."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._uncertain: set[str] = set()

    def given(self, message_id: str, ended: str, *, taken: bool) -> str:
        """The carrier is given a message, which has `ended` so; `taken`: it takes it. What is wrong, or
        ""."""
        if message_id in self._uncertain:
            return ""
        if taken:
            self._taken.add(message_id)
        return f"message {message_id} is given to the carrier, though it is canceled" * (ended == "canceled")

    def canceled(self, message_id: str) -> str:
        """A message is canceled. What is wrong, or ""."""
        return f"message {message_id} is canceled, though the carrier has taken it" * (
            message_id in self._taken
        )

    def rewound(self, message_ids: set[str]) -> None:
        """Redis has gone back: from now on nothing can be said of these."""
        self._uncertain |= message_ids
        self._taken.clear()
