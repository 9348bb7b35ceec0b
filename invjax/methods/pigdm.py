"""Pseudo-inverse guided diffusion (Song et al., ICLR 2023), with noise.

Around Tweedie's estimate x_0 is taken to be normal with variance r_t^2, so that

    grad log p(y | x_t) ~ J^T A^T (r_t^2 A A^T + sigma^2 I)^{-1} (y - A x0_hat),

with J = d x0_hat / d x_t. The score with this added to it gives, by Tweedie's
formula, the estimate that the step is taken with. r_t^2 = 1 - alpha_bar_t is
the paper's choice, exact for x_0 ~ N(0, I).
"""

import jax.numpy as jnp

from invjax import consistency
from invjax.methods.base import Method, corrected_step, estimate_and_transpose
from invjax.settings import Number, not_negative, positive
from invjax.types import LinearOperator


class PiGDM(Method):
    """Guidance by the likelihood under a normal x_0 of variance r_t^2.

    Attributes:
        strength: () factor of the guidance, 0 or more; the paper's is 1. May be
            traced, as the next.
        spread: () factor of r_t, above 0.
        transition: how the prior's step is taken.
    """

    name = 'pigdm'
    needs = LinearOperator
    validation_settings = tuple({'spread': v} for v in (0.3, 1.0))

    strength: Number = not_negative(1.0)
    spread: Number = positive(1.0)

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        variance = self.spread**2 * step.noise_var_t
        score = transpose(
            consistency.correction(problem, problem.residual(x0_hat), variance)
        )
        shift = (
            self.strength
            * step.noise_var_t
            / jnp.sqrt(step.alpha_bar_t)
            * score
        )
        x_s, info = corrected_step(
            key,
            x_t,
            x0_hat,
            x0_hat + shift,
            prediction,
            step,
            problem,
            self.transition,
        )
        return x_s, state, info
