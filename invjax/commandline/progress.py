"""How long a run takes: a bar while it goes on, and seconds afterwards."""

import contextlib
import sys
import time

import jax
from tqdm import tqdm


@contextlib.contextmanager
def sampling_seconds():
    """Time a block; gives a dict that it fills with two numbers of seconds.

    `compile` is the time in which programs were traced, lowered and compiled,
    or read from the cache of compiled ones; `sampling` is all the rest.
    """
    spans, seconds = [], {}

    def note(event, duration, **_):
        if event.startswith('/jax/core/compile/'):
            end = time.perf_counter()
            spans.append((end - duration, end))

    jax.monitoring.register_event_duration_secs_listener(note)
    start = time.perf_counter()
    try:
        yield seconds
    finally:
        total = time.perf_counter() - start
        jax.monitoring.unregister_event_duration_listener(note)
    # A function traced within another reports a span within the other's.
    seconds['compile'], last = 0.0, start
    for begin, end in sorted(spans):
        seconds['compile'] += max(end - max(begin, last), 0.0)
        last = max(end, last)
    seconds['sampling'] = total - seconds['compile']


class Progress:
    """A bar on a terminal, a plain line each tenth elsewhere.

    Args:
        what: is going on, for the bar.
    """

    def __init__(self, what: str):
        self._what = what
        self._start = time.perf_counter()
        self._bar = None
        self._tenth = 0
        print(f'{what}: compiling ...', file=sys.stderr, flush=True)

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty():
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
