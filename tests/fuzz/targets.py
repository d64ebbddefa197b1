"""All targets, and how one of them is tried."""

from __future__ import annotations

import hashlib
import traceback
from pathlib import Path
from typing import NamedTuple

from tests.fuzz import (
    api_body,
    api_octets,
    api_request,
    config_file,
    http_answer,
    inbound_message,
    kept_answer,
    message_file,
    pushed_receipt,
    smpp_pdu,
    smpp_session,
    stream_record,
)
from tests.fuzz.target import Check, Target

TARGETS: dict[str, Target] = {
    module.TARGET.name: module.TARGET
    for module in (
        smpp_pdu, smpp_session, http_answer, pushed_receipt, api_body, api_request, api_octets, message_file,
        config_file, stream_record, kept_answer, inbound_message,
    )
}  # fmt: skip
# Inputs that broke a promise once, by target; they are tried with the seeds.
FOUND = Path(__file__).parent / "found"
ROOT = Path(__file__).resolve().parents[2]


def found_before(name: str) -> list[bytes]:
    """The inputs of this target that broke a promise once."""
    return [file.read_bytes() for file in sorted((FOUND / name).glob("*"))]


class Finding(NamedTuple):
    """One broken promise, and the file with the input that breaks it."""

    reason: str
    path: Path


class Trial:
    """Counts the inputs of one run, and keeps the first of each kind that breaks a promise."""

    def __init__(self, target: Target, check: Check, folder: Path) -> None:
        self._target = target
        self._check = check
        self._folder = folder
        self._kinds: set[tuple[str, ...]] = set()
        self.cases = 0
        self.findings: list[Finding] = []

    def __call__(self, data: bytes) -> Finding | None:
        """Try one input; a finding of a kind that is new."""
        self.cases += 1
        try:
            self._check(data)
        except Exception as e:  # whatever an input brings about is a finding
            return self._note(data, e)
        return None

    def _note(self, data: bytes, error: Exception) -> Finding | None:
        # Looked at without the lines of the files, since a broken promise may come again and again.
        places = [
            f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)
        ]
        kind = (type(error).__qualname__, *places[-3:])
        if kind in self._kinds:
            return None
        self._kinds.add(kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{self._target.name}-{hashlib.sha1(data).hexdigest()[:12]}"
        path.write_bytes(data)
        ours = [place for place in places if "site-packages" not in place and str(ROOT) in place]
        reason = f"{type(error).__qualname__}: {error} ({Path(ours[-1]).relative_to(ROOT)})"
        self.findings.append(Finding(reason, path))
        return self.findings[-1]
