"""Metrics of a pair of images, and of a residual.

Every image metric takes one pair of images, (H, W, C) with values in [-1, 1],
and returns a scalar. Batches come from `jax.vmap`. Values outside [-1, 1] are
clipped first, by every image metric: what is judged is the picture that a PNG
file would show.
"""

import jax
import jax.numpy as jnp

from invjax.types import Array


def psnr(x: Array, reference: Array) -> jax.Array:
    """Peak signal-to-noise ratio in decibels; higher is better.

        PSNR = -10 log10 mean((x' - reference')^2),   x' = (x + 1) / 2,

    with x' clipped to [0, 1], so the data range is 1. The mean is over pixels
    and channels. Identical images give infinity.

    Args:
        x: (H, W, C) image in [-1, 1].
        reference: (H, W, C) image in [-1, 1].

    Raises:
        ValueError: the shapes differ or are not (H, W, C), or the images are
            not float.
    """
    check_pair(x, reference)
    import dm_pix

    return dm_pix.psnr(_unit_range(x), _unit_range(reference))


SSIM_WINDOW = 11


def ssim(x: Array, reference: Array) -> jax.Array:
    """Structural similarity (Wang et al., 2004), at most 1; higher is better.

    The paper's constants: a Gaussian window of 11 x 11 pixels with standard
    deviation 1.5, only where it fits wholly inside the image; K1 = 0.01 and
    K2 = 0.03 on images scaled to [0, 1]. Channels are averaged.

    Args:
        x: (H, W, C) image in [-1, 1], at least 11 x 11.
        reference: (H, W, C) image in [-1, 1].

    Raises:
        ValueError: the shapes differ or are not (H, W, C), the images are not
            float, or a side is below 11, where dm_pix would swap window and
            image without a word.
    """
    check_pair(x, reference)
    check_side('SSIM', x, SSIM_WINDOW)
    import dm_pix

    return dm_pix.ssim(
        _unit_range(x), _unit_range(reference), filter_size=SSIM_WINDOW
    )


def chi_square(
    residual: jax.Array,
    num_measured: jax.typing.ArrayLike,
    noise_std: jax.typing.ArrayLike,
) -> jax.Array:
    """Reduced chi-square of a residual, ||y - A x||^2 / (m sigma^2).

    At the true x the residual is the noise, so the value is near 1, with
    standard deviation sqrt(2 / m). Far above 1 the data are not explained; far
    below 1 their noise was fitted.

    Args:
        residual: y - A(x), any shape, real or complex. Entries that were not
            measured must be zero.
        num_measured: m, the number of entries that carry noise. May be traced,
            as the sum of a mask.
        noise_std: sigma, in the units of y. Noiseless data, sigma = 0, have no
            chi-square: the value is NaN, whatever the residual, and so it is
            for m = 0.
    """
    expected = num_measured * jnp.square(noise_std)
    total = jnp.sum(jnp.square(jnp.abs(residual)))
    return jnp.where(expected > 0, total / expected, jnp.nan)


def check_pair(x: Array, reference: Array) -> None:
    if x.ndim != 3 or x.shape != reference.shape:
        raise ValueError(
            'A metric needs two images of one shape (H, W, C), got '
            f'{x.shape} and {reference.shape}; vmap it over batches.'
        )
    for image in (x, reference):
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(
                f'A metric needs float images in [-1, 1], got {image.dtype}.'
            )


def check_side(metric: str, x: Array, min_side: int) -> None:
    height, width, _ = x.shape
    if min(height, width) < min_side:
        raise ValueError(
            f'{metric} needs at least {min_side} x {min_side} pixels, got '
            f'{height} x {width}.'
        )


def clip(x: Array) -> jax.Array:
    return jnp.clip(jnp.asarray(x, jnp.float32), -1.0, 1.0)


def _unit_range(x: Array) -> jax.Array:
    """Map [-1, 1] to [0, 1]."""
    return (clip(x) + 1.0) / 2.0
