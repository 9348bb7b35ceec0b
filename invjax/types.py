"""What the parts of the project ask of each other, in one place.

    Prior      what images look like: (x_t, t) -> Prediction
    Operator   how a measurement comes about: y = A(x)
    Method     how the two are brought together; see `invjax.methods.base`

A protocol is kept by having its members; nothing is inherited. Images are
(H, W, C) float32 in [-1, 1], and no function below `invjax.batch` knows a batch.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

# Which of the two holds the numbers makes no difference.
Array = jax.Array | np.ndarray


class Prediction(NamedTuple):
    """What a prior says of a noisy image.

    Attributes:
        eps: (H, W, C), the noise in x_t; `-sqrt(1 - alpha_bar_t)` times the
            score (eq. 6).
        log_variance_fraction: (H, W, C), where the log-variance of the reverse
            step lies between log posterior variance (0) and log beta (1); None
            for a prior that does not learn it.
    """

    eps: jax.Array
    log_variance_fraction: jax.Array | None = None


class Info(NamedTuple):
    """What is worth seeing of one step; each is ().

    Attributes:
        residual: ||y - A(x0_hat)||, to be compared with noise_std sqrt(m).
        prior_step: ||x_s - x_t|| of the prior's own step, noise included.
        guidance: norm of what the measurement added to it.
        clipped: fraction of the values of x0_hat that lie on its bounds.
        solver_residual: ||b - M v|| / ||b|| of the linear system that the step
            solved by conjugate gradients, the largest where there were several;
            0 where it is solved in closed form, or there is none.
    """

    residual: jax.Array
    prior_step: jax.Array
    guidance: jax.Array
    clipped: jax.Array
    solver_residual: jax.Array


@runtime_checkable
class Prior(Protocol):
    """A distribution of clean images, known by its denoiser at each noise level.

    A pytree, so that other weights do not compile anew.
    """

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power at each timestep, (T,) float64, falling."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of its images."""
        ...

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """What it says of x_t, (H, W, C), at a timestep, () from 0 to T - 1."""
        ...


@runtime_checkable
class Operator(Protocol):
    """A, a differentiable map from an image to its measurement. A pytree."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what it measures."""
        ...

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of y."""
        ...

    def forward(self, x: jax.Array) -> jax.Array:
        """A(x), in the shape of a measurement."""
        ...

    def guess(self, y: jax.Array) -> jax.Array:
        """An image, (H, W, C), to show y by or to start from.

        It promises no more than its shape. Where there is a cheap
        pseudo-inverse it is that.
        """
        ...

    def support(self) -> jax.Array:
        """1 where y carries data, else 0; broadcasts to y."""
        ...

    def describe(self) -> dict:
        """Its kind and parameters as plain data, for a result's record."""
        ...


@runtime_checkable
class AmbiguousOperator(Operator, Protocol):
    """One whose measurement does not say which of some images it is of."""

    def guesses(self, key: jax.Array, y: jax.Array) -> jax.Array:
        """Images that explain y about equally well, (K, H, W, C)."""
        ...


@runtime_checkable
class LinearOperator(Operator, Protocol):
    """A matrix A, by its products."""

    def adjoint(self, y: jax.Array) -> jax.Array:
        """A^T y, (H, W, C)."""
        ...


@runtime_checkable
class SpectralOperator(LinearOperator, Protocol):
    """A linear operator whose singular value decomposition is cheap."""

    def pinv(self, y: jax.Array) -> jax.Array:
        """A^+ y, (H, W, C): the least-norm image that measures nearest to y."""
        ...

    def spectrum(self) -> 'Spectrum':
        """The decomposition A = U diag(s) V^*, by its maps."""
        ...


@runtime_checkable
class MaskOperator(SpectralOperator, Protocol):
    """A selection of values of the image, as they are."""

    def mask_of_x(self) -> jax.Array:
        """1 where a value of x is measured, else 0; broadcasts to (H, W, C)."""
        ...


class Spectrum(NamedTuple):
    """A singular value decomposition A = U diag(s) V^*, by its maps.

    V is unitary and the columns of U are orthonormal where s > 0. Coefficients
    of x and of y have one shape, and where y has fewer numbers than x the rest
    are zero. They are complex for a convolution, whose basis is the Fourier
    one. It makes inverse problems elementwise.

    Attributes:
        of_x: V^*, (H, W, C) -> coefficients.
        to_x: V, coefficients -> (H, W, C), real.
        of_y: U^*, y -> coefficients, zero where s is.
        singular: s >= 0, broadcasts to the coefficients.
    """

    of_x: Callable[[jax.Array], jax.Array]
    to_x: Callable[[jax.Array], jax.Array]
    of_y: Callable[[jax.Array], jax.Array]
    singular: jax.Array

    def significant(self) -> jax.Array:
        """Where y says something of x, in the shape of `singular`, bool.

        Above 3 % of the largest singular value: methods that divide y by s
        would carry the noise of smaller ones far out of range, step by step the
        same. The bound is that of the authors' code of DDRM and DDNM for blurs.
        """
        return self.singular > 3e-2 * jnp.max(self.singular)


# What an operator can be, in words, for a sentence that refuses one.
OPERATOR_WORDS: dict[type, str] = {
    Operator: 'any operator',
    LinearOperator: 'a linear operator',
    SpectralOperator: 'a linear operator with a spectrum',
    MaskOperator: 'a mask',
}
