"""Records that a holder of credit and the ledger exchange.

They are MessagePack arrays on Redis streams: the order of the fields is the wire format. New fields
may only be added at the end, with a default.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class QuotaRequest(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A holder asks the ledger for quota of one organisation."""

    # Counts up in one incarnation of the holder, over all organisations.
    number: int
    organisation_id: int
    # Units that would last for a while.
    wanted: int
    # Fewer units would serve no client that waits.
    needed: int
    # Units that would serve all clients that wait.
    waiting: int = 0


class QuotaReturn(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """A holder gives unspent quota back."""

    organisation_id: int
    units: int
    # Number of the recall that it answers; 0 when the holder returns quota that idles.
    recall: int = 0


class LedgerAnswer(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """An answer of the ledger to a holder, in its inbox.

    grant    `units` more quota, for request `number`
    refusal  of request `number`: at that instant `available` did not cover what it needed
    recall   the holder is to return the quota that is not reserved; `number` names the recall
    """

    kind: Literal["grant", "refusal", "recall"]
    number: int
    organisation_id: int
    units: int = 0
    epoch: int = 0
