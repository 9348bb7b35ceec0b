"""An inverse problem: the measurement, how it came about, and its noise."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.operators.mask import Mask


@flax.struct.dataclass
class Problem:
    """y = A(x) + n, with n normal of the given standard deviation.

    Attributes:
        y: the measurement, in [-1, 1] units; zero where it carries no data.
        operator: A, see `invjax.operators`.
        noise_std: () in [-1, 1] units. Papers that name their noise in [0, 1]
            units (DiffPIR, DDRM) mean twice as much by the same number.
    """

    y: jax.Array
    operator: Any
    noise_std: jax.Array

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of the images that the operator measures."""
        return jax.eval_shape(self.operator.pinv, self.y).shape

    def residual(self, x: jax.Array) -> jax.Array:
        """y - A(x), in the shape of y."""
        return self.y - self.operator.forward(x)

    def residual_norm(self, x: jax.Array) -> jax.Array:
        """||y - A(x)||, (), with a gradient of zero where it is zero."""
        # Noiseless data reach a zero residual, where a plain norm has a NaN
        # gradient.
        return optax.safe_norm(self.residual(x), 1e-12)

    def num_measured(self) -> jax.Array:
        """m, (): the numbers in y that carry data."""
        support = self.operator.support()
        return jnp.broadcast_to(support, self.y.shape).sum()

    def expected_residual_norm(self) -> jax.Array:
        """noise_std sqrt(m), (): the norm of the residual at the truth."""
        return self.noise_std * jnp.sqrt(self.num_measured())


def measure(
    key: jax.Array,
    x: jax.Array,
    operator,
    noise_std: jax.typing.ArrayLike = 0.05,
) -> Problem:
    """Degrade an image: y = A(x) + noise_std * n on the operator's support.

    Args:
        key: of the noise.
        x: (H, W, C) in [-1, 1].
        operator: see `invjax.operators`.
        noise_std: () in [-1, 1] units, 0 or more. May be traced.

    Raises:
        ValueError: if noise_std is negative or not finite.
    """
    _check_noise_std(noise_std)
    y = operator.forward(x)
    noise = jax.random.normal(key, y.shape) * operator.support()
    return Problem(
        y=y + noise_std * noise,
        operator=operator,
        noise_std=jnp.asarray(noise_std, jnp.float32),
    )


def from_measurement(
    y: jax.Array, operator, noise_std: jax.typing.ArrayLike = 0.05
) -> Problem:
    """A problem whose measurement the user brings, in [-1, 1] units.

    What y holds where the operator observes nothing is set to zero.

    Raises:
        ValueError: if noise_std is negative or not finite.
    """
    _check_noise_std(noise_std)
    return Problem(
        y=jnp.asarray(y, jnp.float32) * operator.support(),
        operator=operator,
        noise_std=jnp.asarray(noise_std, jnp.float32),
    )


def _check_noise_std(noise_std: jax.typing.ArrayLike) -> None:
    if isinstance(noise_std, jax.core.Tracer):
        return  # It has no value yet.
    if not np.all((np.asarray(noise_std) >= 0) & np.isfinite(noise_std)):
        raise ValueError(
            f'noise_std must be 0 or more and finite, got {noise_std}.'
        )


def nothing_measured(image_shape: tuple[int, int, int]) -> Problem:
    """The problem without data, for unconditional sampling."""
    return Problem(
        y=jnp.zeros(image_shape),
        operator=Mask(jnp.zeros((*image_shape[:2], 1))),
        noise_std=jnp.zeros(()),
    )
