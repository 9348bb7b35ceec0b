"""Priors from names and files: the right outputs, kept, and clear refusals."""

import os
import pathlib
import shutil
import tempfile
from unittest import mock

import flax.traverse_util
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from huggingface_hub.errors import LocalEntryNotFoundError

from invjax.priors import checkpoint, convert, torch_file

_GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
_FFHQ_FILE = checkpoint.KNOWN_PRIORS['ffhq256'].filename


def outputs(prior, x, t):
    """The network's outputs, NCHW as in the goldens, one image at a time."""

    # What runs once takes longer to optimise than to run.
    quick = {'xla_backend_optimization_level': 0}

    def apply(prior, x, t):
        return prior.network.apply({'params': prior.params}, x, t)

    run = jax.jit(apply, compiler_options=quick)
    with jax.default_matmul_precision('highest'):
        pairs = zip(x.transpose(0, 2, 3, 1), np.float32(t), strict=True)
        out = np.stack([run(prior, *pair) for pair in pairs])
    return out.transpose(0, 3, 1, 2)


def relative_error(actual, expected):
    """The largest error over the largest value."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def assert_same_params(actual, expected):
    jax.tree.map(np.testing.assert_array_equal, actual, expected)


class CheckpointTest(parameterized.TestCase):
    """Each test keeps its priors in an empty folder of its own."""

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = pathlib.Path(folder.name).resolve()
        variable = {'INVJAX_CHECKPOINTS': str(self.root)}
        self.enter_context(mock.patch.dict(os.environ, variable))


class FileTest(CheckpointTest):
    @parameterized.named_parameters(
        ('tiny32', 'tiny32', {'head_channels': 16}),
        (
            'variety32',
            'variety32',
            {
                'head_channels': None,
                'num_heads': 4,
                'new_attention_order': True,
                'image_size': 32,
            },
        ),
    )
    def test_a_pytorch_file_gives_its_outputs_and_is_read_once(
        self, name, overrides
    ):
        path = _GOLDENS / f'unet_{name}.pt'
        prior = checkpoint.load_prior(path, **overrides)
        card = prior.card
        with np.load(_GOLDENS / f'unet_{name}.npz') as golden:
            out = outputs(prior, golden['x'], golden['t'])
            self.assertLess(relative_error(out, golden['out']), 2e-4)
        self.assertEqual(prior.image_shape, (32, 32, 3))
        self.assertEqual(card['sha256'], torch_file.file_sha256(path))
        self.assertEqual(card['architecture'], convert.describe(prior.network))

        (folder,) = self.root.iterdir()
        with mock.patch.object(
            torch_file, 'read_state_dict', side_effect=AssertionError
        ):
            again = checkpoint.load_prior(path, **overrides)
            by_folder = checkpoint.load_prior(folder)
        self.assertEqual(again.card, prior.card)
        for restored in (again, by_folder):
            self.assertEqual(restored.network, prior.network)
            assert_same_params(restored.params, prior.params)

    def test_each_choice_of_overrides_is_kept_by_itself(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        narrow = checkpoint.load_prior(path, head_channels=16)
        wide = checkpoint.load_prior(path, head_channels=32)
        self.assertEqual(narrow.network.head_channels, 16)
        self.assertEqual(wide.network.head_channels, 32)
        self.assertLen(list(self.root.iterdir()), 2)

    def test_a_folder_without_its_card_is_made_again(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        prior = checkpoint.load_prior(path, head_channels=16)
        # As an interruption leaves it.
        (folder,) = self.root.iterdir()
        (folder / 'card.json').unlink()
        shutil.rmtree(folder / 'params')
        again = checkpoint.load_prior(path, head_channels=16)
        assert_same_params(again.params, prior.params)

    def test_a_file_that_does_not_fit_is_named_and_leaves_nothing(self):
        with self.assertRaisesRegex(
            ValueError, r'unet_variety32\.pt: heads of 64 .*head_channels'
        ):
            checkpoint.load_prior(_GOLDENS / 'unet_variety32.pt')
        self.assertEmpty(list(self.root.iterdir()))

    def test_a_number_of_heads_takes_the_place_of_their_width(self):
        # The attention of this file has 64 channels: heads of 32 are two.
        path = _GOLDENS / 'unet_tiny32.pt'
        prior = checkpoint.load_prior(path, num_heads=2)
        self.assertEqual(
            (prior.network.head_channels, prior.network.num_heads), (None, 2)
        )

    def test_a_folder_of_something_else_is_not_replaced(self):
        (self.root / 'thesis.tex').write_text('years of work')
        with self.assertRaisesRegex(ValueError, 'empty.*has thesis.tex in it'):
            checkpoint.save_prior(self.root, {}, {})
        self.assertTrue((self.root / 'thesis.tex').exists())

    def test_a_missing_file_is_named(self):
        missing = str(self.root / 'absent.pt')
        with self.assertRaisesRegex(FileNotFoundError, missing):
            checkpoint.load_prior(missing)

    @parameterized.parameters('faces46', 'a/b.ckpt', '')
    def test_an_unknown_name_is_refused_with_the_known_ones(self, name):
        with self.assertRaisesRegex(
            ValueError, f'faces64, ffhq256.*safetensors.*got {name!r}'
        ):
            checkpoint.load_prior(name)


class Faces64Test(CheckpointTest):
    def test_it_agrees_with_the_pytorch_network_up_to_half_precision(self):
        prior = checkpoint.load_prior('faces64')
        with np.load(_GOLDENS / 'faces64_check.npz') as check:
            out = outputs(prior, check['x'], check['t'])
            # A float16 weight is off by up to 2**-11, half of 1e-3.
            self.assertLess(relative_error(out, check['out']), 1e-3)

    def test_its_card_says_what_it_is(self):
        prior = checkpoint.load_prior('faces64', remat=True)
        card = prior.card
        known = checkpoint.KNOWN_PRIORS['faces64']
        self.assertEqual(card['name'], 'faces64')
        self.assertEqual(card['sha256'], known.sha256)
        self.assertEqual(prior.image_shape, (64, 64, 3))
        self.assertEqual(
            convert.network_from_description(card['architecture'], remat=True),
            prior.network,
        )
        leaves = jax.tree.leaves(prior.params)
        self.assertEqual(
            card['num_parameters'], sum(leaf.size for leaf in leaves)
        )
        self.assertEqual(
            {leaf.dtype for leaf in leaves}, {jnp.dtype('float32')}
        )
        paths = {
            path for path, _ in convert.expected_leaves(prior.network).values()
        }
        self.assertEqual(
            set(flax.traverse_util.flatten_dict(prior.params)), paths
        )

    def test_its_architecture_cannot_be_overridden(self):
        for prior in ('faces64', checkpoint._embedded('faces64')):
            with self.assertRaisesRegex(
                ValueError, f'num_heads of {prior} cannot be overridden'
            ):
                checkpoint.load_prior(prior, num_heads=2)

    def test_it_takes_at_most_30_megabytes(self):
        files = checkpoint._embedded('faces64').rglob('*')
        size = sum(file.stat().st_size for file in files if file.is_file())
        self.assertLessEqual(size, 30e6)


class Ffhq256Test(CheckpointTest):
    def test_without_a_network_one_sentence_says_what_to_put_where(self):
        # The file is not in the hub's cache, and a look at the hub fails. A
        # download is not tried: it would take 23 s to fail.
        with (
            mock.patch.object(
                huggingface_hub,
                'hf_hub_download',
                side_effect=LocalEntryNotFoundError('not here'),
            ) as download,
            mock.patch.object(
                huggingface_hub, 'get_hf_file_metadata', side_effect=OSError
            ),
            self.assertRaises(ValueError) as caught,
        ):
            checkpoint.load_prior('ffhq256')
        download.assert_called_once()
        message = str(caught.exception)
        self.assertIn(f'get {_FFHQ_FILE} (357 MiB)', message)
        self.assertIn('https://huggingface.co/deepinv/diffunet', message)
        self.assertIn(f'put it at {self.root / _FFHQ_FILE}', message)
        self.assertNotIn('\n', message)

    def place(self, name, sha256=None):
        """Puts a golden's file where the weights belong."""
        shutil.copyfile(_GOLDENS / name, self.root / _FFHQ_FILE)
        known = checkpoint.KNOWN_PRIORS['ffhq256']._replace(sha256=sha256)
        self.enter_context(
            mock.patch.dict(checkpoint.KNOWN_PRIORS, {'ffhq256': known})
        )

    def test_a_placed_file_of_another_architecture_is_refused(self):
        self.place('unet_tiny32.pt')
        with self.assertRaises(ValueError) as caught:
            checkpoint.load_prior('ffhq256')
        message = str(caught.exception)
        self.assertStartsWith(message, f'{self.root / _FFHQ_FILE}: ')
        self.assertIn('does not fit UNet(model_channels=128', message)
        self.assertIn('it fits UNet(model_channels=32', message)
        self.assertNotIn('\n', message)

    def test_a_placed_file_of_other_heads_is_refused_for_its_architecture(self):
        # 64 channels do not divide its attention, which is not what is wrong.
        self.place('unet_variety32.pt')
        with self.assertRaisesRegex(
            ValueError,
            r'does not fit UNet\(model_channels=128.*missing.*it fits UNet',
        ):
            checkpoint.load_prior('ffhq256')

    def test_a_placed_file_with_another_hash_is_refused(self):
        self.place('unet_tiny32.pt', sha256=64 * '0')
        actual = torch_file.file_sha256(_GOLDENS / 'unet_tiny32.pt')
        with self.assertRaisesRegex(
            ValueError, f'is not ffhq256: its SHA256 is {actual}, not 0000'
        ):
            checkpoint.load_prior('ffhq256')


if __name__ == '__main__':
    absltest.main()
