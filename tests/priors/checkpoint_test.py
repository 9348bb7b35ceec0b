"""Priors from names and files: the right outputs, kept, and clear refusals."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import flax.traverse_util
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized
from huggingface_hub.errors import LocalEntryNotFoundError

from invjax import schedule
from invjax.priors import checkpoint, convert, kept, torch_file
from invjax.priors.unet import UNet

# The goldens have random weights, which denoise nothing.
_UNTRAINED = {'check': False}
_VARIETY = {
    'head_channels': None,
    'num_heads': 4,
    'new_attention_order': True,
    'image_size': 32,
    # It resamples as improved-diffusion's networks do.
    'noise_schedule': 'cosine',
    'num_train_steps': 4000,
    'rescale_timesteps': True,
    'check': False,
}
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
        ('tiny32', 'tiny32', {'head_channels': 16, **_UNTRAINED}),
        # Its timesteps are rescaled, so it is asked for others below.
        ('variety32', 'variety32', _VARIETY),
    )
    def test_a_pytorch_file_gives_its_outputs_and_is_read_once(
        self, name, overrides
    ):
        path = _GOLDENS / f'unet_{name}.pt'
        prior = checkpoint.load_prior(path, **overrides)
        card = prior.card
        with np.load(_GOLDENS / f'unet_{name}.npz') as golden:
            times = golden['t'] * card['num_train_steps'] / 1000
            out = outputs(prior, golden['x'], times)
            self.assertLess(relative_error(out, golden['out']), 2e-4)
        self.assertEqual(prior.image_shape, (32, 32, 3))
        self.assertEqual(card['sha256'], torch_file.file_sha256(path))
        self.assertEqual(card['architecture'], convert.describe(prior.network))

        (folder,) = self.root.iterdir()
        with mock.patch.object(
            torch_file, 'read_weights', side_effect=AssertionError
        ):
            again = checkpoint.load_prior(path, **overrides)
            by_folder = checkpoint.load_prior(folder)
        self.assertEqual(again.card, prior.card)
        for restored in (again, by_folder):
            self.assertEqual(restored.network, prior.network)
            assert_same_params(restored.params, prior.params)

    def test_each_choice_of_overrides_is_kept_by_itself(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        narrow = checkpoint.load_prior(path, head_channels=16, **_UNTRAINED)
        wide = checkpoint.load_prior(path, head_channels=32, **_UNTRAINED)
        self.assertEqual(narrow.network.head_channels, 16)
        self.assertEqual(wide.network.head_channels, 32)
        self.assertLen(list(self.root.iterdir()), 2)

    def test_a_folder_without_its_card_is_made_again(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        prior = checkpoint.load_prior(path, head_channels=16, **_UNTRAINED)
        # As an interruption leaves it.
        (folder,) = self.root.iterdir()
        (folder / 'card.json').unlink()
        shutil.rmtree(folder / 'params')
        again = checkpoint.load_prior(path, head_channels=16, **_UNTRAINED)
        assert_same_params(again.params, prior.params)

    def test_a_file_that_does_not_fit_is_named_and_leaves_nothing(self):
        with self.assertRaisesRegex(
            ValueError, r'unet_variety32\.pt: heads of 64 .*head_channels'
        ):
            checkpoint.load_prior(_GOLDENS / 'unet_variety32.pt')
        self.assertEmpty(list(self.root.iterdir()))

    def test_a_size_that_nothing_tells_is_asked_for(self):
        network = UNet(
            model_channels=32,
            channel_mult=(1, 2),
            attention_downsamplings=(),
            head_channels=32,
        )
        path = self.root / 'no_attention.safetensors'
        safetensors.numpy.save_file(
            {
                name: np.ones(shape, np.float32)
                for name, shape in convert.expected_shapes(network).items()
            },
            path,
        )
        options = {'head_channels': 32, **_UNTRAINED}
        with self.assertRaisesRegex(ValueError, 'set image_size'):
            checkpoint.load_prior(path, **options)
        prior = checkpoint.load_prior(path, image_size=20, **options)
        self.assertEqual(prior.image_shape, (20, 20, 3))

    def test_a_number_of_heads_takes_the_place_of_their_width(self):
        # The attention of this file has 64 channels: heads of 32 are two.
        path = _GOLDENS / 'unet_tiny32.pt'
        prior = checkpoint.load_prior(path, num_heads=2, **_UNTRAINED)
        self.assertEqual(
            (prior.network.head_channels, prior.network.num_heads), (None, 2)
        )

    def test_how_it_was_trained_is_on_its_card(self):
        path = _GOLDENS / 'unet_variety32.pt'
        prior = checkpoint.load_prior(path, **_VARIETY)
        card = prior.card
        self.assertEqual(card['noise_schedule'], 'cosine')
        self.assertEqual(card['num_train_steps'], 4000)
        self.assertTrue(card['rescale_timesteps'])
        np.testing.assert_array_equal(
            prior.alpha_bar,
            schedule.alpha_bars(schedule.cosine_betas(4000)),
        )
        self.assertEqual(prior.network.timestep_scale, 0.25)
        by_folder = checkpoint.load_prior(next(self.root.iterdir()))
        self.assertEqual(by_folder.network, prior.network)

    @parameterized.parameters(
        ((), 'set noise_schedule, num_train_steps, rescale_timesteps:'),
        (('num_train_steps',), 'set num_train_steps:'),
        (('rescale_timesteps',), 'set rescale_timesteps:'),
    )
    def test_a_family_of_several_noise_schedules_is_asked_for_its_own(
        self, without, sentence
    ):
        without = without or (
            'noise_schedule', 'num_train_steps', 'rescale_timesteps'
        )  # fmt: skip
        options = {k: v for k, v in _VARIETY.items() if k not in without}
        with self.assertRaisesRegex(ValueError, sentence):
            checkpoint.load_prior(_GOLDENS / 'unet_variety32.pt', **options)
        self.assertEmpty(list(self.root.iterdir()))

    @parameterized.parameters(
        ('noise_schedule', 'quadratic', 'one of linear, cosine'),
        ('noise_schedule', ['linear'], 'one of linear, cosine'),
        ('num_train_steps', 0, 'from 2 to 100000'),
        ('num_train_steps', 1e3, 'from 2 to 100000'),
        ('num_train_steps', 10**9, 'from 2 to 100000'),
        ('rescale_timesteps', 'yes', 'of type bool'),
        ('weights_key', 3, 'of type str'),
        ('check', 'no', 'of type bool'),
        ('image_size', -1, 'image_size must be from 2'),
        ('head_channels', 'wide', 'head_channels must be a number'),
    )
    def test_a_setting_that_cannot_be_is_refused(self, name, value, sentence):
        options = {'head_channels': 16, **_UNTRAINED, name: value}
        with self.assertRaisesRegex(ValueError, sentence):
            checkpoint.load_prior(_GOLDENS / 'unet_tiny32.pt', **options)
        self.assertEmpty(list(self.root.iterdir()))

    def test_an_unknown_setting_is_refused_with_the_known_ones(self):
        with self.assertRaisesRegex(
            ValueError, 'nois_schedule cannot be over.*noise_schedule.*check'
        ):
            checkpoint.load_prior(
                _GOLDENS / 'unet_tiny32.pt', nois_schedule='cosine'
            )

    def test_random_weights_are_refused_unless_told_otherwise(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        with self.assertRaisesRegex(
            ValueError, 'unet_tiny32.pt: the network does not denoise'
        ):
            checkpoint.load_prior(path, head_channels=16)
        self.assertEmpty(list(self.root.iterdir()))

    def test_weights_elsewhere_in_a_file_are_kept_by_themselves(self):
        state_dict = torch_file.read_state_dict(_GOLDENS / 'unet_tiny32.pt')
        path = self.root / 'two.safetensors'
        raw = {f'model.{k}': 1.5 * v for k, v in state_dict.items()}
        averaged = {f'ema.{k}': np.copy(v) for k, v in state_dict.items()}
        safetensors.numpy.save_file(raw | averaged, path)
        options = {'head_channels': 16, **_UNTRAINED}
        prior = checkpoint.load_prior(path, **options)
        card = prior.card
        self.assertEqual((card['weights'], card['averaged']), ('ema', True))
        other = checkpoint.load_prior(path, weights_key='model', **options)
        card = other.card
        self.assertEqual((card['weights'], card['averaged']), ('model', False))
        for params, factor in ((prior.params, 1.0), (other.params, 1.5)):
            np.testing.assert_array_equal(
                params['out_2']['bias'], factor * state_dict['out.2.bias']
            )

    @parameterized.parameters('pytorch_model.bin', 'a.ckpt', 'a.pth.tar')
    def test_the_content_of_a_file_decides_and_not_its_name(self, name):
        path = self.root / name
        shutil.copyfile(_GOLDENS / 'unet_tiny32.pt', path)
        options = {'head_channels': 16, **_UNTRAINED}
        prior = checkpoint.load_prior(path, **options)
        card = prior.card
        self.assertEqual(card['source'], name)
        self.assertEqual(prior.network.model_channels, 32)

    def test_a_card_that_was_cut_short_is_made_again(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        options = {'head_channels': 16, **_UNTRAINED}
        prior = checkpoint.load_prior(path, **options)
        (folder,) = self.root.iterdir()
        card = folder / 'card.json'
        card.write_text(card.read_text()[:100])
        with self.assertRaisesRegex(ValueError, f'{folder} is no prior'):
            checkpoint.load_prior(folder)
        again = checkpoint.load_prior(path, **options)
        assert_same_params(again.params, prior.params)
        self.assertLen(list(folder.iterdir()), 2)

    def test_what_has_no_checksum_is_converted_again_or_warned_of(self):
        path = _GOLDENS / 'unet_tiny32.pt'
        options = {'head_channels': 16, **_UNTRAINED}
        card = checkpoint.load_prior(path, **options).card
        (folder,) = self.root.iterdir()
        without = {k: v for k, v in card.items() if k != kept.CHECKSUM}
        (folder / 'card.json').write_text(json.dumps(without))
        with self.assertWarnsRegex(UserWarning, 'has no checksum'):
            checkpoint.load_prior(folder)
        again = checkpoint.load_prior(path, **options)
        self.assertIn(kept.CHECKSUM, again.card)

    def test_long_and_odd_names_are_names_of_folders(self):
        path = self.root / f'{"é" * 60} {"x" * 100}.pt'
        shutil.copyfile(_GOLDENS / 'unet_tiny32.pt', path)
        options = {'head_channels': 16, **_UNTRAINED}
        checkpoint.load_prior(path, weights_key='top level', **options)
        (folder,) = (f for f in self.root.iterdir() if f.is_dir())
        self.assertRegex(folder.name, r'^[\w.=-]{20,255}$')
        self.assertTrue(folder.name.isascii())

    def test_two_processes_convert_one_file_at_once(self):
        program = (
            'import sys; from invjax.priors import checkpoint;'
            'sys.stdin.readline();'
            'checkpoint.load_prior(sys.argv[1], head_channels=16, check=False)'
        )
        processes = [
            subprocess.Popen(
                [sys.executable, '-c', program, _GOLDENS / 'unet_tiny32.pt'],
                cwd=_GOLDENS.parents[1],
                stdin=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for process in processes:
            process.stdin.write('go\n')
            process.stdin.flush()
        errors = [process.communicate()[1] for process in processes]
        codes = [process.returncode for process in processes]
        self.assertEqual(codes, [0, 0, 0], errors)
        (folder,) = self.root.iterdir()
        self.assertLen(list(folder.iterdir()), 2)
        checkpoint.load_prior(folder)

    def test_a_folder_of_something_else_is_not_replaced(self):
        (self.root / 'thesis.tex').write_text('years of work')
        with self.assertRaisesRegex(ValueError, 'empty.*has thesis.tex in it'):
            checkpoint.save_prior(self.root, {}, {})
        self.assertTrue((self.root / 'thesis.tex').exists())

    def test_a_missing_file_is_named(self):
        missing = str(self.root / 'absent.pt')
        with self.assertRaisesRegex(FileNotFoundError, missing):
            checkpoint.load_prior(missing)

    @parameterized.parameters('faces46', 'a/b/c', '')
    def test_an_unknown_name_is_refused_with_the_known_ones(self, name):
        with self.assertRaisesRegex(
            ValueError,
            f'faces64, phantoms64, ffhq256.*OWNER/NAME.*got {name!r}',
        ):
            checkpoint.load_prior(name)


class Faces64Test(CheckpointTest):
    def test_it_agrees_with_the_pytorch_network(self):
        prior = checkpoint.load_prior('faces64')
        with np.load(_GOLDENS / 'faces64_check.npz') as check:
            out = outputs(prior, check['x'], check['t'])
            # Of the same weights, which are kept in half precision, so that
            # nothing but float32 rounding is left.
            self.assertLess(relative_error(out, check['out']), 2e-5)

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
