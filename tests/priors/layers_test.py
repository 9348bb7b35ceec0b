"""Each primitive against a plainer form of it, or a property that defines it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import scipy.signal
from absl.testing import absltest, parameterized
from jax import lax
from jax.test_util import check_grads

from invjax.priors import blocks, layers


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def assert_close(actual, expected, tolerance=1e-5):
    """Within `tolerance` of the largest value: some ten float32 roundings."""
    expected = np.asarray(expected)
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


class ConvTest(parameterized.TestCase):
    # On a CPU the small ones are summed tap by tap.
    @parameterized.parameters(
        (1, 6, 9), (3, 6, 9), (5, 6, 9), (3, 2, 2), (3, 1, 3), (3, 4, 4)
    )
    def test_its_gradients_are_the_ones_that_xla_derives(
        self, size, height, width
    ):
        x, kernel = normal(0, height, width, 4), normal(1, size, size, 4, 5)
        cotangent = normal(2, height, width, 5)

        def plain(x, kernel):
            return lax.conv_general_dilated(
                x[None],
                kernel,
                (1, 1),
                'SAME',
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )[0]

        with jax.default_matmul_precision('highest'):
            out, pull = jax.vjp(layers.conv, x, kernel)
            expected, expected_pull = jax.vjp(plain, x, kernel)
            bars, expected_bars = pull(cotangent), expected_pull(cotangent)
        assert_close(out, expected)
        assert_close(bars[0], expected_bars[0])
        assert_close(bars[1], expected_bars[1])

    @parameterized.parameters(
        # The first has more pixels than features, the second fewer; the fourth is
        # filtered on a CPU, the last has few pixels.
        dict(size=1, inputs=4, outputs=5),
        dict(size=1, inputs=4, outputs=70),
        dict(size=3, inputs=4, outputs=5),
        dict(size=3, inputs=32, outputs=36),
        dict(size=3, inputs=32, outputs=36, side=2),
    )
    def test_a_batch_is_each_image_and_hands_its_kernel_the_sum(
        self, size, inputs, outputs, side=8
    ):
        x = normal(0, 4, side, side, inputs)
        kernel = normal(1, size, size, inputs, 1) * normal(2, outputs)
        cotangents = normal(3, 4, side, side, outputs)

        def of_batch(x, kernel):
            return jax.vmap(layers.conv, (0, None))(x, kernel)

        def of_each(x, cotangent):
            return jax.vjp(lambda k: layers.conv(x, k), kernel)[1](cotangent)[0]

        with jax.default_matmul_precision('highest'):
            out, pull = jax.vjp(of_batch, x, kernel)
            x_bar, summed = pull(cotangents)
            each = jax.vmap(of_each)(x, cotangents)
            one, pull_one = jax.vjp(layers.conv, x[1], kernel)
            x_bar_of_one, kernel_bar_of_one = pull_one(cotangents[1])
        assert_close(out[1], one, 3e-5)
        assert_close(x_bar[1], x_bar_of_one, 3e-5)
        assert_close(summed, each.sum(0), 3e-5)
        assert_close(each[1], kernel_bar_of_one, 3e-5)

    def test_the_gradient_of_a_batchs_input_gradient(self):
        x, kernel = normal(0, 4, 8, 8, 32), normal(1, 3, 3, 32, 36)
        cotangents, seen = normal(2, 4, 8, 8, 36), normal(3, 4, 8, 8, 32)

        def input_gradient(conv, kernel, cotangents):
            return jax.vjp(lambda x: conv(x, kernel), x)[1](cotangents)[0]

        def plain(x, kernel):
            return lax.conv_general_dilated(
                x,
                kernel,
                (1, 1),
                'SAME',
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            )

        with jax.default_matmul_precision('highest'):
            actual, expected = (
                jax.vjp(
                    functools.partial(input_gradient, conv), kernel, cotangents
                )[1](seen)
                for conv in (jax.vmap(layers.conv, (0, None)), plain)
            )
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, 3e-5)

    def test_a_batch_of_kernels_is_each_alone(self):
        x, kernels = normal(0, 6, 8, 4), normal(1, 2, 3, 3, 4, 5)
        with jax.default_matmul_precision('highest'):
            both = jax.vmap(layers.conv, (None, 0))(x, kernels)
            for out, kernel in zip(both, kernels, strict=True):
                assert_close(out, layers.conv(x, kernel))

    @parameterized.parameters((layers.conv, 2), (layers.conv_stride_2, 4))
    def test_few_pixels_in_half_precision_keep_it(self, conv, side):
        x, kernel = normal(0, 3, side, side, 64), normal(1, 3, 3, 64, 8)
        half = [jnp.asarray(a, jnp.bfloat16) for a in (x, kernel)]
        cotangents = jnp.asarray(normal(2, 3, 2, 2, 8), jnp.bfloat16)
        found, expected = [], []
        for kept, dtype in ((found, jnp.bfloat16), (expected, jnp.float32)):
            out, pull = jax.vjp(
                jax.vmap(conv, (0, None)), *(a.astype(dtype) for a in half)
            )
            kept += [out, *pull(cotangents.astype(dtype))]
        for one, other in zip(found, expected, strict=True):
            self.assertEqual(one.dtype, jnp.bfloat16)
            # Sums are in float32; what is rounded is the result, to 8 bits.
            assert_close(one.astype(jnp.float32), other, 1e-2)

    def test_its_gradient_has_a_gradient(self):
        x, kernel = normal(0, 4, 4, 2), normal(1, 3, 3, 2, 2)
        check_grads(layers.conv, (x, kernel), order=2, atol=1e-2, rtol=1e-2)

    # Of the second few pixels are left, which are summed tap by tap.
    @parameterized.parameters((10, 12), (2, 8))
    def test_a_stride_of_2_keeps_every_second_pixel(self, height, width):
        x, kernel = normal(0, height, width, 4), normal(1, 3, 3, 4, 5)
        with jax.default_matmul_precision('highest'):
            every = layers.conv(x, kernel)
            second = layers.conv_stride_2(x, kernel)
        assert_close(second, every[::2, ::2])

    @parameterized.parameters((10, 12), (2, 8))
    def test_padding_after_alone_moves_what_a_stride_of_2_keeps(
        self, height, width
    ):
        x, kernel = normal(0, height, width, 4), normal(1, 3, 3, 4, 5)
        with jax.default_matmul_precision('highest'):
            every = layers.conv(x, kernel)
            second = layers.conv_stride_2(x, kernel, padding=(0, 1))
        # The window begins at the pixel itself, so its middle is one further.
        assert_close(second, every[1::2, 1::2])


class GroupNormTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        # Far from zero mean, where a one-pass variance would lose digits.
        self.x = 3 * normal(0, 5, 7, 64) + 20
        self.scale, self.bias = normal(1, 64), normal(2, 64)

    def test_it_equals_the_reshaped_form(self):
        groups = np.float64(self.x).reshape(-1, 32, 2)
        mean = groups.mean(axis=(0, 2), keepdims=True)
        std = np.sqrt(groups.var(axis=(0, 2), keepdims=True) + 1e-5)
        normalised = ((groups - mean) / std).reshape(self.x.shape)
        out = layers.group_norm(self.x, self.scale, self.bias)
        # The mean of 20 costs the digits that it takes.
        assert_close(out, normalised * self.scale + self.bias, 2e-5)

    def test_it_equals_flax(self):
        norm = nn.GroupNorm(
            num_groups=32, epsilon=1e-5, use_fast_variance=False
        )
        params = {'scale': self.scale, 'bias': self.bias}
        # Flax takes the first axis for a batch.
        expected = norm.apply({'params': params}, self.x[None])[0]
        out = layers.group_norm(self.x, self.scale, self.bias)
        assert_close(out, expected, 2e-5)

    def test_a_constant_image_becomes_the_bias(self):
        out = layers.group_norm(
            np.full((4, 4, 64), 0.5, np.float32), self.scale, self.bias
        )
        assert_close(out, np.broadcast_to(self.bias, (4, 4, 64)))

    def test_half_precision_is_normalised_in_float32(self):
        half = jnp.asarray(self.x, jnp.bfloat16)
        out = layers.group_norm(half, self.scale, self.bias)
        same = layers.group_norm(
            half.astype(jnp.float32), self.scale, self.bias
        )
        self.assertEqual(out.dtype, jnp.float32)
        np.testing.assert_array_equal(out, same)

    def test_with_silu_it_is_the_two_together(self):
        out = layers.group_norm_silu(self.x, self.scale, self.bias)
        norm = layers.group_norm(self.x, self.scale, self.bias)
        assert_close(out, nn.silu(norm))

    @parameterized.parameters(jnp.float32, jnp.bfloat16)
    def test_its_gradient_is_that_of_the_two_together(self, dtype):
        weights = normal(3, 5, 7, 64)

        def composed(x, scale, bias):
            return jnp.sum(weights * nn.silu(layers.group_norm(x, scale, bias)))

        def fused(x, scale, bias):
            out = layers.group_norm_silu(x, scale, bias)
            return jnp.sum(weights * out)

        x = jnp.asarray(self.x, dtype)
        arguments = x, self.scale, self.bias
        expected = jax.grad(composed, (0, 1, 2))(*arguments)
        found = jax.grad(fused, (0, 1, 2))(*arguments)
        self.assertEqual(found[0].dtype, dtype)
        # Of half precision, the result of each is rounded once more.
        tolerance = 1e-5 if dtype == jnp.float32 else 1e-2
        for a, b in zip(found, expected, strict=True):
            assert_close(jnp.float32(a), jnp.float32(b), tolerance)


class ResampleTest(absltest.TestCase):
    def test_downsampling_undoes_upsampling(self):
        x = normal(0, 3, 5, 4)
        np.testing.assert_array_equal(layers.downsample(layers.upsample(x)), x)

    def test_they_are_adjoint_up_to_the_size_of_a_block(self):
        x, y = normal(0, 3, 5, 4), normal(1, 6, 10, 4)
        self.assertAlmostEqual(
            float(jnp.vdot(layers.upsample(x), y)),
            4 * float(jnp.vdot(x, layers.downsample(y))),
            places=4,
        )

    def test_smooth_resampling_is_a_convolution_with_its_filter(self):
        x = normal(0, 6, 8, 2)
        taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
        spread = np.zeros((12, 16, 2))
        spread[::2, ::2] = x
        for channel in range(2):
            # A full convolution reaches three pixels further; two of them are
            # before the first output.
            up = scipy.signal.convolve2d(spread[..., channel], 4 * taps)
            assert_close(
                layers.smooth_upsample(x)[..., channel], up[1:13, 1:17]
            )
            down = scipy.signal.convolve2d(x[..., channel], taps)
            assert_close(
                layers.smooth_downsample(x)[..., channel], down[2:8:2, 2:10:2]
            )

    def test_smooth_resampling_up_and_down_are_adjoint(self):
        x, y = normal(0, 4, 6, 3), normal(1, 8, 12, 3)
        self.assertAlmostEqual(
            float(jnp.vdot(layers.smooth_upsample(x), y)),
            4 * float(jnp.vdot(x, layers.smooth_downsample(y))),
            places=4,
        )

    def test_smooth_resampling_keeps_a_constant_inside_of_the_border(self):
        x = jnp.ones((8, 8, 1))
        up, down = layers.smooth_upsample(x), layers.smooth_downsample(x)
        assert_close(up[1:-1, 1:-1], np.ones((14, 14, 1)))
        assert_close(down[1:-1, 1:-1], np.ones((2, 2, 1)))

    def test_without_padding_the_border_is_read_from_the_image(self):
        x = normal(0, 10, 12, 2)
        whole = layers.smooth_downsample(np.pad(x, ((1, 1), (1, 1), (0, 0))))
        inner = layers.smooth_downsample(x, padding=0)
        assert_close(inner, whole[1:-1, 1:-1])


class AttentionTest(parameterized.TestCase):
    pixels, heads, width = 10, 3, 4

    def test_the_two_orders_are_one_permutation_of_channels_apart(self):
        new = normal(0, self.pixels, 3 * self.heads * self.width)
        # From (q k v, head, channel) to (head, q k v, channel).
        legacy = new.reshape(self.pixels, 3, self.heads, self.width)
        legacy = legacy.swapaxes(1, 2).reshape(new.shape)
        np.testing.assert_array_equal(
            layers.attention(new, self.heads, new_order=True),
            layers.attention(legacy, self.heads, new_order=False),
        )

    def test_it_equals_the_attention_of_jax(self):
        qkv = normal(0, self.pixels, 3 * self.heads * self.width)
        q, k, v = (
            part.reshape(1, self.pixels, self.heads, self.width)
            for part in np.split(qkv, 3, axis=1)
        )
        with jax.default_matmul_precision('highest'):
            expected = jax.nn.dot_product_attention(q, k, v)
            out = layers.attention(qkv, self.heads, new_order=True)
        assert_close(out, expected.reshape(self.pixels, -1))

    @parameterized.parameters(False, True)
    def test_queries_of_zero_give_every_pixel_the_mean_value(self, new_order):
        shape = (self.pixels, self.heads, self.width)
        q, k, v = (
            np.zeros(shape, np.float32),
            normal(0, *shape),
            normal(1, *shape),
        )
        qkv = np.stack([q, k, v], axis=1 if new_order else 2)
        with jax.default_matmul_precision('highest'):
            out = layers.attention(
                qkv.reshape(self.pixels, -1), self.heads, new_order
            )
        mean = v.mean(axis=0).reshape(1, -1)
        assert_close(out, np.broadcast_to(mean, out.shape))


class FourierEmbeddingTest(absltest.TestCase):
    def test_a_frequency_is_a_number_of_turns(self):
        params = {'frequencies': np.float32([1, 2, 3])}
        # A quarter, two quarters and three quarters of a turn.
        waves = blocks.FourierEmbedding(6).apply({'params': params}, 0.25)
        np.testing.assert_allclose(waves, [1, 0, -1, 0, -1, 0], atol=1e-6)


if __name__ == '__main__':
    absltest.main()
