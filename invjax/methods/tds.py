"""Twisted diffusion sampler (TDS; Wu et al., 2023): weighted particles.

K particles follow guided steps, and are weighted for what guidance gets wrong,

    q(x_s | x_t)  = N(m + v grad log p~(y | x_t), v I),   p(x_s | x_t) = N(m, v I),
    w_s           = p(x_s | x_t) p~(y | x_s) / (q(x_s | x_t) p~(y | x_t)),
    p~(y | x_t)   = N(y; A x0_hat, sigma^2 I + r_t^2 A A^T),  r_t^2 = 1 - alpha_bar_t,

and resampled by their weights (their Algorithm 1). So it is a sequential Monte
Carlo sampler of p(x_0 | y), exact as K grows, whatever p~ is before the last
step. One particle of the last generation is what is returned.

The authors' code for images (blt2114/twisted_diffusion_sampler) is for noiseless
inpainting, with r_t^2 = tau^2 s_t^2 / (tau^2 + s_t^2), s_t^2 = (1 - alpha_bar_t) /
alpha_bar_t and tau^2 = 0.12; ours is that of tau = 1. It resamples systematically
at each step, as here.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import posterior_mean, step_log_variance, tweedie
from invjax.methods.base import Method, observe
from invjax.settings import Number, positive, size
from invjax.types import LinearOperator

# A noiseless likelihood would give all weight to one particle by rounding.
_LEAST_NOISE_VAR = 1e-6


class TDS(Method):
    """Sequential Monte Carlo with guided proposals.

    Attributes:
        spread: () factor of r_t, above 0. May be traced.
        particles: K, 1 or more; the network is passed K times a step, and
            memory grows with it.
        transition: its variance and clip; the step is always ancestral.
    """

    name = 'tds'
    needs = LinearOperator
    has_own_step = True

    spread: Number = positive(1.0)
    particles: int = size(8)

    def read_of_transition(self):
        return 'variance', 'clip'

    def start(self, key, problem, steps):
        del steps
        x = jax.random.normal(key, (self.particles, *problem.image_shape))
        return x, jnp.zeros(self.particles)

    def update(self, key, x_t, log_weights, step, problem, prior):
        noise_var = jnp.maximum(problem.noise_std**2, _LEAST_NOISE_VAR)
        key_resample, key_noise = jax.random.split(key)

        def log_likelihood(x_t):
            prediction = prior(x_t, step.t)
            x0_hat = tweedie(x_t, prediction.eps, step.alpha_bar_t)
            if self.transition.clip:
                x0_hat = jnp.clip(x0_hat, -1, 1)
            variance = self.spread**2 * step.noise_var_t
            found, left = _log_likelihood(problem, x0_hat, variance, noise_var)
            return found, (x0_hat, prediction, left)

        (twist, (x0_hat, prediction, left)), gradient = jax.vmap(
            jax.value_and_grad(log_likelihood, has_aux=True)
        )(x_t)
        chosen = _resample(key_resample, log_weights + twist)
        x_t, x0_hat, prediction, gradient, twist = jax.tree.map(
            lambda leaf: leaf[chosen],
            (x_t, x0_hat, prediction, gradient, twist),
        )
        log_variance = step_log_variance(
            prediction, step, self.transition.variance
        )
        variance = jnp.where(step.noise_var_s > 0, jnp.exp(log_variance), 0.0)
        noise = jax.random.normal(key_noise, x_t.shape)
        mean = posterior_mean(x_t, x0_hat, step)
        plain = mean + jnp.sqrt(variance) * noise
        x_s = plain + variance * gradient
        # log p - log q, in which the noise is (x_s - mean) / std - std grad.
        std = jnp.broadcast_to(jnp.sqrt(variance), x_s.shape)
        log_ratio = -jnp.sum(
            std * gradient * noise + (std * gradient) ** 2 / 2,
            axis=(1, 2, 3),
        )
        infos = jax.vmap(observe, in_axes=(0, 0, 0, 0, None))(
            x_t, x0_hat, plain, x_s - plain, problem
        )
        info = jax.tree.map(jnp.mean, infos)
        info = info._replace(solver_residual=jnp.max(left))
        return x_s, log_ratio - twist, info

    def finish(self, key, x, log_weights, problem):
        noise_var = jnp.maximum(problem.noise_std**2, _LEAST_NOISE_VAR)
        exact = jax.vmap(
            lambda x: _log_likelihood(problem, x, jnp.zeros(()), noise_var)[0]
        )(x)
        return x[jax.random.categorical(key, log_weights + exact)]


def _log_likelihood(problem, x0_hat, variance, noise_var):
    """log N(y; A x0_hat, sigma^2 I + r^2 A A^T), but for a constant, and what
    its linear system was left with."""
    residual = problem.residual(x0_hat)
    solved = consistency.solve_squared_distance(
        problem, residual, variance, noise_var
    )
    return -solved.x / 2, solved.relative_residual


def _resample(key, log_weights):
    """Indices by systematic resampling: one uniform number for all."""
    number = len(log_weights)
    cumulative = jnp.cumsum(jax.nn.softmax(log_weights))
    places = (jnp.arange(number) + jax.random.uniform(key)) / number
    return jnp.minimum(jnp.searchsorted(cumulative, places), number - 1)
