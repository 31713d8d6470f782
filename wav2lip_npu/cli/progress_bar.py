"""A progress bar for functions that report `progress(done, total)`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Yield a callback that shows a bar on a terminal, and nothing elsewhere."""
    from tqdm import tqdm

    with tqdm(unit=unit, disable=None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            if bar.total is None:
                bar.total, bar.initial = total, done
            bar.n = done
            bar.refresh()

        yield show
