"""The sampler as accelerators get it: lowered for their platforms, not run.

A machine without one can still see what is handed to its compiler.
"""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest

from invjax import batch, operators, problem, schedule
from invjax.methods import METHODS
from invjax.priors.unet import NetworkPrior, UNet

_NUM_LANES = 2


def lowered_chunk(network: UNet) -> str:
    """A chunk of DPS at 256 px as StableHLO, for CUDA GPUs and TPUs at once."""
    image = jax.ShapeDtypeStruct((256, 256, 3), jnp.float32)
    shapes = jax.eval_shape(network.init, jax.random.key(0), image, 0)
    prior = NetworkPrior(shapes['params'], network)
    operator = operators.make_operator(
        'box_inpainting', jax.random.key(0), image.shape
    )
    measured = problem.measure(
        jax.random.key(1), jnp.zeros(image.shape), operator
    )
    lanes = batch.make_lanes(
        jax.random.key(2), [measured], [METHODS['dps']()], _NUM_LANES
    )
    handed = batch._hand_out(lanes, np.arange(_NUM_LANES))
    steps = schedule.reverse_steps(prior.alpha_bar, 10)
    carry = jax.eval_shape(lambda: batch._start(handed, steps, None))
    exported = jax.export.export(batch._run, platforms=('cuda', 'tpu'))(
        handed, carry, steps, prior, None
    )
    return exported.mlir_module()


@pytest.mark.slow
class LoweringTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.module = lowered_chunk(UNet(dtype=jnp.bfloat16, remat=True))

    def test_all_convolutions_of_the_network_are_in_half_precision(self):
        results = re.findall(
            r'stablehlo\.convolution.*-> tensor<[\dx]*x(\w+)>', self.module
        )
        # 55 of them in the forward pass alone.
        self.assertGreater(len(results), 100)
        self.assertEqual(set(results), {'bf16'})

    def test_no_step_talks_to_the_host(self):
        self.assertIn('stablehlo.while', self.module)
        for word in ('callback', 'infeed', 'outfeed', 'send', 'recv'):
            self.assertNotRegex(self.module, rf'stablehlo\.{word}\b')
            self.assertNotRegex(self.module, rf'custom_call @\w*{word}')

    def test_images_are_updated_in_their_own_memory(self):
        (arguments,) = re.findall(
            r'func\.func public @main\((.*?)\) -> ', self.module, re.DOTALL
        )
        donated = re.findall(
            r'tensor<2x256x256x3xf32> \{[^}]*(?:aliasing_output|buffer_donor)',
            arguments,
        )
        self.assertLen(donated, 1)

    def test_the_gradient_recomputes_blocks(self):
        # What jax.checkpoint wraps is kept apart from the forward pass's own.
        self.assertIn('optimization_barrier', self.module)


if __name__ == '__main__':
    absltest.main()
