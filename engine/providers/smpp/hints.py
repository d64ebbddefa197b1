"""Names the setting by which an operator mends what a provider refuses in every message.

A provider that takes no relative validity_period, say, refuses all messages with 0x62. They are tried
again until their validity ends, because the fault is not theirs; so the log has to say what helps.
"""

from __future__ import annotations

import structlog

from engine.providers.smpp.codes import CommandStatus
from engine.providers.smpp.verdicts import code

_log = structlog.get_logger("smpp")

# 0x104, an invalid data_coding, is of SMPP 5.0.
_SETTINGS: dict[int, str] = {
    CommandStatus.ESME_RINVREGDLVFLG: "receipts",
    CommandStatus.ESME_RINVSERTYP: "service_type",
    CommandStatus.ESME_RINVESMCLASS: "concatenation",
    CommandStatus.ESME_RINVSRCTON: "source_ton",
    CommandStatus.ESME_RINVSRCNPI: "source_npi",
    CommandStatus.ESME_RINVDSTTON: "destination_ton",
    CommandStatus.ESME_RINVDSTNPI: "destination_npi",
    CommandStatus.ESME_RINVEXPIRY: "validity_period",
    CommandStatus.ESME_RINVOPTPARSTREAM: "parameters",
    CommandStatus.ESME_ROPTPARNOTALLWD: "parameters",
    CommandStatus.ESME_RINVPARLEN: "parameters",
    CommandStatus.ESME_RMISSINGOPTPARAM: "parameters",
    CommandStatus.ESME_RINVOPTPARAMVAL: "parameters",
    0x104: "data_coding",
}


class Hints:
    """The hints for one provider: one line in the log for each status."""

    def __init__(self, provider: str) -> None:
        self._provider = provider
        self._given: set[int] = set()

    def refused(self, status: int) -> None:
        """A submit was refused with this status; does nothing for most statuses."""
        setting = _SETTINGS.get(status)
        if setting is None or status in self._given:
            return
        self._given.add(status)
        _log.warning(
            "submit refused; if this provider refuses all messages so, change the setting",
            provider=self._provider,
            code=code(status),
            setting=f"providers.{self._provider}.{setting}",
        )
