"""Denoising diffusion null-space model (Wang et al., ICLR 2023), DDNM and DDNM+.

The estimate of the clean image keeps its part in the null space of A, and takes
the rest from the measurement:

    x0_hat <- x0_hat + V L s^{-1} (U^* y - s V^* x0_hat)

plain: L = 1 (their eq. 10). plus: where the measurement's noise, carried to x_s,
would exceed the noise that x_s has, L < 1 brings it down to that, and the noise
that is added is what is missing to it (their eq. 17-19, one singular value at a
time). Without noise the two are one.

With `travel` above 1 each step is undone by fresh noise and taken again: their
time travel with a length of one step. In the authors' code (wyhuai/DDNM,
`functions/svd_ddnm.py`) it is x0_hat that is noised anew and not x_s, and the step
is no ancestral one: of the noise of x_s a fraction eta = 0.85 is fresh, and the rest
the predicted one.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import posterior_mean
from invjax.methods.base import TRANSITION, Method, observe, repeat_step
from invjax.settings import Number, choice, count
from invjax.types import SpectralOperator


class DDNM(Method):
    """Range-null space decomposition of the estimate.

    Attributes:
        travel: () how often each step is taken, 1 or more. May be traced.
        noise_model: one of `plus` and `plain`. `plus` takes the ancestral step of
            posterior variance whatever the transition says.
        transition: how the prior's step is taken by `plain`; `plus` reads its
            `clip` alone.
    """

    name = 'ddnm'
    needs = SpectralOperator
    has_own_step = True

    travel: Number = count(1)
    noise_model: str = choice('plus', 'plain')

    def read_of_transition(self):
        is_read = self.noise_model == 'plain'
        return tuple(TRANSITION) if is_read else ('clip',)

    def _step_once(self, key, x_t, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        noise = jax.random.normal(key, x_t.shape)
        prior_x_s = self.transition(x_t, x0_hat, prediction, step, noise)
        if self.noise_model == 'plain':
            corrected = consistency.project(problem, x0_hat)
            x_s = self.transition(x_t, corrected, prediction, step, noise)
        else:
            corrected, noise = _noise_aware(x0_hat, noise, step, problem)
            x_s = posterior_mean(x_t, corrected, step) + noise
        info = observe(x_t, x0_hat, prior_x_s, x_s - prior_x_s, problem)
        return x_s, info

    def update(self, key, x_t, state, step, problem, prior):
        x_s, info = repeat_step(
            key,
            x_t,
            step,
            problem,
            self.travel,
            lambda key, x_t: self._step_once(key, x_t, step, problem, prior),
        )
        return x_s, state, info


def _noise_aware(x0_hat, noise, step, problem):
    """The corrected estimate, and the noise that the step still needs."""
    spectrum = problem.operator.spectrum()
    singular = spectrum.singular
    seen = spectrum.significant()
    inverse = seen / jnp.where(seen, singular, 1)
    # How much of x_0 goes into x_s, and of the measurement's noise with it.
    weight = step.beta * jnp.sqrt(step.alpha_bar_s) / step.noise_var_t
    carried = weight * problem.noise_std * inverse
    std = jnp.sqrt(step.posterior_variance)
    gain = jnp.where(carried > std, std / jnp.where(seen, carried, 1), 1.0)
    # A noiseless measurement carries none, and the division is not used.
    gain = jnp.where(carried > 0, gain, 1.0)
    difference = spectrum.of_y(problem.y) - singular * spectrum.of_x(x0_hat)
    corrected = x0_hat + spectrum.to_x(gain * inverse * difference)
    missing = jnp.sqrt(jnp.maximum(std**2 - (gain * carried) ** 2, 0.0))
    return corrected, spectrum.to_x(missing * spectrum.of_x(noise))
