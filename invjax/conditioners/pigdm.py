"""Pseudo-inverse guided diffusion (Song et al., ICLR 2023), with noise.

Around Tweedie's estimate x_0 is taken to be normal with variance r_t^2, so that

    grad log p(y | x_t) ~ J^T A^T (r_t^2 A A^T + sigma^2 I)^{-1} (y - A x0_hat),

with J = d x0_hat / d x_t. The score with this added to it gives, by Tweedie's
formula, the estimate that the step is taken with. r_t^2 = 1 - alpha_bar_t is
the paper's choice, exact for x_0 ~ N(0, I).
"""

import jax.numpy as jnp

from invjax import consistency
from invjax.conditioners.base import (
    Conditioner,
    NotNegative,
    Positive,
    corrected_step,
    estimate_and_transpose,
    noise_start,
)
from invjax.diffusion import ANCESTRAL, Transition


def pigdm(
    strength: NotNegative = 1.0,
    spread: Positive = 1.0,
    *,
    transition: Transition = ANCESTRAL,
) -> Conditioner:
    """Guidance by the likelihood under a normal x_0 of variance r_t^2.

    Args:
        strength: () factor of the guidance, 0 or more; the paper's is 1. May be
            traced, as the next.
        spread: () factor of r_t, above 0.
        transition: how the prior's step is taken.
    """

    def update(key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        variance = spread**2 * step.noise_var_t
        score = transpose(
            consistency.correction(problem, problem.residual(x0_hat), variance)
        )
        shift = strength * step.noise_var_t / jnp.sqrt(step.alpha_bar_t) * score
        x_s, info = corrected_step(
            key,
            x_t,
            x0_hat,
            x0_hat + shift,
            prediction,
            step,
            problem,
            transition,
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)
