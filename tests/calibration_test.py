"""Ranks of truths among samples that are right, and wrong in a known way."""

import numpy as np
from absl.testing import absltest, parameterized
from scipy import stats

from invjax import calibration

_NUM_MEASUREMENTS, _NUM_SAMPLES = 1000, 19


def _counts(factor=1.0, shift=0.0):
    """Of x ~ N(0, 1) given y = x + n with n ~ N(0, 1 / 4).

    The posterior is N(0.8 y, 0.2) by the normal equations; samples of it are
    spread by `factor` and moved by `shift` deviations.
    """
    rng = np.random.default_rng(0)
    truths = rng.normal(size=(_NUM_MEASUREMENTS, 1))
    ys = truths + 0.5 * rng.normal(size=truths.shape)
    noise = rng.normal(size=(_NUM_MEASUREMENTS, _NUM_SAMPLES, 1))
    samples = 0.8 * ys[:, None] + np.sqrt(0.2) * (factor * noise + shift)
    ranks = calibration.ranks(samples, truths)
    (counts,) = calibration.histograms(ranks, _NUM_SAMPLES)
    return counts


class RanksTest(parameterized.TestCase):
    def test_ranks_are_the_samples_below(self):
        samples = np.array([[[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]])
        ranks = calibration.ranks(samples, np.array([[2.5, 0.0]]))
        np.testing.assert_array_equal(ranks, [[2, 0]])
        np.testing.assert_array_equal(
            calibration.histograms(ranks, 3), [[0, 0, 1, 0], [1, 0, 0, 0]]
        )

    @parameterized.parameters(
        (1.0, 0.0, calibration.UNIFORM),
        (0.7, 0.0, calibration.TOO_SURE),
        (1.4, 0.0, calibration.TOO_WIDE),
        (1.0, -0.3, calibration.TOO_LOW),
        (1.0, 0.3, calibration.TOO_HIGH),
    )
    def test_a_histogram_says_what_is_wrong(self, factor, shift, words):
        counts = _counts(factor, shift)
        self.assertEqual(counts.sum(), _NUM_MEASUREMENTS)
        self.assertEqual(calibration.reading(counts), words)

    def test_what_is_neither_is_uneven(self):
        counts = np.full(20, 50)
        counts[[6, 13]] = 10, 90
        counts[[7, 12]] = 90, 10
        self.assertEqual(calibration.reading(counts), calibration.UNEVEN)

    def test_p_values_of_uniform_ranks_are_uniform(self):
        rng = np.random.default_rng(0)
        ranks = rng.integers(20, size=(200, 2000))
        p = [calibration.p_value(c) for c in calibration.histograms(ranks, 19)]
        # Of 2,000: the standard error of a share of 0.1 is 0.007.
        for level in (0.1, 0.5, 0.9):
            share = np.mean(np.array(p) < level)
            error = np.sqrt(level * (1 - level) / 2000)
            # The statistic of 10 a place is discrete, and near to chi-square.
            self.assertLess(abs(share - level), 4 * error + 0.005)

    def test_many_histograms_are_found_wrong_no_more_often_than_one(self):
        fair, bad = np.full(20, 10), np.array([19, 1] + [10] * 18)
        (p,) = [calibration.least_p_value([bad])]
        self.assertAlmostEqual(p, stats.chi2.sf(2 * 81 / 10, 19))
        self.assertAlmostEqual(
            calibration.least_p_value([fair, fair, bad]), min(1, 3 * p)
        )
        self.assertEqual(calibration.least_p_value([fair] * 5), 1)
        uneven = np.array([21, 1, 21, 1] + [10] * 16)
        p = calibration.p_value(uneven)
        self.assertLess(p, calibration.P_VALUE)
        # Among so many, one such is no surprise.
        among = int(2 * calibration.P_VALUE / p)
        self.assertEqual(
            calibration.reading(uneven, among), calibration.UNIFORM
        )


class HighestDensityTest(parameterized.TestCase):
    @parameterized.parameters(1.0, 0.5, 2.0)
    def test_regions_of_a_gaussian_hold_what_they_must(self, factor):
        # A region of highest density is |z| < a; with samples `factor` times
        # as wide it is bounded by `factor` times the a of its level.
        rng = np.random.default_rng(0)
        truths = rng.normal(size=(4000, 1))
        samples = factor * rng.normal(size=(4000, 199, 1))
        ranks = calibration.ranks(-(samples**2), -(truths**2))
        (counts,) = calibration.histograms(ranks, 199)
        found = calibration.highest_density_coverage(counts)
        for level, share in zip(calibration.LEVELS, found, strict=True):
            bound = factor * stats.norm.ppf((1 + level) / 2)
            expected = 2 * stats.norm.cdf(bound) - 1
            # A share of 4,000, and the end of a region of 199 samples.
            self.assertAlmostEqual(share, expected, delta=0.03)

    def test_a_truth_is_inside_by_the_samples_that_are_denser(self):
        # Of 19 samples: 9 are denser than the truth at rank 10, and 10 at 9.
        # A half of 20 places are for fewer than 10.
        for rank, inside in ((10, [1, 1, 1, 1]), (9, [0, 1, 1, 1])):
            counts = np.zeros(20, int)
            counts[rank] = 7
            self.assertEqual(
                calibration.highest_density_coverage(counts), inside
            )


if __name__ == '__main__':
    absltest.main()
