"""Means over images: by hand, by simulation, and what is refused."""

import numpy as np
from absl.testing import absltest, parameterized

from invjax import metrics


class SummaryTest(parameterized.TestCase):
    def test_three_values_give_the_numbers_worked_by_hand(self):
        # Mean 2; deviations -1, 0, 1 have variance 2 / 2 = 1, so 1 / sqrt(3).
        mean, standard_error = metrics.mean_and_standard_error([1.0, 2.0, 3.0])
        self.assertEqual(mean, 2.0)
        self.assertAlmostEqual(standard_error, 0.57735, places=5)

    def test_the_standard_error_is_the_spread_of_means_over_experiments(self):
        rng = np.random.default_rng(0)
        num_experiments, num_images = 2_000, 16
        values = rng.standard_normal((num_images, num_experiments))
        mean, standard_error = metrics.mean_and_standard_error(values)
        # The spread of 2,000 means is itself known to 1 / sqrt(2 * 2,000).
        ratio = np.sqrt(np.mean(standard_error**2)) / np.std(mean)
        self.assertLess(abs(ratio - 1.0), 4 / np.sqrt(2 * num_experiments))

    def test_one_image_has_a_mean_but_no_standard_error(self):
        mean, standard_error = metrics.mean_and_standard_error([5.0])
        self.assertEqual(mean, 5.0)
        self.assertTrue(np.isnan(standard_error))

    def test_an_infinite_value_carries_through(self):
        mean, standard_error = metrics.mean_and_standard_error([1.0, np.inf])
        self.assertEqual(mean, np.inf)
        self.assertTrue(np.isnan(standard_error))

    def test_no_image_is_refused(self):
        with self.assertRaisesRegex(ValueError, r'\(0,\)'):
            metrics.mean_and_standard_error([])

    def test_a_paired_difference_cancels_what_images_share(self):
        difficulty = 10.0 * np.random.default_rng(0).standard_normal(8)
        mean, standard_error = metrics.paired_difference(
            difficulty + 0.5, difficulty
        )
        self.assertAlmostEqual(mean, 0.5)
        self.assertAlmostEqual(standard_error, 0.0)

    def test_a_difference_of_other_images_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'same images'):
            metrics.paired_difference([1.0, 2.0], [1.0])


if __name__ == '__main__':
    absltest.main()
