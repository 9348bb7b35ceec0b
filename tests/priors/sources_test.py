"""Priors of every source by one name or path: loaded, kept, and restored with."""

import functools
import http.server
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import threading
import zlib
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import images
from invjax.priors import checkpoint, diffusers_folder, families
from invjax.priors.denoiser import Denoiser
from invjax.priors.edm_unet import EDMUNet
from invjax.study.plan import describe_prior
from tests.priors import exports
from tests.priors.edm_writer import write_edm_pickle

_GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
_FACE = pathlib.Path(invjax.__file__).parents[1] / 'experiments/astronaut.png'


@jax.jit
def ask(prior, x_t, t):
    return tuple(prior(x_t, t))


def small_snapshot(path, **arguments):
    """A snapshot of a small network of EDM, with random weights."""
    network = EDMUNet(
        img_resolution=8,
        img_channels=1,
        model_channels=16,
        channel_mult=(1, 2),
        num_blocks=1,
        attn_resolutions=(4,),
        model_type='SongUNet',
    )
    shapes = families.state_dict.flax_shapes(network, 1)
    rng = np.random.default_rng(0)
    tensors = {'model.' + name: array for name, array in _torch_of(shapes, rng)}
    kwargs = {
        'img_resolution': 8,
        'img_channels': 1,
        'label_dim': 0,
        'model_type': 'SongUNet',
        'model_channels': 16,
        'channel_mult': [1, 2],
        'num_blocks': 1,
        'attn_resolutions': [4],
        **arguments,
    }
    write_edm_pickle(
        path, 'EDMPrecond', kwargs, tensors, 'open("ran", "w").write("x")'
    )
    return tensors


# From our layers to EDM's, within blocks.
_LAYERS = {
    'in_layers_0': 'norm0',
    'in_layers_2': 'conv0',
    'emb_layers_1': 'affine',
    'out_layers_0': 'norm1',
    'out_layers_3': 'conv1',
    'skip_connection': 'skip',
    'norm': 'norm2',
    'proj_out': 'proj',
}


def _torch_of(shapes, rng):
    for (module, *layers, leaf), shape in shapes.items():
        place = module.removesuffix('_attention')
        parts = [place]
        if place.startswith(('enc_', 'dec_')):
            parts = place.split('_', 1)
        layer = [_LAYERS.get(name, name) for name in layers]
        end = 'bias' if leaf == 'bias' else 'weight'
        shape = *shape[:-3:-1], *shape[:-2]
        if layer[-1:] in (['qkv'], ['proj']) and end == 'weight':
            shape = *shape, 1, 1
        array = 0.2 * rng.standard_normal(shape, dtype=np.float32)
        yield '.'.join((*parts, *layer, end)), array


class SourcesTest(parameterized.TestCase):
    """Each test keeps its priors in an empty folder of its own."""

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name).resolve()
        self.root = self.folder / 'kept'
        variable = {'INVJAX_CHECKPOINTS': str(self.root)}
        self.enter_context(mock.patch.dict(os.environ, variable))


