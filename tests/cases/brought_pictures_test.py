"""Pictures as people have them: the face, or one sentence with the file's name."""

import pathlib
import tempfile

import numpy as np
import tifffile
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import images
from tests.cases.brought import (
    DATA,
    SHAPE,
    colours,
    face,
    grey_face,
    problem_of,
)

_IMAGES = DATA / 'images'


class BroughtPicturesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = self.enter_context(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(holder)

    def pixels(self, name):
        with Image.open(_IMAGES / f'ref_{name}8.png') as picture:
            return np.asarray(picture)

    def read(self, path, **options):
        return images.read_picture(path, SHAPE[:2], **options)

    def tiff(self, pixels):
        path = self.folder / 'a.tif'
        kind = 'rgb' if pixels.ndim == 3 else 'minisblack'
        tifffile.imwrite(path, pixels, photometric=kind)
        return path

    @parameterized.parameters(
        ('grey16.png', 0, 0),
        ('rgb16.png', 0, 0),
        ('webp.webp', 0, 0),
        # What these formats lose, in 8-bit levels: the most, and in the mean.
        ('lab.tif', 10, 1),
        ('exif6.jpg', 60, 3),
        ('cmyk.jpg', 40, 2),
        ('photo.avif', 60, 4),
        ('anim.gif', 60, 3),
        ('palette.png', 60, 4),
        ('scene.hdr', 60, 2),
    )
    def test_every_format_and_mode_is_the_face(self, name, most, mean):
        expected = grey_face() if 'grey' in name else face()
        off = 127.5 * np.abs(self.read(_IMAGES / name).x - expected)
        self.assertLessEqual(off.max(), most + 0.01)
        self.assertLessEqual(off.mean(), mean + 0.01)

    def test_a_bitmap_is_what_was_saved(self):
        path = self.folder / 'a.bmp'
        Image.fromarray(colours()).save(path)
        x = self.read(path).x
        np.testing.assert_allclose(x, colours() / 127.5 - 1, atol=1e-6)

    @parameterized.parameters((0, 1.0), (51, 0.8), (255, 0.0))
    def test_black_ink_takes_its_share_of_what_the_colours_leave(
        self, black, left
    ):
        # Cyan, magenta and yellow are what red, green and blue lack.
        inks = np.full((*SHAPE[:2], 4), black, np.uint8)
        inks[..., :3] = 255 - colours()
        path = self.folder / 'a.tif'
        tifffile.imwrite(path, inks, photometric='separated')
        reading = self.read(path)
        off = np.abs((reading.x + 1) * 127.5 - left * colours())
        # It is reckoned in 8 bits.
        self.assertLessEqual(off.max(), 1.01)
        self.assertRegex(reading.done, r'a\.tif: .*CMYK converted to RGB')

    def test_luma_and_chroma_are_the_colours_up_to_rounding(self):
        # ITU-R BT.601 in full range, as in TIFF 6.0, section 21, and in JPEG.
        luma = colours() @ np.array([0.299, 0.587, 0.114])
        blue = 128 + (colours()[..., 2] - luma) / 1.772
        red = 128 + (colours()[..., 0] - luma) / 1.402
        stored = np.stack([luma, blue, red], -1).round().clip(0, 255)
        picture = Image.frombytes(
            'YCbCr', SHAPE[:2], stored.astype(np.uint8).tobytes()
        )
        path = self.folder / 'a.tif'
        picture.save(path)
        reading = self.read(path)
        off = np.abs((reading.x + 1) * 127.5 - colours())
        # Half a level of luma, 1.772 times that of chroma, and one for the way
        # back, which is reckoned in 8 bits.
        self.assertLessEqual(off.max(), 2.4)
        self.assertRegex(reading.done, r'a\.tif: .*YCbCr converted to RGB')

    def test_integers_of_16_bits_and_floats_are_the_face_in_8(self):
        for name, expected in (('grey', grey_face()), ('rgb', face())):
            pixels = self.pixels(name)
            for wide in (
                pixels.astype(np.uint16) * 257,
                (pixels / 255).astype(np.float32),
            ):
                np.testing.assert_allclose(
                    self.read(self.tiff(wide)).x, expected, atol=1e-5
                )

    def test_floats_up_to_255_and_12_bits_ask_for_their_range(self):
        pixels = self.pixels('grey')
        floats = self.tiff(pixels.astype(np.float32))
        with self.assertRaisesRegex(
            ValueError, r'a\.tif has values .* from 0 to 1; .* such as 0,255'
        ):
            self.read(floats)
        with self.assertRaisesRegex(ValueError, 'such as 0,4095'):
            self.read(_IMAGES / 'grey12in16.png')
        for path, white in (
            (floats, 255),
            # 16 g, whose white is 16 x 255.
            (_IMAGES / 'grey12in16.png', 4080),
        ):
            x = self.read(path, value_range=(0, white)).x
            np.testing.assert_allclose(x, grey_face(), atol=1e-5)

    @parameterized.parameters(
        'rgba_hidden_green.png',
        'rgba.png',
        'palette_transparent.png',
        'palette_transparent.gif',
        'la.png',
        'la16.png',
    )
    def test_what_is_transparent_is_white_and_said(self, name):
        reading = self.read(_IMAGES / name)
        np.testing.assert_array_equal(reading.x[:, :20], 1)
        self.assertRegex(reading.done, 'transparent pixels laid over white')
        # The rest is opaque, and the face.
        expected = grey_face() if name.startswith('la') else face()
        off = np.abs(reading.x - expected)[:, 32:]
        self.assertLess(off.mean(), 0.04)

    @parameterized.parameters(
        'truncated.png', 'truncated.jpg', 'truncated_exif.jpg'
    )
    def test_what_ends_early_is_one_sentence_with_its_name(self, name):
        with self.assertRaisesRegex(ValueError, f'^\\S*{name} .*truncated'):
            self.read(_IMAGES / name)

    def test_what_is_huge_is_one_sentence_with_its_name(self):
        path = self.folder / 'huge.png'
        Image.new('L', (20_000, 10_000)).save(path, compress_level=1)
        with self.assertRaisesRegex(ValueError, 'huge.png is too large'):
            self.read(path)

    @parameterized.parameters('bilevel.png', 'onepx.png', 'strip.png')
    def test_odd_pictures_are_pictures(self, name):
        x = self.read(_IMAGES / name).x
        self.assertEqual(x.shape, SHAPE)
        self.assertLessEqual(np.abs(x).max(), 1)

    def test_restore_measures_them_all_alike(self):
        flags = '--task=denoising', '--noise_std=0'
        for name in ('grey16.png', 'webp.webp', 'rgba_hidden_green.png'):
            problem, said = problem_of(f'--image={_IMAGES / name}', *flags)
            np.testing.assert_array_equal(
                problem.y, self.read(_IMAGES / name).x
            )
            self.assertIn(name, said)


if __name__ == '__main__':
    absltest.main()
