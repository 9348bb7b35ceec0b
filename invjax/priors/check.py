"""Whether a network denoises pictures: what a prior must do before all else.

Weights of noise, or the right ones with another noise schedule than theirs,
restore pictures that are wrong without a word. Both show when a picture is
noised and the network estimates the noise, which takes seconds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from invjax.diffusion import diffuse

# Signal power of the noisy pictures: from little noise to much.
_LEVELS = (0.8, 0.5, 0.2)
# The network sees noise of a level that goes with a time, and is told that
# time, half of it, or twice it.
_FACTORS = (1.0, 0.5, 2.0)
# By how much an error may exceed another by chance.
_MARGIN = 1.1


def refuse_unless_it_denoises(
    prior,
    remedy: str = 'set noise_schedule, num_train_steps and rescale_timesteps to '
    'what it was trained with',
) -> None:
    """Raise a ValueError with one sentence if a network is no prior.

    The error in the estimate of the noise must be finite; less, at three levels
    of noise, than that of the best multiple of the noisy picture, which takes
    no network; and not greater than when the network is told half or twice the
    timestep, as it would be under a noise schedule that is not its own.

    Args:
        prior: it has `image_shape`, `alpha_bar`, and is called for a noisy
            picture, (H, W, C), and a timestep.
        remedy: what the sentence advises.
    """
    height, width, channels = prior.image_shape
    # A network that takes larger pictures takes the size of these too.
    x_0 = dead_leaves(min(height, 64), min(width, 64), channels)
    noise = np.random.default_rng(1).standard_normal(x_0.shape)
    # What runs once takes longer to optimise than to run.
    estimate = jax.jit(
        lambda prior, x_t, t: prior(x_t, t).eps,
        compiler_options={'xla_backend_optimization_level': 0},
    )
    errors = np.zeros((len(_FACTORS), len(_LEVELS)))
    errors_of_none = np.zeros(len(_LEVELS))
    for j, level in enumerate(_LEVELS):
        t = np.abs(prior.alpha_bar - level).argmin()
        x_t = np.asarray(diffuse(x_0, prior.alpha_bar[t], noise))
        multiple = np.sum(x_t * noise) / np.sum(x_t**2)
        errors_of_none[j] = np.mean((multiple * x_t - noise) ** 2)
        for i, factor in enumerate(_FACTORS):
            time = jnp.float32(factor * t)
            eps = estimate(prior, jnp.asarray(x_t, jnp.float32), time)
            errors[i, j] = np.mean((np.asarray(eps) - noise) ** 2)
    fault = _fault(errors, errors_of_none)
    if fault is not None:
        raise ValueError(
            f'{fault}; {remedy}, or check=False to take it as it is.'
        )


def _fault(errors: np.ndarray, errors_of_none: np.ndarray) -> str | None:
    if not np.isfinite(errors).all():
        return 'the network gives NaN or infinite numbers for a noisy picture'
    ratios = np.exp(np.log(errors[0] / errors[1:]).mean(axis=-1))
    better = ratios.argmax()
    if ratios[better] > _MARGIN and (errors[1 + better] < errors_of_none).any():
        told = ('half', 'twice')[better]
        return (
            f'the network denoises better when it is told {told} the timestep '
            f'(mean square errors {ratios[better]:.2f} times smaller), so it '
            'was trained with another noise schedule'
        )
    worse = errors[0] >= errors_of_none
    if worse.any():
        j = worse.argmax()
        return (
            'the network does not denoise: of a picture with signal power '
            f'{_LEVELS[j]} its estimate of the noise is off by '
            f'{errors[0, j]:.3g}, and without a network by '
            f'{errors_of_none[j]:.3g} (mean square)'
        )
    return None


def dead_leaves(height: int, width: int, channels: int) -> np.ndarray:
    """A picture of discs that hide each other, (H, W, C) in [-1, 1].

    Such pictures have edges, surfaces and a spectrum like those of photographs
    (Lee, Mumford and Huang, 2001), whatever is in them.
    """
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:height, :width]
    picture = np.zeros((height, width, channels))
    for _ in range(300):
        # Areas by a power law, from a few pixels to a third of the side.
        radius = max(height, width) / 3 * (0.02 + 0.98 * rng.uniform() ** 3)
        y, x = rng.uniform(0, height), rng.uniform(0, width)
        inside = (rows - y) ** 2 + (columns - x) ** 2 < radius**2
        brightness = rng.uniform(-0.8, 0.8)
        colour = brightness + rng.uniform(-0.2, 0.2, channels)
        shading = rng.uniform(-0.2, 0.2) * (rows - y)[inside] / radius
        picture[inside] = colour + shading[:, None]
    return np.clip(picture, -1, 1)
