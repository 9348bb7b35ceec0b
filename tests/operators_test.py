"""Operators: a contract that each one keeps, and what is special about some."""

import __future__

import functools
import io
import json
import pathlib
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
import scipy.ndimage
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import images, operators, problem, types
from invjax.operators import blur, bounds
from invjax.operators.mask import Mask

_GOLDENS = np.load(
    pathlib.Path(__file__).parent / 'goldens' / 'diffusion_math.npz'
)
SHAPE = (24, 20, 3)  # Not square, so that a swap of the axes shows.
_NONLINEAR = (
    'phase_retrieval',
    'high_dynamic_range',
    'jpeg',
    'nonlinear_deblur',
)
_LINEAR = [task for task in operators.OPERATORS if task not in _NONLINEAR]
_MASKS = ('box_inpainting', 'random_inpainting', 'denoising')


@functools.cache
def operator_of(task):
    return operators.make_operator(task, jax.random.key(0), SHAPE)


def normal(seed, shape=SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


def golden_image(name):
    return np.moveaxis(_GOLDENS[name][0], 0, -1)


@parameterized.parameters(*_LINEAR)
class LinearTest(parameterized.TestCase):
    def test_adjoint_passes_the_dot_product_test(self, task):
        operator = operator_of(task)
        x = normal(1)
        y = normal(2, operator.forward(x).shape)
        left = np.vdot(operator.forward(x), y)
        right = np.vdot(x, operator.adjoint(y))
        # 1440 products of size 1 add up to some 40 with rounding 1e-5.
        np.testing.assert_allclose(left, right, atol=2e-4)

    def test_forward_is_linear(self, task):
        operator = operator_of(task)
        u, v = normal(3), normal(4)
        np.testing.assert_allclose(
            operator.forward(2 * u - v),
            2 * operator.forward(u) - operator.forward(v),
            atol=1e-5,
        )

    def test_pinv_explains_every_measurement_it_is_given(self, task):
        operator = operator_of(task)
        y = operator.forward(normal(5))
        again = operator.forward(operator.pinv(y))
        # What the cut of small singular values takes is a thousandth.
        error = np.linalg.norm(again - y) / np.linalg.norm(y)
        self.assertLess(error, 2e-2)

    def test_pinv_gives_the_image_of_least_norm(self, task):
        operator = operator_of(task)
        x = normal(6)
        restored = operator.pinv(operator.forward(x))
        self.assertLessEqual(
            np.linalg.norm(restored), 1.001 * np.linalg.norm(x)
        )


@parameterized.parameters(*operators.OPERATORS)
class ContractTest(parameterized.TestCase):
    def test_its_shapes_are_those_that_it_declares(self, task):
        for shape in (SHAPE, (24, 8, 3)):
            operator = operators.make_operator(task, jax.random.key(0), shape)
            self.assertEqual(operator.image_shape, shape)
            y = operator.forward(normal(7, shape))
            self.assertEqual(operator.measurement_shape, y.shape)
            operators.check_operator(operator)

    def test_it_is_what_its_protocols_say(self, task):
        operator = operator_of(task)
        self.assertIsInstance(operator, types.Operator)
        for protocol, tasks in (
            (types.LinearOperator, _LINEAR),
            (types.SpectralOperator, _LINEAR),
            (types.MaskOperator, _MASKS),
        ):
            self.assertEqual(isinstance(operator, protocol), task in tasks)
        # A guess is called a pseudo-inverse only where it is one.
        self.assertEqual(hasattr(operator, 'pinv'), task in _LINEAR)

    def test_a_guess_is_an_image_and_the_pseudo_inverse_if_there_is_one(
        self, task
    ):
        operator = operator_of(task)
        y = operator.forward(normal(52))
        guess = operator.guess(y)
        self.assertEqual(guess.shape, SHAPE)
        self.assertTrue(np.isfinite(guess).all())
        if task in _LINEAR:
            np.testing.assert_array_equal(guess, operator.pinv(y))

    def test_other_shapes_are_refused_in_a_sentence(self, task):
        operator = operator_of(task)
        height, width, channels = SHAPE
        for shape in (
            (width, height, channels),
            (2, *SHAPE),
            (height, width),
            (height, width, 1),
            (1, 1, channels),
        ):
            with self.assertRaisesRegex(
                ValueError, 'an image for .* must have'
            ):
                operator.forward(jnp.zeros(shape))
        y_shape = operator.measurement_shape
        for member in ('adjoint', 'pinv', 'guess'):
            if not hasattr(operator, member):
                continue
            for shape in ((y_shape[1], y_shape[0], y_shape[2]), (1, *y_shape)):
                with self.assertRaisesRegex(
                    ValueError, 'a measurement for .* must have shape'
                ):
                    getattr(operator, member)(jnp.zeros(shape))

    def test_a_stack_of_operators_knows_the_shape_of_one(self, task):
        stacked = jax.tree.map(lambda a: jnp.stack([a, a]), operator_of(task))
        self.assertEqual(stacked.image_shape, SHAPE)
        self.assertEqual(
            stacked.measurement_shape, operator_of(task).measurement_shape
        )

    def test_a_measurement_carries_data_on_the_support_alone(self, task):
        operator = operator_of(task)
        x = normal(7)
        y = operator.forward(x)
        support = np.broadcast_to(operator.support(), y.shape)
        self.assertContainsSubset(np.unique(support), (0.0, 1.0))
        np.testing.assert_array_equal(y * (1 - support), 0 * y)
        self.assertTrue(np.all(y[support == 1] != 0))

    def test_noise_has_its_std_on_the_support_and_is_nowhere_else(self, task):
        operator = operator_of(task)
        x = normal(8)
        measured = problem.measure(jax.random.key(9), x, operator, 0.3)
        noise = np.asarray(measured.y - operator.forward(x))
        support = np.broadcast_to(operator.support(), noise.shape) == 1
        np.testing.assert_array_equal(noise[~support], 0)
        number = support.sum()
        self.assertEqual(measured.num_measured(), number)
        # Four standard errors: of the std, std / sqrt(2 m); of the mean,
        # std / sqrt(m).
        self.assertAlmostEqual(
            noise[support].std(), 0.3, delta=4 * 0.3 / np.sqrt(2 * number)
        )
        self.assertAlmostEqual(
            noise[support].mean(), 0, delta=4 * 0.3 / np.sqrt(number)
        )
        np.testing.assert_allclose(
            measured.residual_norm(x),
            measured.expected_residual_norm(),
            rtol=4 / np.sqrt(2 * number),
        )

    def test_without_noise_the_measurement_is_the_image_seen(self, task):
        operator = operator_of(task)
        x = normal(10)
        measured = problem.measure(jax.random.key(0), x, operator, 0.0)
        np.testing.assert_array_equal(measured.y, operator.forward(x))
        self.assertEqual(measured.image_shape, SHAPE)

    def test_a_misspelt_parameter_is_named_in_a_sentence(self, task):
        with self.assertRaisesRegex(
            ValueError, f"{task} has no parameter 'sizee'; it has"
        ):
            operators.make_operator(task, jax.random.key(0), SHAPE, sizee=3)

    def test_its_arrays_have_types_of_their_own(self, task):
        # A weak type is another type to jit, which would compile anew.
        for leaf in jax.tree.leaves(operator_of(task)):
            self.assertFalse(leaf.weak_type)

    def test_its_description_is_plain_data(self, task):
        description = operator_of(task).describe()
        self.assertEqual(json.loads(json.dumps(description)), description)
        self.assertIn('kind', description)

    def test_the_same_key_gives_the_same_operator(self, task):
        again = operators.make_operator(task, jax.random.key(0), SHAPE)
        jax.tree.map(np.testing.assert_array_equal, again, operator_of(task))


class GaussianDeblurTest(parameterized.TestCase):
    @parameterized.parameters(('blur61', 61, 3.0), ('blur9', 9, 1.5))
    def test_it_is_the_blur_of_the_dps_authors(self, name, size, std):
        kernel = blur.gaussian_kernel(size, std)
        np.testing.assert_allclose(
            np.outer(kernel, kernel), _GOLDENS[f'{name}_kernel'], atol=1e-12
        )
        operator = operators.make_operator(
            'gaussian_deblur',
            jax.random.key(0),
            (64, 64, 3),
            blur_size=size,
            blur_std=std,
        )
        np.testing.assert_allclose(
            operator.forward(golden_image(f'{name}_in')),
            golden_image(f'{name}_out'),
            atol=1e-5,
        )

    def test_it_is_the_filter_of_scipy(self):
        # Sides and both their ends differ, and 15 pixels are 8 std and more.
        operator = operators.make_operator(
            'gaussian_deblur',
            jax.random.key(0),
            SHAPE,
            blur_size=15,
            blur_std=1.7,
        )
        x = np.asarray(normal(17), np.float64)
        expected = scipy.ndimage.gaussian_filter(
            x, (1.7, 1.7, 0), mode='mirror'
        )
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-5)

    @parameterized.parameters(
        (256, 61, 3.0),
        (64, 15, 1.5),
        (16, 3, 0.75),
        # 61 * 42 / 512 is a little more than 5.
        (42, 11, 3 * (42 / 256) ** 0.5),
    )
    def test_defaults_follow_the_side_of_the_image(self, side, size, std):
        # The shorter side counts.
        shape = (side, side + 8, 1)
        default = blur.gaussian_deblur(jax.random.key(0), shape)
        named = blur.gaussian_deblur(
            jax.random.key(0), shape, blur_size=size, blur_std=std
        )
        np.testing.assert_array_equal(default.rows.matrix, named.rows.matrix)

    def test_its_description_makes_it_again(self):
        operator = operator_of('gaussian_deblur')
        kernel = operator.describe()
        self.assertEqual(kernel.pop('kind'), 'GaussianBlur')
        again = blur.gaussian_deblur(jax.random.key(0), SHAPE, **kernel)
        for name in ('rows', 'columns'):
            np.testing.assert_allclose(
                getattr(again, name).matrix,
                getattr(operator, name).matrix,
                atol=1e-6,
            )

    def test_another_width_is_no_other_program(self):
        widths = [
            blur.gaussian_deblur(jax.random.key(0), SHAPE, blur_size=size)
            for size in (3, 5)
        ]
        structures = [jax.tree.structure(operator) for operator in widths]
        self.assertEqual(*structures)

    def test_a_constant_image_stays_as_it_is(self):
        operator = operator_of('gaussian_deblur')
        np.testing.assert_allclose(
            operator.forward(jnp.full(SHAPE, 0.7)), 0.7, rtol=1e-5
        )

    def test_rows_are_blurred_along_rows(self):
        # An image constant along its columns has nothing to blur that way.
        operator = operator_of('gaussian_deblur')
        stripes = jnp.broadcast_to(normal(11, (1, SHAPE[1], 1)), SHAPE)
        blurred = np.asarray(operator.forward(stripes))
        np.testing.assert_allclose(
            blurred, blurred[:1] + 0 * blurred, atol=1e-5
        )
        self.assertLess(blurred.std(), 0.9 * np.asarray(stripes).std())

    @parameterized.parameters(
        ({'blur_size': 8}, 'blur_size must be a whole odd number'),
        ({'blur_size': True}, 'blur_size must be .* got True'),
        ({'blur_size': 0}, 'blur_size must be a whole odd number'),
        ({'blur_size': -3}, 'blur_size must be a whole odd number'),
        ({'blur_size': 41}, 'whole odd number from 1 to 39, got 41'),
        ({'blur_size': 7.0}, 'blur_size must be a whole odd number.*7.0'),
        ({'blur_size': float('nan')}, 'blur_size must be a whole odd number'),
        (
            {'blur_std': float('nan')},
            'blur_std must be a number from 0.01 to 20 pix',
        ),
        (
            {'blur_std': float('inf')},
            'blur_std must be a number from 0.01 to 20 pix',
        ),
        ({'blur_std': 0.0}, 'blur_std must be a number from 0.01 to 20 pix'),
        ({'blur_std': -1.0}, 'blur_std must be a number from 0.01 to 20 pix'),
        ({'blur_std': 1e-200}, 'blur_std must be .* got 1e-200'),
        ({'blur_std': 1e9}, 'blur_std must be .* got 1000000000'),
        ({'blur_std': '2'}, "blur_std must be .* got '2'"),
    )
    def test_values_out_of_range_are_refused(self, settings, message):
        with self.assertRaisesRegex(ValueError, message):
            blur.gaussian_deblur(jax.random.key(0), SHAPE, **settings)


