"""Manifold constrained gradients (Chung et al., NeurIPS 2022).

The step of DPS, then a projection onto the measurement as noisy as x_s is:

    x_s <- x_s - zeta grad_{x_t} ||y - A x0_hat||,
    x_s <- x_s + A^+ (y_s - A x_s),   y_s = sqrt(alpha_bar_s) y + sqrt(1 - alpha_bar_s) A n

The paper has the square of the norm; the authors' code for inpainting
(HJ-harry/MCG_diffusion) has the norm, as here, with a step size of 1. It noises the
known pixels to the level of x_t and not to that of x_s.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import diffuse
from invjax.methods.base import Method
from invjax.methods.dps import DPS
from invjax.settings import Number, not_negative
from invjax.types import LinearOperator


class MCG(Method):
    """Guidance by the residual, and a projection after it.

    Attributes:
        zeta: () step size, 0 or more; see `dps`. May be traced.
        transition: how the prior's step is taken.
    """

    name = 'mcg'
    needs = LinearOperator
    validation_settings = tuple({'zeta': v} for v in (0.03, 0.1, 0.3, 1.0, 3.0))

    zeta: Number = not_negative(1.0)

    def update(self, key, x_t, state, step, problem, prior):
        guided = DPS(self.zeta, transition=self.transition)
        x_s, state, info = guided.update(key, x_t, state, step, problem, prior)
        noise = jax.random.normal(jax.random.fold_in(key, 1), x_t.shape)
        noisy = problem.replace(
            y=diffuse(
                problem.y, step.alpha_bar_s, problem.operator.forward(noise)
            )
        )
        solved = consistency.solve_project(noisy, x_s)
        info = info._replace(
            guidance=info.guidance + jnp.linalg.norm(solved.x - x_s),
            solver_residual=solved.relative_residual,
        )
        return solved.x, state, info
