"""What `compare` hands to another Python, and what it says where there is none."""

import pathlib
import sys
import tempfile

import numpy as np
from absl.testing import absltest

from invjax.comparison import peer
from invjax.priors import convert
from invjax.priors.unet import UNet
from tests.experiments import tiny_prior

# Every kind of layer once, and cheap to trace.
_NETWORK = UNet(
    image_size=32,
    model_channels=32,
    channel_mult=(1, 2),
    attention_downsamplings=(2,),
    head_channels=16,
)


class StateDictTest(absltest.TestCase):
    def test_converted_weights_come_back_as_they_were(self):
        rng = np.random.default_rng(0)
        state_dict = {
            name: rng.standard_normal(shape).astype(np.float32)
            for name, (_, shape) in convert.expected_leaves(_NETWORK).items()
        }
        params, network = convert.convert(state_dict, _NETWORK)
        # The order of the keys is free; names, shapes and values are not.
        returned = peer.state_dict(params, network)
        self.assertCountEqual(returned, state_dict)
        for name, array in state_dict.items():
            np.testing.assert_array_equal(returned[name], array, err_msg=name)

    def test_every_tensor_has_a_name_of_its_own_in_the_peer(self):
        network = _NETWORK.clone(channel_mult=(1, 2, 4))
        names = convert.expected_leaves(network)
        self.assertLen({peer.faces64_name(n) for n in names}, len(names))

    def test_the_peer_counts_blocks_on_the_way_down_without_the_first(self):
        for name, expected in (
            ('input_blocks.0.0.weight', 'first.weight'),
            (
                'input_blocks.1.0.emb_layers.1.bias',
                'down.0.0.emb_layers.1.bias',
            ),
            ('input_blocks.10.1.qkv.weight', 'down.9.1.qkv.weight'),
            ('output_blocks.0.0.in_layers.2.bias', 'up.0.0.in_layers.2.bias'),
            ('time_embed.2.weight', 'time.2.weight'),
            ('out.2.weight', 'out.2.weight'),
        ):
            self.assertEqual(peer.faces64_name(name), expected)


class RefusalTest(absltest.TestCase):
    def test_mistakes_are_refused_in_one_sentence(self):
        holder = tempfile.TemporaryDirectory()
        self.addCleanup(holder.cleanup)
        folder = pathlib.Path(holder.name)
        python = '--peer=/nowhere/python'
        real = f'--peer={sys.executable}'
        cases = {
            'error: give --peer': (),
            'error: --peer must be a Python': (python,),
            'error: --runs must be METHOD:STEPS': (real, '--runs=sdedit:9'),
            'error: images 7 to 8 to tune on must not be': (
                real,
                '--first_tuning=7',
                '--num_tuning=2',
            ),
        }
        runs = {
            sentence: tiny_prior.start(
                'compare', folder, f'--out={folder}/out', *arguments
            )
            for sentence, arguments in cases.items()
        }
        for sentence, run in runs.items():
            _, error = run.communicate(timeout=300)
            with self.subTest(sentence):
                self.assertEqual(run.returncode, 2)
                self.assertStartsWith(error, sentence)
                self.assertEqual(error.count('\n'), 1)


if __name__ == '__main__':
    absltest.main()
