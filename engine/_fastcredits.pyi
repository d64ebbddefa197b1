from collections.abc import Iterable

class CreditMap:
    """Units that each organisation may still use in this process. For one thread only.

    Organisation ids are any 64-bit signed integers, amounts are whole units. An argument
    that is not an integer raises TypeError, one beyond 64 bits OverflowError; after an
    error the map is as it was before the call.
    """

    def grant(self, organisation_id: int, units: int) -> None:
        """Add quota; with 0 units the organisation only becomes known.

        Raises ValueError when `units` is negative, OverflowError when the organisation
        would hold more than 2**63 - 1.
        """

    def reserve(self, organisation_id: int, units: int) -> bool:
        """Take `units` (at least 1, else ValueError): True. False, and nothing is taken, when fewer are left.

        An organisation that is not known has none. Reserving 0 is a mistake, because every
        message costs at least one unit. Never allocates memory.
        """

    def reserve_batch(self, organisation_ids: Iterable[int], units: Iterable[int]) -> bytes:
        """`reserve` for each pair in order; byte i is 1 when pair i was reserved, else 0.

        Fastest with buffers of 64-bit signed integers (array('q')), then with lists. Raises
        ValueError when the lengths differ or an amount is below 1, TypeError for items that
        are not integers or buffers of another kind; then none is reserved.
        """

    def release(self, organisation_id: int, units: int) -> None:
        """Undo a reservation: put `units` (at least 1, else ValueError) back into `remaining`.

        It may be called after the reservation was drained, and after the organisation was
        forgotten; the next drain then gives fewer units, or a negative number. A reservation
        made before `drop` must not be released after it, because the ledger has booked those
        units back.
        """

    def remaining(self, organisation_id: int) -> int:
        """Units that can still be reserved; 0 when the organisation is not known."""

    def take(self, organisation_id: int) -> int:
        """Remove all units that are not reserved, for a return or a recall; how many they were."""

    def drain(self) -> list[tuple[int, int]]:
        """(organisation, units) reserved less released since the last drain, where not 0.

        Its time grows with the organisations used since, not with all of them.
        """

    def items(self) -> list[tuple[int, int]]:
        """(organisation, remaining) of every known organisation, in no order."""

    def drop(self) -> list[tuple[int, int]]:
        """Empty the map, with usage that was not drained; what `items` gave before.

        For a fenced holder, whose quota is the ledger's again.
        """

    def forget(self, organisation_id: int) -> bool:
        """Remove an organisation that has nothing remaining and nothing to drain; whether it did."""

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated for the map; it grows by doubling and shrinks only in `drop`."""

    def __len__(self) -> int: ...
    def __contains__(self, organisation_id: int) -> bool: ...
