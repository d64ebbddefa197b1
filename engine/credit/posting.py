"""The ledger's side of credit, as pure functions over the books.

Entries of one shard are applied in the order in which Redis took them. Redis runs one step at a
time, so all valid usage of a holder stands before the marker that fences it.

Requests for one organisation are answered one after another. When `available` does not
cover the first one and other holders have quota, each of those is sent a recall and the
request waits. It waits until every other holder has returned its quota or was fenced; a holder
that has got quota meanwhile is asked again. Then all units of the organisation are available or
used, and the ledger grants what is there, or refuses.

An organisation with a threshold gets the event `low_balance` when its usable units (available and
granted) were not below it before a transaction and are below it after. So it gets the event once,
until its units have been at the threshold again. That needs no memory. A top-up has a transaction
of its own and counts as any other way up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

import msgspec

from engine.credit.ledger_records import (
    Books,
    Portion,
    RemainingUnits,
    StreamMark,
    Unclosed,
    UsageEntry,
    UsageKind,
    WaitingRequest,
)
from engine.credit.losses import follows
from engine.credit.movements import (
    account_of,
    change_quota,
    give_back,
    hold_usage,
    move,
    set_aside,
    settle_usage,
)
from engine.credit.records import LedgerAnswer, QuotaRequest, QuotaReturn
from engine.stream_id import STREAM_START

_NOTHING = RemainingUnits(0, 0)

_flat = msgspec.msgpack.Decoder(list[int])
_request = msgspec.msgpack.Decoder(QuotaRequest)
_return = msgspec.msgpack.Decoder(QuotaReturn)


def organisations_of(entry: UsageEntry) -> list[int]:
    """The organisations that an entry names. A fence names none; it concerns those of its holder."""
    if entry.kind == "usage":
        return _flat.decode(entry.data)[::2]
    if entry.kind == "settle":
        return _flat.decode(entry.data)[::3]
    if entry.kind == "request":
        return [_request.decode(entry.data).organisation_id]
    if entry.kind == "return":
        return [_return.decode(entry.data).organisation_id]
    return []


def urgent(entry: UsageEntry) -> bool:
    """Whether somebody waits for this entry to be applied. Other entries may gather."""
    return entry.kind not in ("usage", "settle")


def known(entry: UsageEntry) -> bool:
    """Whether this version knows what to do with an entry of this kind."""
    return entry.kind in _APPLY


def next_after(mark: StreamMark, entry: UsageEntry) -> bool:
    """Whether `entry` is the next one after `mark`. Entries of an older version have no links."""
    return entry.position > mark.position and follows(mark, entry.follows)


def portion(
    entries: Iterable[UsageEntry],
    *,
    locked: AbstractSet[int],
    quotas: Mapping[tuple[int, str], Collection[int]],
    waiting: Mapping[int, Sequence[WaitingRequest]],
    quotas_max: int,
    unclosed: AbstractSet[int] = frozenset(),
) -> Portion:
    """The entries that one transaction applies: of each shard those before the first that must wait.

    The entries of a shard are applied in order, up to one position. So an entry that waits makes all
    later ones of its shard wait, also those of other organisations. Other shards go on.

    `locked`: organisations whose accounts another transaction has locked. `quotas`: for each
    (shard, holder) that is fenced, the organisations of which it has quota there; when they are more
    than `quotas_max`, at least one more than that. `waiting`: requests by organisation. A fence that
    ends more than `quotas_max` quotas of a shard, or a quota of a locked account, is only begun. `unclosed`:
    organisations that were locked when their shard was closed. Their requests wait in their line, and
    what ends their quotas is their close; what moves units of theirs waits for it.
    """
    taken = Portion(whole=[], begun=[], held_up=set())
    ended: set[int] = set()
    room: dict[int, int] = {}
    for entry in entries:
        if entry.shard in ended:
            continue
        if entry.kind != "fence":
            named = organisations_of(entry)
            waits = entry.kind in ("usage", "settle") and not unclosed.isdisjoint(named)
            fits, free = True, locked.isdisjoint(named) and not waits
        else:
            theirs = quotas.get((entry.shard, entry.holder), ())
            if unclosed and len(theirs) <= quotas_max:
                theirs = [o for o in theirs if o not in unclosed]
            left = room[entry.shard] = room.get(entry.shard, quotas_max) - len(theirs)
            lines = {o for o, line in waiting.items() if line and line[0].shard == entry.shard} - unclosed
            fits = left >= 0
            # A fence that does not fit can go on as long as one of its accounts is free.
            free = locked.isdisjoint((*theirs, *lines)) if fits else not locked >= set(theirs)
        if fits and free:
            taken.whole.append(entry)
            continue
        ended.add(entry.shard)
        if entry.kind == "fence":
            taken.begun.append(entry)
        if not free:
            taken.held_up.add(entry.shard)
    return taken


def decide(books: Books, entries: Iterable[UsageEntry], begun: Iterable[UsageEntry] = ()) -> None:
    """Apply `entries` to the books. Then, of the fences in `begun`, only end the quotas in the books.

    Usage that the books do not cover is set aside (`engine.credit.movements`).
    """
    with _watched(books):
        for entry in entries:
            _APPLY[entry.kind](books, entry)
        for entry in begun:
            _end_quotas(books, entry)


def close_books(books: Books, shard: int, left: dict[int, RemainingUnits], *, reopens: bool = True) -> None:
    """Close the books of a shard that do not fit its streams: end all quotas, and make `held` what is left.

    `left`: by organisation, the units of the messages that Redis still has. Messages that are
    gone were not sent as far as Redis knows; their units are released. With `reopens`, messages that Redis
    has again although the books charged or released them (it went back to an older state) will be settled
    again; their units are held again. Without it the messages that the books do not know are new to them,
    because PostgreSQL went back. When some messages are back and others are gone, only the difference is
    known here. What no unit covers is unbooked. Accounts that are locked are closed later: what that needs
    goes to `books.unclosed`.
    """
    for organisation_id in books.locked:
        for waiting in list(books.waiting.get(organisation_id, ())):
            _close(books, books.waiting[organisation_id], waiting)
        found = left.get(organisation_id, _NOTHING)
        books.unclosed.append(Unclosed(organisation_id, shard, found.held, found.news, reopens))
    with _watched(books):
        _close_books(books, shard, left, reopens)


def close_account(books: Books, later: Unclosed) -> None:
    """Close the account of one organisation, alone in `books`, that was locked when its shard was closed."""
    organisation_id = later.organisation_id
    # What came since the shard was closed waits for an answer.
    line = books.waiting.pop(organisation_id, [])
    since = account_of(books, organisation_id).held - later.booked
    left = {organisation_id: RemainingUnits(later.held + since, later.news)}
    close_books(books, later.shard, left, reopens=later.reopens)
    books.waiting[organisation_id] = line
    _serve(books, organisation_id)


def _close_books(books: Books, shard: int, left: dict[int, RemainingUnits], reopens: bool) -> None:
    for organisation_id, account in books.accounts.items():
        for holder, units in books.quotas.get(organisation_id, {}).items():
            change_quota(books, organisation_id, holder, -units)
            move(books, shard, organisation_id, "fence", units)
        for waiting in list(books.waiting.get(organisation_id, ())):
            _close(books, books.waiting[organisation_id], waiting)
        found = left.get(organisation_id, _NOTHING)
        news = min(found.news, account.available)
        move(books, shard, organisation_id, "grant", news)
        move(books, shard, organisation_id, "hold", news)
        missing = found.held - account.held - (account.unbooked or 0)
        if missing < 0:
            released = min(-missing, account.held)
            move(books, shard, organisation_id, "release", released)
            set_aside(books, organisation_id, _in_place_of(shard, "settle"), released=-missing - released)
            continue
        charged = min(missing, account.captured) if reopens else 0
        move(books, shard, organisation_id, "reopen", charged)
        fresh = min(missing - charged, account.available)
        move(books, shard, organisation_id, "grant", fresh)
        move(books, shard, organisation_id, "hold", fresh)
        set_aside(books, organisation_id, _in_place_of(shard, "usage"), held=missing - charged - fresh)
    for organisation_id in left.keys() - books.accounts.keys() - books.locked:
        known = books.adrift.get(organisation_id, 0)
        held = left[organisation_id].held - known
        set_aside(books, organisation_id, _in_place_of(shard, "usage"), held=max(0, held))
        set_aside(books, organisation_id, _in_place_of(shard, "settle"), released=max(0, -held))


def _in_place_of(shard: int, kind: UsageKind) -> UsageEntry:
    """An entry that stands for those that are not on the stream any more."""
    return UsageEntry(shard, STREAM_START, kind, "", 0, b"")


def size_grant(available: int, request: QuotaRequest) -> int:
    """How many units to grant of `available`, which covers `needed`.

    At least enough for all clients that wait, if there is as much. Beyond that what is wanted, but at
    most a quarter of `available`, so that other holders find some when the balance is low.
    """
    supply = min(request.wanted, available // 4)
    return min(available, max(request.needed, request.waiting, supply))


@contextmanager
def _watched(books: Books) -> Iterator[None]:
    """Add to `books.low` the organisations that fall below their threshold within this block."""
    above = {
        organisation_id: account.low_balance
        for organisation_id, account in books.accounts.items()
        if account.low_balance is not None and account.usable >= account.low_balance
    }
    yield
    books.low += [o for o, threshold in above.items() if books.accounts[o].usable < threshold]


def _usage(books: Books, entry: UsageEntry) -> None:
    flat = _flat.decode(entry.data)
    for organisation_id, units in zip(flat[::2], flat[1::2], strict=True):
        hold_usage(books, entry, organisation_id, units)


def _settle(books: Books, entry: UsageEntry) -> None:
    flat = _flat.decode(entry.data)
    for organisation_id, captured, released in zip(flat[::3], flat[1::3], flat[2::3], strict=True):
        settle_usage(books, entry, organisation_id, captured, released)
        if released:
            _serve(books, organisation_id)


def _ask(books: Books, entry: UsageEntry) -> None:
    request = _request.decode(entry.data)
    waiting = books.waiting.setdefault(request.organisation_id, [])
    waiting.append(WaitingRequest(entry.shard, entry.holder, entry.epoch, request))
    _serve(books, request.organisation_id)


def _give_back(books: Books, entry: UsageEntry) -> None:
    given = _return.decode(entry.data)
    give_back(books, entry, given.organisation_id, given.units)
    for waiting in books.waiting.get(given.organisation_id, ()):
        if given.recall:
            waiting.recalled.discard(entry.holder)
        if waiting.holder == entry.holder and given.units:
            waiting.request = _without(waiting.request, given.units)
    _serve(books, given.organisation_id)


def _without(request: QuotaRequest, units: int) -> QuotaRequest:
    """The request of a holder that has returned `units` since it asked: it needs as many more.

    A request is for what the holder needs beyond the quota that it had when it asked. Without this,
    two holders could take the last units from each other for ever, each granted a little less than it
    can use. A new ledger does not know of the return. It may grant too little once, and the holder
    then asks again. Its refusal is still true: when the units do not cover what was asked for, they
    do not cover what is needed, which is more.
    """
    return msgspec.structs.replace(
        request,
        needed=request.needed + units,
        waiting=request.waiting + units,
        wanted=request.wanted + units,
    )


def _end_quotas(books: Books, entry: UsageEntry) -> None:
    """End the quotas of a fenced holder that are in the books; those ended before are not there."""
    holder = entry.holder
    for organisation_id, by_holder in books.quotas.items():
        units = by_holder.get(holder, 0)
        # The marker ends the epoch of the holder in this shard only.
        if units and account_of(books, organisation_id).shard == entry.shard:
            change_quota(books, organisation_id, holder, -units)
            move(books, entry.shard, organisation_id, "fence", units)


def _fence(books: Books, entry: UsageEntry) -> None:
    holder = entry.holder
    _end_quotas(books, entry)
    for organisation_id, line in books.waiting.items():
        if not line or line[0].shard != entry.shard:
            continue
        # Nobody waits for the requests of the fenced holder any more.
        for gone in [w for w in line if w.holder == holder]:
            _close(books, line, gone)
        for waiting in line:
            waiting.recalled.discard(holder)
        _serve(books, organisation_id)


def _serve(books: Books, organisation_id: int) -> None:
    """Answer the requests of the organisation in order, as far as they can be decided now."""
    line = books.waiting.get(organisation_id)
    while line and organisation_id not in books.locked:
        head = line[0]
        account = books.accounts.get(organisation_id)
        if account is None or account.suspended:
            _answer(books, head, "refusal", 0)
        elif account.available >= head.request.needed:
            units = size_grant(account.available, head.request)
            change_quota(books, organisation_id, head.holder, units)
            move(books, head.shard, organisation_id, "grant", units)
            _answer(books, head, "grant", units)
        elif _recall(books, organisation_id, head):
            return
        else:
            _answer(books, head, "refusal", 0)
        _close(books, line, head)


def _close(books: Books, line: list[WaitingRequest], waiting: WaitingRequest) -> None:
    line.remove(waiting)
    if waiting.row_id:
        books.closed.append(waiting.row_id)


def _recall(books: Books, organisation_id: int, head: WaitingRequest) -> bool:
    """Whether other holders have quota; send a recall to those that were not asked yet."""
    others = [
        holder
        for holder, units in books.quotas.get(organisation_id, {}).items()
        if units > 0 and holder != head.holder
    ]
    for holder in others:
        if holder not in head.recalled:
            head.recalled.add(holder)
            recall = LedgerAnswer(kind="recall", number=head.request.number, organisation_id=organisation_id)
            books.answers.append((head.shard, holder, recall))
    return bool(others)


def _answer(books: Books, head: WaitingRequest, kind: str, units: int) -> None:
    answer = LedgerAnswer(
        kind="grant" if kind == "grant" else "refusal",
        number=head.request.number,
        organisation_id=head.request.organisation_id,
        units=units,
        epoch=head.epoch,
    )
    books.answers.append((head.shard, head.holder, answer))


_APPLY = {
    "usage": _usage,
    "settle": _settle,
    "request": _ask,
    "return": _give_back,
    "fence": _fence,
}
