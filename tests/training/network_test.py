"""First parameters, new ones and those of another prior."""

import functools
import pathlib
import tempfile
from unittest import mock

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.priors import checkpoint, convert
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import UNet
from invjax.training import Config, network

_SIDE = 8


def _config(**kwargs):
    given = {
        'images': 'phantoms:9',
        'out': 'nowhere',
        'size': (_SIDE, _SIDE),
        'channels': 1,
    }
    return Config(**{**given, **kwargs})


@functools.cache
def _unet(channels, **network):
    """A network with random values in all of its layers."""
    fields = {
        'image_size': _SIDE,
        'model_channels': 32,
        'channel_mult': (1,),
        'attention_downsamplings': (),
        'head_channels': 32,
        'in_channels': channels,
        'out_channels': 2 * channels,
    }
    module = UNet(**{**fields, **network})
    x = jnp.zeros((_SIDE, _SIDE, channels))
    params = jax.jit(module.init)(jax.random.key(0), x, 0)['params']
    return module, params


def _save(folder, channels=3, network=(), **fields):
    module, params = _unet(channels, **dict(network))
    checkpoint.save_prior(
        folder,
        params,
        {
            'name': 'before',
            'sha256': '0' * 64,
            'architecture': convert.describe(module),
            'noise_schedule': 'cosine',
            'num_train_steps': 500,
            **fields,
        },
    )


class NewTest(parameterized.TestCase):
    def test_a_new_network_says_nothing_and_its_blocks_pass_on(self):
        start = network.make_start(
            _config(preset='tiny', network={'channel_mult': (1,)}, seed=3)
        )
        leaves = flax.traverse_util.flatten_dict(start.prior.params, sep='/')
        zero = {name for name, leaf in leaves.items() if not np.any(leaf)}
        for layer in ('out_2', 'out_layers_3', 'proj_out'):
            found = [n for n in leaves if layer in n]
            self.assertNotEmpty(found)
            self.assertContainsSubset(found, zero)
        kernels = {n for n in leaves if n.endswith('/kernel')}
        rest = [n for n in kernels if n not in zero]
        self.assertGreater(len(rest), len(kernels) / 2)
        prediction = start.prior(jnp.ones((_SIDE, _SIDE, 1)), 7)
        np.testing.assert_array_equal(prediction.eps, 0)
        # Half way between the two variances.
        np.testing.assert_array_equal(prediction.log_variance_fraction, 0.5)

    @parameterized.named_parameters(
        ('levels', {'network': {'channel_mult': (1, 1, 1, 1, 1)}}, 'by 16'),
        ('groups', {'network': {'model_channels': 48}}, '48 channels'),
    )
    def test_a_network_that_cannot_be_is_refused(self, given, words):
        with self.assertRaisesRegex(ValueError, words):
            network.make_start(_config(preset='tiny', **given))

    def test_presets_fit_the_sides_that_they_are_for(self):
        for preset, side, number in (
            # The embedded prior's number, and those of the published ADM
            # networks of 64 and 256 without classes.
            ('small', 64, 12_323_270),
            ('adm', 256, 552_814_086),
        ):
            config = _config(preset=preset, size=(side, side), channels=3)
            module = UNet(
                image_size=side,
                in_channels=3,
                out_channels=6,
                **config.network_fields(),
            )
            shapes = convert.flax_shapes(module)
            self.assertEqual(
                sum(int(np.prod(shape)) for shape in shapes.values()), number
            )


class NumParametersTest(absltest.TestCase):
    def test_it_is_the_sum_over_all_arrays(self):
        params = {
            'kernel': np.zeros((2, 3)),
            'deeper': {'bias': np.zeros(4), 'scale': np.zeros(())},
        }
        self.assertEqual(network.num_parameters(params), 6 + 4 + 1)


class OfPriorTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name) / 'prior'

    def test_it_begins_as_that_prior(self):
        _save(self.folder, licence='CC0')
        start = network.make_start(_config(init=str(self.folder), channels=3))
        given = checkpoint.load_prior(self.folder)
        self.assertEqual(start.prior.noise_schedule, 'cosine')
        self.assertEqual(start.prior.num_train_steps, 500)
        self.assertEqual(start.origin['licence'], 'CC0')
        x = jax.random.normal(jax.random.key(1), (_SIDE, _SIDE, 3))
        np.testing.assert_array_equal(start.prior(x, 40).eps, given(x, 40).eps)

    @parameterized.parameters((3, 1), (3, 2), (1, 3), (1, 2))
    def test_channels_that_are_alike_stay_so(self, before, after):
        _save(self.folder, before)
        start = network.make_start(
            _config(init=str(self.folder), channels=after)
        )
        given = checkpoint.load_prior(self.folder)
        x = jax.random.normal(jax.random.key(1), (_SIDE, _SIDE, 1))
        found = start.prior(jnp.repeat(x, after, axis=-1), 40)
        expected = given(jnp.repeat(x, before, axis=-1), 40)
        for one, other in zip(found, expected, strict=True):
            self.assertEqual(one.shape, (_SIDE, _SIDE, after))
            mean = other.mean(axis=-1, keepdims=True)
            np.testing.assert_allclose(
                one, jnp.repeat(mean, after, axis=-1), atol=1e-5
            )

    def test_another_size_is_taken(self):
        _save(self.folder)
        start = network.make_start(
            _config(init=str(self.folder), channels=3, size=(16, 16))
        )
        self.assertEqual(start.prior.image_shape, (16, 16, 3))

    @parameterized.parameters('resblock', 'conv', 'plain')
    def test_attention_is_added_and_changes_nothing_yet(self, resample):
        _save(
            self.folder,
            network={'channel_mult': (1, 1), 'resample': resample},
        )
        start = network.make_start(
            _config(
                init=str(self.folder),
                channels=3,
                network={'attention_downsamplings': (2, 1)},
            )
        )
        self.assertEqual(start.prior.network.attention_downsamplings, (1, 2))
        self.assertIn('new attention at downsamplings of 1, 2', start.words)
        given = checkpoint.load_prior(self.folder)
        x = jax.random.normal(jax.random.key(1), (_SIDE, _SIDE, 3))
        np.testing.assert_allclose(
            start.prior(x, 40).eps, given(x, 40).eps, atol=1e-6
        )
        # It is on both sides of the network, and goes on from there.
        for name in ('input_blocks_1_1', 'output_blocks_1_1'):
            self.assertIn('qkv', start.prior.params[name])
            self.assertFalse(
                start.prior.params[name]['proj_out']['kernel'].any()
            )

    @parameterized.parameters(
        ((2,), r'must have those of .*, 1, got 2'),
        ((), r'must have those of .*, 1, got none'),
        ((1, 4), 'levels attends at downsamplings of 1, 2, got 4'),
    )
    def test_attention_that_it_cannot_have_is_refused(self, asked, words):
        _save(
            self.folder,
            network={
                'channel_mult': (1, 1),
                'attention_downsamplings': (1,),
            },
        )
        with self.assertRaisesRegex(ValueError, words):
            network.make_start(
                _config(
                    init=str(self.folder),
                    channels=3,
                    network={'attention_downsamplings': asked},
                )
            )

    def test_another_schedule_is_refused(self):
        _save(self.folder)
        with self.assertRaisesRegex(ValueError, 'cosine, got linear'):
            network.make_start(
                _config(
                    init=str(self.folder), channels=3, noise_schedule='linear'
                )
            )

    def test_a_network_of_another_family_is_refused(self):
        other = Denoiser.of(lambda x, t: x, (_SIDE, _SIDE, 1), 'noise')
        with (
            mock.patch.object(checkpoint, 'load_prior', return_value=other),
            self.assertRaisesRegex(
                ValueError, 'other must be a network of the .* a Function'
            ),
        ):
            network.make_start(_config(init='other'))


class ConfigTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('size', {'size': (8, 16)}, 'size must be a square'),
        ('small', {'size': (4, 4)}, '8 pixels or more'),
        ('channels', {'channels': 4}, 'channels must be 1, 2 or 3, got 4'),
        ('parts', {'batch': 9, 'accumulate': 2}, 'accumulate must divide'),
        ('field', {'network': {'depth': 3}}, 'depth is no field'),
        (
            'between',
            {'network': {'resample': 'none'}},
            "conv, plain, got 'none'",
        ),
        (
            'attention',
            {'network': {'attention_downsamplings': (4, 16)}},
            'levels attends at .* 1, 2, 4, 8, got 16',
        ),
        ('range', {'value_range': (5.0,)}, 'value_range must be two values'),
        ('both', {'init': 'faces64', 'preset': 'tiny'}, 'leave out'),
        (
            'wider',
            {'init': 'faces64', 'network': {'model_channels': 64}},
            'only attention_downsamplings may add',
        ),
        ('adm', {'preset': 'adm', 'size': (32, 32)}, '64, 128, 256 pixels'),
        ('rate', {'learning_rate': 0.0}, 'learning_rate must be above 0'),
        ('nan', {'clip': float('nan')}, 'clip must be above 0'),
        ('share', {'held_out': 1.0}, 'held_out must be at least 0 and below'),
        ('choice', {'weighting': 'snr'}, "min_snr, balanced, got 'snr'"),
        ('steps', {'num_steps': 0}, 'num_steps must be a whole number'),
        ('part', {'batch': 2.5}, 'batch must be a whole number'),
        ('lives', {'half_lives': (0, 5)}, 'half_lives must be two'),
        ('times', {'num_train_steps': 1}, 'num_train_steps must be 2'),
    )
    def test_what_cannot_be_is_refused_in_a_sentence(self, given, words):
        with self.assertRaisesRegex(ValueError, words):
            _config(**given)


if __name__ == '__main__':
    absltest.main()
