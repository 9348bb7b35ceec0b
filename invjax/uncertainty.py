"""What several restorations of one measurement say together.

Samples of a posterior answer how sure a restoration is. Whether that answer can
be trusted is a matter of coverage: of many 90 % intervals, 90 % should hold the
truth.
"""

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

    Args:
        samples: (K, H, W, C), K of 2 or more.
        truth: (H, W, C).

    Raises:
        ValueError: for fewer samples.
    """
    _check(samples)
    ordered = np.sort(np.asarray(samples), axis=0)
    num_samples = len(ordered)
    places = np.arange(num_samples // 2, 0, -1)
    observed = [
        np.mean((ordered[i - 1] <= truth) & (truth <= ordered[num_samples - i]))
        for i in places
    ]
    return Coverage(1 - 2 * places / (num_samples + 1), np.array(observed))


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


def _check(samples: np.ndarray) -> None:
    if len(samples) < 2:
        raise ValueError(
            f'uncertainty needs 2 samples or more, got {len(samples)}.'
        )
