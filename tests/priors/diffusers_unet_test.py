"""The network against outputs and gradients of diffusers.

Goldens are of diffusers 0.42.1 in float32. Those at 16 x 16 are of combinations
that no published network has, for parts that no other golden reads.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch_goldens
from absl.testing import absltest, parameterized
from torch_goldens import images, relative_error

from invjax.priors import blocks, diffusers_folder, diffusers_unet


@functools.cache
def restored(name):
    """A golden, its network, and the parameters of the network."""
    golden, config = torch_goldens.load(f'diffusers_{name}')
    network, _ = diffusers_folder.network_from_config(config)
    state_dict = torch_goldens.recipe_state_dict(golden)
    return golden, network, diffusers_folder.convert(state_dict, network)


def run(network, params, golden, **collections):
    def function(params, x, t):
        return network.apply({'params': params, **collections}, x, t)

    return torch_goldens.outputs_and_gradients(
        function, params, images(golden['x']), np.float32(golden['t'])
    )


class GoldenTest(parameterized.TestCase):
    @parameterized.parameters(
        'ddpm32',
        'train32',
        'grey_scaleshift32',
        've_ncsnpp32',
        'attn_resnet16',
        'scaleshift_attn16',
        'attn_groups16',
        'no_mid16',
        'ncsn_narrow16',
    )
    def test_outputs_and_gradients_are_those_of_pytorch(self, name):
        golden, network, params = restored(name)
        out, gradient = run(network, params, golden)
        for actual, key in ((out, 'out'), (gradient, 'grad')):
            error = relative_error(actual, images(golden[key]))
            self.assertLess(error, torch_goldens.TOLERANCE, key)

    @pytest.mark.slow
    def test_outputs_and_gradients_of_celebahq256_are_those_of_pytorch(self):
        golden, network, params = restored('celebahq256')
        self.assertEqual(
            sum(leaf.size for leaf in jax.tree.leaves(params)), 113_673_219
        )
        x = np.random.default_rng(1).standard_normal(
            (1, 3, 256, 256), dtype=np.float32
        )
        out, gradient = run(network, params, golden | {'x': x})
        for actual, key in ((out, 'out'), (gradient, 'grad')):
            # Every fourth row and column is kept in the file.
            kept = actual[:, ::4, ::4]
            error = relative_error(kept, images(golden[key]))
            self.assertLess(error, torch_goldens.TOLERANCE, key)


class PicturesTest(absltest.TestCase):
    def test_those_of_all_levels_add_up_in_the_output(self):
        # Three levels, as the sum has two terms in none of the goldens.
        network = diffusers_unet.UNet2D(
            down_block_types=3 * ('SkipDownBlock2D',),
            up_block_types=3 * ('SkipUpBlock2D',),
            mid_block_type=None,
            block_out_channels=(4, 4, 4),
            layers_per_block=1,
            norm_num_groups=None,
        )
        x = jax.random.normal(jax.random.key(0), (8, 8, 3))
        apply = jax.jit(network.apply)
        rng = np.random.default_rng(1)
        # Drawn here, as to compile the network's own would take longer.
        drawn = jax.tree.map(
            lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32),
            jax.eval_shape(network.init, jax.random.key(1), x, 5.0)['params'],
        )
        before = apply({'params': drawn}, x, 5.0)
        # The filter keeps a constant, but for what it mixes with the zeros
        # around; that does not reach the centre of 8 x 8 pixels.
        shift = np.float32([0.5, -1.0, 2.0])
        for level in (0, 1):
            params = dict(drawn)
            layer = params[f'up_blocks_{level}_skip_conv']
            params[f'up_blocks_{level}_skip_conv'] = layer | {
                'bias': layer['bias'] + shift
            }
            after = apply({'params': params}, x, 5.0)
            np.testing.assert_allclose(
                (after - before)[3:5, 3:5],
                np.broadcast_to(shift, (2, 2, 3)),
                atol=1e-5,
                err_msg=f'level {level}',
            )


class PrecisionAndMemoryTest(parameterized.TestCase):
    """On the smallest golden: attention, and resampling with convolutions."""

    def setUp(self):
        super().setUp()
        golden, self.network, self.params = restored('no_mid16')
        self.golden = golden | {'x': golden['x'][:1], 't': golden['t'][:1]}
        self.out = images(golden['out'][:1])
        self.gradient = images(golden['grad'][:1])

    def test_remat_gives_the_same(self):
        network = self.network.clone(remat=True)
        out, gradient = run(network, self.params, self.golden)
        self.assertLess(relative_error(out, self.out), 2e-5)
        self.assertLess(relative_error(gradient, self.gradient), 2e-5)

    def test_bfloat16_gives_nearly_the_same(self):
        network = self.network.clone(dtype=jnp.bfloat16)
        out, gradient = run(network, self.params, self.golden)
        self.assertEqual(out.dtype, jnp.float32)
        self.assertEqual(gradient.dtype, jnp.float32)
        # A bfloat16 rounding is 2**-9, and some twenty of them add up.
        self.assertBetween(relative_error(out, self.out), 1e-4, 0.04)
        self.assertBetween(relative_error(gradient, self.gradient), 1e-4, 0.08)

    def test_prepared_kernels_give_the_same(self):
        prepared = blocks.prepare(self.network, self.params, (16, 16, 3))
        # Those with 32 channels on both sides.
        self.assertIn('down_blocks_1_resnets_0', prepared)
        self.assertIn('up_blocks_0_upsamplers_0', prepared)
        out, gradient = run(
            self.network, self.params, self.golden, prepared=prepared
        )
        self.assertLess(relative_error(out, self.out), 2e-5)
        self.assertLess(relative_error(gradient, self.gradient), 2e-5)


if __name__ == '__main__':
    absltest.main()
