"""How noisy a measured picture is, by what is in its finest details."""

import numpy as np

# Median of the absolute value of a standard normal variable.
_MEDIAN = 0.6745
# Blocks of 2 x 2 pixels, of each channel, fewer of which say nothing.
_FEWEST = 100
# What the details of a picture without noise come to at most, in [-1, 1] units:
# a face of 64 px has 0.04, and leaves and gravel have some 0.1.
_DETAIL = 0.15


def estimate_noise(y: np.ndarray, observed=1.0) -> float | None:
    """Standard deviation of white noise in a picture, or somewhat more.

    Of each 2 x 2 pixels (a + d - b - c) / 2 has the variance of the noise, and
    nothing of the picture where that is a plane. Its median leaves edges out
    (Donoho and Johnstone, 1994). Details of the picture add to it.

    Args:
        y: (H, W, C) in any unit, which the result has too.
        observed: broadcasts to y; pixels that are 0 are left out.

    Returns:
        The root of the mean variance of the channels; None where too few blocks
        are observed.
    """
    y = np.asarray(y, np.float64)
    seen = np.broadcast_to(np.asarray(observed) != 0, y.shape)
    whole = seen[:-1, :-1] & seen[1:, :-1] & seen[:-1, 1:] & seen[1:, 1:]
    detail = (y[:-1, :-1] - y[1:, :-1] - y[:-1, 1:] + y[1:, 1:]) / 2
    variances = [
        (np.median(np.abs(detail[..., c][whole[..., c]])) / _MEDIAN) ** 2
        for c in range(y.shape[-1])
        if whole[..., c].sum() >= _FEWEST
    ]
    return float(np.sqrt(np.mean(variances))) if variances else None


def check_noise(y: np.ndarray, noise_std: float, observed=1.0) -> str:
    """Hold what is said of the noise of a measured picture against it.

    Args:
        y: (H, W, C) in [-1, 1], with white noise.
        noise_std: what is said, in the same unit.
        observed: as for `estimate_noise`.

    Returns:
        A warning if the noise must be another one, or an empty string.
    """
    found = estimate_noise(y, observed)
    if found is None:
        return ''
    if found < noise_std / 2:
        return (
            f'the measurement has noise of at most {found:.2g}, and noise_std '
            f'is {noise_std:g}: more of the measurement would be passed over '
            'than it deserves.'
        )
    if found > 2 * noise_std and found**2 > noise_std**2 + _DETAIL**2:
        return (
            f'the measurement seems to have noise of {found:.2g}, and noise_std '
            f'is {noise_std:g}: noise would be restored as if it were detail.'
        )
    return ''
