"""Pseudo-inverse guided diffusion (Song et al., ICLR 2023), with noise.

Around Tweedie's estimate x_0 is taken to be normal with variance r_t^2, so that

    grad log p(y | x_t) ~ J^T A^T (r_t^2 A A^T + sigma^2 I)^{-1} (y - A x0_hat),

with J = d x0_hat / d x_t. The score with this added to it gives, by Tweedie's
formula, the estimate that the step is taken with. r_t^2 = 1 - alpha_bar_t is
the paper's choice, exact for x_0 ~ N(0, I).
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.conditioners.base import (
    Conditioner,
    NotNegative,
    Positive,
    corrected_step,
    noise_start,
)
from invjax.diffusion import ANCESTRAL, Transition, tweedie


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
        def estimate(x_t):
            prediction = prior(x_t, step.t)
            return tweedie(x_t, prediction.eps, step.alpha_bar_t), prediction

        x0_hat, transposed, prediction = jax.vjp(estimate, x_t, has_aux=True)
        variance = spread**2 * step.noise_var_t
        (score,) = transposed(
            consistency.correction(problem, problem.residual(x0_hat), variance)
        )
        shift = strength * step.noise_var_t / jnp.sqrt(step.alpha_bar_t) * score
        plain = jnp.clip(x0_hat, -1, 1) if transition.clip else x0_hat
        x_s, info = corrected_step(
            key,
            x_t,
            plain,
            x0_hat + shift,
            prediction,
            step,
            problem,
            transition,
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)
