"""Tables on a page of 80 characters: what stands there can be read, however long it is."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from supervisor.cli.tables import listing, table

CLI = Path(__file__).resolve().parents[3] / "supervisor" / "cli"


def printed(
    rows: list[tuple[str, ...]], columns: tuple[str, ...], right: frozenset[int] = frozenset()
) -> str:
    page = io.StringIO()
    Console(file=page, width=80, markup=False, highlight=False).print(table(columns, rows, right))
    return page.getvalue()


def test_what_the_next_command_is_given_can_be_copied_from_one_line() -> None:
    row = ("normal.9.1795909668332-0", "2026-11-28 23:47:48", "1", "+989***", "1", "0", "expired")
    columns = ("id", "dead since", "organisation", "to", "units", "attempts", "")
    lines = printed([row], columns).splitlines()
    assert any(row[0] in line.split() for line in lines), lines
    assert max(map(len, lines)) <= 80


def test_a_first_column_that_takes_the_whole_page_is_folded_and_nothing_is_lost() -> None:
    shown = printed([("x" * 200, "what else")], ("name", "state"))
    assert shown.count("x") == 200


def test_without_rows_a_sentence_stands_in_place_of_a_head() -> None:
    assert str(listing(("name",), [], none="There are none.")) == "There are none."


def test_the_backlog_of_a_queue_has_its_headings_and_numbers_in_one_piece() -> None:
    columns = ("organisation", "messages", "put off", "segments", "oldest", "weight", "share", "ends in")
    row = ("7", "1,204,551", "12,000", "2,409,102", "12 min", "1", "33.3 %", "119 min")
    shown = printed([row], columns, frozenset(range(8)))
    head = shown.splitlines()[0]
    assert head.split() == " ".join(columns).split(), shown
    assert any(line.split() == " ".join(row).split() for line in shown.splitlines()), shown
    assert max(map(len, shown.splitlines())) <= 80


def heads() -> Iterator[tuple[str, tuple[str, ...], frozenset[int]]]:
    """(where, headings, columns of numbers) of each table of a command whose headings stand in the source."""
    for path in sorted(CLI.rglob("*.py")):
        tree = ast.parse(path.read_text())
        named = {
            target.id: node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called not in ("table", "listing"):
                continue
            first = node.args[0]
            given = named.get(first.id) if isinstance(first, ast.Name) else first
            if isinstance(given, ast.Tuple):
                names = [one.value for one in given.elts if isinstance(one, ast.Constant)]
                right = node.args[2] if len(node.args) > 2 else None
                yield f"{path.name}:{node.lineno}", (*map(str, names),), _numbers(right, len(names))


def _numbers(right: ast.expr | None, count: int) -> frozenset[int]:
    """The places that `frozenset({1, 2})` or `frozenset(range(1, 3))` names; none where others say them."""
    if not isinstance(right, ast.Call) or not right.args:
        return frozenset()
    given = right.args[0]
    whole = [one.value for one in ast.walk(given) if isinstance(one, ast.Constant)]
    numbers = [one for one in whole if isinstance(one, int)]
    places = range(*numbers) if isinstance(given, ast.Call) and numbers else numbers
    return frozenset(place for place in places if place < count)


HEADS = list(heads())


def test_the_tables_of_all_commands_are_found() -> None:
    assert len(HEADS) > 25


@pytest.mark.parametrize(("where", "columns", "right"), HEADS, ids=[where for where, _, _ in HEADS])
@pytest.mark.parametrize("long", [False, True], ids=["long", "too long"])
def test_no_heading_and_no_number_of_any_table_is_broken(
    where: str, columns: tuple[str, ...], right: frozenset[int], long: bool
) -> None:
    address = "https://customer.example/a/long/path/to/a/hook"
    text = f"{address} Qand a sentence of an operator" if long else "Qsome words"
    number = "123,456,789,012" if long else "1,234,567"
    row = tuple(number if place in right else text for place in range(len(columns)))
    shown = printed([row, row], columns, right)
    assert max(map(len, shown.splitlines())) <= 80, shown
    words = shown.split()
    assert not [word for word in " ".join(columns).split() if word not in words], shown
    assert words.count(number) == 2 * len(right), shown
    # What is folded is there all the same.
    assert shown.count("Q") == 2 * (len(columns) - len(right)), shown
