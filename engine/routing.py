"""Which provider a message is sent through."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

_Provider = TypeVar("_Provider")


def provider_for(attempts: int, providers: Sequence[_Provider]) -> _Provider:
    """The first provider for a first attempt; after each failed one the next in order, round again."""
    return providers[attempts % len(providers)]
