"""The network against outputs and gradients of the PyTorch original.

The goldens' weights are a recipe in the tensors' names, so that a state dict
as PyTorch would write it can be made here and pass through the conversion.
"""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from invjax.priors import convert
from invjax.priors.blocks import timestep_embedding
from invjax.priors.unet import NetworkPrior, UNet

_GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
# Of the largest value. Two float32 implementations of some hundred layers.
_TOLERANCE = 2e-4
# What runs once takes longer to optimise than to run.
_QUICK_TO_COMPILE = {'xla_backend_optimization_level': 0}


def network_of_config(config):
    """The architecture that a golden's PyTorch arguments ask for."""
    if config['resblock_updown']:
        resample = 'resblock'
    else:
        resample = 'conv' if config.get('conv_resample', True) else 'plain'
    width = config['num_head_channels']
    return UNet(
        image_size=config['image_size'],
        model_channels=config['model_channels'],
        channel_mult=tuple(config['channel_mult']),
        num_res_blocks=config['num_res_blocks'],
        attention_downsamplings=tuple(config['attention_resolutions']),
        num_heads=config['num_heads'],
        head_channels=None if width == -1 else width,
        new_attention_order=config.get('use_new_attention_order', False),
        scale_shift=config['use_scale_shift_norm'],
        resample=resample,
        in_channels=config['in_channels'],
        out_channels=config['out_channels'],
    )


def recipe_weight(name, shape):
    """The weight that the goldens were made with (shared/goldens/README.md)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        return n / np.float32(np.sqrt(np.prod(shape[1:])))
    return 1 + 0.1 * n if name.endswith('.weight') else 0.1 * n


def recipe_state_dict(network):
    return {
        name: recipe_weight(name, shape)
        for name, (_, shape) in convert.expected_leaves(network).items()
    }


def outputs_and_gradients(network, params, x, t):
    """The outputs and d sum(eps**2) / dx at (B, H, W, C) and (B,)."""

    # The parameters are an argument: constants are compiled, and kept.
    def loss(x, t, params):
        out = network.apply({'params': params}, x, t)
        return jnp.sum(jnp.square(out[..., : network.in_channels])), out

    with jax.default_matmul_precision('highest'):
        both = jax.jit(
            jax.vmap(jax.value_and_grad(loss, has_aux=True), (0, 0, None)),
            compiler_options=_QUICK_TO_COMPILE,
        )
        (_, out), gradient = both(x, t, params)
    return out, gradient


def outputs(network, params, x, t):
    """The outputs alone, in a tuple, for a fourth of the work."""
    with jax.default_matmul_precision('highest'):
        one = jax.jit(
            lambda params, x, t: network.apply({'params': params}, x, t),
            compiler_options=_QUICK_TO_COMPILE,
        )
        return (
            np.stack([one(params, *row) for row in zip(x, t, strict=True)]),
        )


def relative_error(actual, expected):
    """The largest error over the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return np.abs(actual - expected).max() / np.abs(expected).max()


class GoldenTest(parameterized.TestCase):
    def check(self, name, of=outputs_and_gradients):
        with np.load(_GOLDENS / f'unet_{name}.npz') as golden:
            golden = dict(golden)
        network = network_of_config(json.loads(str(golden['config'])))
        state_dict = recipe_state_dict(network)
        self.assertCountEqual(state_dict, golden['keys'].tolist())

        params, inferred = convert.convert(
            state_dict,
            image_size=network.image_size,
            num_heads=network.num_heads,
            head_channels=network.head_channels,
            new_attention_order=network.new_attention_order,
        )
        self.assertEqual(inferred, network)

        batch, side = golden['out'].shape[0], network.image_size
        x = np.random.default_rng(1).standard_normal(
            (batch, 3, side, side), dtype=np.float32
        )
        found = of(inferred, params, x.transpose(0, 2, 3, 1), golden['t'])
        # Of the outputs alone, or of both.
        for actual, key in zip(found, ('out', 'grad'), strict=False):
            expected = golden[key].transpose(0, 2, 3, 1)
            self.assertLess(relative_error(actual, expected), _TOLERANCE, key)

    @parameterized.parameters(
        'tiny32', 'variety32', 'convresample32', 'faces64'
    )
    def test_outputs_and_gradients_are_those_of_pytorch(self, name):
        self.check(name)

    def test_outputs_of_ffhq256_are_those_of_pytorch(self):
        self.check('ffhq256', outputs)

    @pytest.mark.slow
    def test_outputs_and_gradients_of_ffhq256_are_those_of_pytorch(self):
        self.check('ffhq256')


class PrecisionAndMemoryTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.network = UNet(
            image_size=8,
            model_channels=32,
            channel_mult=(1,),
            attention_downsamplings=(1,),
            head_channels=16,
        )
        state_dict = recipe_state_dict(self.network)
        self.params, _ = convert.convert(
            state_dict, head_channels=16, image_size=8
        )
        rng = np.random.default_rng(0)
        x = rng.standard_normal((1, 8, 8, 3), dtype=np.float32)
        self.inputs = x, np.array([250.0], np.float32)

    def run_as(self, **fields):
        network = self.network.clone(**fields)
        return outputs_and_gradients(network, self.params, *self.inputs)

    def test_remat_gives_the_same_gradient_and_bfloat16_a_close_one(self):
        out, gradient = self.run_as()
        with self.subTest('remat'):
            recomputed_out, recomputed = self.run_as(remat=True)
            self.assertLess(relative_error(recomputed_out, out), 1e-5)
            self.assertLess(relative_error(recomputed, gradient), 1e-5)
        with self.subTest('bfloat16'):
            half_out, half = self.run_as(dtype=jnp.bfloat16)
            self.assertEqual(half_out.dtype, jnp.float32)
            self.assertEqual(half.dtype, jnp.float32)
            # A bfloat16 rounding is 2**-9, and some twenty of them add up.
            self.assertLess(relative_error(half_out, out), 0.04)
            self.assertLess(relative_error(half, gradient), 0.08)
            # It did compute in half precision.
            self.assertGreater(relative_error(half_out, out), 1e-4)


class TimestepEmbeddingTest(absltest.TestCase):
    def test_cosines_come_first_and_frequencies_fall_from_1(self):
        # Two frequencies, 1 and 10000**(-1/2) = 0.01: angles 100 and 1.
        expected = [np.cos(100), np.cos(1), np.sin(100), np.sin(1)]
        np.testing.assert_allclose(
            timestep_embedding(100, 4), expected, atol=1e-5
        )


class NetworkPriorTest(parameterized.TestCase):
    @parameterized.parameters(3, 6)
    def test_the_output_is_cut_into_noise_and_variance(self, out_channels):
        # With every weight zero the output is the bias of the last layer.
        network = UNet(
            image_size=2,
            model_channels=32,
            channel_mult=(1,),
            attention_downsamplings=(),
            head_channels=32,
            out_channels=out_channels,
        )
        bias = np.linspace(-1, 1, out_channels, dtype=np.float32)
        state_dict = {
            name: np.zeros(shape, np.float32)
            for name, (_, shape) in convert.expected_leaves(network).items()
        } | {'out.2.bias': bias}
        params, _ = convert.convert(state_dict, head_channels=32)
        prior = NetworkPrior(params, network)
        self.assertEqual(prior.image_shape, (2, 2, 3))

        prediction = jax.jit(lambda prior, x: prior(x, 10))(
            prior, jnp.ones((2, 2, 3))
        )
        np.testing.assert_array_equal(prediction.eps[0, 0], bias[:3])
        if out_channels == 3:
            self.assertIsNone(prediction[1])
        else:
            # The network says -1 to 1, the prior 0 to 1.
            np.testing.assert_allclose(
                prediction[1][0, 0], (bias[3:] + 1) / 2, atol=1e-6
            )


class LabelTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.network = UNet(
            image_size=8,
            model_channels=32,
            channel_mult=(1,),
            attention_downsamplings=(),
            head_channels=32,
            num_classes=5,
        )
        self.state_dict = recipe_state_dict(self.network)
        params, _ = convert.convert(self.state_dict, self.network)
        self.prior = NetworkPrior(params, self.network)
        self.x = np.random.default_rng(0).standard_normal(
            (8, 8, 3), dtype=np.float32
        )

    def test_a_label_adds_its_row_to_the_embedding(self):
        self.assertEqual(self.state_dict['label_emb.weight'].shape, (5, 128))
        plain = self.network.clone(num_classes=None)
        for label in (0, 3):
            # The same as a bias of the last layer of the embedding.
            moved = dict(self.state_dict)
            row = moved.pop('label_emb.weight')[label]
            moved['time_embed.2.bias'] = moved['time_embed.2.bias'] + row
            params, _ = convert.convert(moved, plain)
            expected = NetworkPrior(params, plain)(self.x, 250)
            found = self.prior.with_label(label)(self.x, 250)
            np.testing.assert_allclose(found.eps, expected.eps, atol=1e-5)

    def test_another_label_does_not_compile_anew(self):
        traces = []

        @jax.jit
        def ask(prior):
            traces.append(prior)
            return prior(self.x, 250).eps

        outs = [ask(self.prior.with_label(label)) for label in (0, 1)]
        self.assertLen(traces, 1)
        self.assertGreater(np.abs(outs[0] - outs[1]).max(), 1e-3)

    def test_prepared_kernels_serve_every_label(self):
        prior = self.prior.prepare().with_label(2)
        self.assertNotEmpty(prior.prepared)
        np.testing.assert_allclose(
            prior(self.x, 250).eps,
            self.prior.with_label(2)(self.x, 250).eps,
            atol=1e-4,
        )

    def test_labels_that_do_not_fit_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'a label from 0 to 4'):
            self.prior(self.x, 250)
        for label in (5, -1, 0.5):
            with self.assertRaisesRegex(
                ValueError, f'from 0 to 4, got {label}'
            ):
                self.prior.with_label(label)
        plain = self.prior.replace(network=self.network.clone(num_classes=None))
        with self.assertRaisesRegex(ValueError, 'takes no label, got 1'):
            plain.with_label(1)


if __name__ == '__main__':
    absltest.main()
