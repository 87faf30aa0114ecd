"""What the person at the terminal sees while the demo runs."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class Show:
    """What the person at the terminal sees: progress bars, tables, and how long each phase took."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str, total: int) -> Iterator[Progress]:
        """Show a bar for one phase and keep its time; ``progress.advance(progress.task_ids[0])`` moves it."""
        columns = (
            TextColumn("{task.description:<28}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        started = time.perf_counter()
        with Progress(*columns, console=self.console) as progress:
            progress.add_task(name, total=total)
            yield progress
        self.seconds[name] = round(time.perf_counter() - started, 1)
