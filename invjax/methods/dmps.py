"""Diffusion model based posterior sampling (Meng and Kabashima, 2022).

With a flat prior, x_0 given x_t is normal around x_t / sqrt(alpha_bar_t) with
variance (1 - alpha_bar_t) / alpha_bar_t, so the likelihood's score is known
without a pass back through the network (their eq. 12):

    g = A^T (sigma^2 I + (1 - alpha_bar_t) / alpha_bar_t A A^T)^{-1}
        (y - A x_t / sqrt(alpha_bar_t)) / sqrt(alpha_bar_t)

    x_s <- x_s + strength beta / sqrt(1 - beta) g

as in the authors' code (mengxiangming/dmps), whose `scale` is our strength.
"""

import jax.numpy as jnp

from invjax import consistency
from invjax.methods.base import Method, guided_step
from invjax.settings import Number, not_negative
from invjax.types import LinearOperator


class DMPS(Method):
    """Guidance by the likelihood of the noisy image under a flat prior.

    Attributes:
        strength: () factor of the guidance, 0 or more; 1.75 is the paper's. May
            be traced.
        transition: how the prior's step is taken.
    """

    name = 'dmps'
    needs = LinearOperator
    validation_settings = tuple({'strength': v} for v in (1.0, 1.75))

    strength: Number = not_negative(1.75)

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        signal = jnp.sqrt(step.alpha_bar_t)
        solved = consistency.solve_correction(
            problem,
            problem.residual(x_t / signal),
            step.noise_var_t / step.alpha_bar_t,
        )
        size = self.strength * step.beta / jnp.sqrt(1 - step.beta)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            self.transition,
            guidance=size * solved.x / signal,
        )
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info