class DiffusersTest(SourcesTest):
    def test_the_face_prior_as_diffusers_saves_it_is_the_face_prior(self):
        faces = invjax.load_prior('faces64')
        exports.write_diffusers(self.folder / 'faces', faces)
        # Random weights are refused, and these are not random.
        prior = invjax.load_prior(self.folder / 'faces')
        self.assertIsInstance(prior, Denoiser)
        np.testing.assert_array_equal(prior.alpha_bar, faces.alpha_bar)
        rng = np.random.default_rng(0)
        x_t = rng.standard_normal(prior.image_shape, dtype=np.float32)
        for t in (10, 700):
            for found, expected in zip(
                ask(prior, x_t, t), ask(faces.bare(), x_t, t), strict=True
            ):
                np.testing.assert_allclose(found, expected, atol=1e-4)

        truth = images.read_picture(_FACE, (64, 64)).x
        measured = invjax.measure(truth, 'random_inpainting', seed=1)
        pictures = [
            invjax.restore(measured, p, 'wiener', num_steps='quad3', seed=2)
            for p in (prior, faces)
        ]
        np.testing.assert_allclose(
            pictures[0].image, pictures[1].image, atol=1e-3
        )
        self.assertGreater(pictures[0].scores()[0]['psnr'], 18)

    def test_a_folder_its_unet_and_its_weights_are_the_same_prior_once(self):
        exports.write_diffusers(
            self.folder / 'mine', invjax.load_prior('faces64')
        )
        places = (
            self.folder / 'mine',
            self.folder / 'mine' / 'unet',
            self.folder / 'mine' / 'unet' / diffusers_folder.WEIGHTS[0],
        )
        priors = [invjax.load_prior(place, check=False) for place in places]
        self.assertEqual({p.card['name'] for p in priors}, {'mine'})
        (kept,) = self.root.iterdir()
        again = invjax.load_prior(kept)
        self.assertEqual(
            jax.tree.structure(again), jax.tree.structure(priors[0])
        )
        jax.tree.map(
            np.testing.assert_array_equal, again.params, priors[0].params
        )
        self.assertIn('UNet2D', repr(again))

    def test_what_does_not_denoise_is_refused_without_advice_for_files(self):
        folder = self.save_random()
        with self.assertRaisesRegex(
            ValueError, 'does not denoise.*may not be trained'
        ):
            invjax.load_prior(folder)
        self.assertEmpty(list(self.root.glob('*')))

    def save_random(self):
        faces = invjax.load_prior('faces64')
        rng = np.random.default_rng(0)
        params = jax.tree.map(
            lambda leaf: 0.1 * rng.standard_normal(leaf.shape), faces.params
        )
        exports.write_diffusers(
            self.folder / 'random', faces.replace(params=params)
        )
        return self.folder / 'random'

    def test_a_folder_with_a_known_name_is_not_taken_for_that_prior(self):
        folder = self.save_random().rename(self.folder / 'cat256')
        prior = invjax.load_prior(folder, check=False)
        self.assertNotIn('LSUN', prior.card['note'])

    def test_options_of_files_are_refused(self):
        folder = self.save_random()
        with self.assertRaisesRegex(ValueError, 'image_size cannot be overr'):
            invjax.load_prior(folder, image_size=64)

    def test_weights_without_their_configuration_are_told_of_it(self):
        folder = self.save_random()
        alone = self.folder / 'alone.safetensors'
        (folder / 'unet' / diffusers_folder.WEIGHTS[0]).rename(alone)
        with self.assertRaisesRegex(ValueError, 'give the folder'):
            invjax.load_prior(alone)

    def test_another_size_is_another_study_and_one_that_divides(self):
        exports.write_diffusers(
            self.folder / 'mine', invjax.load_prior('faces64')
        )
        prior = invjax.load_prior(self.folder / 'mine', check=False)
        wide = invjax.load_prior(
            self.folder / 'mine', size=(16, 24), check=False
        )
        self.assertEqual(wide.image_shape, (16, 24, 3))
        self.assertNotEqual(describe_prior(wide), describe_prior(prior))
        eps, _ = ask(wide, np.zeros((16, 24, 3), np.float32), 10)
        self.assertEqual(eps.shape, (16, 24, 3))
        with self.assertRaisesRegex(ValueError, r'by 8\), got 20'):
            prior.with_size(16, 20)


class Hub(http.server.BaseHTTPRequestHandler):
    """What of the hub a download needs, for one repository in a folder."""

    def __init__(self, folder, asked, *args):
        self.folder, self.asked = folder, asked
        super().__init__(*args)

    def do_GET(self):
        self.answer(True)

    def do_HEAD(self):
        self.answer(False)

    def answer(self, with_body):
        self.asked.append(self.path)
        prefix, info = '/me/small/resolve/main/', '/api/models/me/'
        headers = {'X-Repo-Commit': 40 * 'a'}
        if self.path.startswith(info + 'small'):
            files = [
                str(path.relative_to(self.folder))
                for path in self.folder.rglob('*')
                if path.is_file()
            ]
            body = json.dumps(
                {
                    'id': 'me/small',
                    'sha': 40 * 'a',
                    'siblings': [{'rfilename': name} for name in files],
                }
            ).encode()
            status = 200
        elif self.path.startswith(prefix):
            path = self.folder / self.path.removeprefix(prefix)
            body, status = path.read_bytes(), 200
            headers['ETag'] = f'"{zlib.crc32(body)}"'
        else:
            headers['X-Error-Code'] = 'RepoNotFound'
            body, status = b'', 404
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args):
        pass


