"""ScoreALD (Jalal et al., 2021) as the paper uses it, eq. 10 and 11.

The measurement is compared with x_t itself,

    x_s  <-  x_s - w_t grad_{x_t} || A(x_t) - y ||^2,

    w_t = 1 / (2 gamma_t)              eq. 11, the paper's own experiments
    w_t = 1 / (sigma^2 + gamma_t^2)    eq. 10

although x_t is shrunk by sqrt(alpha_bar_t) and y is not; that is the paper's
reading and it is kept. The gradient needs no pass back through the network.

The paper gives its settings as intervals, [10, 15] and [28, 33]. We read them
as an annealing schedule: gamma_t rises linearly from the first number at t = 0
to the second at t = T, where the approximation is poorest. Equal ends make it a
constant.
"""

import jax
import jax.numpy as jnp

from invjax.conditioners.base import (
    Conditioner,
    Positive,
    guided_step,
    noise_start,
)
from invjax.diffusion import ANCESTRAL, Transition

EQUATIONS = ('11', '10')


def score_ald(
    gamma_0: Positive = 10.0,
    gamma_T: Positive = 15.0,
    *,
    equation: str = '11',
    transition: Transition = ANCESTRAL,
) -> Conditioner:
    """Annealed likelihood guidance at x_t.

    Args:
        gamma_0: () above 0, gamma at t = 0; infinity gives the measurement no
            weight. May be traced.
        gamma_T: () the same at the largest t.
        equation: `'11'` for 1 / (2 gamma_t), `'10'` for
            1 / (sigma^2 + gamma_t^2).
        transition: how the prior's step is taken.

    Raises:
        ValueError: for another equation.
    """
    if equation not in EQUATIONS:
        raise ValueError(
            f'equation must be one of {", ".join(EQUATIONS)}, got {equation!r}.'
        )

    def update(key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = transition.estimate(x_t, prediction, step)
        gamma = _share(1 - step.time, gamma_0) + _share(step.time, gamma_T)
        if equation == '11':
            weight = 1 / (2 * gamma)
        else:
            weight = 1 / (problem.noise_std**2 + gamma**2)
        grad = jax.grad(lambda x: jnp.sum(problem.residual(x) ** 2))(x_t)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            transition,
            guidance=-weight * grad,
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)


def _share(weight, gamma):
    """weight * gamma, and 0 for a weight of 0 even where gamma is infinite."""
    return jnp.where(weight > 0, weight * gamma, 0.0)
