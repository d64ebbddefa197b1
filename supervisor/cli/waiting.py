"""What a terminal shows while a command waits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


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
