"""Colourisation: only the mean of the colour channels is measured."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import BaseOperator
from invjax.types import Spectrum


class ChannelMean(BaseOperator):
    """y[i, j] = mean over c of x[i, j, c], one grey channel.

    Attributes:
        basis: (C, C) orthonormal; the first column is constant.
        image_shape: (H, W, C).
    """

    basis: jax.Array
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        """(H, W, 1)."""
        return *self.image_shape[:2], 1

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, 1)."""
        self.check_image(x)
        return jnp.mean(x, axis=-1, keepdims=True)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, 1) back to (H, W, C) by A^T."""
        self.check_measurement(y)
        return jnp.repeat(y, len(self.basis), axis=-1) / len(self.basis)

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, 1) to the least-norm image that measures to it: grey."""
        self.check_measurement(y)
        return jnp.repeat(y, len(self.basis), axis=-1)

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are (H, W, C), grey first."""
        num_channels = len(self.basis)
        highest = jax.lax.Precision.HIGHEST
        first = jnp.zeros(num_channels).at[0].set(1)
        return Spectrum(
            of_x=lambda x: jnp.matmul(x, self.basis, precision=highest),
            to_x=lambda c: jnp.matmul(c, self.basis.T, precision=highest),
            of_y=lambda y: y * first,
            singular=first / jnp.sqrt(num_channels),
        )

    def describe(self) -> dict:
        """Its kind as plain data."""
        return {'kind': 'ChannelMean'}


def colorization(
    key: jax.Array, image_shape: tuple[int, int, int]
) -> ChannelMean:
    """A grey picture is measured, the mean of the channels."""
    del key
    num_channels = image_shape[-1]
    # The QR decomposition keeps the direction of the first column.
    columns = np.eye(num_channels)
    columns[:, 0] = 1
    basis, _ = np.linalg.qr(columns)
    basis[:, 0] = 1 / np.sqrt(num_channels)
    return ChannelMean(jnp.asarray(basis, jnp.float32), image_shape)
