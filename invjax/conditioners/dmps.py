"""Diffusion model based posterior sampling (Meng and Kabashima, 2022).

With a flat prior, x_0 given x_t is normal around x_t / sqrt(alpha_bar_t) with
variance (1 - alpha_bar_t) / alpha_bar_t, so the likelihood's score is known
without a pass back through the network (their eq. 12):

    g = A^T (sigma^2 I + (1 - alpha_bar_t) / alpha_bar_t A A^T)^{-1}
        (y - A x_t / sqrt(alpha_bar_t)) / sqrt(alpha_bar_t)

    x_s <- x_s + strength beta / sqrt(1 - beta) g
"""

import jax.numpy as jnp

from invjax import consistency
from invjax.conditioners.base import (
    Conditioner,
    NotNegative,
    guided_step,
    noise_start,
)
from invjax.diffusion import ANCESTRAL, Transition


def dmps(
    strength: NotNegative = 1.75, *, transition: Transition = ANCESTRAL
) -> Conditioner:
    """Guidance by the likelihood of the noisy image under a flat prior.

    Args:
        strength: () factor of the guidance, 0 or more; 1.75 is the paper's. May
            be traced.
        transition: how the prior's step is taken.
    """

    def update(key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = transition.estimate(x_t, prediction, step)
        signal = jnp.sqrt(step.alpha_bar_t)
        score = consistency.correction(
            problem,
            problem.residual(x_t / signal),
            step.noise_var_t / step.alpha_bar_t,
        )
        size = strength * step.beta / jnp.sqrt(1 - step.beta)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            transition,
            guidance=size * score / signal,
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)