class HubTest(SourcesTest):
    def setUp(self):
        super().setUp()
        self.source, self.asked = self.folder / 'source', []
        exports.write_diffusers(self.source, invjax.load_prior('faces64'))
        (self.source / 'README.md').write_text('not needed')
        (self.source / 'unet' / diffusers_folder.WEIGHTS[1]).write_bytes(b'')
        handler = functools.partial(Hub, self.source, self.asked)
        server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.environment = os.environ | {
            'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
            'HF_HOME': str(self.folder / 'cache'),
            'JAX_PLATFORMS': 'cpu',
        }

    def load(self, repository):
        """What a process of its own says, which has the hub's address."""
        code = f"""
            import json, invjax
            try:
                prior = invjax.load_prior({repository!r}, check=False)
                print(json.dumps(prior.card.as_dict()))
            except ValueError as error:
                print(json.dumps(str(error)))
        """
        done = subprocess.run(
            [sys.executable, '-c', textwrap.dedent(code)],
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)

    def test_a_repository_is_downloaded_once_and_only_what_is_needed(self):
        card = self.load('me/small')
        self.assertIsInstance(card, dict, card)
        self.assertEqual(card['repository'], 'me/small')
        self.assertEqual(card['revision'], 40 * 'a')
        self.assertEqual(card['name'], 'me_small')
        asked = ' '.join(self.asked)
        self.assertIn('config.json', asked)
        self.assertNotIn('README', asked)
        self.assertNotIn('.bin', asked)
        self.asked.clear()
        self.assertEqual(self.load('me/small'), card)
        self.assertEmpty(self.asked)

    def test_one_of_another_kind_is_refused_before_its_weights_are_asked_for(
        self,
    ):
        path = self.source / 'model_index.json'
        index = json.loads(path.read_text())
        index['vae'] = ['diffusers', 'AutoencoderKL']
        path.write_text(json.dumps(index))
        self.assertRegex(
            self.load('me/small'), 'me/small is no prior: .*with vae'
        )
        self.assertNotIn('.safetensors', ' '.join(self.asked))

    def test_a_repository_that_is_not_there_is_one_sentence(self):
        self.assertRegex(
            self.load('me/none'),
            'me/none could not be downloaded: there is no such',
        )


class KnownTest(SourcesTest):
    def test_every_known_prior_says_what_it_is(self):
        for known in checkpoint.KNOWN_PRIORS.values():
            self.assertGreater(known.size_mib, 1)
            self.assertGreater(len(known.note), 20)
            self.assertEqual(
                known.page is not None,
                known.repository is None and not known.is_embedded,
            )

    def test_one_that_is_on_no_hub_says_where_to_get_and_to_put_it(self):
        with self.assertRaisesRegex(
            ValueError, r'github.com/NVlabs/edm and put it at .*kept'
        ):
            invjax.load_prior('edm_ffhq64')


class SnapshotTest(SourcesTest):
    def test_a_snapshot_is_read_as_data_and_restored_with(self):
        small_snapshot(self.folder / 'net.pkl')
        prior = invjax.load_prior(self.folder / 'net.pkl', check=False)
        self.assertFalse(pathlib.Path('ran').exists())
        self.assertEqual(prior.image_shape, (8, 8, 1))
        self.assertEqual(prior.card['preconditioning'], 'EDMPrecond')
        truth = np.zeros((8, 8, 1), np.float32)
        measured = invjax.measure(truth, 'denoising')
        restored = invjax.restore(measured, prior, 'ddnm', num_steps='edm3')
        self.assertTrue(np.isfinite(restored.image).all())
        with self.assertRaisesRegex(ValueError, 'denoise'):
            invjax.load_prior(self.folder / 'net.pkl')

    def test_its_state_dict_is_the_same_prior(self):
        import safetensors.numpy

        tensors = small_snapshot(self.folder / 'net.pkl')
        path = self.folder / 'net.safetensors'
        safetensors.numpy.save_file(tensors, path)
        prior = invjax.load_prior(self.folder / 'net.pkl', check=False)
        same = invjax.load_prior(path, check=False)
        other = invjax.load_prior(
            path, preconditioning='VPPrecond', check=False
        )
        jax.tree.map(np.testing.assert_array_equal, same.params, prior.params)
        self.assertEqual(same.parametrisation, prior.parametrisation)
        self.assertEqual(other.parametrisation.coordinates, 'vp')
        with self.assertRaisesRegex(ValueError, 'preconditioning must be one'):
            invjax.load_prior(path, preconditioning='none')


class FunctionTest(absltest.TestCase):
    def test_functions_are_told_apart_in_studies(self):
        priors = [
            Denoiser.of(lambda x, t, k=k: k * x, (4, 4, 1), 'noise')
            for k in (0.5, 0.25)
        ]
        names = [describe_prior(prior)['prior'] for prior in priors]
        self.assertNotEqual(*names)
        self.assertEqual(names[0], describe_prior(priors[0])['prior'])


if __name__ == '__main__':
    absltest.main()
