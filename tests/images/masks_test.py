"""Which pixels are observed, in whatever file a mask comes."""

import pathlib
import tempfile

import hypothesis
import numpy as np
import tifffile
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from PIL import Image

from invjax import images
from tests.images import portrait

# 24 x 22 of 64 x 64 are missing.
_SIZE = (64, 64)
_OBSERVED = np.ones(_SIZE, bool)
_OBSERVED[20:44, 17:39] = False


class _MaskTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def save(self, values, name='mask.png', **options):
        path = self.folder / name
        if name.endswith('.npy'):
            np.save(path, values)
        elif name.endswith('.tif'):
            values = np.asarray(values)
            tifffile.imwrite(path, values, photometric='minisblack')
        else:
            Image.fromarray(np.asarray(values)).save(path, **options)
        return path

    def assert_is_read(self, path, mask_of='black', observed=_OBSERVED):
        reading = images.read_mask(path, _SIZE, mask_of)
        self.assertEqual(reading.x.shape, (*_SIZE, 1))
        self.assertEqual(reading.x.dtype, np.float32)
        np.testing.assert_array_equal(reading.x[..., 0], observed)
        missing = np.sum(~observed)
        self.assertIn(f'{missing:,} of 4,096 pixels missing', reading.done)
        return reading.done


class MaskTest(_MaskTest):
    @parameterized.product(
        kind=['bool', 'uint8', 'uint16', 'int16', 'int32', 'float32'],
        white=[1, 100],
        name=['mask.png', 'mask.tif', 'mask.npy'],
    )
    def test_two_values_of_any_type_are_understood(self, kind, white, name):
        values = (_OBSERVED * white).astype(kind)
        if name == 'mask.png' and kind in ('int16', 'int32', 'float32'):
            values = values.astype('uint8')
        if name == 'mask.tif' and kind == 'bool':
            values = values.astype('uint8')
        done = self.assert_is_read(self.save(values, name))
        self.assertIn('black is missing', done)

    @hypothesis.settings(max_examples=50, derandomize=True, database=None)
    @hypothesis.given(
        low=st.floats(-1e6, 1e6),
        span=st.floats(1e-3, 1e6),
        seed=st.integers(0, 99),
    )
    def test_the_larger_of_two_values_is_observed(self, low, span, seed):
        observed = np.random.default_rng(seed).uniform(size=_SIZE) < 0.5
        values = np.where(observed, low + span, low)
        self.assert_is_read(self.save(values, 'm.npy'), observed=observed)

    def test_white_may_mark_the_hole(self):
        path = self.save((~_OBSERVED * 255).astype(np.uint8))
        self.assert_is_read(path, 'white')
        self.assert_is_read(path, 'black', ~_OBSERVED)

    @parameterized.parameters(*images.MASKS_OF[3:])
    def test_paint_marks_the_hole_over_white_black_and_a_picture(self, paint):
        colour = np.array(
            {
                'red': (255, 0, 0),
                'green': (0, 255, 0),
                'blue': (0, 0, 255),
                'yellow': (255, 255, 0),
                'magenta': (255, 0, 255),
                'cyan': (0, 255, 255),
            }[paint],
            np.uint8,
        )
        for below in (0, 255, portrait.grey(64)[..., None]):
            pixels = np.where(_OBSERVED[..., None], below, colour)
            path = self.save(pixels.astype(np.uint8))
            self.assert_is_read(path, paint)
            with self.assertRaisesRegex(ValueError, 'in colour; name the'):
                images.read_mask(path, _SIZE)

    @parameterized.parameters(
        ('yellow', (255, 0, 0)), ('magenta', (0, 0, 255)), ('cyan', (0, 255, 0))
    )
    def test_half_of_the_colours_of_a_paint_are_another_paint(
        self, paint, other
    ):
        # Both channels of yellow are bright; a red pixel has one of them.
        pixels = np.full((*_SIZE, 3), 128, np.uint8)
        pixels[:8, :8] = other
        with self.assertRaisesRegex(ValueError, 'observed'):
            images.read_mask(self.save(pixels), _SIZE, paint)

    def test_a_face_under_red_paint_stays_observed(self):
        pixels = portrait.rgb(64)
        pixels[~_OBSERVED] = 255, 0, 0
        reading = images.read_mask(self.save(pixels), _SIZE, 'red')
        found = reading.x[..., 0] > 0
        self.assertFalse(found[~_OBSERVED].any())
        # Skin and orange cloth count as tinted beside the paint alone.
        beside = np.zeros(_SIZE, bool)
        beside[19:45, 16:40] = True
        self.assertTrue(found[~beside].all())

    def test_a_pixel_that_paint_tints_is_not_observed(self):
        share = np.where(_OBSERVED, 0.0, 1.0)
        share[20:44, 16] = 0.3
        pixels = 255 - share[..., None] * [0, 255, 255]
        path = self.save(pixels.astype(np.uint8))
        done = self.assert_is_read(path, 'red', share == 0)
        self.assertIn('24 pixels that it tints', done)

    @parameterized.parameters(255, 1)
    def test_transparency_marks_the_hole(self, opaque):
        rgba = np.full((*_SIZE, 4), 255, np.uint8)
        rgba[..., 3] = _OBSERVED * opaque
        path = self.save(rgba)
        self.assert_is_read(path, 'alpha')
        with self.assertRaisesRegex(ValueError, 'give alpha as mask_of'):
            images.read_mask(path, _SIZE)

    def test_a_palette_with_a_transparent_colour_marks_the_hole(self):
        picture = Image.fromarray(_OBSERVED.astype(np.uint8))
        picture = picture.convert('L')
        picture.putpalette([9, 9, 9, 255, 255, 255])
        path = self.folder / 'mask.gif'
        picture.save(path, transparency=0)
        self.assert_is_read(path, 'alpha')

    @parameterized.product(
        mask_of=['black', 'white', 'alpha'], grey=[40, 128, 230]
    )
    def test_grey_pixels_are_not_observed(self, mask_of, grey):
        shade = _OBSERVED * 255
        shade[20:44, 16] = grey
        observed = shade == 255
        if mask_of == 'white':
            shade = 255 - shade
        elif mask_of == 'alpha':
            shade = np.stack([0 * shade + 255] * 3 + [shade], -1)
        done = self.assert_is_read(
            self.save(shade.astype(np.uint8)), mask_of, observed
        )
        self.assertIn('24 ', done)

    def test_a_jpeg_is_right_but_for_its_edge(self):
        path = self.save(
            (_OBSERVED * 255).astype(np.uint8), 'm.jpg', quality=85
        )
        found = images.read_mask(path, _SIZE).x[..., 0] > 0
        self.assertFalse(found[~_OBSERVED].any())
        inside = np.zeros(_SIZE, bool)
        inside[18:46, 15:41] = True
        self.assertTrue(found[~inside].all())

    @parameterized.parameters(
        (np.ones(_SIZE, np.uint8), 'black', 'the value 1 everywhere'),
        (np.zeros(_SIZE), 'black', 'the value 0 everywhere'),
        (np.full((*_SIZE, 3), 9, np.uint8), 'red', 'leaves all .*red'),
        (np.ones((*_SIZE, 4)), 'alpha', 'leaves all of its pixels observed'),
        (np.ones(_SIZE), 'alpha', 'without the opacity that mask_of alpha'),
        (np.ones(_SIZE), 'green', 'without the colours that mask_of green'),
        (np.ones((32, 64)), 'black', 'is 64 x 32, but must be 64 x 64'),
        (np.full(_SIZE, np.nan), 'black', 'not finite'),
        (portrait.grey(64), 'black', 'is no mask: .* of its 4,096 pixels lie'),
        (np.ones(_SIZE), 'pink', "mask_of must be one of .* got 'pink'"),
    )
    def test_what_cannot_be_is_refused(self, values, mask_of, sentence):
        path = self.save(values, 'mask.npy')
        with self.assertRaisesRegex(ValueError, sentence):
            images.read_mask(path, _SIZE, mask_of)


