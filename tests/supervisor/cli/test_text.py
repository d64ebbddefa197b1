"""Tables on a page of 80 characters."""

from __future__ import annotations

import io

from rich.console import Console

from supervisor.cli.text import table


def printed(rows: list[tuple[str, ...]], columns: tuple[str, ...]) -> str:
    page = io.StringIO()
    Console(file=page, width=80).print(table(columns, rows))
    return page.getvalue()


def test_what_the_next_command_is_given_can_be_copied_from_one_line() -> None:
    row = ("normal.9.1795909668332-0", "2026-11-28 23:47:48", "1", "+989***", "1", "0", "expired")
    columns = ("id", "dead since", "organisation", "to", "units", "attempts", "")
    lines = printed([row], columns).splitlines()
    assert any(line.startswith(f"{row[0]} ") for line in lines), lines
    assert max(map(len, lines)) <= 80


def test_a_first_column_that_takes_the_whole_page_is_folded_and_nothing_is_lost() -> None:
    shown = printed([("x" * 200, "what else")], ("name", "state"))
    assert shown.count("x") == 200
