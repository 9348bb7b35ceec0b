"""Are samples of a posterior as sure as they should be? Answers by ranks.

Draw a clean image from the prior, measure it, and draw L samples given the
measurement. If they are samples of the posterior, the truth is one more of them,
so the rank of any number about it, among those of the samples, is uniform on
0 ... L (Cook, Gelman and Rubin, 2006; Talts et al., 2018). The number may depend
on the measurement too (Modrak et al., 2023), as the posterior's density does:
its ranks say how often regions of highest density hold the truth (Hermans et
al., 2022).

One measurement gives one rank, and many give a histogram. A U says that truths
lie outside of their samples, which are too sure; a dome, that they lie in the
middle, and samples are too wide; a slope, that samples are to one side.
"""

from collections.abc import Sequence

import numpy as np

# Below it a histogram is called uneven.
P_VALUE = 0.01
LEVELS = (0.5, 0.8, 0.9, 0.95)
UNIFORM, UNEVEN = 'uniform', 'uneven'
TOO_SURE, TOO_WIDE = 'too sure', 'too wide'
TOO_LOW, TOO_HIGH = 'too low', 'too high'
# Standard errors, beyond which a share or a mean counts as another one.
_CLEAR = 2.0


def ranks(samples: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """How many samples are below the truth, of each number: (N, S), 0 to L.

    Args:
        samples: (N, L, S): L samples given each of N measurements, S numbers
            of each.
        truths: (N, S).
    """
    return np.sum(samples < truths[:, None], axis=1)


def histograms(ranks: np.ndarray, num_samples: int) -> np.ndarray:
    """How often each rank is there, (S, L + 1).

    Args:
        ranks: (N, S).
        num_samples: L.
    """
    places = np.arange(num_samples + 1)
    return np.sum(ranks[:, :, None] == places, axis=0)


def p_value(counts: np.ndarray) -> float:
    """Of ranks being uniform, by the chi-square test of a histogram.

    Args:
        counts: (L + 1,), of at least 5 (L + 1) measurements, as from there on
            the statistic has a chi-square distribution.
    """
    from scipy import special

    expected = np.sum(counts) / len(counts)
    statistic = np.sum((counts - expected) ** 2) / expected
    return float(special.chdtrc(len(counts) - 1, statistic))


def least_p_value(histograms: Sequence[np.ndarray]) -> float:
    """Of all of them being uniform: the least, times their number (Bonferroni).

    It holds whatever the histograms have to do with each other.
    """
    least = min(p_value(counts) for counts in histograms)
    return min(1.0, len(histograms) * least)


def reading(counts: np.ndarray, num_histograms: int = 1) -> str:
    """What a histogram says of samples, in a word or two.

    The outer tenths of the places hold a tenth of the truths each. Both fuller
    by two standard errors is a U, both emptier a dome. Else a mean rank that is
    off by two standard errors is a slope.

    Args:
        counts: (L + 1,).
        num_histograms: that are read; the p value is multiplied by it.
    """
    if num_histograms * p_value(counts) >= P_VALUE:
        return UNIFORM
    number, places = np.sum(counts), len(counts)
    width = max(1, places // 10)
    share = width / places
    error = np.sqrt(share * (1 - share) / number)
    ends = np.array([np.sum(counts[:width]), np.sum(counts[-width:])])
    fuller = (ends / number - share) / error
    if np.all(fuller > _CLEAR):
        return TOO_SURE
    if np.all(fuller < -_CLEAR):
        return TOO_WIDE
    # Of a rank that is uniform on 0 ... L: mean L / 2, variance L (L + 2) / 12.
    last = places - 1
    mean = counts @ np.arange(places) / number
    slope = (mean - last / 2) / np.sqrt(last * (last + 2) / 12 / number)
    if abs(slope) > _CLEAR:
        return TOO_LOW if slope > 0 else TOO_HIGH
    return UNEVEN


def highest_density_coverage(counts: np.ndarray) -> list[float]:
    """How often regions of highest density hold the truth, at each of LEVELS.

    A region of L samples is bounded by the density of one of them. Fewer than
    level (L + 1) denser samples than the truth put it inside, which of the
    posterior has the probability `level` if that is a whole number.

    Args:
        counts: (L + 1,) histogram of the ranks of the posterior's density.
    """
    denser = np.cumsum(counts[::-1]) / np.sum(counts)
    places = [round(level * len(counts)) for level in LEVELS]
    return [float(denser[place - 1]) for place in places]
