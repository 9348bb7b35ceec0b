"""How fast a run is and how long it will take."""

import sys
import time
from collections.abc import Callable

from tqdm import tqdm

from invjax.training.page import duration

_SECONDS_BETWEEN_LINES = 60.0
# Of the time of a step, of which the last ones count most.
_FORGET = 0.05


class Progress:
    """A bar on a terminal, a line each minute elsewhere.

    Args:
        num_steps: in all.
        batch: images of a step.
        step: that the run begins at.
        say: what prints a line.
    """

    def __init__(
        self, num_steps: int, batch: int, step: int, say: Callable[[str], None]
    ):
        self._num_steps, self._batch, self._say = num_steps, batch, say
        self._seconds_a_step: float | None = None
        self._last_line = time.perf_counter()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=num_steps * batch,
                initial=step * batch,
                desc='training',
                unit=' images',
                smoothing=_FORGET,
            )

    def step(self, step: int, seconds: float, loss: float) -> None:
        """After a step that took so long."""
        if self._seconds_a_step is None:
            self._seconds_a_step = seconds
        self._seconds_a_step += _FORGET * (seconds - self._seconds_a_step)
        if self._bar is not None:
            self._bar.update(self._batch)
            self._bar.set_postfix(loss=f'{loss:.4f}', refresh=False)
            return
        now = time.perf_counter()
        if now - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = now
            self._say(
                f'step {step:,} of {self._num_steps:,}, loss {loss:.4f}, '
                f'{self.images_a_second:.1f} images/s, {self.left(step)} left'
            )

    @property
    def images_a_second(self) -> float:
        """At the pace of the last steps; 0 before the first."""
        if not self._seconds_a_step:
            return 0.0
        return self._batch / self._seconds_a_step

    def left(self, step: int) -> str:
        """The time that the other steps will take, in words."""
        if self._seconds_a_step is None:
            return 'unknown'
        return duration((self._num_steps - step) * self._seconds_a_step)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
