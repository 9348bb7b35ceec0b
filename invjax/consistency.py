"""Data consistency: the one inner problem that most methods share.

Around an estimate x of the clean image, with variance r^2, and a measurement
y = A z + sigma n, the posterior of z is Gaussian, with the mean

    z = argmin ||y - A z||^2 / (2 sigma^2) + ||z - x||^2 / (2 r^2)
      = x + r^2 A^T (r^2 A A^T + sigma^2 I)^{-1} (y - A x).

Where an operator has a `spectrum` this is a division by element. Otherwise, and
where r^2 differs from pixel to pixel, it is solved by conjugate gradients on
`forward` and `adjoint` alone, to a relative residual of 1e-5 within 100 steps.

Pixels may be correlated too: a function x -> Sigma x stands for the covariance
r^2 I wherever a variance is asked for, but in `squared_distance` and `draw`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from invjax.problem import Problem
from invjax.types import MaskOperator, SpectralOperator

_TOLERANCE = 1e-5
_MAX_STEPS = 100
# Singular values under this share of the largest count as zero where there is
# no noise to say how much of them may be trusted: float32 has seven digits.
_CUT = 1e-3

# r^2, () or (H, W, C), or x -> Sigma x on (H, W, C).
Variance = jax.typing.ArrayLike | Callable[[jax.Array], jax.Array]


def correction(
    problem: Problem,
    residual: jax.Array,
    variance: Variance,
    noise_var: jax.typing.ArrayLike | None = None,
    max_steps: int = _MAX_STEPS,
) -> jax.Array:
    """A^T (A diag(r^2) A^T + sigma^2 I)^{-1} residual, (H, W, C).

    Without noise the inverse is the pseudo-inverse, so the product is finite
    everywhere, and zero where nothing is measured.

    Args:
        problem: whose operator is linear.
        residual: in the shape of y.
        variance: r^2, above 0: () or (H, W, C); or x -> Sigma x, positive
            definite.
        noise_var: sigma^2, (); by default that of the problem.
        max_steps: of conjugate gradients, where they are needed.
    """
    operator = problem.operator
    if noise_var is None:
        noise_var = problem.noise_std**2
    if callable(variance):
        # Its size, as far as it counts: along the residual.
        image = operator.adjoint(residual)
        length = jnp.linalg.norm(image)
        size = jnp.linalg.norm(variance(image)) / jnp.maximum(length, 1e-12)
        floor = jnp.maximum(noise_var, _CUT**2 * size)
        return _solve(problem, residual, variance, floor, max_steps)
    if jnp.ndim(variance) == 0 and isinstance(operator, SpectralOperator):
        spectrum = operator.spectrum()
        gain = _gain(spectrum.singular, variance, noise_var)
        return spectrum.to_x(gain * spectrum.of_y(residual))
    if isinstance(operator, MaskOperator):
        # A selection of values: A diag(r^2) A^T is diagonal too.
        selected = operator.mask_of_x()
        gain = selected / jnp.where(selected > 0, variance + noise_var, 1)
        return gain * operator.adjoint(residual)

    # A little noise where there is none keeps the system regular.
    floor = jnp.maximum(noise_var, _CUT**2 * jnp.max(variance))
    return _solve(problem, residual, lambda x: variance * x, floor, max_steps)


def _solve(problem, residual, covariance, noise_var, max_steps):
    """`correction` by conjugate gradients on forward and adjoint alone."""
    operator = problem.operator

    def apply(v):
        spread = operator.forward(covariance(operator.adjoint(v)))
        return spread + noise_var * v

    solved, _ = cg(apply, residual, tol=_TOLERANCE, maxiter=max_steps)
    return operator.adjoint(solved)


def squared_distance(
    problem: Problem,
    residual: jax.Array,
    variance: jax.Array,
    noise_var: jax.typing.ArrayLike,
) -> jax.Array:
    """residual^T (r^2 A A^T + sigma^2 I)^{-1} residual, ().

    What of the residual lies outside the range of A is left out where there is
    a spectrum: no image changes it.

    Args:
        problem: whose operator is linear.
        residual: in the shape of y.
        variance: r^2, (), 0 or more.
        noise_var: sigma^2, (), above 0.
    """
    operator = problem.operator
    if isinstance(operator, SpectralOperator):
        spectrum = operator.spectrum()
        total = variance * spectrum.singular**2 + noise_var
        return jnp.sum(jnp.abs(spectrum.of_y(residual)) ** 2 / total)

    def apply(v):
        spread = operator.forward(operator.adjoint(v))
        return variance * spread + noise_var * v

    solved, _ = cg(apply, residual, tol=_TOLERANCE, maxiter=_MAX_STEPS)
    return jnp.sum(residual * solved)


def _gain(singular, variance, noise_var):
    """s / (r^2 s^2 + sigma^2), and 0 where that cannot be told."""
    total = variance * singular**2 + noise_var
    least = variance * (_CUT * jnp.max(singular)) ** 2
    told = (total >= least) & (total > 0)
    return jnp.where(told, singular / jnp.where(told, total, 1), 0.0)


def nearest(
    problem: Problem,
    x: jax.Array,
    variance: Variance,
    noise_var: jax.typing.ArrayLike | None = None,
    max_steps: int = _MAX_STEPS,
) -> jax.Array:
    """The z that is nearest to x and explains y: the mean above, (H, W, C).

    Arguments as for `correction`; x is (H, W, C).
    """
    residual = problem.residual(x)
    shift = correction(problem, residual, variance, noise_var, max_steps)
    return x + (variance(shift) if callable(variance) else variance * shift)


def project(problem: Problem, x: jax.Array) -> jax.Array:
    """The nearest z with A z = y: x + A^+ (y - A x), whatever the noise."""
    return nearest(problem, x, jnp.ones(()), jnp.zeros(()))


def draw(
    key: jax.Array,
    problem: Problem,
    x: jax.Array,
    variance: jax.typing.ArrayLike,
) -> jax.Array:
    """A sample of z, (H, W, C), from its Gaussian posterior.

    The mean for a perturbed estimate and a perturbed measurement is a sample
    for the given ones (Papandreou and Yuille, 2010).

    Arguments as for `nearest`.
    """
    key_x, key_y = jax.random.split(key)
    x = x + jnp.sqrt(variance) * jax.random.normal(key_x, x.shape)
    noise = problem.noise_std * jax.random.normal(key_y, problem.y.shape)
    perturbed = problem.replace(
        y=problem.y + noise * problem.operator.support()
    )
    return nearest(perturbed, x, variance)