class BoxInpaintingTest(parameterized.TestCase):
    def missing_boxes(self, shape, size, margin, num_keys=300):
        def mask(key):
            return operators.OPERATORS['box_inpainting'](
                key, shape, box_size=size, box_margin=margin
            ).mask

        keys = jax.random.split(jax.random.key(0), num_keys)
        return 1 - np.asarray(jax.vmap(mask)(keys))[..., 0]

    @parameterized.parameters(
        ((20, 16, 3), 5, 2), ((16, 20, 3), 8, 4), ((16, 16, 1), 10, 3)
    )
    def test_every_box_is_whole_and_keeps_its_margins(
        self, shape, size, margin
    ):
        missing = self.missing_boxes(shape, size, margin)
        self.assertEqual(missing.shape, (300, *shape[:2]))
        for axis, side in ((2, shape[0]), (1, shape[1])):
            hit = missing.any(axis=axis)
            np.testing.assert_array_equal(hit.sum(axis=1), size)
            first = hit.argmax(axis=1)
            # All allowed places occur, and no others: with 300 keys one of at
            # most 12 stays away with probability 12 (11/12)^300 < 1e-10.
            self.assertEqual(
                set(first.tolist()),
                set(range(margin, side - margin - size + 1)),
            )
        np.testing.assert_array_equal(missing.sum(axis=(1, 2)), size**2)

    @parameterized.parameters((256, 128, 16), (64, 32, 4))
    def test_defaults_follow_the_side_of_the_image(self, side, size, margin):
        default = operators.OPERATORS['box_inpainting']
        for seed in range(5):
            key = jax.random.key(seed)
            np.testing.assert_array_equal(
                default(key, (side, side, 3)).mask,
                default(
                    key, (side, side, 3), box_size=size, box_margin=margin
                ).mask,
            )

    @parameterized.parameters(
        (0, 2, 'box_size must be a whole number from 1 to 20, got 0'),
        (21, 0, 'box_size must be a whole number from 1 to 20, got 21'),
        (10, 6, 'must be at most the side of the image, 20, got 10'),
        (5, -1, 'box_margin must be a whole number from 0 to 20, got -1'),
    )
    def test_a_box_that_does_not_fit_is_refused(self, size, margin, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.make_operator(
                'box_inpainting',
                jax.random.key(0),
                SHAPE,
                box_size=size,
                box_margin=margin,
            )

    def test_a_box_as_large_as_the_image_is_refused(self):
        for shape, sentence in (
            ((8, 8, 3), 'box_size must leave a pixel of 8 x 8, got 8'),
            ((1, 5, 3), 'box_inpainting needs images of 2 x 2 pixels'),
        ):
            with self.assertRaisesRegex(ValueError, sentence):
                operators.make_operator(
                    'box_inpainting',
                    jax.random.key(0),
                    shape,
                    box_size=shape[0],
                    box_margin=0,
                )

    def test_an_image_of_two_pixels_a_side_has_room_for_a_box(self):
        operator = operators.make_operator(
            'box_inpainting', jax.random.key(0), (2, 2, 3)
        )
        self.assertEqual(operator.describe()['num_missing'], 1)

    @parameterized.parameters('box_size', 'box_margin')
    def test_a_part_of_a_pixel_is_refused(self, name):
        with self.assertRaisesRegex(ValueError, f'{name} must be a whole numb'):
            operators.make_operator(
                'box_inpainting', jax.random.key(0), SHAPE, **{name: 2.5}
            )

    def test_its_description_says_where_the_box_is(self):
        # A box of 10 x 10 with margins of 5 has one place in 20 columns, and
        # one of five in 24 rows.
        operator = operators.make_operator(
            'box_inpainting',
            jax.random.key(0),
            SHAPE,
            box_size=10,
            box_margin=5,
        )
        description = operator.describe()
        place = description['missing_within']
        self.assertEqual((place['left'], place['right']), (5, 15))
        self.assertEqual(place['bottom'] - place['top'], 10)
        np.testing.assert_array_equal(
            operator.mask[place['top'] : place['bottom'], 5:15], 0
        )
        self.assertEqual(description['num_missing'], 100)
        self.assertAlmostEqual(description['missing_fraction'], 100 / 480)


class RandomInpaintingTest(parameterized.TestCase):
    # 70 % of 64 x 64 is 2867.2 pixels.
    @parameterized.parameters((0.0, 0), (0.25, 1024), (0.7, 2867))
    def test_the_count_of_missing_pixels_is_exact(self, fraction, number):
        for seed in range(5):
            operator = operators.make_operator(
                'random_inpainting',
                jax.random.key(seed),
                (64, 64, 3),
                drop_fraction=fraction,
            )
            y = np.asarray(operator.forward(jnp.ones((64, 64, 3))))
            # Each pixel is missing in all channels or in none.
            np.testing.assert_array_equal(y, y[..., :1] + 0 * y)
            self.assertEqual((y[..., 0] == 0).sum(), number)

    @parameterized.parameters((256, 45875), (64, 2867))
    def test_the_default_drops_70_percent(self, side, number):
        operator = operators.make_operator(
            'random_inpainting', jax.random.key(0), (side, side, 3)
        )
        self.assertEqual((np.asarray(operator.mask) == 0).sum(), number)

    def test_other_keys_drop_other_pixels(self):
        masks = [
            operators.make_operator(
                'random_inpainting', jax.random.key(seed), SHAPE
            ).mask
            for seed in (0, 1)
        ]
        self.assertFalse(np.array_equal(*masks))

    @parameterized.parameters(-0.1, 1.1, 70, float('nan'), 1.0, 0.9999)
    def test_a_fraction_out_of_range_is_refused(self, fraction):
        # 0.9999 of 480 pixels is all of them.
        with self.assertRaisesRegex(
            ValueError,
            f'drop_fraction must (be a number from 0 to 1|leave one or more of '
            f'480 pixels), got {fraction}',
        ):
            operators.make_operator(
                'random_inpainting',
                jax.random.key(0),
                SHAPE,
                drop_fraction=fraction,
            )


class MaskTest(parameterized.TestCase):
    @parameterized.parameters(bool, np.uint8, np.float64)
    def test_a_brought_mask_says_what_is_observed(self, dtype):
        observed = np.zeros(SHAPE[:2], dtype)
        observed[3, 4] = observed[20, 1] = 1
        for channels in (1, 2, 4):
            shape = (*SHAPE[:2], channels)
            operator = Mask.of(observed, shape)
            x = normal(18, shape)
            y = np.asarray(operator.forward(x))
            np.testing.assert_array_equal(y[3, 4], x[3, 4])
            np.testing.assert_array_equal(y[20, 1], x[20, 1])
            self.assertEqual(np.count_nonzero(y), 2 * channels)
            again = Mask.of(observed[..., None], shape)
            np.testing.assert_array_equal(again.mask, operator.mask)

    @parameterized.parameters(
        (np.ones((20, 24)), 'must have shape .24, 20., got .20, 24.'),
        (np.ones(SHAPE), r'must have shape .24, 20., got .24, 20, 3.'),
        (np.zeros(SHAPE[:2]), 'observe one or more, got values from 0'),
        (255 * np.eye(24, 20), 'a mask must be 1 .* from 0.0 to 255.0'),
        (np.full(SHAPE[:2], np.nan), 'a mask must be 1 .* from nan'),
    )
    def test_what_is_no_mask_is_refused(self, observed, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            Mask.of(observed, SHAPE)


class ProblemTest(parameterized.TestCase):
    def test_an_unknown_task_is_refused_with_the_names_there_are(self):
        with self.assertRaisesRegex(
            ValueError, "task must be one of gaussian_deblur.*got 'deblurr'"
        ):
            operators.make_operator('deblurr', jax.random.key(0), SHAPE)

    def test_a_brought_measurement_loses_what_is_not_observed(self):
        operator = operator_of('box_inpainting')
        y = normal(12)
        brought = problem.from_measurement(y, operator)
        np.testing.assert_array_equal(brought.y, operator.forward(y))

    @parameterized.parameters(-0.05, float('nan'), float('inf'))
    def test_a_noise_std_that_cannot_be_is_refused(self, noise_std):
        operator = operator_of('denoising')
        message = f'noise_std must be 0 or more and finite, got {noise_std}'
        with self.assertRaisesRegex(ValueError, message):
            problem.measure(jax.random.key(0), normal(15), operator, noise_std)
        with self.assertRaisesRegex(ValueError, message):
            problem.from_measurement(normal(15), operator, noise_std)

    def test_a_noise_std_may_be_traced(self):
        operator = operator_of('denoising')
        stds = jnp.array([0.0, 0.1, 0.5])
        x = normal(16)
        for make in (
            lambda std: problem.measure(jax.random.key(0), x, operator, std),
            lambda std: problem.from_measurement(x, operator, std),
        ):
            together = jax.jit(jax.vmap(make))(stds)
            for i, std in enumerate(stds):
                np.testing.assert_allclose(
                    together.y[i], make(float(std)).y, atol=1e-6
                )

    @parameterized.parameters(1, 3, 4)
    def test_nothing_measured_leaves_no_residual(self, channels):
        shape = (*SHAPE[:2], channels)
        nothing = problem.nothing_measured(shape)
        self.assertEqual(nothing.num_measured(), 0)
        self.assertEqual(nothing.image_shape, shape)
        np.testing.assert_array_equal(nothing.residual(normal(13, shape)), 0)

    def test_the_residual_norm_has_a_gradient_where_it_is_zero(self):
        x = normal(14)
        exact = problem.measure(
            jax.random.key(0), x, operator_of('denoising'), 0.0
        )
        np.testing.assert_array_equal(jax.grad(exact.residual_norm)(x), 0 * x)


@parameterized.parameters(*_LINEAR)
class SpectrumTest(parameterized.TestCase):
    def test_it_diagonalises_the_operator(self, task):
        operator = operator_of(task)
        spectrum = operator.spectrum()
        x = normal(20)
        np.testing.assert_allclose(
            spectrum.of_y(operator.forward(x)),
            spectrum.singular * spectrum.of_x(x),
            atol=1e-4,
        )
        y = operator.forward(normal(21))
        np.testing.assert_allclose(
            spectrum.to_x(spectrum.singular * spectrum.of_y(y)),
            operator.adjoint(y),
            atol=1e-4,
        )

    def test_the_basis_of_images_is_orthonormal(self, task):
        spectrum = operator_of(task).spectrum()
        x = normal(22)
        coefficients = spectrum.of_x(x)
        np.testing.assert_allclose(spectrum.to_x(coefficients), x, atol=1e-4)
        np.testing.assert_allclose(
            np.linalg.norm(coefficients), np.linalg.norm(x), rtol=1e-5
        )

    def test_that_of_measurements_keeps_their_length(self, task):
        operator = operator_of(task)
        y = operator.forward(normal(23))
        np.testing.assert_allclose(
            np.linalg.norm(operator.spectrum().of_y(y)),
            np.linalg.norm(y),
            rtol=1e-4,
        )


class MotionDeblurTest(parameterized.TestCase):
    def test_it_is_the_convolution_that_scipy_makes(self):
        rng = np.random.default_rng(0)
        kernel = rng.uniform(size=(5, 3))
        operator = blur.convolution(kernel, SHAPE)
        x = rng.normal(size=SHAPE)
        expected = scipy.ndimage.convolve(x, kernel[..., None], mode='wrap')
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-5)

    @parameterized.parameters(0.0, 0.5, 1.0)
    def test_a_kernel_is_a_path_of_the_right_size(self, intensity):
        for seed in range(5):
            kernel = blur.motion_kernel(jax.random.key(seed), 15, intensity)
            self.assertAlmostEqual(kernel.sum(), 1)
            self.assertGreaterEqual(kernel.min(), 0)
            rows, columns = np.nonzero(kernel > 0.005)
            self.assertGreater(max(np.ptp(rows), np.ptp(columns)), 5)
            # A path is thin: most of the square is empty.
            self.assertLess(len(rows), 0.5 * kernel.size)

    def test_a_straight_path_has_a_direction_and_a_length_by_chance(self):
        size, num_keys = 31, 60
        places = np.arange(size) - size // 2
        angles, extents = [], []
        for seed in range(num_keys):
            kernel = blur.motion_kernel(jax.random.key(seed), size, 0.0)
            # Its centre is that of the kernel, so that nothing is shifted.
            mean = [
                kernel.sum(axis=1 - axis) @ places / kernel.sum()
                for axis in (0, 1)
            ]
            np.testing.assert_allclose(mean, 0, atol=0.2)
            rows, columns = np.meshgrid(places, places, indexing='ij')
            second = np.array(
                [
                    [np.sum(kernel * a * b) for b in (rows, columns)]
                    for a in (rows, columns)
                ]
            )
            values, vectors = np.linalg.eigh(second)
            # Across, a path has the width of what smooths it: half a pixel,
            # and at most as much again of the bilinear weights.
            self.assertLess(values[0], 2 * 0.5**2 + 0.1)
            angles.append(np.arctan2(*vectors[:, 1]) % np.pi)
            # An even line of length l has the variance l^2 / 12. The longer
            # side of its box is that times the larger of cosine and sine.
            extents.append(
                np.sqrt(12 * values[1]) * np.abs(vectors[:, 1]).max()
            )
        # Half of the kernel to all of it, but for a pixel at either end and
        # the smoothing.
        extents = np.array(extents)
        self.assertBetween(extents.min(), 0.5 * (size - 3), 0.6 * size)
        self.assertBetween(extents.max(), 0.9 * (size - 3), 1.03 * size)
        # All directions: none of eight sectors is empty, which has a chance of
        # 8 (7/8)^60 = 0.3 %, and does not happen with these keys.
        self.assertLen(set((8 * np.array(angles) / np.pi).astype(int)), 8)
        # Direction and length are drawn by keys of their own.
        corner = np.abs(np.cos(angles))
        self.assertLess(abs(np.corrcoef(corner, extents)[0, 1]), 0.4)

    def test_more_intensity_turns_the_path_more(self):
        # The rounder a path, the nearer its two variances.
        def roundness(intensity):
            ratios = []
            for seed in range(20):
                kernel = blur.motion_kernel(jax.random.key(seed), 21, intensity)
                rows, columns = np.indices(kernel.shape) - 10
                second = [
                    [np.sum(kernel * a * b) for b in (rows, columns)]
                    for a in (rows, columns)
                ]
                values = np.linalg.eigvalsh(second)
                ratios.append(values[0] / values[1])
            return np.mean(ratios)

        straight, some, much = map(roundness, (0.0, 0.3, 1.0))
        self.assertLess(3 * straight, some)
        self.assertLess(1.5 * some, much)

    def test_the_task_is_the_convolution_with_its_kernel(self):
        key = jax.random.key(3)
        operator = blur.motion_deblur(key, SHAPE, blur_size=7, intensity=0.8)
        kernel = blur.motion_kernel(key, 7, 0.8)
        spot = np.zeros(SHAPE)
        spot[12, 9] = 1, 2, 3
        expected = np.zeros(SHAPE)
        expected[9:16, 6:13] = kernel[..., None] * [1, 2, 3]
        np.testing.assert_allclose(operator.forward(spot), expected, atol=1e-6)
        description = operator.describe()
        self.assertEqual(description['blur_size'], 7)
        self.assertAlmostEqual(description['intensity'], 0.8, places=6)

    @parameterized.parameters((256, 61), (64, 15), (42, 11), (16, 3), (3, 3))
    def test_its_size_follows_the_shorter_side(self, side, size):
        operator = blur.motion_deblur(jax.random.key(0), (side + 8, side, 1))
        self.assertEqual(operator.describe()['blur_size'], size)

    @parameterized.parameters(
        ({'blur_size': 4}, 'blur_size must be a whole odd number from 3 to 20'),
        ({'blur_size': 1}, 'blur_size must be a whole odd number from 3 to 20'),
        ({'blur_size': 21}, 'blur_size must be a whole odd number .* got 21'),
        ({'intensity': 1.5}, 'intensity must be a number from 0 to 1, got 1.5'),
        ({'intensity': float('nan')}, 'intensity must be .* got nan'),
    )
    def test_values_out_of_range_are_refused(self, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            blur.motion_deblur(jax.random.key(0), SHAPE, **parameters)

    @parameterized.parameters(
        (np.ones((25, 3)), 'two odd sides and at most 24 x 20 pixels, got .25'),
        (np.ones((3, 21)), 'two odd sides and at most 24 x 20 pixels, got .3'),
        (np.ones((3, 4)), 'must have two odd sides'),
        (np.ones((3, 3, 3)), 'must have two odd sides .* got .3, 3, 3'),
        (np.zeros((3, 3)), 'finite and not zero everywhere, got .* 0 to 0'),
        (np.full((3, 3), np.nan), 'a kernel must be finite'),
    )
    def test_what_is_no_kernel_is_refused(self, kernel, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            blur.convolution(kernel, SHAPE)

    def test_an_image_that_is_smaller_than_a_path_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'images of 3 x 3 .* 2 x 9'):
            blur.motion_deblur(jax.random.key(0), (2, 9, 3))


class SuperResolutionTest(parameterized.TestCase):
    def test_average_is_the_mean_of_blocks(self):
        operator = operators.make_operator(
            'super_resolution', jax.random.key(0), SHAPE, filter='average'
        )
        x = np.asarray(normal(30))
        expected = x.reshape(6, 4, 5, 4, 3).mean(axis=(1, 3))
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-6)

    @parameterized.parameters(2, 4)
    def test_bicubic_is_that_of_pillow(self, factor):
        operator = operators.make_operator(
            'super_resolution', jax.random.key(0), SHAPE, factor=factor
        )
        x = np.asarray(normal(31))
        # Pillow leaves out what lies beyond the edges, where we reflect it: it
        # is given the reflection, and what it makes of that is cut off.
        edge = 3 * factor
        padded = np.pad(x, ((edge, edge), (edge, edge), (0, 0)), 'symmetric')
        size = padded.shape[1] // factor, padded.shape[0] // factor
        expected = np.stack(
            [
                Image.fromarray(padded[..., c]).resize(
                    size, Image.Resampling.BICUBIC
                )
                for c in range(3)
            ],
            axis=-1,
        )
        np.testing.assert_allclose(
            operator.forward(x), expected[3:-3, 3:-3], atol=1e-5
        )

    @parameterized.parameters(
        ({'factor': 3}, 'factor must divide both sides of 24 x 20, got 3'),
        ({'factor': 8}, 'factor must divide both sides of 24 x 20, got 8'),
        ({'factor': 5}, 'factor must divide both sides of 24 x 20, got 5'),
        ({'factor': 1}, 'factor must be a whole number from 2 to 24, got 1'),
        ({'factor': 10**12}, 'factor must be a whole number .* got 100000'),
        ({'factor': float('nan')}, 'factor must be a whole number .* got nan'),
        ({'factor': float('inf')}, 'factor must be a whole number .* got inf'),
        ({'filter': 'lanczos'}, 'filter must be one of bicubic, average'),
    )
    def test_values_out_of_range_are_refused(self, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.make_operator(
                'super_resolution', jax.random.key(0), SHAPE, **parameters
            )


class ColorizationTest(absltest.TestCase):
    def test_it_is_the_mean_of_the_channels(self):
        x = np.asarray(normal(35), np.float64)
        expected = (x[..., :1] + x[..., 1:2] + x[..., 2:]) / 3
        np.testing.assert_allclose(
            operator_of('colorization').forward(x), expected, atol=1e-6
        )


class CompressedSensingTest(parameterized.TestCase):
    def make(self, seed, keep_fraction=0.3, shape=(64, 48, 3)):
        return operators.make_operator(
            'compressed_sensing',
            jax.random.key(seed),
            shape,
            keep_fraction=keep_fraction,
        )

    @parameterized.parameters(0.001, 0.1, 1.0)
    def test_the_count_is_exact_and_rows_are_orthonormal(self, fraction):
        operator = self.make(0, fraction, SHAPE)
        self.assertEqual(operator.mask.sum(), round(fraction * np.prod(SHAPE)))
        y = operator.mask * normal(40)
        np.testing.assert_allclose(
            operator.forward(operator.adjoint(y)), y, atol=1e-5
        )

    def test_it_is_the_transform_of_scipy_with_signs(self):
        operator = self.make(1)
        x = np.asarray(normal(41, (64, 48, 3)), np.float64)
        expected = scipy.fft.dctn(
            np.asarray(operator.signs) * x, axes=(0, 1), norm='ortho'
        )
        expected[np.asarray(operator.mask) == 0] = 0
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-4)

    def test_signs_are_even_and_tell_nothing_of_each_other(self):
        signs = np.asarray(self.make(2).signs)
        self.assertEqual(set(signs.ravel().tolist()), {-1.0, 1.0})
        # The mean of n fair signs has the standard error 1 / sqrt(n).
        for along in (
            signs,
            signs[1:] * signs[:-1],
            signs[:, 1:] * signs[:, :-1],
            signs[..., 1:] * signs[..., :-1],
        ):
            self.assertLess(abs(along.mean()), 4 / np.sqrt(along.size))

    def test_places_are_even_over_rows_columns_and_channels(self):
        mask = np.asarray(self.make(3).mask)
        for axis in (0, 1, 2):
            others = tuple(a for a in (0, 1, 2) if a != axis)
            kept = mask.mean(axis=others)
            error = np.sqrt(0.3 * 0.7 * len(kept) / mask.size)
            # Of 64 rows the one furthest off is within four and a half.
            self.assertLess(np.abs(kept - 0.3).max(), 4.5 * error)

    def test_signs_tell_nothing_of_the_places(self):
        operator = self.make(4)
        kept = np.asarray(operator.signs)[np.asarray(operator.mask) == 1]
        self.assertLess(abs(kept.mean()), 4 / np.sqrt(kept.size))

    def test_other_keys_give_other_signs_and_other_places(self):
        one, other = self.make(5), self.make(6)
        agree = np.mean(one.signs == other.signs)
        self.assertAlmostEqual(agree, 0.5, delta=2 / np.sqrt(one.signs.size))
        both = np.mean(one.mask * other.mask)
        self.assertAlmostEqual(both, 0.09, delta=1.5 / np.sqrt(one.mask.size))
        # More places with the same key are no other signs.
        np.testing.assert_array_equal(self.make(5, 0.9).signs, one.signs)

    def test_signs_and_places_tell_nothing_of_noise_from_the_same_key(self):
        # Were a caller to use the key itself once more.
        operator = self.make(7)
        noise = np.asarray(normal(7, (64, 48, 3)))
        for values in (operator.signs, operator.mask):
            found = np.corrcoef(np.ravel(values), noise.ravel())[0, 1]
            self.assertLess(abs(found), 4 / np.sqrt(noise.size))

    @parameterized.parameters(1.1, -0.1, float('nan'), 0.0, 1e-9)
    def test_a_fraction_out_of_range_is_refused(self, fraction):
        with self.assertRaisesRegex(
            ValueError,
            'keep_fraction must (be a number from 0 to 1|leave one or more of '
            f'9216 numbers), got {fraction}',
        ):
            self.make(0, fraction)


class NonlinearTest(parameterized.TestCase):
    # That of jpeg is the identity's, by design.
    @parameterized.parameters(*(t for t in _NONLINEAR if t != 'jpeg'))
    def test_the_gradient_is_that_of_small_changes(self, task):
        operator = operator_of(task)
        x, direction = 0.5 * normal(50), normal(51)
        y, change = jax.jvp(operator.forward, (x,), (direction,))
        size = 1e-2
        differences = operator.forward(x + size * direction) - y
        # Values at a kink, a clipped or a black one, are a few.
        error = np.abs(differences / size - change)
        self.assertLess(np.median(error), 0.02)
        self.assertTrue(np.all(np.isfinite(change)))

    def test_magnitudes_are_those_of_numpy_and_do_not_tell_a_turned_image(self):
        operator = operator_of('phase_retrieval')
        x = np.asarray(normal(53))
        padded = np.pad(x, ((5, 5), (5, 5), (0, 0)))
        expected = np.abs(np.fft.fft2(padded, axes=(0, 1), norm='ortho'))
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-4)
        turned = operator.forward(x[::-1, ::-1])
        np.testing.assert_allclose(turned, expected, atol=1e-4)
        self.assertEqual(operator.describe()['margin'], 5)
        # Without noise its energy is the image's.
        np.testing.assert_allclose(
            np.linalg.norm(operator.forward(x)), np.linalg.norm(x), rtol=1e-5
        )

    def test_light_that_is_not_spread_stays(self):
        operator = operator_of('nonlinear_deblur')
        constant = jnp.full(SHAPE, 0.3)
        np.testing.assert_allclose(
            operator.forward(constant), constant, atol=1e-5
        )
        # A light spot in the dark: in light the mean stays, so in values,
        # which are concave in light, it rises.
        spot = jnp.full(SHAPE, -1.0).at[12, 10].set(1.0)
        self.assertGreater(operator.forward(spot).mean(), spot.mean() + 0.01)

    def test_magnitudes_begin_a_little_above_zero(self):
        # Where the root would have no gradient.
        operator = operator_of('phase_retrieval')
        zero = jnp.zeros(SHAPE)
        np.testing.assert_allclose(operator.forward(zero), 1e-6, rtol=1e-4)
        _, change = jax.jvp(operator.forward, (zero,), (normal(57),))
        self.assertTrue(np.isfinite(change).all())

    @parameterized.parameters((0.0, 0), (0.5, 1), (2.0, 5), (8.0, 20))
    def test_the_margin_is_in_eighths_of_the_shorter_side(self, factor, margin):
        operator = operators.make_operator(
            'phase_retrieval', jax.random.key(0), SHAPE, oversampling=factor
        )
        self.assertEqual(
            operator.measurement_shape, (24 + 2 * margin, 20 + 2 * margin, 3)
        )

    def test_the_guess_at_phases_is_the_image_of_phase_zero(self):
        operator = operator_of('phase_retrieval')
        # A spot in the middle of the frame, at [17, 15], has a transform of
        # one sign, so it is its own guess, up to that sign.
        spot = jnp.zeros(SHAPE).at[12, 10].set(jnp.array([1.0, 0.5, 2.0]))
        np.testing.assert_allclose(
            operator.guess(operator.forward(spot)), spot, atol=1e-5
        )

    @parameterized.parameters(0.5, 1.0, 2.5)
    def test_an_overexposed_picture_is_that_of_numpy(self, gain):
        operator = operators.make_operator(
            'high_dynamic_range', jax.random.key(0), SHAPE, gain=gain
        )
        x = np.asarray(normal(54))
        expected = np.minimum(np.maximum(gain * x, -1), 1)
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-6)
        # Of all images with that measurement it guesses the least.
        guess = np.asarray(operator.guess(operator.forward(x)))
        np.testing.assert_allclose(operator.forward(guess), expected, atol=1e-6)
        self.assertTrue(np.all(np.abs(guess) <= np.abs(x) + 1e-6))

    @parameterized.parameters(0.8, 2.0)
    def test_light_is_blurred_as_by_scipy(self, std):
        operator = operators.make_operator(
            'nonlinear_deblur', jax.random.key(0), SHAPE, blur_std=std
        )
        x = np.clip(np.asarray(normal(55), np.float64), -0.99, 2)
        light = ((x + 1) / 2) ** 2.2
        light = scipy.ndimage.gaussian_filter(
            light, (std, std, 0), mode='mirror'
        )
        np.testing.assert_allclose(
            operator.forward(x), 2 * light ** (1 / 2.2) - 1, atol=2e-5
        )
        self.assertAlmostEqual(operator.describe()['blur_std'], std, places=6)

    @parameterized.parameters(
        ('phase_retrieval', {'oversampling': -1}, 'from 0 to 64, got -1'),
        ('phase_retrieval', {'oversampling': 1e9}, 'from 0 to 64, got 1000000'),
        ('phase_retrieval', {'oversampling': np.nan}, 'from 0 to 64, got nan'),
        ('phase_retrieval', {'oversampling': np.inf}, 'from 0 to 64, got inf'),
        (
            'high_dynamic_range',
            {'gain': 0},
            'gain .* from 0.001 to 1000, got 0',
        ),
        ('high_dynamic_range', {'gain': 1e39}, 'gain .* 1000, got 1e.39'),
        ('high_dynamic_range', {'gain': np.inf}, 'gain .* 1000, got inf'),
        (
            'jpeg',
            {'quality': 0},
            'quality must be a whole number from 1 to 100',
        ),
        ('jpeg', {'quality': 101}, 'quality .* from 1 to 100, got 101'),
        ('jpeg', {'quality': 50.5}, 'quality .* from 1 to 100, got 50.5'),
        ('jpeg', {'quality': np.nan}, 'quality .* from 1 to 100, got nan'),
        ('nonlinear_deblur', {'blur_std': 0}, 'from 0.01 to 20 pixels, got 0'),
        (
            'nonlinear_deblur',
            {'blur_std': 21},
            'from 0.01 to 20 pixels, got 21',
        ),
    )
    def test_values_out_of_range_are_refused(self, task, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.make_operator(
                task, jax.random.key(0), SHAPE, **parameters
            )


def pillow_jpeg(levels, quality):
    """What Pillow makes of a picture: its levels, and the tables of the file."""
    file = io.BytesIO()
    Image.fromarray(levels).save(file, 'JPEG', quality=quality, subsampling=0)
    opened = Image.open(file)
    tables = [np.reshape(t, (8, 8)) for t in opened.quantization.values()]
    return np.asarray(opened, np.float64), tables


def jpeg_by_blocks(levels, luminance, chrominance):
    """T.81 and T.871 in plain NumPy, without rounding but of coefficients."""
    red, green, blue = np.moveaxis(levels, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    planes = luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402
    k, n = np.mgrid[:8, :8]
    cosines = np.cos((2 * n + 1) * k * np.pi / 16) / 2
    cosines[0] /= np.sqrt(2)
    decoded = []
    for plane, table in zip(
        planes, (luminance, chrominance, chrominance), strict=True
    ):
        height, width = plane.shape
        edge = (0, -height % 8), (0, -width % 8)
        plane = np.pad(plane, edge, 'edge')
        for top in range(0, height, 8):
            for left in range(0, width, 8):
                block = np.s_[top : top + 8, left : left + 8]
                waves = cosines @ plane[block] @ cosines.T
                waves = np.round(waves / table) * table
                plane[block] = cosines.T @ waves @ cosines
        decoded.append(plane[:height, :width])
    luma, blue, red = decoded[0] + 128, decoded[1], decoded[2]
    red, blue = luma + 1.402 * red, luma + 1.772 * blue
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return np.stack([red, green, blue], axis=-1)


class JpegTest(parameterized.TestCase):
    def levels(self, shape=(35, 50, 3)):
        """A smooth picture in colour whose sides 8 does not divide."""
        noise = np.random.default_rng(0).normal(size=shape)
        # Not alike along rows and columns.
        smooth = scipy.ndimage.gaussian_filter(noise, (4, 1.5, 0))
        return images.to_uint8(2 * smooth / np.abs(smooth).max())

    def operator(self, quality, shape):
        return operators.make_operator(
            'jpeg', jax.random.key(0), shape, quality=quality
        )

    def ours(self, levels, quality):
        operator = self.operator(quality, levels.shape)
        x = jnp.asarray(levels / 127.5 - 1, jnp.float32)
        return 127.5 * (np.asarray(operator.forward(x), np.float64) + 1)

    def test_tables_are_those_of_pillow_at_every_quality(self):
        black = np.zeros((8, 8, 3), np.uint8)
        for quality in range(1, 101):
            tables = self.operator(quality, (8, 8, 3)).tables
            _, (luminance, chrominance) = pillow_jpeg(black, quality)
            for i, expected in enumerate((luminance, chrominance, chrominance)):
                np.testing.assert_array_equal(tables[..., i], expected)

    @parameterized.parameters(5, 20, 50, 90)
    def test_it_is_the_standard_block_by_block(self, quality):
        levels = self.levels()
        _, tables = pillow_jpeg(levels, quality)
        found = self.ours(levels, quality)
        expected = jpeg_by_blocks(levels.astype(np.float64), *tables)
        # A coefficient that lies in the middle may go the other way in float32,
        # which changes a block.
        close = np.abs(found - expected) < 0.01
        self.assertGreater(close.mean(), 0.95)

    @parameterized.parameters(5, 20, 50)
    def test_a_grey_picture_is_that_of_pillow(self, quality):
        grey = self.levels()[..., 0]
        found = self.ours(np.repeat(grey[..., None], 3, axis=-1), quality)
        np.testing.assert_allclose(found, found[..., :1] + 0 * found, atol=0.01)
        expected, _ = pillow_jpeg(grey, quality)
        # The file's levels are rounded, hence a half. Pillow transforms in whole
        # numbers, so that in one block of ten a coefficient near the middle
        # goes the other way; a zero that is off by half a level moves half of
        # them.
        error = np.abs(np.clip(found[..., 0], 0, 255) - expected)
        self.assertGreater(np.mean(error < 0.55), 0.8)

    @parameterized.parameters(10, 50, 90)
    def test_a_colour_picture_is_that_of_pillow(self, quality):
        levels = self.levels()
        expected, _ = pillow_jpeg(levels, quality)
        found = np.clip(self.ours(levels, quality), 0, 255)
        # A file rounds its colours before they are coded, and its levels.
        self.assertLess(np.abs(found - expected).mean(), 1.3)

    def test_its_gradient_is_that_of_the_identity(self):
        operator = self.operator(20, SHAPE)
        _, change = jax.jvp(operator.forward, (normal(58),), (normal(59),))
        np.testing.assert_allclose(change, normal(59), atol=1e-4)

    def test_other_channels_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'jpeg needs three channels'):
            self.operator(20, (8, 8, 1))


class BoundsTest(parameterized.TestCase):
    """Nothing is allocated before sizes and numbers are known to be sane."""

    @parameterized.parameters(
        ((0, 8, 3), 'image_shape must be three whole numbers of 1 or more'),
        ((8, -8, 3), 'image_shape must be three .* got .8, -8, 3.'),
        ((8, 8), 'image_shape must be three .* got .8, 8.'),
        ((8.0, 8, 3), 'image_shape must be three'),
        ((2**15, 2**15, 3), 'an image must have at most 268,435,456 numbers'),
        ((10**9, 10**9, 3), r'x 3 = 3,000,000,000,000,000,000\.'),
    )
    def test_a_shape_that_cannot_be_is_refused(self, shape, sentence):
        for task in operators.OPERATORS:
            with self.assertRaisesRegex(ValueError, sentence):
                operators.make_operator(task, jax.random.key(0), shape)

    def test_a_shape_may_be_a_list(self):
        operator = operators.make_operator(
            'jpeg', jax.random.key(0), [8, np.int64(8), 3]
        )
        self.assertEqual(operator.image_shape, (8, 8, 3))
        hash(operator.image_shape)

    def test_a_measurement_that_is_too_large_is_refused(self):
        with self.assertRaisesRegex(
            ValueError,
            'the measurement of oversampling 60.0 must have at most .* '
            '16384 x 16384 x 3 = 805,306,368',
        ):
            operators.make_operator(
                'phase_retrieval',
                jax.random.key(0),
                (1024, 1024, 3),
                oversampling=60.0,
            )

    def test_a_function_with_too_large_a_result_is_refused(self):
        with self.assertRaisesRegex(
            ValueError, 'a measurement must have at mo'
        ):
            operators.Function.of(
                lambda x: jnp.broadcast_to(x[0, 0, 0], (2**15, 2**15)), SHAPE
            )

    @parameterized.parameters(
        'gaussian_deblur', 'super_resolution', 'nonlinear_deblur'
    )
    def test_no_dense_matrix_is_made_of_a_very_long_side(self, task):
        for shape in ((2**20, 4, 3), (4, 2**20, 3)):
            with self.assertRaisesRegex(
                ValueError, f'{task} takes images of at most 8192 pixels a side'
            ):
                operators.make_operator(task, jax.random.key(0), shape)

    def test_bounds_themselves_are_allowed(self):
        bounds.check_number('n', 1, 0, 1)
        bounds.check_number('n', np.float32(0), 0, 1)
        bounds.check_number('n', jnp.asarray(0.5), 0, 1)
        bounds.check_whole('n', np.int64(3), 1, 3)
        bounds.check_whole('n', 1, 1, 3, odd=True)
        bounds.check_size('it', (2**14, 2**14))
        bounds.check_sides('it', (bounds.MOST_SIDE, bounds.MOST_SIDE, 99999))
        with self.assertRaises(ValueError):
            bounds.check_size('it', (2**14, 2**14 + 1))
        for value in ('1', b'1', True, None, [1, 2], 1j, 10**400):
            with self.assertRaisesRegex(ValueError, 'n must be a number from'):
                bounds.check_number('n', value, 0, 1)
        for value in ('1', True, None, 1.0, [1]):
            with self.assertRaisesRegex(ValueError, 'n must be a whole number'):
                bounds.check_whole('n', value, 0, 1)


class DescriptionTest(parameterized.TestCase):
    """A description is what a result is known by."""

    @parameterized.parameters(
        ('gaussian_deblur', {'blur_size': 3}),
        ('gaussian_deblur', {'blur_std': 0.4}),
        ('motion_deblur', {'blur_size': 7}),
        ('motion_deblur', {'intensity': 0.25}),
        ('super_resolution', {'factor': 2}),
        ('super_resolution', {'filter': 'average'}),
        ('box_inpainting', {'box_size': 5}),
        ('random_inpainting', {'drop_fraction': 0.5}),
        ('compressed_sensing', {'keep_fraction': 0.5}),
        ('phase_retrieval', {'oversampling': 4.0}),
        ('high_dynamic_range', {'gain': 3.0}),
        ('jpeg', {'quality': 30}),
        ('nonlinear_deblur', {'blur_std': 0.4}),
    )
    def test_another_parameter_is_another_description(self, task, parameters):
        other = operators.make_operator(
            task, jax.random.key(0), SHAPE, **parameters
        )
        self.assertNotEqual(other.describe(), operator_of(task).describe())

    def test_the_share_of_measured_numbers_is_told(self):
        description = operators.make_operator(
            'compressed_sensing', jax.random.key(0), SHAPE, keep_fraction=0.25
        ).describe()
        self.assertEqual(description['num_measured'], 360)
        self.assertEqual(description['measured_fraction'], 0.25)


class ParametersTest(absltest.TestCase):
    def factory(self, annotation, flags=0):
        """A task in a file of the user's own."""
        source = (
            'def mine(key, image_shape: tuple[int, int, int], *,\n'
            f'         strength: {annotation} = 1) -> Mask: ...\n'
        )
        names = {'Mask': Mask}
        exec(compile(source, 'mine.py', 'exec', flags), names)
        return names['mine']

    def test_those_of_a_task_are_its_keyword_arguments(self):
        self.assertEqual(
            operators.parameters('gaussian_deblur'),
            {'blur_size': int, 'blur_std': float},
        )
        self.assertEqual(
            operators.parameters('super_resolution'),
            {'factor': int, 'filter': str},
        )
        self.assertEqual(operators.parameters('denoising'), {})

    def test_annotations_may_be_strings(self):
        as_strings = __future__.annotations.compiler_flag
        for annotation, kind in (
            ('int', int),
            ('float | None', float),
            ('None | str', str),
        ):
            for flags in (0, as_strings):
                factory = self.factory(annotation, flags)
                with mock.patch.dict(operators.OPERATORS, mine=factory):
                    self.assertEqual(
                        operators.parameters('mine'), {'strength': kind}
                    )

    def test_another_annotation_is_refused_with_its_name(self):
        for annotation in ('bool', 'int | str', 'None'):
            factory = self.factory(annotation)
            with (
                mock.patch.dict(operators.OPERATORS, mine=factory),
                self.assertRaisesRegex(
                    ValueError, 'strength of mine must be annotated as int'
                ),
            ):
                operators.parameters('mine')


class FunctionTest(parameterized.TestCase):
    def test_a_linear_function_has_its_adjoint(self):
        operator = operators.Linear.of(
            lambda x, weights: weights * x[::2, 1:],
            SHAPE,
            normal(60, (12, 19, 3)),
        )
        operators.check_operator(operator)
        self.assertIsInstance(operator, types.LinearOperator)
        self.assertNotIsInstance(operator, types.SpectralOperator)
        x, y = normal(61), normal(62, (12, 19, 3))
        np.testing.assert_allclose(
            np.vdot(operator.forward(x), y),
            np.vdot(x, operator.adjoint(y)),
            rtol=1e-4,
        )
        np.testing.assert_array_equal(operator.guess(y), operator.adjoint(y))
        self.assertEqual(
            operator.describe(), {'kind': 'Linear', 'function': '<lambda>'}
        )

    def test_any_function_can_be_measured(self):
        operator = operators.Function.of(jnp.tanh, SHAPE)
        operators.check_operator(operator)
        self.assertNotIsInstance(operator, types.LinearOperator)
        x = normal(63)
        measured = problem.measure(jax.random.key(0), x, operator, 0.0)
        np.testing.assert_array_equal(measured.y, jnp.tanh(x))
        self.assertEqual(measured.image_shape, SHAPE)
        np.testing.assert_array_equal(operator.guess(measured.y), 0 * x)
        self.assertEqual(
            operator.describe(), {'kind': 'Function', 'function': 'tanh'}
        )

    @parameterized.parameters(
        (lambda x: x @ jnp.ones((7, 7)), 'must take an image of shape'),
        (lambda x: x.astype(jnp.int32), 'one array of real numbers, got .*int'),
        (lambda x: jnp.fft.fft2(x), 'one array of real numbers, got .*complex'),
        (lambda x: (x, x), 'one array of real numbers'),
    )
    def test_what_gives_no_measurement_is_refused(self, function, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.Function.of(function, SHAPE)

    @parameterized.parameters(
        (jnp.tanh, 'must be linear in the image, operation by operation'),
        (lambda x: x * x, 'must be linear in the image'),
        (lambda x: jnp.where(x > 0, x, 0), 'must be linear in the image'),
        (lambda x: x + 1, 'does not map zeros to zeros'),
    )
    def test_what_is_not_linear_is_refused(self, function, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.Linear.of(function, SHAPE)


class RandomSignsTest(absltest.TestCase):
    def test_half_of_the_signs_of_a_projection_are_negative(self):
        first, second = (
            np.asarray(
                operators.make_operator(
                    'compressed_sensing', jax.random.key(i), (32, 32, 1)
                ).signs
            )
            for i in (0, 1)
        )
        np.testing.assert_array_equal(np.abs(first), 1)
        # Means of 1,024 signs, and of products of two: four standard errors.
        for signs in (first, second, first * second):
            self.assertLess(abs(signs.mean()), 4 / 32)


if __name__ == '__main__':
    absltest.main()
