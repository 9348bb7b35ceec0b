"""Priors as plain data, there and back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.priors import families
from invjax.priors.denoiser import Denoiser
from invjax.priors.diffusers_unet import UNet2D
from invjax.priors.edm_unet import EDMUNet
from invjax.priors.parametrisation import Parametrisation

SCORE = Parametrisation('score', 've', 'sigma', data_range=(0.0, 1.0))


class FamiliesTest(parameterized.TestCase):
    @parameterized.parameters(
        (
            UNet2D(block_out_channels=(8, 16), mid_block_type=None),
            SCORE,
            schedule.Sigmas(rho=None),
        ),
        (
            EDMUNet(resample_filter=(1, 3, 3, 1), encoder_type='skip'),
            Parametrisation(),
            schedule.Betas(trained_betas=(0.1, 0.2)),
        ),
    )
    def test_a_description_is_plain_data_and_has_an_inverse(
        self, network, how, levels
    ):
        params = {'block': {'kernel': np.ones((2, 2), np.float16)}}
        prior = Denoiser(params, network, (8, 4, 3), how, levels)
        text = json.dumps(families.describe(prior))
        card = json.loads(text) | {'name': 'other entries of a card'}
        again = families.from_description(card, params)
        self.assertEqual(jax.tree.structure(again), jax.tree.structure(prior))
        (leaf,) = jax.tree.leaves(again)
        self.assertEqual(leaf.dtype, jnp.float32)

    def test_precision_and_memory_are_chosen_when_it_is_made_again(self):
        prior = Denoiser({}, EDMUNet(), (8, 8, 3), SCORE, schedule.Sigmas())
        again = families.from_description(
            families.describe(prior), {}, dtype=jnp.bfloat16, remat=True
        )
        self.assertEqual(again.network, EDMUNet(dtype=jnp.bfloat16, remat=True))

    def test_a_function_has_no_description(self):
        prior = Denoiser.of(lambda x, t: x, (2, 2, 1), 'noise')
        with self.assertRaisesRegex(ValueError, 'diffusers and edm'):
            families.describe(prior)


if __name__ == '__main__':
    absltest.main()