class CheckMaskTest(parameterized.TestCase):
    """A measurement and its mask tell of each other."""

    def _measurement(self, filling):
        y = images.to_float(portrait.rgb(64))
        noise = np.random.default_rng(0).normal(size=y.shape)
        return np.where(_OBSERVED[..., None], y + 0.05 * noise, filling)

    @parameterized.parameters(-1, 0, 1, np.nan)
    def test_the_right_mask_is_passed_and_the_inverted_one_refused(
        self, filling
    ):
        y = self._measurement(filling)
        mask = _OBSERVED[..., None].astype(np.float32)
        self.assertEqual(images.check_mask(mask, y), '')
        with self.assertRaisesRegex(ValueError, 'the mask is inverted'):
            images.check_mask(1 - mask, y)

    def test_a_picture_in_the_hole_is_warned_of(self):
        y = images.to_float(portrait.rgb(64))
        mask = _OBSERVED[..., None]
        self.assertIn('528 pixels', images.check_mask(mask, y))
        self.assertIn('3,568 pixels', images.check_mask(~mask, y))

    def test_a_soft_edge_does_not_look_like_a_picture(self):
        y = self._measurement(-1)
        y[20:44, 17] = 0.5 * y[20:44, 16] - 0.5
        self.assertEqual(images.check_mask(_OBSERVED[..., None], y), '')

    def test_kept_pixels_of_one_colour_are_warned_of(self):
        y = np.zeros((*_SIZE, 3))
        self.assertIn(
            'nothing to restore', images.check_mask(_OBSERVED[..., None], y)
        )

    def test_a_mask_without_a_hole_says_nothing(self):
        self.assertEqual(
            images.check_mask(np.ones((*_SIZE, 1)), np.zeros((*_SIZE, 3))), ''
        )


if __name__ == '__main__':
    absltest.main()
