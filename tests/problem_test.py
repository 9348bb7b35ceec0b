"""Kinds of noise: by their definitions, and what a method is told of them."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import measurement, operators, problem
from invjax.operators.mask import Mask

_SHAPE = (64, 64, 3)
_NUMBER = 64 * 64 * 3
_KEY = jax.random.key(0)


def _operator(task='denoising'):
    return operators.make_operator(task, _KEY, _SHAPE)


def _image():
    """Values from 0.1 to 0.9 of the way from black to white."""
    return jax.random.uniform(
        jax.random.key(1), _SHAPE, minval=-0.8, maxval=0.8
    )


class PoissonTest(parameterized.TestCase):
    @parameterized.product(
        value=[-1.0, -0.5, 0.6, 1.0], peak=[3.0, 50.0], noise_std=[0.0, 0.2]
    )
    def test_mean_and_variance_are_those_of_counts_and_reading(
        self, value, peak, noise_std
    ):
        # A count of mean peak (v + 1) / 2 has that variance too, and is scaled
        # by 2 / peak.
        variance = 2 * (value + 1) / peak + noise_std**2
        found = problem.measure(
            jax.random.key(2),
            jnp.full(_SHAPE, value),
            _operator(),
            noise_std,
            'poisson',
            peak=peak,
        ).y
        # Five standard errors. A count's fourth moment is 3 v^2 + v.
        delta = 5 * np.sqrt(variance / _NUMBER) + 1e-5
        self.assertAlmostEqual(float(found.mean()), value, delta=delta)
        fourth = 2 * variance**2 + variance * (2 / peak) ** 2
        delta = 5 * np.sqrt(fourth / _NUMBER) + 1e-5
        self.assertAlmostEqual(float(found.var()), variance, delta=delta)

    def test_without_reading_noise_it_counts_whole_photons(self):
        found = problem.measure(
            _KEY, _image(), _operator(), 0.0, 'poisson', peak=7.0
        )
        counts = 7 * (np.asarray(found.y, np.float64) + 1) / 2
        np.testing.assert_allclose(counts, counts.round(), atol=1e-5)
        self.assertGreaterEqual(counts.min(), -1e-5)

    @parameterized.parameters('gaussian_deblur', 'random_inpainting')
    def test_the_effective_std_is_that_of_the_residual_at_the_truth(self, task):
        x = _image()
        measured = problem.measure(
            _KEY, x, _operator(task), 0.05, 'poisson', peak=200.0
        )
        # Some 4,000 numbers at least: 5 standard errors of 1 / sqrt(2 m).
        np.testing.assert_allclose(
            measured.residual_norm(x),
            measured.expected_residual_norm(),
            rtol=0.06,
        )

    def test_weights_make_bright_and_dark_residuals_alike(self):
        x = jnp.where(jnp.arange(64)[:, None, None] < 32, -0.8, 0.8)
        x = jnp.broadcast_to(x, _SHAPE)
        measured = problem.measure(
            _KEY, x, _operator(), 0.0, 'poisson', peak=1000.0
        )
        self.assertAlmostEqual(float(measured.weights.mean()), 1, places=4)
        # Intensities of 0.1 and 0.9 have weights of 9 to 1, away from the
        # border between them.
        dark, bright = (
            (rows, measured.weights[rows])
            for rows in (slice(24), slice(40, 64))
        )
        self.assertAlmostEqual(
            float(dark[1].mean() / bright[1].mean()), 9, delta=0.2
        )
        ratio = [
            jnp.mean(weights * measured.residual(x)[rows] ** 2)
            for rows, weights in (dark, bright)
        ]
        # Each part has 4,608 numbers: 5 standard errors of both.
        self.assertAlmostEqual(float(ratio[0] / ratio[1]), 1, delta=0.15)

    @parameterized.parameters('denoising', 'random_inpainting')
    def test_weights_do_not_follow_a_values_own_chance(self, task):
        # With 1 / y itself the weighted mean of a flat picture would be that of
        # one photon less: 0.1 less of these, in [-1, 1] units.
        measured = problem.measure(
            _KEY,
            jnp.full(_SHAPE, 0.2),
            _operator(task),
            0.0,
            'poisson',
            peak=20.0,
        )
        mean = jnp.sum(measured.weights * measured.y) / measured.weights.sum()
        plain = measured.y.sum() / measured.num_measured()
        self.assertAlmostEqual(float(mean), float(plain), delta=0.015)

    def test_a_brought_measurement_is_taken_as_one_made_here(self):
        made = problem.measure(
            _KEY, _image(), _operator('box_inpainting'), 0.1, 'poisson', peak=30
        )
        brought = problem.from_measurement(
            made.y, made.operator, 0.1, 'poisson', peak=30
        )
        jax.tree.map(np.testing.assert_array_equal, brought, made)


class SaltPepperTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.1, 0.25, 1.0)
    def test_the_number_of_replaced_values_is_exact(self, amount):
        x, operator = _image(), _operator('random_inpainting')
        y = operator.forward(x)
        found = problem.measure(
            _KEY, x, operator, 0.0, 'salt_pepper', amount=amount
        ).y
        replaced = np.asarray(found != y)
        number = round(amount * 3 * float(operator.mask.sum()))
        self.assertEqual(replaced.sum(), number)
        self.assertEqual(np.sum(np.abs(found) == 1), number)
        self.assertFalse(np.any(replaced & (operator.mask == 0)))
        # Four standard errors of a fair coin.
        self.assertLessEqual(
            abs(np.sum(found[replaced])), 4 * np.sqrt(max(number, 1))
        )

    def test_replaced_values_hardly_count(self):
        x = _image()
        measured = problem.measure(
            _KEY, x, _operator(), 0.05, 'salt_pepper', amount=0.2
        )
        # All others have the residual of the Gaussian noise alone, and weigh
        # 1 / 0.8.
        norm = measured.weighted_residual_norm(x)
        alone = 0.05 * np.sqrt(_NUMBER)
        np.testing.assert_allclose(norm, alone, rtol=0.15)
        self.assertGreater(measured.residual_norm(x), 8 * alone)
        # The truth is from -0.8 to 0.8, and not to 1: a replaced value is off
        # by 1 + 0.8^2 / 3 in the mean square, which stands for 4/3.
        np.testing.assert_allclose(
            measured.residual_norm(x),
            measured.expected_residual_norm(),
            rtol=0.08,
        )


class NoiseTest(parameterized.TestCase):
    def test_gaussian_noise_weighs_all_values_alike(self):
        x = _image()
        measured = problem.measure(_KEY, x, _operator('gaussian_deblur'), 0.1)
        self.assertEqual(measured.weights, 1)
        self.assertEqual(
            measured.weighted_residual_norm(x), measured.residual_norm(x)
        )

    @parameterized.parameters('poisson', 'salt_pepper')
    def test_values_without_noise_are_finite(self, noise):
        parameters = {'amount': 0.0} if noise == 'salt_pepper' else {}
        for operator in (Mask(jnp.zeros((64, 64, 1))), _operator()):
            measured = problem.measure(
                _KEY, jnp.full(_SHAPE, -1.0), operator, 0.0, noise, **parameters
            )
            for leaf in jax.tree.leaves(measured):
                self.assertTrue(np.isfinite(leaf).all())

    @parameterized.parameters(
        ({'noise': 'shot'}, 'noise must be one of gaussian, .* got .shot.'),
        ({'noise': 'poisson', 'peak': 0.0}, 'peak must be above 0 and at most'),
        ({'noise': 'poisson', 'peak': float('nan')}, 'peak must .* got nan'),
        ({'noise': 'salt_pepper', 'amount': 1.5}, 'amount must be from 0 to 1'),
        ({'peak': 3.0}, "gaussian noise has no parameter 'peak'; it has none"),
    )
    def test_what_cannot_be_is_refused(self, arguments, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            problem.measure(_KEY, _image(), _operator(), **arguments)
        with self.assertRaisesRegex(ValueError, sentence):
            problem.from_measurement(_image(), _operator(), **arguments)

    @parameterized.parameters(*operators.OPERATORS)
    def test_only_measurements_that_are_pictures_have_photons(self, task):
        operator = _operator(task)
        if task in ('compressed_sensing', 'phase_retrieval'):
            with self.assertRaisesRegex(ValueError, 'poisson noise needs a'):
                problem.measure(_KEY, _image(), operator, noise='poisson')
        else:
            problem.measure(_KEY, _image(), operator, noise='poisson')


class InputTest(parameterized.TestCase):
    """What a user brings from Python is what it should be, or refused."""

    @parameterized.parameters(*operators.OPERATORS)
    def test_what_was_measured_can_be_brought(self, task):
        operator = _operator(task)
        y = operator.forward(_image())
        # Also as NumPy holds it.
        brought = problem.from_measurement(np.asarray(y, np.float64), operator)
        np.testing.assert_array_equal(brought.y, y)
        self.assertEqual(brought.image_shape, _SHAPE)

    @parameterized.product(
        value=[np.nan, np.inf, -np.inf], noise=list(problem.NOISES)
    )
    def test_what_is_not_observed_is_zero(self, value, noise):
        operator = _operator('random_inpainting')
        observed = np.broadcast_to(operator.mask, _SHAPE) > 0
        y = np.where(observed, _image(), value)
        brought = problem.from_measurement(y, operator, 0.05, noise)
        for leaf in jax.tree.leaves(brought):
            self.assertTrue(np.isfinite(leaf).all())
        np.testing.assert_array_equal(brought.y, np.where(observed, y, 0))

    @parameterized.parameters(np.nan, np.inf)
    def test_what_is_observed_must_be_finite(self, value):
        x = np.array(_image())
        x[3, 5, 1] = value
        for operator in (_operator(), _operator('gaussian_deblur')):
            with self.assertRaisesRegex(
                ValueError, 'image must be finite, but 1'
            ):
                problem.measure(_KEY, x, operator)
            with self.assertRaisesRegex(
                ValueError, 'measurement must be finite where .* but 1 of'
            ):
                problem.from_measurement(x, operator)

    @parameterized.parameters(np.uint8, np.int32, bool, np.complex64)
    def test_numbers_must_be_floats(self, kind):
        x = np.ones(_SHAPE, kind)
        for bring in (
            lambda: problem.measure(_KEY, x, _operator()),
            lambda: problem.from_measurement(x, _operator()),
        ):
            with self.assertRaisesRegex(
                ValueError, f'must hold floats.* got {np.dtype(kind).name}'
            ):
                bring()

    @parameterized.product(
        task=['denoising', 'motion_deblur', 'super_resolution'],
        shape=[(1, 1, 3), (63, 64, 3), (64, 64), (3, 64, 64), (2, 64, 64, 3)],
    )
    def test_another_shape_is_refused(self, task, shape):
        values = np.zeros(shape, np.float32)
        operator = _operator(task)
        with self.assertRaisesRegex(ValueError, 'shape|must'):
            problem.measure(_KEY, values, operator)
        with self.assertRaisesRegex(ValueError, 'shape|must'):
            problem.from_measurement(values, operator)

    def test_the_values_of_a_picture_file_are_no_image(self):
        pixels = np.full((8, 8, 3), 200, np.uint8)
        with self.assertRaisesRegex(ValueError, 'from -1 .* got uint8'):
            measurement.measure(pixels, 'denoising')

    def test_an_image_to_measure_is_within_its_range(self):
        pixels = np.full((8, 8, 3), 200.0, np.float32)
        with self.assertRaisesRegex(ValueError, 'in .-1, 1., .* 200 to 200'):
            measurement.measure(pixels, 'denoising')
        white = np.ones((8, 8, 3), np.float32)
        measurement.measure(white, 'denoising')
        with self.assertRaisesRegex(ValueError, '-2 to 1'):
            measurement.measure(
                white.copy() - 3 * np.eye(8)[..., None], 'denoising'
            )

    def test_a_mask_does_not_repeat_one_pixel(self):
        with self.assertRaisesRegex(
            ValueError, r'shape \(64, 64, 3\) for Mask, got \(1, 1, 3\)'
        ):
            problem.from_measurement(np.zeros((1, 1, 3)), _operator())

    def test_values_may_be_traced(self):
        operator, x = _operator('box_inpainting'), _image()
        for bring in (
            lambda x: problem.measure(_KEY, x, operator),
            lambda x: problem.from_measurement(x, operator),
        ):
            jax.tree.map(
                np.testing.assert_array_equal, jax.jit(bring)(x), bring(x)
            )


if __name__ == '__main__':
    absltest.main()
