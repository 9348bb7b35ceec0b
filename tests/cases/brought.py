"""What people bring: the files in `data`, and `restore`'s reading of them.

The files were made from the portrait of `experiments/astronaut.png`, 64 pixels a
side, and from a box of 24 x 22 missing pixels.
"""

import contextlib
import io
import pathlib
import types

import numpy as np

from experiments import restore
from invjax import images
from invjax.commandline import measured

DATA = pathlib.Path(__file__).parent / 'data'
SHAPE = (64, 64, 3)
_PRIOR = types.SimpleNamespace(image_shape=SHAPE)

OBSERVED = np.ones(SHAPE[:2], bool)
OBSERVED[20:44, 18:40] = False
NUM_MISSING = 528


def face() -> np.ndarray:
    """The portrait in 8 bits, (64, 64, 3) in [-1, 1]."""
    return images.read_picture(DATA / 'images/ref_rgb8.png').x


def grey_face() -> np.ndarray:
    """The same in grey, repeated."""
    return images.read_picture(DATA / 'images/ref_grey8.png').x


def colours() -> np.ndarray:
    """A picture that was made, (64, 64, 3) uint8: three ramps, all different.

    White, red, green and blue are its corners, and no two of its rows, columns
    or channels are alike.
    """
    down, right = np.mgrid[:64, :64] / 63
    both = np.stack([down, right, np.abs(down + right - 1)], -1)
    return (255 * both).round().astype(np.uint8)


def problem_of(*arguments):
    """The problem that `restore` would solve, and what it says of it.

    Args:
        *arguments: flags of `restore`.
    """
    given = restore.FLAGS.parse(['restore', *map(str, arguments)])
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        measured.check(given)
        problem = measured.read(given, _PRIOR)
    return problem, said.getvalue()


def residual_std(problem, x=None) -> float:
    """Of what is observed, of the noise that would explain a picture."""
    x = face() if x is None else x
    seen = np.broadcast_to(problem.operator.support(), problem.y.shape) > 0
    residual = np.asarray(problem.y - problem.operator.forward(x))
    return float(np.sqrt(np.mean(residual[seen] ** 2)))
