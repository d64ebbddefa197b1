"""Every status has one verdict and one name."""

from __future__ import annotations

import pytest

from engine.providers.smpp_codes import Status
from engine.providers.smpp_verdicts import code, kind
from engine.records import VerdictKind


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (Status.ESME_ROK, "accepted"),
        (Status.ESME_RTHROTTLED, "throttled"),
        (Status.ESME_RMSGQFUL, "throttled"),
        (Status.ESME_RSYSERR, "temporary"),
        (Status.ESME_RX_T_APPN, "temporary"),
        (Status.ESME_RSUBMITFAIL, "temporary"),
        (Status.ESME_RINVBNDSTS, "temporary"),
        (Status.ESME_RUNKNOWNERR, "temporary"),
        (Status.ESME_RINVDSTADR, "permanent"),
        (Status.ESME_RINVSRCADR, "permanent"),
        (Status.ESME_RINVMSGLEN, "permanent"),
        (Status.ESME_RX_P_APPN, "permanent"),
        (Status.ESME_RX_R_APPN, "permanent"),
    ],
)
def test_a_status_says_who_is_at_fault(status: Status, verdict: VerdictKind) -> None:
    assert kind(status) == verdict


@pytest.mark.parametrize("status", [Status.ESME_RINVSERTYP, Status.ESME_RINVESMCLASS, Status.ESME_RINVSYSTYP])
def test_a_wrong_setting_gives_up_no_message(status: Status) -> None:
    assert kind(status) == "temporary"


@pytest.mark.parametrize("status", [0x09, 0x100, 0x3FF, 0x400, 0x4FF, 0x500, 2**32 - 1])
def test_what_nobody_has_defined_gives_up_no_message(status: int) -> None:
    assert kind(status) == "temporary"


def test_only_the_status_of_success_accepts() -> None:
    assert [status for status in range(0x600) if kind(status) == "accepted"] == [Status.ESME_ROK]


def test_codes_have_the_specifications_name_and_the_number() -> None:
    assert code(Status.ESME_ROK) == "ESME_ROK 0x00"
    assert code(0x58) == "ESME_RTHROTTLED 0x58"
    assert code(0x402) == "0x402"
    assert code(0x09) == "0x09"
    assert len({code(status) for status in range(0x600)}) == 0x600
