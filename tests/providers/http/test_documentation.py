"""The sections that the documentation shows are sections that work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.config import decode
from engine.providers.http.description import describe, receipt_reader
from engine.providers.http.placeholders import FIXED, NUMBERS, TEXTS
from engine.providers.presets import names
from engine.providers.settings import HttpSettings
from tests.providers.carrier import message

PAGES = [
    page.read_text() for page in sorted((Path(__file__).resolve().parents[3] / "docs").glob("providers*.md"))
]
SECTIONS = [
    section
    for page in PAGES
    for section in re.findall(r"^```toml\n(.*?)^```", page, re.S | re.M)
    if 'type = "http"' in section
]


def test_there_is_something_to_look_at() -> None:
    assert len(SECTIONS) >= 2


@pytest.mark.parametrize("section", SECTIONS, ids=range(len(SECTIONS)))
def test_a_section_that_is_shown_can_be_used(section: str, tmp_path: Path) -> None:
    for number, file in enumerate(re.findall(r'_file = "(.*?)"', section)):
        (tmp_path / str(number)).write_text(f"a-secret-of-its-own-{number}\n")
        section = section.replace(file, str(tmp_path / str(number)))
    (settings,) = decode(section, "documentation").providers
    assert isinstance(settings, HttpSettings)
    request = describe(settings).template.build(message(), 0)
    reader = receipt_reader(settings)
    assert reader
    # The carrier is told where its receipts go.
    assert reader.token.encode() in b"".join(request)


def test_every_preset_and_placeholder_is_documented() -> None:
    text = "".join(PAGES)
    assert [name for name in names() if f"`{name}`" not in text] == []
    shown = [name for name in (*TEXTS, *NUMBERS, *FIXED) if f"`{{{name}" not in text]
    assert [name for name in shown if name != "nothing"] == []
    assert '`"{nothing?}"`' in text
