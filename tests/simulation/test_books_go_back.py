"""PostgreSQL goes back by up to three seconds, again and again: no charge is lost, nobody spends too much."""

from __future__ import annotations

from unittest.mock import patch

from tests.simulation.books_back import BooksBack
from tests.simulation.runs import run

SEEDS = range(1, 6)


def test_every_promise_holds_when_postgresql_goes_back() -> None:
    noticed: list[BooksBack] = []
    notice = BooksBack.noticed

    def counted(self: BooksBack) -> None:
        noticed.append(self)
        notice(self)

    with patch.object(BooksBack, "noticed", counted):
        failed = [f"seed {seed}: {found}" for seed in SEEDS if (found := _violation(seed))]
    assert not failed, "\n" + "\n".join(failed)
    assert len(noticed) >= 2


def _violation(seed: int) -> str:
    return run(seed, books_go_back=True).violation
