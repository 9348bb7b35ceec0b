"""Operators: a contract that each one keeps, and what is special about some."""

import functools
import io
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import images, operators, problem
from invjax.operators import blur

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

    @parameterized.parameters((256, 61, 3.0), (64, 15, 1.5))
    def test_defaults_follow_the_side_of_the_image(self, side, size, std):
        shape = (side, side, 1)
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
        ({'blur_size': 0}, 'blur_size must be a whole odd number'),
        ({'blur_size': -3}, 'blur_size must be a whole odd number'),
        ({'blur_size': 41}, 'whole odd number, from 1 to 39 .*got 41'),
        ({'blur_size': 7.0}, 'blur_size must be a whole odd number.*7.0'),
        ({'blur_size': float('nan')}, 'blur_size must be a whole odd number'),
        ({'blur_std': float('nan')}, 'blur_std must be above 0'),
        ({'blur_std': float('inf')}, 'blur_std must be above 0'),
        ({'blur_std': 0.0}, 'blur_std must be above 0'),
        ({'blur_std': -1.0}, 'blur_std must be above 0'),
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

    @parameterized.parameters((0, 2), (21, 0), (10, 6), (5, -1))
    def test_a_box_that_does_not_fit_is_refused(self, size, margin):
        with self.assertRaisesRegex(ValueError, 'must be at most the side'):
            operators.make_operator(
                'box_inpainting',
                jax.random.key(0),
                SHAPE,
                box_size=size,
                box_margin=margin,
            )

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
    @parameterized.parameters((0.0, 0), (0.25, 1024), (0.7, 2867), (1.0, 4096))
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

    @parameterized.parameters(-0.1, 1.1, 70, float('nan'))
    def test_a_fraction_out_of_range_is_refused(self, fraction):
        with self.assertRaisesRegex(ValueError, 'drop_fraction must be from 0'):
            operators.make_operator(
                'random_inpainting',
                jax.random.key(0),
                SHAPE,
                drop_fraction=fraction,
            )


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

    def test_nothing_measured_leaves_no_residual(self):
        nothing = problem.nothing_measured(SHAPE)
        self.assertEqual(nothing.num_measured(), 0)
        self.assertEqual(nothing.image_shape, SHAPE)
        np.testing.assert_array_equal(nothing.residual(normal(13)), 0)

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

    @parameterized.parameters(
        ({'blur_size': 4}, 'blur_size must be a whole odd number, from 3'),
        ({'intensity': 1.5}, 'intensity must be from 0 to 1, got 1.5'),
    )
    def test_values_out_of_range_are_refused(self, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            blur.motion_deblur(jax.random.key(0), SHAPE, **parameters)

    def test_a_kernel_that_does_not_fit_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'must be odd and at most 24'):
            blur.convolution(np.ones((25, 3)), SHAPE)


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
        size = SHAPE[1] // factor, SHAPE[0] // factor
        expected = np.stack(
            [
                Image.fromarray(x[..., c]).resize(
                    size, Image.Resampling.BICUBIC
                )
                for c in range(3)
            ],
            axis=-1,
        )
        # Pillow leaves out what lies beyond the edges; we reflect it.
        inside = slice(2, -2)
        np.testing.assert_allclose(
            np.asarray(operator.forward(x))[inside, inside],
            expected[inside, inside],
            atol=1e-5,
        )

    @parameterized.parameters(
        ({'factor': 3}, 'factor must be a whole number of 2 or more that'),
        ({'factor': 1}, 'factor must be a whole number of 2 or more that'),
        ({'filter': 'lanczos'}, 'filter must be one of bicubic, average'),
    )
    def test_values_out_of_range_are_refused(self, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.make_operator(
                'super_resolution', jax.random.key(0), SHAPE, **parameters
            )


class CompressedSensingTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.1, 1.0)
    def test_the_count_is_exact_and_rows_are_orthonormal(self, fraction):
        operator = operators.make_operator(
            'compressed_sensing',
            jax.random.key(0),
            SHAPE,
            keep_fraction=fraction,
        )
        self.assertEqual(operator.mask.sum(), round(fraction * np.prod(SHAPE)))
        y = operator.mask * normal(40)
        np.testing.assert_allclose(
            operator.forward(operator.adjoint(y)), y, atol=1e-5
        )

    def test_a_fraction_out_of_range_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'keep_fraction must be from'):
            operators.make_operator(
                'compressed_sensing',
                jax.random.key(0),
                SHAPE,
                keep_fraction=1.1,
            )


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

    @parameterized.parameters(*_NONLINEAR)
    def test_pinv_has_the_shape_of_an_image(self, task):
        operator = operator_of(task)
        self.assertEqual(
            operator.pinv(operator.forward(normal(52))).shape, SHAPE
        )

    def test_magnitudes_are_those_of_numpy_and_do_not_tell_a_turned_image(self):
        operator = operator_of('phase_retrieval')
        x = np.asarray(normal(53))
        padded = np.pad(x, ((5, 5), (5, 5), (0, 0)))
        expected = np.abs(np.fft.fft2(padded, axes=(0, 1), norm='ortho'))
        np.testing.assert_allclose(operator.forward(x), expected, atol=1e-4)
        turned = operator.forward(x[::-1, ::-1])
        np.testing.assert_allclose(turned, expected, atol=1e-4)
        # Without noise its energy is the image's.
        np.testing.assert_allclose(
            np.linalg.norm(operator.forward(x)), np.linalg.norm(x), rtol=1e-5
        )

    @parameterized.parameters(10, 50, 90)
    def test_jpeg_is_that_of_pillow(self, quality):
        rng = np.random.default_rng(0)
        smooth = scipy.ndimage.gaussian_filter(
            rng.normal(size=(32, 48, 3)), (3, 3, 0)
        )
        x = images.to_float(images.to_uint8(2 * smooth / np.abs(smooth).max()))
        operator = operators.make_operator(
            'jpeg', jax.random.key(0), x.shape, quality=quality
        )
        file = io.BytesIO()
        Image.fromarray(images.to_uint8(x)).save(
            file, 'JPEG', quality=quality, subsampling=0
        )
        expected = images.to_float(np.asarray(Image.open(file)))
        found = np.clip(operator.forward(x), -1, 1)
        # A file rounds its values and its colours once more: a level or two,
        # and now and then a coefficient the other way.
        self.assertLess(np.abs(found - expected).mean(), 2 / 127.5)
        self.assertLess(
            np.abs(found - expected).mean(),
            0.5 * np.abs(x - expected).mean() + 1 / 127.5,
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

    @parameterized.parameters(
        ('phase_retrieval', {'oversampling': -1}, 'oversampling must be 0 or'),
        ('high_dynamic_range', {'gain': 0}, 'gain must be above 0 and finite'),
        (
            'jpeg',
            {'quality': 0},
            'quality must be a whole number from 1 to 100',
        ),
        (
            'nonlinear_deblur',
            {'blur_std': 0},
            'blur_std must be above 0 pixels',
        ),
    )
    def test_values_out_of_range_are_refused(self, task, parameters, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            operators.make_operator(
                task, jax.random.key(0), SHAPE, **parameters
            )


class FunctionTest(absltest.TestCase):
    def test_a_linear_function_has_its_adjoint(self):
        operator = operators.Linear.of(
            lambda x, weights: weights * x[::2, 1:],
            SHAPE,
            normal(60, (12, 19, 3)),
        )
        x, y = normal(61), normal(62, (12, 19, 3))
        np.testing.assert_allclose(
            np.vdot(operator.forward(x), y),
            np.vdot(x, operator.adjoint(y)),
            rtol=1e-4,
        )

    def test_any_function_can_be_measured(self):
        operator = operators.Function.of(jnp.tanh, SHAPE)
        x = normal(63)
        measured = problem.measure(jax.random.key(0), x, operator, 0.0)
        np.testing.assert_array_equal(measured.y, jnp.tanh(x))
        self.assertEqual(measured.image_shape, SHAPE)
        self.assertEqual(
            operator.describe(), {'kind': 'Function', 'function': 'tanh'}
        )

    def test_a_function_of_another_shape_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'must take an image of shape'):
            operators.Function.of(lambda x: x @ jnp.ones((7, 7)), SHAPE)


if __name__ == '__main__':
    absltest.main()
