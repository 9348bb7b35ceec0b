"""Blur kernels, read from pictures and arrays."""

import numpy as np

from invjax.images import files
from invjax.images.pictures import Reading


def read_blur_kernel(path, flip: bool = False) -> Reading:
    """Read a blur kernel: what becomes of a single point of light.

    It is a picture with black for no light, upright: light that lies right of
    its centre lands right of where it came from (a convolution). Values are
    fractions of the light as they are, without a gamma curve, and are divided by
    their sum. Transparent pixels let no light through.

    Args:
        path: a grey picture, or a `.npy` file of (h, w).
        flip: whether to turn it by 180 degrees, for kernels that came with a
            correlation, such as `conv2d` of PyTorch.

    Returns:
        (h, w) float64, 0 or more, with sum 1.

    Raises:
        ValueError: in one sentence that names the file, for colour, values
            below 0 or not finite, no light at all, a side that is even, so that
            there is no centre, or a picture whose border is bright: black on
            white.
    """
    raw = files.read_raw(path)
    colours = raw.colours.astype(np.float64)
    height, width = raw.size
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(
            f'a kernel must have odd sides, and {path} is {width} x {height}; '
            'add a row or a column of zeros where its centre then lies in the '
            'middle.'
        )
    if not np.isfinite(colours).all():
        raise ValueError(f'the kernel {path} has values that are not finite.')
    if colours.min() < 0:
        raise ValueError(
            f'a kernel must be 0 or more, and {path} goes down to '
            f'{colours.min():.4g}.'
        )
    if np.ptp(colours, axis=-1).max() > 0:
        raise ValueError(f'a kernel must be grey, and {path} is in colour.')
    kernel, notes = colours[..., 0], list(raw.notes)
    if raw.opacity is not None and raw.opacity.min() < 1:
        notes.append('transparent pixels let no light through')
        kernel = kernel * np.clip(raw.opacity, 0, 1)
    total = kernel.sum()
    if not 0 < total < np.inf:
        raise ValueError(
            f'a kernel must have light in it, and {path} is black.'
        )
    # A box of one value is a kernel too.
    border = np.concatenate(
        [kernel[[0, -1]].ravel(), kernel[:, [0, -1]].ravel()]
    )
    if np.median(border) > kernel.max() / 2 > kernel.min():
        raise ValueError(
            f'a kernel must be white on black, and {path} is bright along its '
            'border; invert it.'
        )
    if flip:
        kernel = kernel[::-1, ::-1]
        notes.append('turned by 180 degrees')
    notes.append(f'values divided by their sum, {total:.6g}')
    return Reading(
        kernel / total,
        f'{path}: kernel of {width} x {height}, {raw.kind}; upright, as a '
        f'point of light looks when blurred; {"; ".join(notes)}.',
    )


def read_kernel(path) -> np.ndarray:
    """The kernel of `read_blur_kernel`, (h, w), upright."""
    return read_blur_kernel(path).x
