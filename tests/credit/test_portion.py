"""Which entries one transaction of the ledger takes: of each shard, in order, what is not locked."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.credit.ledger_records import Portion, UsageEntry, WaitingRequest
from engine.credit.posting import portion
from engine.credit.records import QuotaRequest
from engine.stream_id import StreamId


def usage(shard: int, position: int, organisation_id: int) -> UsageEntry:
    return UsageEntry(
        shard, StreamId(position, 0), "usage", "h", 1, msgspec.msgpack.encode([organisation_id, 1])
    )


def fence(shard: int, position: int, holder: str = "gone") -> UsageEntry:
    return UsageEntry(shard, StreamId(position, 0), "fence", holder, 1, b"")


def taken(*entries: UsageEntry, **known: Any) -> Portion:
    given: dict[str, Any] = {"locked": set(), "quotas": {}, "waiting": {}, "quotas_max": 3}
    return portion(entries, **given | known)


def line(shard: int, organisation_id: int) -> list[WaitingRequest]:
    request = QuotaRequest(number=1, organisation_id=organisation_id, wanted=1, needed=1, waiting=1)
    return [WaitingRequest(shard, "h", 1, request)]


def test_all_is_taken_when_nothing_is_locked() -> None:
    entries = [usage(1, 1, 10), fence(1, 2), usage(2, 1, 20)]
    assert taken(*entries, quotas={(1, "gone"): [10, 11, 12]}) == Portion(entries, [], set())


def test_a_locked_account_keeps_what_is_behind_it_waiting_in_its_shard_alone() -> None:
    first, second, third = usage(1, 1, 10), usage(1, 2, 11), usage(1, 3, 10)
    apart = usage(2, 1, 20)
    assert taken(first, second, third, apart, locked={11}) == Portion([first, apart], [], {1})


def test_a_fence_of_more_quotas_than_fit_is_begun_and_nothing_behind_it_is_taken() -> None:
    before, marker, behind = usage(1, 1, 10), fence(1, 2), usage(1, 3, 10)
    quotas = {(1, "gone"): [10, 11, 12, 13]}
    assert taken(before, marker, behind, quotas=quotas) == Portion([before], [marker], set())


def test_fences_of_one_shard_share_its_room_and_those_of_others_have_their_own() -> None:
    entries = [fence(1, 1, "a"), fence(1, 2, "b"), fence(2, 1, "a")]
    quotas = {(1, "a"): [10, 11], (1, "b"): [10, 11], (2, "a"): [20, 21]}
    assert taken(*entries, quotas=quotas) == Portion([entries[0], entries[2]], [entries[1]], set())


@pytest.mark.parametrize("locked", [{11}, {30}])
def test_a_fence_with_a_locked_account_or_a_locked_one_that_waits_is_begun_and_held_up(
    locked: set[int],
) -> None:
    marker = fence(1, 1)
    known = {"quotas": {(1, "gone"): [10, 11]}, "waiting": {30: line(1, 30), 40: line(2, 40)}}
    assert taken(marker, locked=locked, **known) == Portion([], [marker], {1})
    # One that waits in another shard does not matter.
    assert taken(marker, locked={40}, **known) == Portion([marker], [], set())


def test_a_large_fence_is_held_up_only_when_none_of_its_accounts_is_free() -> None:
    marker, quotas = fence(1, 1), {(1, "gone"): [10, 11, 12, 13]}
    assert taken(marker, quotas=quotas, locked={10, 11, 12}).held_up == set()
    assert taken(marker, quotas=quotas, locked={10, 11, 12, 13}).held_up == {1}
