"""Compressed sensing: random projections by a fast transform."""

import math

import jax
import jax.numpy as jnp
import jax.scipy.fft
import numpy as np

from invjax.operators.base import BaseOperator
from invjax.operators.bounds import check_number
from invjax.types import Spectrum


class RandomProjection(BaseOperator):
    """Some coefficients of the cosine transform of x with random signs.

        y = M D (s * x),

    D the orthonormal 2-D DCT of each channel, s random signs and M a mask, so
    that A A^T = M. y has the shape of x and is zero where nothing is measured.

    Attributes:
        mask: (H, W, C), 1 where a coefficient is measured, else 0.
        signs: (H, W, C), 1 or -1.
    """

    mask: jax.Array
    signs: jax.Array

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, num_channels = self.signs.shape[-3:]
        return height, width, num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        self.check_image(x)
        return self.mask * self._of_x(x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T, which is A^+ too."""
        self.check_measurement(y)
        return self._to_x(self.mask * y)

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it."""
        return self.adjoint(y)

    def support(self) -> jax.Array:
        """Where a measurement carries data, (H, W, C)."""
        return self.mask

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are the transform's, (H, W, C)."""
        return Spectrum(
            self._of_x, self._to_x, lambda y: self.mask * y, self.mask
        )

    def describe(self) -> dict:
        """Its kind and fraction of measured numbers as plain data."""
        return {
            'kind': 'RandomProjection',
            'num_measured': int(np.sum(self.mask)),
            'measured_fraction': float(np.mean(self.mask)),
        }

    def _of_x(self, x):
        return jax.scipy.fft.dctn(self.signs * x, axes=(0, 1), norm='ortho')

    def _to_x(self, coefficients):
        x = jax.scipy.fft.idctn(coefficients, axes=(0, 1), norm='ortho')
        return self.signs * x


def compressed_sensing(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    keep_fraction: float = 0.3,
) -> RandomProjection:
    """Fewer random projections than the image has numbers are measured.

    Args:
        key: of the signs and of the places.
        image_shape: (H, W, C).
        keep_fraction: fraction of the numbers that are measured, to 1; the count
            is exact, rounded to a whole number, and one or more.

    Raises:
        ValueError: if the fraction is out of its range or nothing is measured.
    """
    check_number('keep_fraction', keep_fraction, 0, 1)
    key_signs, key_places = jax.random.split(key)
    size = math.prod(image_shape)
    num_kept = round(keep_fraction * size)
    if num_kept == 0:
        raise ValueError(
            f'keep_fraction must leave one or more of {size} numbers, got '
            f'{keep_fraction}.'
        )
    order = jax.random.permutation(key_places, size).reshape(image_shape)
    mask = jnp.asarray(order < num_kept, jnp.float32)
    signs = jax.random.rademacher(key_signs, image_shape, jnp.float32)
    return RandomProjection(mask, signs)
