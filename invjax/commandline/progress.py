"""How far a run is, and how long it will take."""

import sys
import time

from tqdm import tqdm


class Progress:
    """A bar on a terminal, a plain line each tenth elsewhere.

    Args:
        what: is going on, for the bar.
    """

    def __init__(self, what: str):
        self._what = what
        self._start = time.perf_counter()
        self._bar: tqdm | None = None
        self._tenth = 0
        self._started = False

    def __call__(self, done: int, total: int) -> None:
        if not done and not self._started:
            self._started = True
            print(f'{self._what}: compiling ...', file=sys.stderr, flush=True)
        elif sys.stderr.isatty():
            if self._bar is None:
                self._bar = tqdm(total=total, desc=self._what, unit='step')
            self._bar.update(done - self._bar.n)
            if done >= total:
                self._bar.close()
        elif 10 * done // total > self._tenth:
            self._tenth = 10 * done // total
            seconds = time.perf_counter() - self._start
            left = seconds * (total - done) / done
            print(
                f'{self._what}: {done} of {total} steps, {seconds:.0f} s, '
                f'{left:.0f} s left',
                file=sys.stderr,
                flush=True,
            )
