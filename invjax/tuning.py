"""Choosing hyperparameters by the measurement alone, without the truth.

Two criteria, both smaller for better:

- the discrepancy principle (Morozov, 1966): a restoration should be as far from
  the measurement as the noise is, no nearer and no further;
- cross-validation on measured pixels that the method did not see.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from invjax import metrics
from invjax.operators.mask import Mask
from invjax.problem import Problem


def chi_square(x: jax.Array, problem: Problem) -> jax.Array:
    """||y - A x||^2 / (m noise_std^2), (): near 1 at the truth.

    Args:
        x: (H, W, C), clipped to [-1, 1] first.
        problem: see `invjax.problem`.
    """
    residual = problem.residual(jnp.clip(x, -1, 1))
    return metrics.chi_square(
        residual, problem.num_measured(), problem.noise_std
    )


def discrepancy(chi_squares: np.ndarray) -> np.ndarray:
    """|log chi_square|: how far a residual is from what the noise explains.

    In the logarithm, half of what is expected is as far off as twice as much.
    Without noise chi_square is NaN, and so is this.
    """
    with np.errstate(divide='ignore'):
        return np.abs(np.log(chi_squares))


def best_of_the_other_half(scores: np.ndarray) -> np.ndarray:
    """For each image the setting that is best on the other half of the images.

    A fixed default, judged by images that it was not chosen on.

    Args:
        scores: (S, N), settings by images, higher is better, N of 2 or more.

    Returns:
        (N,) indices of settings: images of even number have the best of the
        odd ones, and the other way round.
    """
    chosen = np.empty(scores.shape[1], int)
    for half in (0, 1):
        chosen[half::2] = np.argmax(scores[:, 1 - half :: 2].mean(axis=1))
    return chosen


def hold_out(
    key: jax.Array, problem: Problem, fraction: float
) -> tuple[Problem, Problem]:
    """Part the measured pixels of an inpainting into two problems.

    Args:
        key: of the choice, which is random and of an exact count, rounded up.
        problem: whose operator is a `Mask`.
        fraction: of the measured pixels that are held out, above 0, below 1.

    Returns:
        The problem for a method, and that of the held-out pixels.

    Raises:
        ValueError: for another operator, or a fraction out of its range.
    """
    if not isinstance(problem.operator, Mask):
        raise ValueError(
            'pixels can be held out where the operator is a mask, got '
            f'{type(problem.operator).__name__}.'
        )
    if not 0 < fraction < 1:
        raise ValueError(
            f'the held-out fraction must be above 0 and below 1, got {fraction}.'
        )
    mask = problem.operator.mask
    # Measured pixels in random order come first: missing ones have infinity.
    places = jnp.where(mask > 0, jax.random.uniform(key, mask.shape), jnp.inf)
    ranks = jnp.argsort(jnp.argsort(places.ravel())).reshape(mask.shape)
    held = mask * (ranks < jnp.ceil(fraction * mask.sum()))

    def part(mask):
        return dataclasses.replace(
            problem,
            y=mask * problem.y,
            operator=problem.operator.replace(mask=mask),
        )

    return part(mask - held), part(held)
