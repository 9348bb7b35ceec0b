"""EDM's denoisers against outputs and gradients of their authors' code.

Goldens are in float32. Those at 16 x 16 are of combinations that no published
network has, for parts that no other golden reads.
"""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_goldens
from absl.testing import absltest, parameterized
from torch_goldens import images, relative_error

from invjax import schedule
from invjax.priors import blocks, edm
from invjax.priors.edm_unet import EDMUNet
from invjax.priors.parametrisation import Parametrisation

# The noise levels of the goldens.
LEVELS = schedule.Sigmas(0.6, 7.5, num_levels=2)


def weight(name, shape, config):
    """The recipe, but for buffers, which have one of their own."""
    if name.endswith('resample_filter'):
        taps = np.float32(config.get('resample_filter', [1, 1]))
        return (np.outer(taps, taps) / taps.sum() ** 2)[None, None]
    if name.endswith('freqs'):
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        return 16 * rng.standard_normal(shape, dtype=np.float32)
    return torch_goldens.recipe_weight(name, shape)


@functools.cache
def loaded(name):
    """A golden's arrays, tensors, preconditioning and arguments."""
    golden, config = torch_goldens.load(f'edm_{name}')
    tensors = {
        str(name): weight(str(name), tuple(json.loads(str(shape))), config)
        for name, shape in zip(golden['keys'], golden['shapes'], strict=True)
    }
    preconditioning = config.pop('preconditioning')
    return golden, tensors, preconditioning, config


def run(prior, golden):
    """D(z; sigma) and its gradient, by way of the noise in our coordinates."""
    sigma = np.sqrt(1 / LEVELS.alpha_bar - 1)
    prior = prior.replace(noise_levels=LEVELS)

    def denoised(prior, z, row):
        at = jnp.asarray(sigma)[row]
        return z - at * prior(z / jnp.sqrt(1 + at**2), row).eps

    z = images(golden['x'])
    return torch_goldens.outputs_and_gradients(
        denoised, prior, z, np.arange(len(z))
    )


class GoldenTest(parameterized.TestCase):
    def check(self, name):
        golden, *made_of = loaded(name)
        out, gradient = run(edm.denoiser(*made_of), golden)
        for actual, key in ((out, 'out'), (gradient, 'grad')):
            error = relative_error(actual, images(golden[key]))
            self.assertLess(error, torch_goldens.TOLERANCE, key)

    @parameterized.parameters(
        'ddpmpp32',
        'vp_ddpmpp32',
        'ncsnpp32',
        'adm32',
        'skip_ve16',
        'skip_plain16',
        'heads16',
    )
    def test_outputs_and_gradients_are_those_of_pytorch(self, name):
        self.check(name)

    @pytest.mark.slow
    def test_outputs_and_gradients_of_ffhq64_are_those_of_pytorch(self):
        self.check('ffhq64')


class PrecisionAndMemoryTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        golden, *made_of = loaded('adm32')
        self.golden = golden | {'x': golden['x'][:1]}
        self.prior = edm.denoiser(*made_of)
        self.out = images(golden['out'][:1])
        self.gradient = images(golden['grad'][:1])

    def check(self, prior, out_error, gradient_error):
        out, gradient = run(prior, self.golden)
        self.assertEqual(out.dtype, jnp.float32)
        self.assertLess(relative_error(out, self.out), out_error)
        self.assertLess(relative_error(gradient, self.gradient), gradient_error)
        return relative_error(out, self.out)

    def test_remat_gives_the_same(self):
        network = self.prior.network.clone(remat=True)
        self.check(self.prior.replace(network=network), 2e-5, 2e-5)

    def test_bfloat16_gives_nearly_the_same(self):
        network = self.prior.network.clone(dtype=jnp.bfloat16)
        # A bfloat16 rounding is 2**-9, and some twenty of them add up.
        error = self.check(self.prior.replace(network=network), 0.04, 0.08)
        # It did compute in half precision.
        self.assertGreater(error, 1e-4)

    def test_prepared_kernels_give_the_same(self):
        prior = self.prior.prepare()
        self.assertIn('enc_16x16_down', prior.prepared)
        self.check(prior, 2e-5, 2e-5)
        with self.assertRaisesRegex(ValueError, 'float32 can be prepared'):
            half = prior.network.clone(dtype=jnp.bfloat16)
            blocks.prepare(half, prior.params, prior.image_shape)


