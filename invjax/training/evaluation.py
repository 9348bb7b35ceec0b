"""How good a prior is while it is trained, on pictures that it never saw."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import diffusion, keys, metrics, operators, problem, restoration
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import NetworkPrior

# Timesteps at which the held-out loss is seen, over T.
_LEVELS = (0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
_AT_ONCE = 16
_SAMPLE_STEPS = 50
_TASKS = ('box_inpainting', 'super_resolution')
_METHOD, _METHOD_STEPS = 'wiener', 20
_NOISE_STD = 0.05


class Levels(NamedTuple):
    """The held-out loss by level of noise.

    Attributes:
        t: timesteps, one a level.
        noise_std: standard deviation of the noise over that of the signal.
        error: mean square error of the predicted noise, which is the loss of Ho
            et al.
        psnr: mean over the images of the estimate of one step, clipped, in dB.
    """

    t: Sequence[int]
    noise_std: Sequence[float]
    error: Sequence[float]
    psnr: Sequence[float]

    def as_dict(self) -> dict[str, list]:
        """As plain data."""
        return {name: list(values) for name, values in self._asdict().items()}

    @property
    def mean_error(self) -> float:
        """The mean over the levels."""
        return float(np.mean(self.error))


@jax.jit
def _denoise(prior, x_0, t, noise):
    alpha_bar_t = jnp.asarray(prior.alpha_bar, jnp.float32)[t]

    def of_image(x_0, noise):
        x_t = diffusion.diffuse(x_0, alpha_bar_t, noise)
        eps = prior(x_t, t).eps
        # The score clips it.
        x0_hat = diffusion.tweedie(x_t, eps, alpha_bar_t)
        error = jnp.mean(jnp.square(eps - noise))
        return error, metrics.psnr(x0_hat, x_0)

    return jax.vmap(of_image)(x_0, noise)


def by_level(
    prior: NetworkPrior | Denoiser, images: np.ndarray, seed: int = 0
) -> Levels:
    """One step of denoising, at twelve levels of noise.

    The same images and seed have the same noise, whatever the prior.

    Args:
        prior: to be judged.
        images: (N, H, W, C).
        seed: of the noise.
    """
    num_train_steps = prior.num_train_steps
    timesteps = [
        min(round(f * num_train_steps), num_train_steps - 1) for f in _LEVELS
    ]
    errors, psnrs = [], []
    for level, t in enumerate(timesteps):
        rng = np.random.default_rng([seed, level])
        noise = rng.standard_normal(images.shape, np.float32)
        found = []
        for start in range(0, len(images), _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            found.append(_denoise(prior, images[part], t, noise[part]))
        error, psnr = (np.concatenate(v) for v in zip(*found, strict=True))
        errors.append(float(error.mean()))
        psnrs.append(float(psnr.mean()))
    alpha_bar = prior.alpha_bar[timesteps]
    noise_std = np.sqrt((1 - alpha_bar) / alpha_bar)
    return Levels(timesteps, noise_std.tolist(), errors, psnrs)


def samples(
    prior: NetworkPrior | Denoiser, number: int, seed: int = 0
) -> np.ndarray:
    """Samples from the same noise each time, (number, H, W, C)."""
    steps = min(_SAMPLE_STEPS, prior.num_train_steps)
    return restoration.restore(
        problem.nothing_measured(prior.image_shape),
        prior,
        'unconditional',
        steps,
        seed=seed,
        num_samples=number,
        max_lanes=_AT_ONCE,
    ).samples


def restorations(
    prior: NetworkPrior | Denoiser, images: np.ndarray, seed: int = 0
) -> dict[str, Any]:
    """Restorations of some images, from the same measurements each time.

    Args:
        prior: of them.
        images: (N, H, W, C).
        seed: of what is random in measurements and restorations.

    Returns:
        `rows`, a list a task and image of truth, measurement and restoration,
        (H, W, C) each; `labels`, one a row, with the task and the PSNR.
    """
    rows, labels = [], []
    steps = min(_METHOD_STEPS, prior.num_train_steps)
    root = keys.root(seed)
    for task in _TASKS:
        for number, truth in enumerate(images):
            operator = operators.make_operator(
                task, keys.of_operator(root, number), truth.shape
            )
            measured = problem.measure(
                keys.of_noise(root, number), truth, operator, _NOISE_STD
            )
            restored = restoration.restore(
                measured, prior, _METHOD, steps, seed=seed
            ).image
            psnr = float(metrics.psnr(restored, truth))
            rows.append([truth, measured.as_picture(), restored])
            labels.append(f'{task}\n{psnr:.1f} dB')
    return {'rows': rows, 'labels': labels}
