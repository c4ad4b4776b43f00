"""A progress bar for people, on anything that takes more than a second; nothing where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from flashcast.cli.common import err, interactive
from flashcast.limits import DISPLAY_HZ

_PATIENCE_S: Final = 1.0
"""What is over sooner needs no bar."""


class _RowsPerSecond(ProgressColumn):
    """Rows done in a second, over the whole run."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time or task.elapsed or 0.0
        return Text(f"{task.completed / elapsed:,.0f} rows/s" if elapsed else "", style="progress.data.speed")


class _Rows(MofNCompleteColumn):
    """``1,000/4,000``, or ``1,000`` where the total is unknown."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:,.0f}"
        return Text(f"{task.completed:,.0f}{total}", style="progress.download")


@contextmanager
def progress_bar(
    label: str, *, patience_s: float = _PATIENCE_S
) -> Iterator[Callable[[int, int | None], None] | None]:
    """Gives a callback to report rows done and the total (or None). None, if standard error is no terminal.

    The bar appears once the work has taken a second, and goes when the work is done.
    """
    if not interactive():
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), _Rows(), _RowsPerSecond(), TimeElapsedColumn())
    bar = Progress(*columns, console=err, transient=True, refresh_per_second=DISPLAY_HZ)
    task = bar.add_task(label, total=None)
    began = time.monotonic()
    shown = False

    def report(done: int, total: int | None) -> None:
        nonlocal shown
        bar.update(task, completed=done, total=total)
        if not shown and time.monotonic() - began >= patience_s:
            shown = True
            bar.start()

    try:
        yield report
    finally:
        if shown:
            bar.stop()
