"""Seconds of compiling and of running, told apart."""

import contextlib
import time

import jax

from invjax import compiled


@contextlib.contextmanager
def sampling_seconds():
    """Time a block; gives a dict that it fills with two numbers of seconds.

    `compile` is the time in which programs were traced, lowered and compiled,
    or read from a cache of compiled ones; `sampling` is all the rest.
    """
    spans: list[tuple[float, float]] = []
    seconds: dict[str, float] = {}

    def note(event: str, duration_secs: float, **_: str | int) -> None:
        if event.startswith(('/jax/core/compile/', compiled.LOADED)):
            end = time.perf_counter()
            spans.append((end - duration_secs, end))

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
