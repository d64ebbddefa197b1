from collections.abc import Iterable

class CreditMap:
    """Units each organisation may still use here. For one thread; knows no clock, calls nobody.

    Organisation ids are any 64-bit signed integers, amounts are whole units. An argument
    that is not an integer raises TypeError, one beyond 64 bits OverflowError; after an
    error the map is as it was before the call.
    """

    def grant(self, organisation_id: int, units: int) -> None:
        """Add quota; with 0 units the organisation merely becomes known.

        Raises ValueError when `units` is negative, OverflowError when the organisation
        would hold more than 2**63 - 1.
        """

    def reserve(self, organisation_id: int, units: int) -> bool:
        """Take all of `units` (at least 1, else ValueError) and say True, or none and say False.

        An organisation that is not known has none. Reserving 0 is refused as a mistake:
        every message costs at least one unit. Never allocates memory.
        """

    def reserve_batch(self, organisation_ids: Iterable[int], units: Iterable[int]) -> bytes:
        """`reserve` for each pair in order; byte i is 1 when pair i was reserved, else 0.

        Fastest with buffers of 64-bit signed integers (array('q')), then with lists. Raises
        ValueError when the lengths differ or an amount is below 1, TypeError for items that
        are not integers or buffers of another kind; then none is reserved.
        """

    def release(self, organisation_id: int, units: int) -> None:
        """Undo a reservation: `units` (at least 1, else ValueError) are back in `remaining`.

        Also right after the reservation was drained (the next drain then reports fewer,
        or a negative number), or the organisation forgotten. A reservation made before
        `drop` must not be released after it: the ledger has booked those units back.
        """

    def remaining(self, organisation_id: int) -> int:
        """Units that can still be reserved; 0 when the organisation is not known."""

    def take(self, organisation_id: int) -> int:
        """Remove all that is not reserved, for a return or a recall, and say how much it was."""

    def drain(self) -> list[tuple[int, int]]:
        """(organisation, units) reserved less released since the last drain, where not 0.

        Costs time in proportion to the organisations touched since, not to all.
        """

    def items(self) -> list[tuple[int, int]]:
        """(organisation, remaining) of every organisation known, in no order, as of now."""

    def drop(self) -> list[tuple[int, int]]:
        """Empty the map, undrained usage included, and say what `items` would have said.

        For a fenced holder: what it held is the ledger's again.
        """

    def forget(self, organisation_id: int) -> bool:
        """Remove an organisation with nothing remaining and nothing to drain; whether it did."""

    @property
    def memory_bytes(self) -> int:
        """Bytes allocated for the map; it grows by doubling and shrinks only in `drop`."""

    def __len__(self) -> int: ...
    def __contains__(self, organisation_id: int) -> bool: ...
