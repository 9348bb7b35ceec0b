"""Tweedie moment projected diffusion (Boys et al., 2023).

As `pigdm`, but the covariance of x_0 given x_t is Tweedie's own second moment

    Cov[x_0 | x_t] = (1 - alpha_bar_t) / sqrt(alpha_bar_t) J,   J = d x0_hat / d x_t,

of which a diagonal is kept, in two ways:

    moment='row_sum'   J 1, the sum of each row (their section 3.2)
    moment='learned'   from the variance that the network has learned for the
                       reverse step (Peng et al., 2024), v = beta_tilde +
                       w_0^2 Var[x_0 | x_t], w_0 the weight of x_0 in the mean

The sums here go over all pixels of the image, and so need no more than one
product with J^T. The authors sum over the measured ones alone, the rows of
A J A^T: where pixels are missing, what a measured pixel has in common with missing
ones counts here and not there.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import step_log_variance
from invjax.methods.base import Method, corrected_step, estimate_and_transpose
from invjax.settings import Number, choice, not_negative
from invjax.types import LinearOperator

# Of 1 - alpha_bar_t, the variance under a unit prior. A diagonal that is not
# positive is an error of the approximation or of the network.
_LEAST = 1e-3


class TMPD(Method):
    """Guidance by the likelihood under a normal x_0 of Tweedie's variance.

    Attributes:
        strength: () factor of the guidance, 0 or more; the paper's is 1. May be
            traced.
        moment: one of `row_sum` and `learned`; `learned` is `row_sum` for a prior that has not
            learned its variance.
        transition: how the prior's step is taken.
    """

    name = 'tmpd'
    needs = LinearOperator

    strength: Number = not_negative(1.0)
    moment: str = choice('row_sum', 'learned')

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        to_x0 = step.noise_var_t / jnp.sqrt(step.alpha_bar_t)
        if (
            self.moment == 'learned'
            and prediction.log_variance_fraction is not None
        ):
            variance = _learned_variance(prediction, step)
        else:
            # J is symmetric, so the sums of its rows are J^T 1.
            variance = to_x0 * transpose(jnp.ones_like(x_t))
        variance = jnp.maximum(variance, _LEAST * step.noise_var_t)
        variance = jax.lax.stop_gradient(variance)
        solved = consistency.solve_correction(
            problem, problem.residual(x0_hat), variance
        )
        score = transpose(solved.x)
        x_s, info = corrected_step(
            key,
            x_t,
            x0_hat,
            x0_hat + self.strength * to_x0 * score,
            prediction,
            step,
            problem,
            self.transition,
        )
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info


def _learned_variance(prediction, step):
    variance = jnp.exp(step_log_variance(prediction, step, 'learned'))
    weight = step.beta * jnp.sqrt(step.alpha_bar_s) / step.noise_var_t
    return (variance - step.posterior_variance) / weight**2
