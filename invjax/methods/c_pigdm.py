"""Conjugate integrators for pseudo-inverse guidance (Pandey et al., NeurIPS 2024).

In the frame u = x_t / sqrt(alpha_bar_t), with noise of standard deviation sigma
and r^2 = sigma^2 / (1 + sigma^2), the probability flow under the guidance of
`pigdm`, weighted by w r^2 / (1 + sigma^2) as theirs, is

    du / dsigma = eps - Q (A^+ y - u + sigma eps) + w sigma^2 / (1 + sigma^2) j,
    j = (d eps / d u)^T A^T (r^2 A A^T + noise_std^2 I)^{-1} r^2 (y - A x0_hat).

Q is diagonal in the basis of A's spectrum: with n = (noise_std / s)^2 it is

    q = w sigma^3 / ((1 + sigma^2) ((1 + n) sigma^2 + n)).

The part that is linear in u is integrated exactly, as is what multiplies eps and
j, which are constant over the step. With L the integral of q,

    u_s = D x0_hat + (1 - D) A^+ y + sigma_s eps - K j,   D = exp(L_s - L_t),
    K = integral from sigma_s to sigma_t of exp(L_s - L) w sigma^2 / (1 + sigma^2).

The noise of y is exact here, where the paper's formulas are of first order in
noise_std^2; its lambda, a second factor of the frame, is 0. Fresh noise is ours.
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax.methods.base import Method, estimate_and_transpose, observe, renoise
from invjax.settings import Number, fraction, not_negative
from invjax.types import SpectralOperator

# Of Gauss and Legendre; K is then right to four digits.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


class CPiGDM(Method):
    """Guidance by the likelihood, for few steps, in the basis of the operator.

    Attributes:
        strength: () w, 0 or more; the authors' scripts have 2, from a start at
            the pseudo-inverse. May be traced, as the next.
        mix: () fraction of fresh noise, 0 (the flow, as in the paper) to 1.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'c_pigdm'
    needs = SpectralOperator
    has_own_step = True
    validation_settings = tuple({'strength': v} for v in (1.0, 4.0, 16.0))

    strength: Number = not_negative(16.0)
    mix: Number = fraction(0.0)

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, _ = estimate_and_transpose(x_t, step, prior)
        spectrum = problem.operator.spectrum()
        seen = spectrum.significant()
        inverse = seen / jnp.where(seen, spectrum.singular, 1)
        noise_var = (problem.noise_std * inverse) ** 2
        sigma_t = jnp.sqrt(step.noise_var_t / step.alpha_bar_t)
        sigma_s = jnp.sqrt(step.noise_var_s / step.alpha_bar_s)

        def remaining(sigma):
            """exp(L_s - L), which is 1 where nothing is measured."""
            difference = _exponent(sigma_s, noise_var) - _exponent(
                sigma, noise_var
            )
            return jnp.exp(self.strength * seen * difference)

        def integrand(sigma):
            return remaining(sigma) * self.strength * sigma**2 / (1 + sigma**2)

        kept = remaining(sigma_t)
        half = (sigma_t - sigma_s) / 2
        nodes = sigma_s + half * (1 + _NODES)
        factor = half * sum(
            w * integrand(sigma)
            for w, sigma in zip(_WEIGHTS, nodes, strict=True)
        )
        # A^+ (y - A x0_hat), in the basis.
        missing = inverse * spectrum.of_y(problem.residual(x0_hat))
        gain = step.noise_var_t / (step.noise_var_t + noise_var)
        pull = spectrum.to_x(gain * missing)
        # d x0_hat / d x_t = (I - sigma d eps / d u) / sqrt(alpha_bar_t)
        j = (pull - jnp.sqrt(step.alpha_bar_t) * transpose(pull)) / sigma_t
        shift = spectrum.to_x((1 - kept) * missing - factor * spectrum.of_x(j))
        corrected = x0_hat + shift
        if self.transition.clip:
            x0_hat, corrected = (
                jnp.clip(x, -1, 1) for x in (x0_hat, corrected)
            )
        noise = jax.random.normal(key, x_t.shape)
        plain = renoise(x_t, x0_hat, step, self.mix, noise)
        guidance = jnp.sqrt(step.alpha_bar_s) * (corrected - x0_hat)
        info = observe(x_t, x0_hat, plain, guidance, problem)
        return plain + guidance, state, info


def _exponent(sigma, noise_var):
    """L / w: the integral of sigma^3 / ((1 + sigma^2) ((1 + n) sigma^2 + n))."""
    total = (1 + noise_var) * sigma**2 + noise_var
    # Where both are 0 the factor before the logarithm is, too.
    log = jnp.log(jnp.where(total > 0, total, 1))
    return (jnp.log1p(sigma**2) - noise_var / (1 + noise_var) * log) / 2
