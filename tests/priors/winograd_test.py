"""Minimal filtering against XLA's convolution and its gradient."""

import functools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.priors import layers, winograd
from invjax.priors.unet import NetworkPrior, UNet

# Of the largest value: float32 rounding, which the transforms, whose entries
# add up to 10 x 10 in size, make some 100 times larger.
_TOLERANCE = 2e-5


def _draw(height, width, inputs, outputs):
    key_x, key_kernel = jax.random.split(jax.random.key(0))
    x = jax.random.normal(key_x, (height, width, inputs))
    return x, jax.random.normal(key_kernel, (3, 3, inputs, outputs))


def _assert_close(actual, expected):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=_TOLERANCE * scale
    )


def _parameters(network, x):
    """Drawn by NumPy: to compile what draws them takes longer than the test."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, 0)['params']
    return jax.tree.map(
        lambda leaf: np.float32(
            rng.standard_normal(leaf.shape) / np.prod(leaf.shape[:-1]) ** 0.5
        ),
        shapes,
    )


class ConvTest(parameterized.TestCase):
    @parameterized.product(tile=[2, 4], shape=[(8, 12, 5, 7), (4, 4, 33, 2)])
    def test_equals_the_plain_convolution_and_its_gradient(self, tile, shape):
        x, kernel = _draw(*shape)
        prepared = winograd.prepare(kernel, tile)

        cotangent = jax.random.normal(jax.random.key(1), (*shape[:2], shape[3]))

        @functools.partial(jax.jit, static_argnums=0)
        def value_and_gradient(conv, x, kernel):
            value, vjp = jax.vjp(conv, x, kernel)
            return value, vjp(cotangent)[0]

        expected = value_and_gradient(layers.conv, x, kernel)
        actual = value_and_gradient(winograd.conv, x, prepared)
        for one, other in zip(actual, expected, strict=True):
            _assert_close(one, other)

    def test_without_compilation_it_is_the_same(self):
        x, kernel = _draw(8, 8, 6, 4)
        prepared = winograd.prepare(kernel, 4)
        expected = winograd.conv(x, prepared), layers.conv(x, kernel)
        with jax.disable_jit():
            actual = winograd.conv(x, prepared), layers.conv(x, kernel)
        for one, other in zip(actual, expected, strict=True):
            _assert_close(one, other)

    def test_a_batch_row_equals_that_image_alone(self):
        x, kernel = _draw(8, 8, 6, 4)
        prepared = winograd.prepare(kernel, 4)
        batch = jnp.stack([x, -2 * x, x + 1])

        rows = jax.jit(jax.vmap(winograd.conv, (0, None)))(batch, prepared)

        alone = jax.jit(winograd.conv)
        for row, image in zip(rows, batch, strict=True):
            _assert_close(row, alone(image, prepared))

    def test_tiles_fit_the_image_and_the_channels(self):
        self.assertEqual(winograd.best_tile(64, 64, 32, 32), 4)
        self.assertEqual(winograd.best_tile(8, 8, 512, 256), 2)
        self.assertEqual(winograd.best_tile(6, 64, 32, 32), 2)
        self.assertIsNone(winograd.best_tile(64, 64, 3, 128))
        self.assertIsNone(winograd.best_tile(7, 64, 64, 64))

    def test_its_tangent_is_the_convolution_of_the_tangent(self):
        x, kernel = _draw(8, 8, 6, 4)
        prepared = winograd.prepare(kernel, 4)

        @jax.jit
        def tangent(x, prepared):
            of_both = jax.jvp(winograd.conv, (x, prepared), (-x, prepared))
            return of_both[1], winograd.conv(x, prepared)

        actual, value = tangent(x, prepared)
        # A prepared kernel is a constant.
        _assert_close(actual, -value)


# Images of (12, 8), with 5 and 7 channels: rows of tiles take 24 * 36 * 2 bytes.
_OF_A_ROW = 4 * 36 * 2 * (5 + 7)


class PartsTest(parameterized.TestCase):
    """Images at once, images in groups, and images in strips of rows."""

    @parameterized.product(
        of_a_part=[
            (100 * _OF_A_ROW, (6, 3)),
            (6 * _OF_A_ROW, (2, 3)),
            (3 * _OF_A_ROW, (1, 3)),
            (_OF_A_ROW, (1, 1)),
        ],
        turned=[False, True],
    )
    def test_they_make_no_difference(self, of_a_part, turned):
        size, expected_parts = of_a_part
        key_x, key_kernel = jax.random.split(jax.random.key(3))
        x = jax.random.normal(key_x, (6, 12, 8, 5))
        shape = (3, 3, 7, 5) if turned else (3, 3, 5, 7)
        kernel = jax.random.normal(key_kernel, shape)

        with mock.patch.object(winograd, '_PART_BYTES', size):
            self.assertEqual(winograd._parts(x.shape, 7, 4), expected_parts)

            @jax.jit
            def filtered(x, kernel):
                transformed = winograd.transform_kernel(kernel, 4, turned)
                return winograd.convolve(x, transformed, turned)

            actual = filtered(x, kernel)
        if turned:
            kernel = kernel[::-1, ::-1].swapaxes(2, 3)
        expected = jax.lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            'SAME',
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )
        _assert_close(actual, expected)

    @parameterized.parameters(
        (100, (6, 3)), (6, (2, 3)), (3, (1, 3)), (1, (1, 1))
    )
    def test_nor_do_they_for_the_gradient(self, rows, expected_parts):
        key_x, key_bar = jax.random.split(jax.random.key(4))
        x = jax.random.normal(key_x, (6, 12, 8, 5))
        cotangent = jax.random.normal(key_bar, (6, 12, 8, 7))
        with (
            mock.patch.object(winograd, '_PART_BYTES', rows * _OF_A_ROW),
            # Else the kernel, which is larger, says how large parts are.
            mock.patch.object(winograd, '_of_kernel', return_value=0),
        ):
            self.assertEqual(winograd._parts(x.shape, 7, 4), expected_parts)

            # A function of its own, which no case before has compiled.
            @jax.jit
            def gradient(x, cotangent):
                return winograd.kernel_gradient(x, cotangent, 4)

            actual = gradient(x, cotangent)

        padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        expected = np.array(
            [
                [
                    np.einsum(
                        'nhwi,nhwo->io',
                        padded[:, i : i + 12, j : j + 8],
                        cotangent,
                    )
                    for j in range(3)
                ]
                for i in range(3)
            ]
        )
        _assert_close(actual, expected)

    def test_a_prime_number_of_images_is_not_taken_one_by_one(self):
        self.assertEqual(winograd._parts((23, 8, 8, 256), 256, 4), (23, 2))
        self.assertEqual(winograd._parts((1, 148, 64, 32), 32, 4), (1, 37))

    def test_a_size_that_tiles_do_not_divide_is_refused(self):
        _, kernel = _draw(4, 4, 5, 7)
        transformed = winograd.transform_kernel(kernel, 4)
        for shape in (1, 10, 8, 5), (1, 8, 10, 5):
            with self.assertRaisesRegex(ValueError, 'divide'):
                winograd.convolve(jnp.zeros(shape), transformed)


class KernelGradientTest(parameterized.TestCase):
    @parameterized.product(tile=[2, 4], shape=[(8, 12, 5, 7), (4, 4, 33, 2)])
    def test_it_is_the_sum_over_the_images_of_each_ones(self, tile, shape):
        x, kernel = _draw(*shape)
        batch = jnp.stack([x, -2 * x, x[::-1]])
        cotangent = jax.random.normal(
            jax.random.key(1), (3, *shape[:2], shape[3])
        )

        actual = jax.jit(winograd.kernel_gradient, static_argnums=2)(
            batch, cotangent, tile
        )

        @jax.jit
        def gradient(image, bar):
            return jax.vjp(lambda k: layers.conv(image, k), kernel)[1](bar)[0]

        expected = sum(map(gradient, batch, cotangent))
        _assert_close(actual, expected)


class PreparedPriorTest(absltest.TestCase):
    def test_is_the_same_function_with_the_same_gradient(self):
        network = UNet(
            image_size=16,
            model_channels=32,
            channel_mult=(1, 2),
            attention_downsamplings=(2,),
            head_channels=32,
        )
        x = jax.random.normal(jax.random.key(0), (16, 16, 3))
        params = _parameters(network, x)
        plain = NetworkPrior(params, network)
        prepared = plain.prepare()
        self.assertNotEmpty(jax.tree.leaves(prepared.prepared))

        @jax.jit
        def eps_and_gradient(prior):
            eps, vjp = jax.vjp(lambda x: prior(x, 500).eps, x)
            return eps, vjp(x)[0]

        for actual, expected in zip(
            eps_and_gradient(prepared), eps_and_gradient(plain), strict=True
        ):
            # Some ten layers, each of them within the tolerance above.
            np.testing.assert_allclose(
                actual, expected, rtol=0, atol=1e-4 * np.abs(expected).max()
            )

    def test_half_precision_is_refused(self):
        prior = NetworkPrior({}, UNet(dtype=jnp.bfloat16))
        with self.assertRaisesRegex(ValueError, 'float32.*bfloat16'):
            prior.prepare()


if __name__ == '__main__':
    absltest.main()
