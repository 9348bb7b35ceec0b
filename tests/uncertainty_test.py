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

    @parameterized.parameters(2, 3, 9)
    def test_ties_neither_hold_more_nor_less(self, num_samples):
        # Of three levels nearly all values are some sample's, too.
        draws = np.random.default_rng(1).binomial(
            2, 0.3, size=(num_samples + 1, 300, 300, 1)
        )
        nominal, observed = uncertainty.coverage(draws[1:], draws[0])
        np.testing.assert_allclose(observed, nominal, atol=5 * 0.5 / 300)

    def test_where_all_are_one_value_it_is_nominal(self):
        ones = np.ones((5, 4, 4, 1))
        nominal, observed = uncertainty.coverage(ones[1:], ones[0])
        np.testing.assert_allclose(observed, nominal)

    def test_samples_too_sure_cover_less_and_too_wide_ones_more(self):
        draws = np.random.default_rng(2).normal(size=(10, 100, 100, 1))
        nominal, narrow = uncertainty.coverage(0.5 * draws[1:], draws[0])
        _, wide = uncertainty.coverage(2 * draws[1:], draws[0])
        self.assertTrue(np.all(narrow < nominal - 0.05))
        self.assertTrue(np.all(wide > nominal + 0.05))


def held_out_coverage(*args):
    return uncertainty.held_out_coverage(*args).mean()


class ConformalTest(parameterized.TestCase):
    @parameterized.parameters(
        (3, 0.5, (0, 2)), (9, 0.8, (0, 8)), (9, 0.6, (1, 7)), (9, 0.9, (0, 8))
    )
    def test_central_intervals_go_between_ranks(self, number, level, ranks):
        # 1 - 2 i / (K + 1): 0.8 for the extremes of nine, 0.6 for the next.
        samples = np.arange(number, dtype=float)[::-1, None, None, None]
        lower, upper = uncertainty.central_interval(samples, level)
        self.assertEqual((lower.item(), upper.item()), ranks)

    @parameterized.product(number=[4, 9], level=[0.2, 0.5, 0.6, 0.8])
    def test_of_one_value_an_image_as_many_are_held_as_the_level_says(
        self, number, level
    ):
        # Of N + 1 images that change places, N tell the widening and one is
        # tried: held are exactly the ceil(level (N + 1)) of least score.
        rng = np.random.default_rng(3)
        samples = rng.normal(size=(number + 1, 5, 1, 1, 1))
        truths = 3 * rng.normal(size=(number + 1, 1, 1, 1))
        held = held_out_coverage(samples, truths, level)
        self.assertAlmostEqual(
            held * (number + 1), np.ceil(level * (number + 1) - 1e-9)
        )

        # Without the guarantee it is the share of the N others alone.
        held = held_out_coverage(samples, truths, level, False)
        self.assertAlmostEqual(
            held * (number + 1), np.ceil(level * number - 1e-9)
        )

    @parameterized.product(level=[0.3, 0.8], spread=[0.2, 1.0, 4.0])
    def test_values_that_depend_on_each_other_are_held_as_often(
        self, level, spread
    ):
        # All values of an image share an error, so that they are held or missed
        # together; the bounds are those of the docstring.
        rng = np.random.default_rng(4)
        number, shape = 14, (6, 6, 1)
        shared = rng.normal(size=(number + 1, 1, 1, 1))
        truths = shared + 0.3 * rng.normal(size=(number + 1, *shape))
        samples = spread * rng.normal(size=(number + 1, 7, *shape))
        held = held_out_coverage(samples, truths, level)
        self.assertGreaterEqual(held, level - 1e-9)
        most = level + 1 / (number + 1) + 1 / ((number + 1) * 36)
        self.assertLess(held, most)

    def test_on_other_images_it_is_nominal_within_three_points(self):
        rng = np.random.default_rng(5)
        shape = (8, 8, 1)
        width = rng.uniform(0.5, 2, size=(400, 1, *shape))
        samples = 0.4 * width * rng.normal(size=(400, 9, *shape))
        truths = width[:, 0] * rng.normal(size=(400, *shape))
        widening = uncertainty.conformal(samples[:100], truths[:100], 0.8)
        held, before = [], []
        for of_image, truth in zip(samples[100:], truths[100:], strict=True):
            for ends, into in (
                (uncertainty.widened(of_image, 0.8, widening), held),
                (uncertainty.central_interval(of_image, 0.8), before),
            ):
                into.append(np.mean((ends[0] <= truth) & (truth <= ends[1])))
        self.assertLess(np.mean(before), 0.6)
        self.assertAlmostEqual(np.mean(held), 0.8, delta=0.03)

    def test_of_few_images_that_are_alike_it_is_nominal_unguaranteed(self):
        draws = np.random.default_rng(7).normal(size=(7, 10, 24, 24, 1))
        samples, truths = 0.5 * draws[:, 1:], draws[:, 0]
        for level in (0.2, 0.6, 0.8):
            held = held_out_coverage(samples, truths, level, False)
            # Five standard errors of 4,032 draws.
            self.assertAlmostEqual(held, level, delta=5 * 0.5 / 4032**0.5)

    def test_samples_of_the_posterior_are_not_widened(self):
        draws = np.random.default_rng(6).normal(size=(200, 10, 8, 8, 1))
        widening = uncertainty.conformal(draws[:, 1:], draws[:, 0], 0.8)
        # The extremes of nine hold four fifths of the draws, give or take 5
        # standard errors of 12,800, which no hundredth of a length moves.
        self.assertAlmostEqual(widening, 0.0, delta=0.02)

    @parameterized.parameters(
        ({'level': 0.9}, 'of 4 images the level must be at most 4/5, got 0.9'),
        ({'level': 1.0}, 'level must be above 0 and below 1, got 1.0'),
        ({'truths': np.zeros((3, 2, 2, 1))}, 'as many truths .* got 3 and 4'),
        ({'samples': np.zeros((4, 1, 2, 2, 1))}, '2 samples or more, got 1'),
        ({'samples': np.ones((4, 3, 2, 2, 1))}, 'agree where they are wrong'),
    )
    def test_mistakes_are_refused(self, given, words):
        usual = {
            'samples': np.random.default_rng(0).normal(size=(4, 3, 2, 2, 1)),
            'truths': np.zeros((4, 2, 2, 1)),
            'level': 0.5,
        }
        with self.assertRaisesRegex(ValueError, words):
            uncertainty.conformal(**{**usual, **given})


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
