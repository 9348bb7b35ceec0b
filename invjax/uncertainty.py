"""What several restorations of one measurement say together.

Samples of a posterior answer how sure a restoration is. Whether that answer can
be trusted is a matter of coverage: of many 90 % intervals, 90 % should hold the
truth.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


def standard_deviation(samples: np.ndarray) -> np.ndarray:
    """Of each value over the samples, (H, W, C), unbiased in the variance.

    Args:
        samples: (K, H, W, C), K of 2 or more.

    Raises:
        ValueError: for fewer samples.
    """
    _check(samples)
    return np.std(np.asarray(samples, np.float64), axis=0, ddof=1)


def diversity(samples: np.ndarray) -> float:
    """Root mean square difference of two samples, per value, over all pairs.

    It is sqrt(2) times the root mean square of `standard_deviation`.

    Args:
        samples: (K, H, W, C), K of 2 or more.

    Raises:
        ValueError: for fewer samples.
    """
    return float(np.sqrt(2 * np.mean(standard_deviation(samples) ** 2)))


# Of what the noise explains. The truth is within one in a hundred of it; a
# restoration is a little off, and the starts that failed are at twice of it.
MOST_RESIDUAL = 1.25
# Of the measurement's norm: a restoration explains no data better than so, and
# noiseless data have nothing else to be compared with.
_LEAST_RESIDUAL = 0.01


def explains(
    residual_norms: np.ndarray,
    expected_residual_norm: float,
    measurement_norm: float,
) -> np.ndarray:
    """Which samples explain the measurement, (K,) bool.

    Their residual is at most MOST_RESIDUAL times what the noise explains, or a
    hundredth of the measurement's norm, where that is more. One that is smaller
    than the noise counts too: it fits the noise, but it has found the data. A
    residual that is not finite explains nothing.

    Args:
        residual_norms: (K,) ||y - A x|| of each sample.
        expected_residual_norm: noise_std sqrt(m); 0 for noiseless data.
        measurement_norm: ||y||.
    """
    most = max(
        MOST_RESIDUAL * expected_residual_norm,
        _LEAST_RESIDUAL * measurement_norm,
    )
    return np.asarray(residual_norms) <= most


class Coverage(NamedTuple):
    """How often central intervals hold the truth.

    Attributes:
        nominal: (K // 2,) rising, how often they should.
        observed: (K // 2,) how often they do.
    """

    nominal: np.ndarray
    observed: np.ndarray


def coverage(samples: np.ndarray, truth: np.ndarray) -> Coverage:
    """Coverage of a truth by central intervals, over all its values.

    If truth and samples are drawn from one distribution, the rank of the truth
    among K samples is uniform on K + 1 places. So the interval from the i-th
    smallest to the i-th largest sample holds it with probability
    1 - 2 i / (K + 1), exactly, and no quantile is interpolated.

    Where samples equal the truth, as pictures of 256 levels do, the truth has each
    of the places among them by the same share: counted as held, ties would make
    narrow intervals seem to hold far more than they should.

    Args:
        samples: (K, H, W, C), K of 2 or more.
        truth: (H, W, C), of as many levels as the samples are. A spread of
            less than a level cannot be judged.

    Raises:
        ValueError: for fewer samples.
    """
    _check(samples)
    samples = np.asarray(samples)
    num_samples = len(samples)
    first = np.sum(samples < truth, axis=0)
    last = np.sum(samples <= truth, axis=0)
    places = np.arange(num_samples // 2, 0, -1)
    observed = []
    for i in places:
        held = np.minimum(last, num_samples - i) - np.maximum(first, i) + 1
        observed.append(np.mean(np.maximum(held, 0) / (last - first + 1)))
    return Coverage(1 - 2 * places / (num_samples + 1), np.array(observed))


def central_interval(
    samples: np.ndarray, level: float
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of a central interval of samples, value by value.

    It goes from the i-th smallest to the i-th largest of K samples, which of
    the posterior hold the truth with probability 1 - 2 i / (K + 1): with the
    largest i for which that is `level` or more, or with 1.

    Args:
        samples: (K, H, W, C), K of 2 or more.
        level: above 0 and below 1.

    Returns:
        Lower and upper ends, (H, W, C) each.

    Raises:
        ValueError: for fewer samples, or another level.
    """
    _check(samples)
    _check_level(level)
    ordered = np.sort(np.asarray(samples, np.float64), axis=0)
    # What rounding takes from a whole number is given back.
    place = int((1 - level) / 2 * (len(ordered) + 1) + 1e-9)
    place = min(max(place, 1), len(ordered) // 2)
    return ordered[place - 1], ordered[-place]


def conformal(
    samples: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    level: float,
    guaranteed: bool = True,
) -> float:
    """By how much to widen intervals for them to hold the truth as they should.

    Split conformal prediction on images that nothing was tuned on: of each value
    the score is how far the truth lies beyond its central interval, as a
    multiple of the interval's length (Romano et al., 2019, eq. 6, scaled as by
    Kivaranovic et al., 2020),

        s = max(lower - x, x - upper) / (upper - lower),

    below 0 inside. The widening q is the least for which a share `level` of
    (N + 1) P scores are at most q, where N images have P values each and the
    next image's count as larger than any (Lee et al., 2023, hierarchical
    conformal prediction: values of one image depend on each other, and images
    are exchangeable). Then a value of the next image is within

        [lower - q (upper - lower), upper + q (upper - lower)]

    with a probability of at least `level` and less than level + 1 / (N + 1) +
    1 / ((N + 1) P), over images and values, if the scores differ. It says
    nothing of one image or of one region. Of a few images that is wide of the
    level by its N-th part; without the guarantee q is the least for which a
    share `level` of the N P scores are at most q, which is nearer to nominal
    where images are alike.

    Args:
        samples: (K, H, W, C) of each of N images, K of 2 or more.
        truths: (H, W, C) of each.
        level: above 0, and at most N / (N + 1), or below 1 without the guarantee.
        guaranteed: whether the next image's scores count as larger than any.

    Returns:
        q, for `widened`, -1/2 or more: negative where intervals were too long.

    Raises:
        ValueError: for other numbers of images than of truths, a level out of
            its range, fewer samples than 2, or samples that agree where they
            are wrong, so that no multiple of their length is enough.
    """
    _check_level(level)
    if len(samples) != len(truths):
        raise ValueError(
            'conformal needs as many truths as images with samples, got '
            f'{len(truths)} and {len(samples)}.'
        )
    scores = np.sort(
        np.concatenate(
            [
                _beyond(*central_interval(of_image, level), truth)
                for of_image, truth in zip(samples, truths, strict=True)
            ]
            or [np.zeros(0)]
        )
    )
    number = len(samples)
    per_image = len(scores) // max(number, 1)
    counted = (number + 1 if guaranteed else number) * per_image
    wanted = int(np.ceil(level * counted - 1e-6))
    if not 0 < wanted <= len(scores):
        raise ValueError(
            f'of {number} images the level must be at most '
            f'{number}/{number + 1}, got {level}: more images are needed.'
        )
    widening = float(scores[wanted - 1])
    if not np.isfinite(widening):
        raise ValueError(
            'the samples of an image agree where they are wrong: intervals '
            'without length cannot be widened; draw more or other samples.'
        )
    return widening


def widened(
    samples: np.ndarray, level: float, widening: float
) -> tuple[np.ndarray, np.ndarray]:
    """`central_interval`, widened at both ends by a multiple of its length.

    Args:
        samples, level: see `central_interval`.
        widening: q of `conformal`, by the same level and as many samples.

    Returns:
        Lower and upper ends, (H, W, C) each.
    """
    lower, upper = central_interval(samples, level)
    more = widening * (upper - lower)
    return lower - more, upper + more


def held_out_coverage(
    samples: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    level: float,
    guaranteed: bool = True,
) -> np.ndarray:
    """How much of each image its intervals hold, widened by all other images.

    Args:
        samples, truths, guaranteed: see `conformal`; of N images.
        level: above 0, and at most (N - 1) / N, or below 1.

    Returns:
        (N,) shares.

    Raises:
        ValueError: by `conformal`.
    """
    found = []
    for i, (of_image, truth) in enumerate(zip(samples, truths, strict=True)):
        others = [j for j in range(len(truths)) if j != i]
        widening = conformal(
            [samples[j] for j in others],
            [truths[j] for j in others],
            level,
            guaranteed,
        )
        lower, upper = widened(of_image, level, widening)
        found.append(np.mean((lower <= truth) & (truth <= upper)))
    return np.array(found)


def _beyond(lower, upper, truth) -> np.ndarray:
    """How far a truth lies beyond an interval, in its lengths, flat."""
    outside = np.maximum(lower - truth, truth - upper)
    length = upper - lower
    far = np.where(outside > 0, np.inf, -0.5)
    scores = np.where(
        length > 0, outside / np.where(length > 0, length, 1), far
    )
    return np.ravel(scores)


def nearest_to_noise(
    residual_norms: np.ndarray, expected_residual_norm: float
) -> int:
    """The sample whose residual is nearest to what the noise explains.

    Args:
        residual_norms: (K,) ||y - A x|| of each sample.
        expected_residual_norm: noise_std sqrt(m); 0 for noiseless data, where
            it is the smallest residual.
    """
    distances = np.abs(np.asarray(residual_norms) - expected_residual_norm)
    return int(np.argmin(distances))


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f'level must be above 0 and below 1, got {level}.')


def _check(samples: np.ndarray) -> None:
    if len(samples) < 2:
        raise ValueError(
            f'uncertainty needs 2 samples or more, got {len(samples)}.'
        )
