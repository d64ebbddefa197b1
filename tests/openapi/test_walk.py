"""The walk on docs/api.md, pasted into a shell, prints what the page says."""

from __future__ import annotations

import re
import subprocess

from tests.openapi.documented import Documented
from tests.system.conftest import ROOT

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def steps() -> list[tuple[str, str]]:
    """(commands, what they print) of the walk, in order."""
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    walk = page.partition("## A walk through it")[2].partition("\n## ")[0]
    found: list[tuple[str, str]] = []
    for language, text in _BLOCK.findall(walk):
        if language == "sh":
            found.append((text, ""))
        else:
            assert not found[-1][1], "two outputs in a row"
            found[-1] = found[-1][0], text
    return found


def pattern(printed: str) -> str:
    """What is printed may have other white space, and anything where the page has three dots."""
    return ".*?".join(re.escape("".join(part.split())) for part in printed.split("..."))


def test_the_walk_prints_what_the_page_says(documented: Documented) -> None:
    walk, engine = steps(), documented.engine
    assert len(walk) > 7
    script = "set -euo pipefail\n" + "".join(f"{commands}\necho; echo ==\n" for commands, _ in walk)
    script = script.replace("http://127.0.0.1:8080", engine.url).replace(
        "http://127.0.0.1:8081", engine.admin_url
    )
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=engine.data_dir.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for (commands, expected), printed in zip(walk, done.stdout.split("==\n"), strict=False):
        if expected:
            assert re.fullmatch(pattern(expected), "".join(printed.split())), (
                f"{commands}\nprinted\n{printed}"
            )