class ArgumentsTest(parameterized.TestCase):
    @parameterized.parameters(
        'ddpmpp32',
        'vp_ddpmpp32',
        'ncsnpp32',
        'adm32',
        'skip_ve16',
        'heads16',
        'ffhq64',
    )
    def test_they_can_be_read_off_the_tensors(self, name):
        _, tensors, preconditioning, arguments = loaded(name)
        shapes = {
            name.removeprefix('model.'): array.shape
            for name, array in tensors.items()
        }
        inferred = edm.infer_arguments(shapes)
        networks = [
            edm.network_from_arguments(preconditioning, given)
            for given in (inferred, arguments)
        ]
        self.assertEqual(*networks)

    def test_without_them_the_prior_is_the_same(self):
        _, tensors, preconditioning, arguments = loaded('skip_ve16')
        bare = {
            name.removeprefix('model.'): array
            for name, array in tensors.items()
        }
        a = edm.denoiser(tensors, preconditioning, arguments)
        b = edm.denoiser(bare, preconditioning)
        self.assertEqual(jax.tree.structure(a), jax.tree.structure(b))
        jax.tree.map(np.testing.assert_array_equal, a.params, b.params)

    def test_defaults_are_those_of_the_class(self):
        given = {'img_resolution': 64, 'img_channels': 3}
        # Karras et al.'s code: EDMPrecond is around a DhariwalUNet if nothing
        # is said, the other two around a SongUNet.
        self.assertEqual(
            edm.network_from_arguments('EDMPrecond', given),
            EDMUNet(
                'DhariwalUNet',
                model_channels=192,
                channel_mult=(1, 2, 3, 4),
                num_blocks=3,
                attn_resolutions=(32, 16, 8),
            ),
        )
        self.assertEqual(
            edm.network_from_arguments('VPPrecond', given), EDMUNet()
        )

    @parameterized.parameters(
        ('EDMPrecond', {}, (0.002, 80), ('edm', 'edm', 'log_sigma')),
        (
            'EDMPrecond',
            {'sigma_min': 0.01, 'sigma_max': 50.0, 'sigma_data': 0.4},
            (0.01, 50),
            ('edm', 'edm', 'log_sigma'),
        ),
        ('VPPrecond', {}, (0.002, 80), ('eps', 'vp', 'vp')),
        (
            'VEPrecond',
            {},
            (0.02, 80),
            ('scaled_score', 've', 'log_half_sigma'),
        ),
    )
    def test_noise_levels_are_those_that_it_was_trained_for(
        self, preconditioning, arguments, ends, how
    ):
        _, tensors, _, network = loaded('ddpmpp32')
        prior = edm.denoiser(tensors, preconditioning, network | arguments)
        sigma = np.sqrt(1 / prior.alpha_bar - 1)
        np.testing.assert_allclose(sigma[[0, -1]], ends, rtol=1e-9)
        asked = prior.parametrisation
        self.assertIsInstance(asked, Parametrisation)
        self.assertEqual((asked.output, asked.coordinates, asked.time), how)
        self.assertEqual(asked.sigma_data, arguments.get('sigma_data', 0.5))


class RefusedTest(parameterized.TestCase):
    @parameterized.parameters(
        ({'label_dim': 10}, 'needs a class label'),
        ({'model_type': 'DiT'}, "SongUNet or DhariwalUNet, got 'DiT'"),
        ({'model_type': 'DhariwalUNet'}, 'DhariwalUNet has .*embedding_type'),
        ({'new_argument': 2}, "not known here: {'new_argument': 2}"),
        ({'resample_filter': [1, 2, 1]}, 'resample_filter must be'),
        ({'resample_filter': [1, 3, 3, 1]}, 'the filter .1, 3, 3, 1.* differs'),
        ({'img_resolution': 31}, r'divide \(by 2\), got 31'),
        ({'channel_mult': [1, 3]}, 'do not fit .* of another shape'),
        ({'num_blocks': 2}, 'do not fit .* missing'),
    )
    def test_arguments_that_are_no_prior(self, changes, message):
        _, tensors, preconditioning, arguments = loaded('ddpmpp32')
        with self.assertRaisesRegex(ValueError, message):
            edm.denoiser(tensors, preconditioning, arguments | changes)

    def test_networks_of_another_kind(self):
        with self.assertRaisesRegex(ValueError, 'VEPrecond, got .iDDPMPrecond'):
            edm.denoiser({}, 'iDDPMPrecond')
        with self.assertRaisesRegex(ValueError, 'needs a class label'):
            edm.denoiser({'model.map_label.weight': np.zeros((4, 4))})
        with self.assertRaisesRegex(ValueError, '1 tensors such as conv_in'):
            edm.denoiser({'conv_in.weight': np.zeros((4, 4))})
        with self.assertRaisesRegex(ValueError, 'beta_d 19.9.*got .*20'):
            _, tensors, kind, arguments = loaded('vp_ddpmpp32')
            edm.denoiser(tensors, kind, arguments | {'beta_d': 20.0})


if __name__ == '__main__':
    absltest.main()
