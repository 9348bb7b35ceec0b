"""Blur kernels: shares of light, in whatever file they come."""

import pathlib
import tempfile

import jax.numpy as jnp
import numpy as np
import tifffile
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import images
from invjax.operators.blur import convolution

_LIGHT = np.array([[0, 0, 0, 0, 0], [0, 51, 0, 204, 255], [0, 0, 0, 0, 0]])
_SHARES = _LIGHT / 510


class KernelTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def save(self, values, name='kernel.npy'):
        path = self.folder / name
        if name.endswith('.npy'):
            np.save(path, values)
        elif name.endswith('.tif'):
            values = np.asarray(values)
            tifffile.imwrite(path, values, photometric='minisblack')
        else:
            Image.fromarray(np.asarray(values)).save(path)
        return path

    @parameterized.parameters(
        ('kernel.png', np.uint8, 1),
        ('kernel.png', np.uint16, 257),
        # Few bits in 16 are no matter, since all is divided by the sum.
        ('kernel.png', np.uint16, 1),
        ('kernel.tif', np.float32, 1 / 510),
        ('kernel.npy', np.float64, 1 / 510),
        ('kernel.npy', np.float32, 3.0),
        ('kernel.npy', np.int64, 1),
    )
    def test_it_is_read_as_shares_of_the_light(self, name, kind, factor):
        reading = images.read_blur_kernel(
            self.save((_LIGHT * factor).astype(kind), name)
        )
        np.testing.assert_allclose(reading.x, _SHARES, rtol=1e-6)
        self.assertIn('kernel of 5 x 3', reading.done)
        self.assertIn('divided by their sum', reading.done)

    def test_it_is_what_becomes_of_a_point_of_light(self):
        kernel = images.read_blur_kernel(self.save(_LIGHT)).x
        operator = convolution(kernel, (9, 9, 1), {})
        point = jnp.zeros((9, 9, 1)).at[4, 4].set(1.0)
        found = operator.forward(point)[3:6, 2:7, 0]
        np.testing.assert_allclose(found, _SHARES, atol=1e-6)

    def test_flipped_it_is_that_of_a_correlation(self):
        reading = images.read_blur_kernel(self.save(_LIGHT), flip=True)
        np.testing.assert_allclose(reading.x, np.rot90(_SHARES, 2))
        self.assertIn('turned by 180 degrees', reading.done)

    def test_transparent_pixels_let_no_light_through(self):
        rgba = np.full((*_LIGHT.shape, 4), 255, np.uint8)
        rgba[..., 3] = _LIGHT
        reading = images.read_blur_kernel(self.save(rgba, 'kernel.png'))
        np.testing.assert_allclose(reading.x, _SHARES, rtol=1e-6)
        self.assertIn('let no light through', reading.done)
        rgba[..., :3] = _LIGHT[..., None]
        rgba[..., 3] = 255
        reading = images.read_blur_kernel(self.save(rgba, 'kernel.png'))
        np.testing.assert_allclose(reading.x, _SHARES, rtol=1e-6)
        self.assertNotIn('through', reading.done)

    def test_a_box_and_a_point_are_kernels(self):
        for kernel in (np.ones((3, 3)), np.ones((1, 1)), np.eye(3)):
            found = images.read_blur_kernel(self.save(kernel)).x
            np.testing.assert_allclose(found, kernel / kernel.sum())

    @parameterized.parameters(
        (np.ones((4, 3)), 'must have odd sides, and .* is 3 x 4; add a row'),
        (np.zeros((3, 3)), 'must have light in it, and .* is black'),
        (255 - _LIGHT, 'white on black, and .* bright along its border'),
        (_LIGHT - 1, 'must be 0 or more, and .* down to -1'),
        (_LIGHT * np.nan, 'not finite'),
        (np.stack([_LIGHT, _LIGHT, 0 * _LIGHT], -1), 'must be grey'),
    )
    def test_what_cannot_be_is_refused(self, kernel, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            images.read_blur_kernel(self.save(kernel))


if __name__ == '__main__':
    absltest.main()
