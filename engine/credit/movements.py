"""How units move within the books, and what becomes of usage that the books do not cover.

Usage is money already spent, so it is never refused. The books can be behind it when PostgreSQL went
back: a top-up, an organisation or a grant is gone, and its usage is still on the stream. Then:

- a holder that used more than its quota is covered by what is available, and then by the quotas of other
  holders: all units of an organisation are alike, and what was spent was not spent elsewhere;
- what no unit of the organisation covers is *unbooked*: it is kept with all it says, and the organisation
  is granted nothing until an operator has put that right (`smsengine books repair`).

Nobody else is touched. A settlement takes what the books hold first; the rest belongs to usage that is
unbooked, and is unbooked itself.
"""

from __future__ import annotations

from engine.credit.ledger_records import MOVEMENTS, Account, Books, MovementKind, UnbookedUsage, UsageEntry
from engine.errors import Broken
from engine.written_numbers import plural


def account_of(books: Books, organisation_id: int) -> Account:
    """The account of an organisation. Raises Broken when there is none."""
    account = books.accounts.get(organisation_id)
    if account is None:
        raise Broken(f"Usage names organisation {organisation_id}, which has no account.")
    return account


def change_quota(books: Books, organisation_id: int, holder: str, units: int) -> None:
    """Add `units` (perhaps negative) to the quota of a holder. Raises Broken when it has too few."""
    if not units:
        return
    by_holder = books.quotas.setdefault(organisation_id, {})
    left = by_holder.get(holder, 0) + units
    if left < 0:
        raise Broken(
            f"Holder {holder} used {-left} {plural('unit', -left)} more of organisation {organisation_id}"
            " than granted."
        )
    by_holder[holder] = left
    books.changed.add((organisation_id, holder))


def move(books: Books, shard: int, organisation_id: int, kind: MovementKind, units: int) -> None:
    """Move `units` of an organisation. Raises Broken when there are too few where they come from."""
    if not units:
        return
    account = account_of(books, organisation_id)
    debit, credit = MOVEMENTS[kind]
    left = getattr(account, debit) - units
    if left < 0:
        lacking = f"{-left} {plural('unit', -left)}"
        raise Broken(f"Organisation {organisation_id} has {lacking} too few in {debit} for a {kind}.")
    setattr(account, debit, left)
    setattr(account, credit, getattr(account, credit) + units)
    key = (shard, organisation_id, kind)
    books.movements[key] = books.movements.get(key, 0) + units


def hold_usage(books: Books, entry: UsageEntry, organisation_id: int, units: int) -> None:
    """Hold what a holder used: from its quota, then from what covers it; the rest is unbooked."""
    if organisation_id in books.accounts:
        quota = books.quotas.get(organisation_id, {}).get(entry.holder, 0)
        quota += _cover(books, entry, organisation_id, units - quota)
        booked = min(units, quota)
        change_quota(books, organisation_id, entry.holder, -booked)
        move(books, entry.shard, organisation_id, "hold", booked)
        units -= booked
    set_aside(books, organisation_id, entry, held=units)


def settle_usage(books: Books, entry: UsageEntry, organisation_id: int, captured: int, released: int) -> None:
    """Capture and release units of what the books hold; what they do not hold is unbooked."""
    account = books.accounts.get(organisation_id)
    held = account.held if account is not None else 0
    booked_captured = min(captured, held)
    booked_released = min(released, held - booked_captured)
    move(books, entry.shard, organisation_id, "capture", booked_captured)
    move(books, entry.shard, organisation_id, "release", booked_released)
    set_aside(
        books, organisation_id, entry,
        captured=captured - booked_captured, released=released - booked_released,
    )  # fmt: skip


def give_back(books: Books, entry: UsageEntry, organisation_id: int, units: int) -> None:
    """Make returned units available, as many as the books say that the holder has."""
    returned = min(units, books.quotas.get(organisation_id, {}).get(entry.holder, 0))
    change_quota(books, organisation_id, entry.holder, -returned)
    move(books, entry.shard, organisation_id, "return", returned)


def set_aside(
    books: Books,
    organisation_id: int,
    entry: UsageEntry,
    *,
    held: int = 0,
    captured: int = 0,
    released: int = 0,
) -> None:
    """Keep units of an entry as unbooked, and grant the organisation nothing from now on."""
    if not held and not captured and not released:
        return
    books.unbooked.append(
        UnbookedUsage(
            organisation_id=organisation_id, shard=entry.shard, position=entry.position, kind=entry.kind,
            holder=entry.holder, held=held, captured=captured, released=released,
        )
    )  # fmt: skip
    if (account := books.accounts.get(organisation_id)) is not None:
        account.unbooked = (account.unbooked or 0) + held - captured - released


def _cover(books: Books, entry: UsageEntry, organisation_id: int, units: int) -> int:
    """Grant the holder of `entry` up to `units`, from what is available and from others; how many."""
    if units <= 0:
        return 0
    shard, holder = entry.shard, entry.holder
    for other, theirs in list(books.quotas.get(organisation_id, {}).items()):
        missing = units - books.accounts[organisation_id].available
        if missing <= 0:
            break
        if other != holder:
            taken = min(missing, theirs)
            change_quota(books, organisation_id, other, -taken)
            move(books, shard, organisation_id, "return", taken)
    found = min(units, books.accounts[organisation_id].available)
    change_quota(books, organisation_id, holder, found)
    move(books, shard, organisation_id, "grant", found)
    books.covered.add(organisation_id)
    return found
