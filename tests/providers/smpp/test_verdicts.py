"""Every status has one verdict and one name."""

from __future__ import annotations

import pytest

from engine.providers.smpp.codes import CommandStatus
from engine.providers.smpp.verdicts import code, kind
from engine.records import VerdictKind


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (CommandStatus.ESME_ROK, "accepted"),
        (CommandStatus.ESME_RTHROTTLED, "throttled"),
        (CommandStatus.ESME_RMSGQFUL, "throttled"),
        (CommandStatus.ESME_RSYSERR, "temporary"),
        (CommandStatus.ESME_RX_T_APPN, "temporary"),
        (CommandStatus.ESME_RSUBMITFAIL, "temporary"),
        (CommandStatus.ESME_RINVBNDSTS, "temporary"),
        (CommandStatus.ESME_RUNKNOWNERR, "temporary"),
        (CommandStatus.ESME_RINVDSTADR, "permanent"),
        (CommandStatus.ESME_RINVSRCADR, "permanent"),
        (CommandStatus.ESME_RINVMSGLEN, "permanent"),
        (CommandStatus.ESME_RX_P_APPN, "permanent"),
        (CommandStatus.ESME_RX_R_APPN, "permanent"),
    ],
)
def test_a_status_says_who_is_at_fault(status: CommandStatus, verdict: VerdictKind) -> None:
    assert kind(status) == verdict


@pytest.mark.parametrize(
    "status", [CommandStatus.ESME_RINVSERTYP, CommandStatus.ESME_RINVESMCLASS, CommandStatus.ESME_RINVSYSTYP]
)
def test_a_wrong_setting_gives_up_no_message(status: CommandStatus) -> None:
    assert kind(status) == "temporary"


@pytest.mark.parametrize("status", [0x09, 0x100, 0x3FF, 0x400, 0x4FF, 0x500, 2**32 - 1])
def test_what_nobody_has_defined_gives_up_no_message(status: int) -> None:
    assert kind(status) == "temporary"


def test_only_the_status_of_success_accepts() -> None:
    assert [status for status in range(0x600) if kind(status) == "accepted"] == [CommandStatus.ESME_ROK]


def test_codes_have_the_specifications_name_and_the_number() -> None:
    assert code(CommandStatus.ESME_ROK) == "ESME_ROK 0x00"
    assert code(0x58) == "ESME_RTHROTTLED 0x58"
    assert code(0x402) == "0x402"
    assert code(0x09) == "0x09"
    assert len({code(status) for status in range(0x600)}) == 0x600
