"""What numbers of several images say: means, with their standard errors."""

from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A mean over images, and its standard error."""

    mean: np.ndarray | np.float64
    standard_error: np.ndarray | np.float64


def mean_and_standard_error(values: np.typing.ArrayLike) -> Estimate:
    """Summarise one metric over images, on the host in float64.

    Args:
        values: (num_images, ...), one value of each image. Not finite values
            carry through: one infinite PSNR makes the mean infinite.

    Returns:
        The mean over the first axis, and s / sqrt(num_images) with s the
        sample's standard deviation (divided by num_images - 1). One image has
        no standard error: it is NaN.

    Raises:
        ValueError: there is no image.
    """
    values = np.asarray(values, np.float64)
    if values.ndim == 0 or len(values) == 0:
        raise ValueError(
            f'values must be (num_images, ...), got shape {values.shape}.'
        )
    num_images = len(values)
    with np.errstate(invalid='ignore'):  # 0 / 0 for one image, and inf - inf
        mean = values.mean(axis=0)
        variance = np.square(values - mean).sum(axis=0) / (num_images - 1)
    return Estimate(mean, np.sqrt(variance / num_images))


def paired_difference(
    a: np.typing.ArrayLike, b: np.typing.ArrayLike
) -> Estimate:
    """Estimate the mean of a - b from two methods' values on the same images.

    The difference is taken image by image, so that what makes an image hard
    for both methods cancels.

    Args:
        a: (num_images, ...) values of one method.
        b: (num_images, ...) values of the other, in the same order.

    Raises:
        ValueError: the shapes differ, or there is no image.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ValueError(
            f'a and b must be of the same images, got {a.shape} and {b.shape}.'
        )
    with np.errstate(invalid='ignore'):  # inf - inf
        return mean_and_standard_error(a - b)
