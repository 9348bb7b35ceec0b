"""Pseudo-inverse guided diffusion (Song et al., ICLR 2023), with noise.

Around Tweedie's estimate x_0 is taken to be normal with variance r_t^2, so that

    grad log p(y | x_t) ~ J^T A^T (r_t^2 A A^T + sigma^2 I)^{-1} (y - A x0_hat),

with J = d x0_hat / d x_t, called g below. r_t^2 = 1 - alpha_bar_t is the paper's
choice, exact for x_0 ~ N(0, I). What is made of g differs:

    weighting='score'   x0_hat + (1 - alpha_bar_t) / sqrt(alpha_bar_t) g, which
                        the score with g added to it gives by Tweedie's formula,
                        takes the estimate's place in the step
    weighting='paper'   x_s <- x_s + sqrt(alpha_bar_t) r_t^2 g, after the step
                        (their Algorithm 1)

The first is a step of the reverse process for p(x_t | y), and falls with the
length of the step; the second does not, so that it acts the more strongly the
more steps there are. The authors' code (NVlabs/RED-diff, `algos/pgdm.py`) has
sqrt(alpha_bar_s) as one more factor of the second, and starts from the diffused
pseudo-inverse where we start from noise.
"""

import jax.numpy as jnp

from invjax import consistency
from invjax.methods.base import (
    Method,
    corrected_step,
    estimate_and_transpose,
    guided_step,
)
from invjax.settings import Number, choice, not_negative, positive
from invjax.types import LinearOperator


class PiGDM(Method):
    """Guidance by the likelihood under a normal x_0 of variance r_t^2.

    Attributes:
        strength: () factor of the guidance, 0 or more; the paper's is 1. May be
            traced, as the next.
        spread: () factor of r_t, above 0.
        weighting: `score` or `paper`.
        transition: how the prior's step is taken.
    """

    name = 'pigdm'
    needs = LinearOperator
    validation_settings = tuple({'spread': v} for v in (0.3, 1.0))

    strength: Number = not_negative(1.0)
    spread: Number = positive(1.0)
    weighting: str = choice('score', 'paper')

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        variance = self.spread**2 * step.noise_var_t
        solved = consistency.solve_correction(
            problem, problem.residual(x0_hat), variance
        )
        score = transpose(solved.x)
        if self.weighting == 'paper':
            if self.transition.clip:
                x0_hat = jnp.clip(x0_hat, -1, 1)
            signal = jnp.sqrt(step.alpha_bar_t)
            x_s, info = guided_step(
                key,
                x_t,
                x0_hat,
                prediction,
                step,
                problem,
                self.transition,
                guidance=self.strength * signal * variance * score,
            )
        else:
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
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info
