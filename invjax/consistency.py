"""Data consistency: the one inner problem that most methods share.

Around an estimate x of the clean image, with variance r^2, and a measurement
y = A z + sigma n, the posterior of z is Gaussian, with the mean

    z = argmin ||y - A z||^2 / (2 sigma^2) + ||z - x||^2 / (2 r^2)
      = x + r^2 A^T (r^2 A A^T + sigma^2 I)^{-1} (y - A x).

Where an operator has a `spectrum` this is a division by element. Otherwise, and
where r^2 differs from pixel to pixel, it is solved by conjugate gradients on
`forward` and `adjoint` alone, to a relative residual of 1e-5 within 100 steps.

Whether it got there is known: `solve_correction`, `solve_nearest` and their like
give a result together with the relative residual that was left. That is data
and no warning, since a compiled step for many images has no one to warn; a
method hands it on in its record. `correction`, `nearest`, ... are the results
alone, and when they are compiled nothing is spent on the rest.

Pixels may be correlated too: a function x -> Sigma x stands for the covariance
r^2 I wherever a variance is asked for, but in `squared_distance` and `draw`.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple, ParamSpec

import jax
import jax.numpy as jnp

from invjax.problem import Problem
from invjax.types import (
    LinearOperator,
    MaskOperator,
    Operator,
    SpectralOperator,
)

_TOLERANCE = 1e-5
_MAX_STEPS = 100
# Singular values under this fraction of the largest count as zero where there is
# no noise to say how much of them may be trusted: float32 has seven digits.
_CUT = 1e-3

# r^2, () or (H, W, C), or x -> Sigma x on (H, W, C).
Variance = jax.typing.ArrayLike | Callable[[jax.Array], jax.Array]


class Solved(NamedTuple):
    """A result, and how well the linear system M v = b behind it was solved.

    Attributes:
        x: the result, such as (H, W, C).
        relative_residual: (), ||b - M v|| / ||b||, computed from v itself; 0
            where b is 0 or the solution is in closed form, infinite where v is
            not finite. Rounding in float32 keeps it from falling below some
            1e-7 times the condition number of M.
        num_steps: () int32, of conjugate gradients; 0 in closed form.
    """

    x: jax.Array
    relative_residual: jax.Array
    num_steps: jax.Array


def solve_correction(
    problem: Problem,
    residual: jax.Array,
    variance: Variance,
    noise_var: jax.typing.ArrayLike | None = None,
    max_steps: int = _MAX_STEPS,
) -> Solved:
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
        return _closed(spectrum.to_x(gain * spectrum.of_y(residual)))
    if isinstance(operator, MaskOperator):
        # A selection of values: A diag(r^2) A^T is diagonal too.
        selected = operator.mask_of_x()
        gain = selected / jnp.where(selected > 0, variance + noise_var, 1)
        return _closed(gain * operator.adjoint(residual))

    # A little noise where there is none keeps the system regular.
    floor = jnp.maximum(noise_var, _CUT**2 * jnp.max(variance))
    return _solve(problem, residual, lambda x: variance * x, floor, max_steps)


@dataclasses.dataclass(frozen=True)
class _Derivative:
    """d A / d x at a point, as a linear operator. It does not leave a trace."""

    operator: Operator
    forward: Callable[[jax.Array], jax.Array]
    adjoint: Callable[[jax.Array], jax.Array]

    @property
    def image_shape(self):
        return self.operator.image_shape

    @property
    def measurement_shape(self):
        return self.operator.measurement_shape

    def guess(self, y):
        return self.adjoint(y)

    def support(self):
        return self.operator.support()

    def describe(self):
        return {'kind': 'Derivative', 'of': self.operator.describe()}


def linearised(problem: Problem, x: jax.Array) -> Problem:
    """The problem with the tangent of A at x, (H, W, C), in place of A.

    A(z) is A(x) + A'(x) (z - x) there. What does not depend on z has gone into
    the measurement, so that the operator is linear and a residual is what it was.
    A problem whose operator is linear is handed back as it is.
    """
    operator = problem.operator
    if isinstance(operator, LinearOperator):
        return problem
    value, back = jax.vjp(operator.forward, x)
    # Twice in reverse, since an operator may have no forward derivative.
    forward = jax.linear_transpose(lambda y: back(y)[0], value)
    derivative = _Derivative(
        operator, lambda z: forward(z)[0], lambda y: back(y)[0]
    )
    y = problem.y - value + derivative.forward(x)
    return dataclasses.replace(problem, operator=derivative, y=y)


def _closed(x: jax.Array) -> Solved:
    """What an exact formula gives."""
    return Solved(x, jnp.zeros(()), jnp.zeros((), jnp.int32))


def _solve(problem, residual, covariance, noise_var, max_steps) -> Solved:
    """The correction by conjugate gradients on forward and adjoint alone."""
    operator = problem.operator

    def apply(v):
        spread = operator.forward(covariance(operator.adjoint(v)))
        return spread + noise_var * v

    solved = conjugate_gradients(apply, residual, max_steps)
    return solved._replace(x=operator.adjoint(solved.x))


def conjugate_gradients(
    apply: Callable[[jax.Array], jax.Array],
    b: jax.Array,
    max_steps: int = _MAX_STEPS,
) -> Solved:
    """v with M v = b, M symmetric and positive definite.

    Hestenes and Stiefel (1952), from v = 0 until ||b - M v|| is at most 1e-5
    ||b||. The iteration is that of `jax.scipy.sparse.linalg.cg`, which says
    nothing of how it ended. Derivatives are those of M^{-1} b.

    Args:
        apply: v -> M v, in the shape of b.
        b: real, of any shape.
        max_steps: at most so many products with M.
    """

    def solve(apply, b):
        tolerance = _TOLERANCE**2 * _squared_norm(b)

        def unfinished(carry):
            _, _, size, _, num_steps = carry
            return (size > tolerance) & (num_steps < max_steps)

        def step(carry):
            v, r, size, p, num_steps = carry
            product = apply(p)
            alpha = size / _dot(p, product)
            v = v + alpha * p
            r = r - alpha * product
            new_size = _squared_norm(r)
            p = r + new_size / size * p
            return v, r, new_size, p, num_steps + 1

        v = jnp.zeros_like(b)
        start = v, b, _squared_norm(b), b, jnp.zeros((), jnp.int32)
        v, _, _, _, num_steps = jax.lax.while_loop(unfinished, step, start)
        return v, num_steps

    v, num_steps = jax.lax.custom_linear_solve(
        apply, b, solve, transpose_solve=solve, symmetric=True, has_aux=True
    )
    # The residual that the iteration updates drifts away from that of v.
    left = jnp.sqrt(_squared_norm(b - apply(v)))
    size = jnp.sqrt(_squared_norm(b))
    relative = jnp.where(size > 0, left / jnp.where(size > 0, size, 1), 0.0)
    relative = jnp.where(jnp.isfinite(relative), relative, jnp.inf)
    return Solved(v, jax.lax.stop_gradient(relative), num_steps)


def _dot(a, b):
    return jnp.vdot(a, b, precision=jax.lax.Precision.HIGHEST)


def _squared_norm(a):
    return _dot(a, a)


def solve_squared_distance(
    problem: Problem,
    residual: jax.Array,
    variance: jax.Array,
    noise_var: jax.typing.ArrayLike,
) -> Solved:
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
        distance = jnp.sum(jnp.abs(spectrum.of_y(residual)) ** 2 / total)
        return _closed(distance)

    def apply(v):
        spread = operator.forward(operator.adjoint(v))
        return variance * spread + noise_var * v

    solved = conjugate_gradients(apply, residual)
    return solved._replace(x=jnp.sum(residual * solved.x))


def _gain(singular, variance, noise_var):
    """s / (r^2 s^2 + sigma^2), and 0 where the data do not determine it."""
    total = variance * singular**2 + noise_var
    least = variance * (_CUT * jnp.max(singular)) ** 2
    determined = (total >= least) & (total > 0)
    return jnp.where(
        determined, singular / jnp.where(determined, total, 1), 0.0
    )


def solve_nearest(
    problem: Problem,
    x: jax.Array,
    variance: Variance,
    noise_var: jax.typing.ArrayLike | None = None,
    max_steps: int = _MAX_STEPS,
) -> Solved:
    """The z that is nearest to x and explains y: the mean above, (H, W, C).

    Arguments as for `solve_correction`; x is (H, W, C).
    """
    solved = solve_correction(
        problem, problem.residual(x), variance, noise_var, max_steps
    )
    shift = solved.x
    change = variance(shift) if callable(variance) else variance * shift
    return solved._replace(x=x + change)


def solve_project(problem: Problem, x: jax.Array) -> Solved:
    """The nearest z with A z = y: x + A^+ (y - A x), whatever the noise."""
    return solve_nearest(problem, x, jnp.ones(()), jnp.zeros(()))


def solve_draw(
    key: jax.Array,
    problem: Problem,
    x: jax.Array,
    variance: jax.typing.ArrayLike,
) -> Solved:
    """A sample of z, (H, W, C), from its Gaussian posterior.

    The mean for a perturbed estimate and a perturbed measurement is a sample
    for the given ones (Papandreou and Yuille, 2010).

    Arguments as for `solve_nearest`.
    """
    key_x, key_y = jax.random.split(key)
    x = x + jnp.sqrt(variance) * jax.random.normal(key_x, x.shape)
    noise = problem.noise_std * jax.random.normal(key_y, problem.y.shape)
    y = problem.y + noise * problem.operator.support()
    perturbed = dataclasses.replace(problem, y=y)
    return solve_nearest(perturbed, x, variance)


_P = ParamSpec('_P')


def _result(solve: Callable[_P, Solved]) -> Callable[_P, jax.Array]:
    """The function that gives the result alone; arguments are the same."""

    @functools.wraps(solve)
    def result(*args: _P.args, **kwargs: _P.kwargs) -> jax.Array:
        return solve(*args, **kwargs).x

    return result


correction = _result(solve_correction)
squared_distance = _result(solve_squared_distance)
nearest = _result(solve_nearest)
project = _result(solve_project)
draw = _result(solve_draw)
