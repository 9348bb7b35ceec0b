"""Denoising diffusion restoration models (Kawar et al., NeurIPS 2022).

In the variance-exploding frame, x_t / sqrt(alpha_bar_t) has noise of variance
sigma_t^2 = (1 - alpha_bar_t) / alpha_bar_t. Each singular direction of A is
denoised for itself (their eq. 7 and 8): where it is not measured, or measured
worse than x_s will be, from x_t or y with a fraction eta of fresh noise; where it
is measured better, from y with a fraction eta_b.
"""

import jax
import jax.numpy as jnp

from invjax.methods.base import Method, observe
from invjax.settings import Number, fraction
from invjax.types import SpectralOperator


class DDRM(Method):
    """Denoising in the basis that diagonalises the operator.

    Attributes:
        eta_a: () fraction of fresh noise, 0 to 1; the paper's eta, 0.85. May be
            traced, as the next.
        eta_b: () weight of the measurement where it is better than x_s.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'ddrm'
    needs = SpectralOperator
    has_own_step = True

    eta_a: Number = fraction(0.85)
    eta_b: Number = fraction(1.0)

    def start(self, key, problem, steps):
        noise = jax.random.normal(key, problem.image_shape)
        spectrum = problem.operator.spectrum()
        y_bar, y_std = _measured(spectrum, problem)
        sigma = jnp.sqrt(steps.noise_var_t[0] / steps.alpha_bar_t[0])
        known = y_std < sigma
        std = jnp.sqrt(jnp.where(known, sigma**2 - y_std**2, sigma**2))
        x = jnp.where(known, y_bar, 0) + std * spectrum.of_x(noise)
        return jnp.sqrt(steps.alpha_bar_t[0]) * spectrum.to_x(x), ()

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        spectrum = problem.operator.spectrum()
        y_bar, y_std = _measured(spectrum, problem)
        sigma_t = jnp.sqrt(step.noise_var_t / step.alpha_bar_t)
        sigma_s = jnp.sqrt(step.noise_var_s / step.alpha_bar_s)
        x0 = spectrum.of_x(x0_hat)
        kept = jnp.sqrt(1 - self.eta_a**2) * sigma_s
        from_x = (
            x0
            + kept
            * (spectrum.of_x(x_t / jnp.sqrt(step.alpha_bar_t)) - x0)
            / sigma_t
        )
        is_measured = jnp.isfinite(y_std)
        worse = is_measured & (y_std > sigma_s)
        from_y = x0 + kept * (y_bar - x0) / jnp.where(worse, y_std, 1)
        better = is_measured & ~worse
        blended = (1 - self.eta_b) * x0 + self.eta_b * y_bar
        mean = jnp.where(better, blended, jnp.where(worse, from_y, from_x))
        spent = jnp.where(better, self.eta_b * y_std, 0)
        std = jnp.where(
            better,
            jnp.sqrt(jnp.maximum(sigma_s**2 - spent**2, 0)),
            self.eta_a * sigma_s,
        )
        noise = spectrum.of_x(jax.random.normal(key, x_t.shape))
        signal = jnp.sqrt(step.alpha_bar_s)
        x_s = signal * spectrum.to_x(mean + std * noise)
        plain = signal * spectrum.to_x(from_x + self.eta_a * sigma_s * noise)
        return x_s, state, observe(x_t, x0_hat, plain, x_s - plain, problem)


def _measured(spectrum, problem):
    """U^* y / s and its noise's std; infinite where nothing is measured."""
    singular = spectrum.singular
    seen = spectrum.significant()
    safe = jnp.where(seen, singular, 1)
    y_bar = jnp.where(seen, spectrum.of_y(problem.y) / safe, 0)
    std = jnp.where(seen, problem.noise_std / safe, jnp.inf)
    return y_bar, jnp.broadcast_to(std, y_bar.shape)
