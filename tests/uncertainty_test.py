"""Uncertainty: by definition, and on draws whose answer is known."""

import itertools

import numpy as np
from absl.testing import absltest, parameterized

from invjax import uncertainty


class SpreadTest(absltest.TestCase):
    def test_diversity_is_the_mean_over_all_pairs(self):
        samples = np.random.default_rng(0).normal(size=(5, 3, 4, 2))
        squares = [
            np.mean((a - b) ** 2) for a, b in itertools.combinations(samples, 2)
        ]
        self.assertAlmostEqual(
            uncertainty.diversity(samples), np.sqrt(np.mean(squares))
        )

    def test_the_variance_is_unbiased(self):
        rng = np.random.default_rng(0)
        samples = 3 * rng.normal(size=(3, 200, 200, 1))
        variance = uncertainty.standard_deviation(samples) ** 2
        # 40,000 variances with a standard deviation of 9 each.
        self.assertAlmostEqual(variance.mean(), 9, delta=5 * 9 / 200)

    def test_one_sample_has_no_spread(self):
        with self.assertRaisesRegex(ValueError, '2 samples or more, got 1'):
            uncertainty.diversity(np.zeros((1, 4, 4, 3)))


class CoverageTest(parameterized.TestCase):
    @parameterized.parameters(2, 3, 4, 9)
    def test_it_is_nominal_for_draws_of_one_distribution(self, num_samples):
        draws = np.random.default_rng(1).gamma(
            2, size=(num_samples + 1, 300, 300, 1)
        )
        nominal, observed = uncertainty.coverage(draws[1:], draws[0])
        self.assertLen(nominal, num_samples // 2)
        self.assertTrue(np.all(np.diff(nominal) > 0))
        self.assertAlmostEqual(
            nominal[-1], (num_samples - 1) / (num_samples + 1)
        )
        # 90,000 draws: 5 standard errors of a share.
        np.testing.assert_allclose(observed, nominal, atol=5 * 0.5 / 300)

    def test_samples_too_sure_cover_less_and_too_wide_ones_more(self):
        draws = np.random.default_rng(2).normal(size=(10, 100, 100, 1))
        nominal, narrow = uncertainty.coverage(0.5 * draws[1:], draws[0])
        _, wide = uncertainty.coverage(2 * draws[1:], draws[0])
        self.assertTrue(np.all(narrow < nominal - 0.05))
        self.assertTrue(np.all(wide > nominal + 0.05))


class NearestToNoiseTest(absltest.TestCase):
    def test_the_residual_nearest_to_the_expected_one_wins(self):
        self.assertEqual(uncertainty.nearest_to_noise([1.0, 4.0, 9.0], 5.0), 1)
        self.assertEqual(uncertainty.nearest_to_noise([1.0, 4.0, 9.0], 0.0), 0)


class ExplainsTest(absltest.TestCase):
    def test_a_residual_near_the_noise_or_below_it_explains(self):
        norms = [0.1, 1.0, 1.24, 1.26, 2.0, float('nan')]
        np.testing.assert_array_equal(
            uncertainty.explains(norms, 1.0, 20.0),
            [True, True, True, False, False, False],
        )

    def test_without_noise_a_hundredth_of_the_measurement_explains(self):
        np.testing.assert_array_equal(
            uncertainty.explains([0.19, 0.21], 0.0, 20.0), [True, False]
        )


if __name__ == '__main__':
    absltest.main()
