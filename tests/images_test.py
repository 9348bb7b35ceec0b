"""Tests of reading, writing and arranging pictures."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest
from PIL import Image

from invjax import images


class ImagesTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_every_byte_survives_the_way_to_float_and_back(self):
        pixels = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(
            images.to_uint8(images.to_float(pixels)), pixels
        )

    def test_grey_becomes_rgb_and_the_centre_square_is_taken(self):
        path = self.folder / 'grey.png'
        pixels = np.zeros((8, 24), np.uint8)
        pixels[:, 8:16] = 255
        Image.fromarray(pixels).save(path)
        x, done = images.read_image(path, 8)
        self.assertEqual(x.shape, (8, 8, 3))
        np.testing.assert_allclose(x, 1)
        self.assertIn('24 x 8', done)

    def test_a_kernel_is_read_as_shares_of_the_light(self):
        path = self.folder / 'kernel.png'
        for kind, most in ((np.uint8, 255), (np.uint16, 65535)):
            pixels = np.array([[0, 0, 0], [most // 3, 0, most // 3 * 2]], kind)
            pixels = np.append(pixels, pixels[:1], axis=0)
            Image.fromarray(pixels).save(path)
            np.testing.assert_allclose(
                images.read_kernel(path),
                [[0, 0, 0], [1 / 3, 0, 2 / 3], [0, 0, 0]],
            )

    def test_a_kernel_without_centre_or_light_is_refused(self):
        path = self.folder / 'kernel.png'
        for shape, sentence in (
            ((4, 3), 'a kernel must have odd sides, and .* is 3 x 4'),
            ((3, 3), 'a kernel must have light in it, and .* is black'),
        ):
            Image.fromarray(np.zeros(shape, np.uint8)).save(path)
            with self.assertRaisesRegex(ValueError, sentence):
                images.read_kernel(path)

    def test_exif_orientation_is_respected(self):
        path = self.folder / 'turned.png'
        pixels = np.zeros((4, 8, 3), np.uint8)
        pixels[:, :4] = 255
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by 90 degrees for display
        Image.fromarray(pixels).save(path, exif=exif)
        x, _ = images.read_image(path)
        self.assertEqual(x.shape, (8, 4, 3))
        np.testing.assert_allclose(x[:4], 1)
        np.testing.assert_allclose(x[4:], -1)

    def test_what_is_no_picture_is_refused_in_a_sentence(self):
        path = self.folder / 'text.png'
        path.write_text('no picture')
        with self.assertRaisesRegex(ValueError, 'text.png cannot be read'):
            images.read_image(path)
        with self.assertRaisesRegex(ValueError, 'there is no file'):
            images.read_image(self.folder / 'absent.png')

    def test_a_measurement_of_another_size_is_refused(self):
        path = self.folder / 'y.png'
        images.write_image(path, np.zeros((8, 8, 3)))
        with self.assertRaisesRegex(ValueError, '8 x 8, but .* 16 x 16'):
            images.read_exact(path, 16)

    def test_values_that_are_not_finite_are_not_written(self):
        path = self.folder / 'x.png'
        with self.assertRaisesRegex(ValueError, 'not finite'):
            images.write_image(path, np.full((4, 4, 3), np.nan))
        self.assertFalse(path.exists())

    def test_a_sheet_shows_each_image_in_its_cell(self):
        rows = [[np.full((2, 2, 3), v) for v in (-1, 1)], [np.zeros((2, 2, 3))]]
        pixels = np.asarray(images.sheet(rows, cell=10))
        np.testing.assert_array_equal(pixels[:10, :10], 0)
        np.testing.assert_array_equal(pixels[:10, 14:24], 255)
        np.testing.assert_array_equal(pixels[14:24, :10], 128)


if __name__ == '__main__':
    absltest.main()
