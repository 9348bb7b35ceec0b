"""The loss of a noise prediction network, for one image.

Ho et al. (2020, eq. 14) train the mean of the reverse step by the error of the
predicted noise, Nichol and Dhariwal (2021, eq. 16) its variance by the
variational bound beside it, through which nothing flows to the mean.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from invjax import diffusion
from invjax.schedule import Steps

# Half the distance between two values of 8 bits in [-1, 1].
_HALF_BIN = 1 / 255


@dataclasses.dataclass(frozen=True)
class Terms:
    """Which terms the loss has, and how much of each.

    Attributes:
        weighting: `simple`, `min_snr` or `balanced`; see `image_loss`.
        min_snr: gamma.
        variance_weight: lambda of the variational bound over T.
        pooled_weight: of the error of averages.
    """

    weighting: str = 'simple'
    min_snr: float = 5.0
    variance_weight: float = 0.001
    pooled_weight: float = 0.0


class Loss(NamedTuple):
    """The loss of one image, and its parts before they are weighted; each ().

    Attributes:
        total: what is made small.
        error: mean square error of the noise.
        bound: this timestep's term of the variational bound, in bits a value;
            0 for a network that does not learn its variance.
        pooled: mean square error of averages, each over what white noise has
            there; 0 where it is not asked for.
    """

    total: jax.Array
    error: jax.Array
    bound: jax.Array
    pooled: jax.Array


def image_loss(
    predict,
    x_0: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    steps: Steps,
    terms: Terms,
    output_weight: jax.Array | float = 1.0,
) -> Loss:
    """The loss of one image at one timestep.

        total = w_t error + variance_weight T bound + pooled_weight pooled

    With `simple` w_t is `output_weight`. With `min_snr`, where snr =
    alpha_bar_t / (1 - alpha_bar_t), w_t = min(snr, gamma) / snr (Hang et al.,
    2023, eq. 7, of the error of the noise, whatever the network says): small
    noise counts for less. With `balanced` it is one over the error that is
    usual at this level of noise, which whoever calls this gives as
    `output_weight`: every level counts the same, however small its error, as
    Karras et al. (2024, arXiv 2312.02696) have it by a function that is learned.

    `pooled` is there at t >= T / 2 alone, where the error of the whole picture's
    mean, its colour, is a few of thousands of values, which a small network
    neglects. The error of the noise is averaged over blocks of 16 x 16 pixels
    and over the picture; each average is squared and multiplied by the number
    of its pixels, so that 1 is the error of saying nothing, and `pooled` is the
    mean of the two.

    Args:
        predict: (x_t, t) to a Prediction.
        x_0: (H, W, C) in [-1, 1].
        t: () int32 from 0 to T - 1.
        noise: (H, W, C), standard normal.
        steps: of `reverse_steps` over all T timesteps.
        terms: of the loss.
        output_weight: () 1 for a network that says the noise; else what makes
            its error that of what the network says
            (`Parametrisation.loss_weights`). With `balanced` one over the
            usual error.
    """
    num_train_steps = len(steps.t)
    # The noisiest step comes first.
    step = jax.tree.map(lambda field: field[num_train_steps - 1 - t], steps)
    x_t = diffusion.diffuse(x_0, step.alpha_bar_t, noise)
    prediction = predict(x_t, t)
    residual = prediction.eps - noise
    error = jnp.mean(jnp.square(residual))

    weight = output_weight
    if terms.weighting == 'min_snr':
        snr = step.alpha_bar_t / step.noise_var_t
        weight = jnp.minimum(snr, terms.min_snr) / snr
    total = weight * error

    bound = pooled = jnp.zeros(())
    if prediction.log_variance_fraction is not None:
        bound = variational_bound(x_0, x_t, prediction, step)
        total += terms.variance_weight * num_train_steps * bound
    if terms.pooled_weight > 0:
        pooled = jnp.where(
            t >= num_train_steps / 2, pooled_error(residual), 0.0
        )
        total += terms.pooled_weight * pooled
    return Loss(total, error, bound, pooled)


def variational_bound(
    x_0: jax.Array, x_t: jax.Array, prediction, step: Steps
) -> jax.Array:
    """A timestep's term of the variational bound in bits a value, ().

    The divergence of the reverse step from the posterior of x_s given x_0 (Ho
    et al., 2020, eq. 5), and at the last step the probability of x_0 among
    values of 8 bits (its section 3.3). Its gradient reaches the variance alone
    (Nichol and Dhariwal, 2021, section 3.1).
    """
    eps = lax.stop_gradient(prediction.eps)
    x0_hat = diffusion.tweedie(x_t, eps, step.alpha_bar_t)
    mean = diffusion.posterior_mean(x_t, x0_hat, step)
    log_variance = diffusion.step_log_variance(prediction, step, 'learned')
    true_mean = diffusion.posterior_mean(x_t, x_0, step)
    true_log_variance = step.log_posterior_variance

    divergence = 0.5 * (
        log_variance
        - true_log_variance
        + jnp.exp(true_log_variance - log_variance)
        - 1
        + jnp.square(true_mean - mean) * jnp.exp(-log_variance)
    )
    is_last = step.noise_var_s == 0
    nats = jnp.where(
        is_last, -_log_probability(x_0, mean, log_variance), divergence
    )
    return jnp.mean(nats) / jnp.log(2.0)


def _log_probability(x, mean, log_variance):
    """The logarithm of a Gaussian's mass on each value's bin of 8 bits."""
    inverse_std = jnp.exp(-0.5 * log_variance)
    upper = jax.scipy.stats.norm.cdf((x + _HALF_BIN - mean) * inverse_std)
    lower = jax.scipy.stats.norm.cdf((x - _HALF_BIN - mean) * inverse_std)
    # The bins of black and white reach to infinity.
    upper = jnp.where(x > 1 - _HALF_BIN, 1.0, upper)
    lower = jnp.where(x < -1 + _HALF_BIN, 0.0, lower)
    return jnp.log(jnp.maximum(upper - lower, 1e-12))


def pooled_error(residual: jax.Array, side: int = 16) -> jax.Array:
    """The error of averages, () as `image_loss` says.

    Args:
        residual: (H, W, C).
        side: of a block in pixels; the picture's rows and columns beyond whole
            blocks are left out of them.
    """
    height, width, channels = residual.shape
    rows, columns = height // side, width // side
    whole = residual.mean(axis=(0, 1))
    pooled = jnp.mean(jnp.square(whole)) * height * width
    if rows and columns:
        blocks = residual[: rows * side, : columns * side]
        blocks = blocks.reshape(rows, side, columns, side, channels)
        means = blocks.mean(axis=(1, 3))
        pooled = (pooled + jnp.mean(jnp.square(means)) * side**2) / 2
    return pooled
