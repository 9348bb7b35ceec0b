"""Image priors: closed forms, trained networks, and functions of one's own.

All of them are what `Prior` says, which is all that a method asks of one.
"""

from typing import Protocol

import jax
import numpy as np

from invjax.diffusion import Prediction


class Prior(Protocol):
    """What a prior is: a pytree, made for one image, in [-1, 1] when clean.

    Whatever a network was trained to say and in whichever coordinates, here it
    answers in variance-preserving ones (`invjax/priors/parametrisation.py`).
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that it knows."""

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power of each noise level, (T,) float64, decreasing."""

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in x_t, (H, W, C), at the level of row t, ()."""
