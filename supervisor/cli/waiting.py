"""What a terminal shows while a command waits, or does one thing after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)


@contextmanager
def waiting(what: str, *, shown: bool) -> Iterator[None]:
    """On a terminal, show what the command waits for, and for how long already."""
    console = Console(stderr=True, highlight=False, markup=False)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=console, transient=True, disable=not (shown and console.is_terminal),
    )  # fmt: skip
    with progress:
        progress.add_task(what, total=None)
        yield


@contextmanager
def counting(what: str, total: int, *, shown: bool) -> Iterator[Callable[[int], None]]:
    """On a terminal, show how many of `total` are done; what is given is told how many more are."""
    console = Console(stderr=True, highlight=False, markup=False)
    progress = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console, transient=True, disable=not (shown and console.is_terminal),
    )  # fmt: skip
    with progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)
