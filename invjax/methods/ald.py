"""Annealed Langevin dynamics for posteriors (ALD; Jalal et al., 2021).

Langevin dynamics at one noise level after another (Song and Ermon, 2019,
Algorithm 1), in variance-exploding coordinates, with the likelihood that
Jalal et al. add to the score:

    x      = x_t / sqrt(alpha_bar_t),  sigma_t^2 = (1 - alpha_bar_t) / alpha_bar_t,
    x  <-  x + eta_t (grad log p_t(x) + A^T (y - A x) / (sigma^2 + gamma_t^2))
             + sqrt(2 eta_t) z.

There x is a clean image plus noise, on the scale on which y was measured. With
gamma_t = gamma sigma_t, at gamma = 1 and for singular values of 1, y - A x has
the variance that it is divided by; as sigma_t goes to 0, so does gamma_t, and
what is sampled becomes the posterior. (Jalal et al. tune gamma_t; their code has
it proportional to sigma_t, and no sigma.) The gradient does not pass through the
network.

x is handed from one level to the next as it is, so noise falls no faster than
Langevin dynamics takes it off, and levels must not be far apart. Timesteps that
are evenly spaced are, at the small levels: of 50, the last step is from 0.08 to
0.01. Hence N steps take N levels of a geometric sequence, as in Song and Ermon,
from the prior's largest to its smallest; a step's level is that of its fraction of
the way from T - 1 to 0, and not that of its timestep.

`score_ald` is this likelihood as the project's paper uses it: added to ancestral
steps, one a level, with x_t in place of x, although it is shrunk by
sqrt(alpha_bar_t), and with weights that are not tied to the noise level.
"""

import jax
import jax.numpy as jnp

from invjax.methods.base import Method, observe
from invjax.settings import Number, count, positive, positive_or_infinite


class ALD(Method):
    """Langevin dynamics on the posterior at each of N noise levels.

    The image that the sampler carries is x; Info is in terms of x_t.

    Attributes:
        langevin_steps: () a level, each a pass through the network. All numbers
            may be traced.
        langevin_size: () their size as a fraction of the variance along the
            steepest direction; above 0, stable below 2.
        gamma: () gamma_t / sigma_t; infinity gives the measurement no weight.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'ald'
    has_own_step = True

    langevin_steps: Number = count(5)
    langevin_size: Number = positive(0.6)
    gamma: Number = positive_or_infinite(1.0)

    def start(self, key, problem, steps):
        noise = jax.random.normal(key, problem.image_shape)
        return noise / jnp.sqrt(steps.alpha_bar_t[0]), ()

    def update(self, key, x, state, step, problem, prior):
        t, alpha_bar, noise_var = _level(step.time, prior)
        level = step._replace(
            t=t, alpha_bar_t=alpha_bar, noise_var_t=1 - alpha_bar
        )
        likelihood_var = problem.noise_std**2 + self.gamma**2 * noise_var
        # -log p_t is nowhere more curved than 1 / sigma_t^2, and operators of
        # this project have singular values of at most about 1.
        eta = self.langevin_size / (1 / noise_var + 1 / likelihood_var)
        num_steps = jnp.asarray(self.langevin_steps, jnp.int32)

        def half_distance(x):
            return jnp.sum(problem.residual(x) ** 2) / 2

        def move(i, carry):
            x, guidance, first = carry
            x_t = jnp.sqrt(alpha_bar) * x
            x0_hat = self.transition.estimate(x_t, prior(x_t, t), level)
            score = (x0_hat - x) / noise_var
            pull = -eta * jax.grad(half_distance)(x) / likelihood_var
            noise = jax.random.normal(jax.random.fold_in(key, i), x.shape)
            moved = x + eta * score + pull + jnp.sqrt(2 * eta) * noise
            # The noise of the smallest level is taken off, not left in.
            is_last = (step.noise_var_s == 0) & (i == num_steps - 1)
            return (
                jnp.where(is_last, x0_hat, moved),
                guidance + jnp.where(is_last, 0, pull),
                jnp.where(i == 0, x0_hat, first),
            )

        begin = (x, jnp.zeros_like(x), x)
        moved, guidance, x0_hat = jax.lax.fori_loop(0, num_steps, move, begin)
        x_t, plain, by_data = (
            jnp.sqrt(alpha_bar) * v for v in (x, moved - guidance, guidance)
        )
        return moved, state, observe(x_t, x0_hat, plain, by_data, problem)


def _level(time, prior):
    """The timestep, alpha_bar and sigma^2 at a place in the geometric sequence.

    Args:
        time: () from 0, the smallest noise level, to 1, the largest.
        prior: with `alpha_bar`; its nearest timestep is taken.
    """
    alpha_bar = jnp.asarray(prior.alpha_bar, jnp.float32)
    noise_var = (1 - alpha_bar) / alpha_bar
    log_var = jnp.log(noise_var)
    wanted = (1 - time) * log_var[0] + time * log_var[-1]
    t = jnp.argmin(jnp.abs(log_var - wanted)).astype(jnp.int32)
    return t, alpha_bar[t], noise_var[t]
