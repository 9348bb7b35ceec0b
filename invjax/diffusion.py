"""The algebra of one diffusion step, for one image, with noise as an argument.

Equation numbers are the paper's. Images are (H, W, C) in [-1, 1] when clean.
Since every function is handed its noise, a whole trajectory can be replayed and
compared with another implementation.
"""

import jax.numpy as jnp

from invjax.schedule import Steps
from invjax.settings import Number, Settings, choice, fraction, switch
from invjax.types import Prediction

VARIANCES = ('learned', 'posterior', 'beta')


def diffuse_once(x_s, beta, noise):
    """One step of the forward process (eq. 1), from x_s to x_t."""
    return jnp.sqrt(1 - beta) * x_s + jnp.sqrt(beta) * noise


def diffuse(x_0, alpha_bar_t, noise):
    """The forward process in closed form (eq. 2): x_t from the clean image."""
    return jnp.sqrt(alpha_bar_t) * x_0 + jnp.sqrt(1 - alpha_bar_t) * noise


def score_from_eps(eps, alpha_bar_t):
    """The score of p_t at x_t from the predicted noise (eq. 6)."""
    return -eps / jnp.sqrt(1 - alpha_bar_t)


def eps_from_score(score, alpha_bar_t):
    """The predicted noise from the score of p_t at x_t (eq. 6)."""
    return -jnp.sqrt(1 - alpha_bar_t) * score


def tweedie(x_t, eps, alpha_bar_t):
    """The mean of x_0 given x_t (eq. 3-4, by eq. 6 in terms of eps)."""
    return (x_t - jnp.sqrt(1 - alpha_bar_t) * eps) / jnp.sqrt(alpha_bar_t)


def posterior_mean(x_t, x0_hat, step: Steps):
    """The mean of x_s given x_t and x_0 = x0_hat (Ho et al., 2020, eq. 7).

    With x0_hat from `tweedie` this is the mean of the paper's eq. 5 and 7.
    """
    weight_x0 = step.beta * jnp.sqrt(step.alpha_bar_s) / step.noise_var_t
    weight_xt = jnp.sqrt(1 - step.beta) * step.noise_var_s / step.noise_var_t
    return weight_x0 * x0_hat + weight_xt * x_t


def step_log_variance(prediction: Prediction, step: Steps, variance: str):
    """Log-variance of the ancestral step: () or (H, W, C), always finite.

    Args:
        prediction: the prior's.
        step: a row of Steps.
        variance: `learned` interpolates the two logarithms by the prior's own
            fraction (Nichol and Dhariwal, 2021, eq. 15), and is `posterior`
            where the prior has none; `posterior` and `beta` are Ho et al.'s
            two choices.
    """
    log_beta = jnp.log(step.beta)
    if variance == 'beta':
        return log_beta
    fraction = prediction.log_variance_fraction
    if variance == 'posterior' or fraction is None:
        return step.log_posterior_variance
    return fraction * log_beta + (1 - fraction) * step.log_posterior_variance


def ancestral_step(
    x_t, x0_hat, prediction: Prediction, step: Steps, noise, variance='learned'
):
    """A step of ancestral sampling (eq. 5 and 7; Algorithm 1, line 4).

    Args:
        x_t: (H, W, C).
        x0_hat: (H, W, C), the estimate of the clean image, clipped or not.
        prediction: the prior's at x_t.
        step: a row of Steps.
        noise: (H, W, C), standard normal; unused on the last step.
        variance: one of VARIANCES.

    Returns:
        x_s, (H, W, C).
    """
    log_variance = step_log_variance(prediction, step, variance)
    # Where the step ends at the clean image there is no noise to add: the
    # learned log-variance is finite there, so it cannot say so itself.
    std = jnp.where(step.noise_var_s > 0, jnp.exp(0.5 * log_variance), 0.0)
    return posterior_mean(x_t, x0_hat, step) + std * noise


def ddim_step(x_t, x0_hat, step: Steps, noise, eta=0.0):
    """A step of DDIM (Song et al., 2021, eq. 12).

    The noise prediction is the one that x_t and x0_hat imply, so a clipped or
    guided estimate is respected. Its mean at eta = 1 is `posterior_mean`.

    Args:
        x_t, x0_hat: (H, W, C).
        step: a row of Steps.
        noise: (H, W, C), standard normal; without effect at eta = 0.
        eta: () from 0 (deterministic) to 1 (ancestral, posterior variance).
    """
    variance = eta**2 * step.posterior_variance
    # noise_var_s - variance is 0 on the last row, and never below but by
    # rounding.
    keep = jnp.sqrt(
        jnp.maximum(step.noise_var_s - variance, 0) / step.noise_var_t
    )
    direction = x_t - jnp.sqrt(step.alpha_bar_t) * x0_hat
    return (
        jnp.sqrt(step.alpha_bar_s) * x0_hat
        + keep * direction
        + jnp.sqrt(variance) * noise
    )


class Transition(Settings):
    """How a reverse step is taken: the part that methods share.

    Attributes:
        kind: `ddpm` for `ancestral_step`, `ddim` for `ddim_step`.
        variance: one of VARIANCES; read by `ddpm`.
        eta: () from 0 to 1; read by `ddim`. May be traced.
        clip: whether estimates are clipped to [-1, 1], as the reference does.
    """

    kind: str = choice('ddpm', 'ddim')
    variance: str = choice(*VARIANCES)
    eta: Number = fraction(0.0)
    clip: bool = switch(True)

    def estimate(self, x_t, prediction: Prediction, step: Steps):
        """The estimate of the clean image, (H, W, C): eq. 4, then the clip."""
        x0_hat = tweedie(x_t, prediction.eps, step.alpha_bar_t)
        return jnp.clip(x0_hat, -1, 1) if self.clip else x0_hat

    def __call__(self, x_t, x0_hat, prediction: Prediction, step: Steps, noise):
        """x_s, (H, W, C), from x_t and the estimate of the clean image."""
        if self.kind == 'ddim':
            return ddim_step(x_t, x0_hat, step, noise, self.eta)
        return ancestral_step(
            x_t, x0_hat, prediction, step, noise, self.variance
        )


ANCESTRAL = Transition()
"""What the reference does: ancestral, learned variance, clipped estimates."""
