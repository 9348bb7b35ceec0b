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

from invjax.methods.base import Method, guided_step
from invjax.settings import Number, choice, positive_or_infinite


class ScoreALD(Method):
    """Annealed likelihood guidance at x_t.

    Attributes:
        gamma_0: () above 0, gamma at t = 0; infinity gives the measurement no
            weight. May be traced.
        gamma_T: () the same at the largest t.
        equation: `'11'` for 1 / (2 gamma_t), `'10'` for
            1 / (sigma^2 + gamma_t^2).
        transition: how the prior's step is taken.
    """

    name = 'score_ald'
    tuning_grid = {'gamma_0': (1.0, 3.0, 9.0), 'gamma_T': (1.0, 9.0)}  # noqa: RUF012
    validation_settings = tuple(
        {'gamma_0': v, 'gamma_T': v} for v in (1.0, 3.0, 10.0, 30.0)
    )

    gamma_0: Number = positive_or_infinite(10.0)
    gamma_T: Number = positive_or_infinite(15.0)
    equation: str = choice('11', '10')

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        gamma = _share(1 - step.time, self.gamma_0) + _share(
            step.time, self.gamma_T
        )
        if self.equation == '11':
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
            self.transition,
            guidance=-weight * grad,
        )
        return x_s, state, info


def _share(weight, gamma):
    """weight * gamma, and 0 for a weight of 0 even where gamma is infinite."""
    return jnp.where(weight > 0, weight * gamma, 0.0)
