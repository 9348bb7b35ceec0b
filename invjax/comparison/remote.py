"""deepinv in another Python, asked for what `compare_peer.py` does there."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from invjax.comparison import peer
from invjax.operators.blur import Convolution
from invjax.operators.mask import Mask
from invjax.operators.separable import Separable
from invjax.problem import Problem


class Restored(NamedTuple):
    """What came of an image.

    Attributes:
        x: (H, W, 3) in [-1, 1], not clipped.
        seconds: that it took.
        num_evaluations: of the network.
    """

    x: np.ndarray
    seconds: float
    num_evaluations: int


@contextlib.contextmanager
def started(python: str) -> Iterator['Deepinv']:
    """Start it; ValueError if that Python does not have torch and deepinv."""
    with (
        peer.start(python, 'compare_peer.py') as ask,
        tempfile.TemporaryDirectory() as folder,
    ):
        yield Deepinv(ask, pathlib.Path(folder))


class Deepinv:
    """Its network, operators and methods. Arrays go by files of a folder.

    Args:
        ask: what `peer.start` gives.
        folder: that is there.
    """

    def __init__(self, ask, folder: pathlib.Path):
        self._ask = ask
        self._folder = folder

    def load(self, prior) -> dict[str, str]:
        """Hand over the weights of a network; the versions of its packages.

        Raises:
            ValueError: if the peer's network is another one.
        """
        path = self._folder / 'weights.npz'
        tensors = peer.state_dict(prior.params, prior.network)
        named: dict[str, Any] = {
            peer.faces64_name(n): array for n, array in tensors.items()
        }
        np.savez(path, **named)
        return self._ask(do='load', weights=str(path))['versions']

    def predict(self, x_t: np.ndarray, t: int) -> np.ndarray:
        """The noise in an image, (H, W, 3), at a timestep."""
        return self._array('predict', x_t=self._save(x_t), t=t)

    def measure(self, problem: Problem, x: np.ndarray) -> np.ndarray:
        """A(x) by its own operator, without noise."""
        return self._array(
            'measure', x=self._save(x), problem=self._save_problem(problem)
        )

    def restore(
        self,
        problem: Problem,
        method: str,
        num_steps: int,
        seed: int,
        settings: dict[str, Any],
    ) -> Restored:
        """Restore an image.

        Args:
            problem: by an operator that `measure` can do.
            method: 'dps', 'ddrm' or 'diffpir'.
            num_steps: of its own spacing.
            seed: 1 or more; it takes 0 for none.
            settings: by its own names.
        """
        path = self._folder / 'x.npy'
        answer = self._ask(
            do='restore',
            problem=self._save_problem(problem),
            method=method,
            num_steps=num_steps,
            seed=seed,
            settings=settings,
            out=str(path),
        )
        return Restored(
            np.load(path), answer['seconds'], answer['num_evaluations']
        )

    def _array(self, do: str, **question) -> np.ndarray:
        path = self._folder / 'answer.npy'
        self._ask(do=do, **question, out=str(path))
        return np.load(path)

    def _save(self, x: np.ndarray) -> str:
        path = self._folder / 'question.npy'
        np.save(path, x)
        return str(path)

    def _save_problem(self, problem: Problem) -> str:
        path = self._folder / 'problem.npz'
        np.savez(
            path,
            y=problem.y,
            noise_std=problem.noise_std,
            image_shape=problem.image_shape,
            **operator_arrays(problem.operator),
        )
        return str(path)


def operator_arrays(operator) -> dict[str, Any]:
    """What the peer builds its operator from.

    Raises:
        ValueError: for an operator that the peer has no equal of.
    """
    if isinstance(operator, Mask):
        return {'mask': operator.mask}
    if isinstance(operator, Convolution):
        # The impulse response, moved from the corner to where it is a kernel.
        size = int(operator.parameters['blur_size'])
        response = np.fft.ifft2(operator.transfer[..., 0]).real
        response = np.roll(response, (size // 2, size // 2), axis=(0, 1))
        return {'kernel': response[:size, :size].astype(np.float32)}
    if isinstance(operator, Separable):
        return {
            f'{axis}_{name}': getattr(getattr(operator, axis), name)
            for axis in ('rows', 'columns')
            for name in ('left', 'singular', 'right')
        }
    raise ValueError(
        f'{type(operator).__name__} cannot be handed to the peer; --tasks must '
        'be inpainting, denoising, deblurring of a picture or super-resolution.'
    )
