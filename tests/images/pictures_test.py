"""The rules of values, opacity, channels and sizes; measurements; writing."""

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


class _FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def save(self, values, name='a.npy'):
        """By NumPy, tifffile or Pillow, after the suffix."""
        path = self.folder / name
        if name.endswith('.npy'):
            np.save(path, values)
        elif name.endswith('.tif'):
            values = np.asarray(values)
            tifffile.imwrite(path, values, photometric='minisblack')
        else:
            Image.fromarray(np.asarray(values)).save(path)
        return path


class ValuesTest(_FolderTest):
    @parameterized.parameters('a.npy', 'a.tif', 'a.png')
    def test_few_bits_in_16_are_refused_until_the_range_is_given(self, name):
        for bits in (10, 12, 14):
            full = 2**bits - 1
            values = np.array([[0, full // 3], [full // 2, full]], np.uint16)
            path = self.save(values, name)
            with self.assertRaisesRegex(
                ValueError, f'{name} .*from 0 to {full}, .* such as 0,{full}'
            ):
                images.read_picture(path)
            reading = images.read_picture(path, value_range=(0, full))
            np.testing.assert_allclose(
                reading.x[..., 0], 2 * (values / full) - 1, atol=1e-6
            )
            self.assertIn(f'0 as black and {full} as white', reading.done)
            dark = images.read_picture(path, value_range=(0, 65535)).x
            np.testing.assert_allclose(dark.max(), 2 * full / 65535 - 1, 1e-5)

    def test_a_picture_of_15_bits_in_16_is_read_by_the_full_range(self):
        values = np.array([[0, 16384]], np.uint16)
        x = images.read_picture(self.save(values)).x
        np.testing.assert_allclose(x[0, 1], 2 * 16384 / 65535 - 1, rtol=1e-5)

    def test_black_is_black_in_every_type(self):
        for kind in (bool, np.uint8, np.uint16, np.int32, np.float32):
            x = images.read_picture(self.save(np.zeros((2, 2), kind))).x
            np.testing.assert_array_equal(x, -1)

    @parameterized.parameters(
        (np.array([[0, 1]], np.uint8), 'almost black.* such as 0,1,'),
        (np.array([[0, 253.0]]), 'from 0 to 253, .* such as 0,255'),
        (np.array([[-0.9, 1.0]]), 'from 0 to 1; .* such as -1,1'),
        (np.array([[0.0, 1.25]]), 'such as 0,1.25'),
        (np.array([[-7, 30000]], np.int16), 'from -7 to 30000, but must'),
        (np.array([[0, 255]], np.int64), 'such as 0,255[.]$'),
    )
    def test_values_that_no_rule_explains_are_refused(self, values, sentence):
        with self.assertRaisesRegex(ValueError, f'a.npy has .*{sentence}'):
            images.read_picture(self.save(values))

    @parameterized.parameters(np.nan, np.inf, -np.inf)
    def test_values_that_are_not_finite_are_refused(self, value):
        for name in ('a.npy', 'a.tif'):
            path = self.save(np.array([[0, value, 0.5]], np.float32), name)
            with self.assertRaisesRegex(ValueError, '1 values .* not finite'):
                images.read_picture(path)

    @hypothesis.settings(
        max_examples=100, derandomize=True, deadline=None, database=None
    )
    @hypothesis.given(
        low=st.floats(-1e3, 1e3), span=st.floats(1e-2, 1e5), seed=st.integers(0)
    )
    def test_a_value_range_maps_its_ends_to_black_and_white(
        self, low, span, seed
    ):
        shares = np.random.default_rng(seed).uniform(0, 1, (3, 4))
        shares[0, :2] = 0, 1
        values = np.clip(low + shares * span, low, low + span)
        x = images.read_picture(
            self.save(values), value_range=(low, low + span)
        ).x
        np.testing.assert_allclose(x[..., 0], 2 * shares - 1, atol=1e-4)

    @parameterized.parameters(
        ((1, 1), 'two numbers, the lower one first, got'),
        ((0, float('inf')), 'two numbers'),
        ((0, 0.5), 'from 0 to 0.75, and the value_range given is 0, 0.5'),
    )
    def test_a_range_that_cannot_be_is_refused(self, value_range, sentence):
        path = self.save(np.array([[0, 0.75]]))
        with self.assertRaisesRegex(ValueError, sentence):
            images.read_picture(path, value_range=value_range)

    def test_colour_of_16_bits_in_png_says_that_8_are_read(self):
        path = self.folder / 'a.png'
        path.write_bytes(portrait.deep_png(portrait.rgb()))
        self.assertIn(
            '16 bits a channel read as 8', images.read_picture(path).done
        )
        with self.assertRaisesRegex(ValueError, 'as an uncompressed TIFF'):
            images.read_picture(path, value_range=(0, 4095))
        path.write_bytes(portrait.deep_png(portrait.rgb() // 16))
        with self.assertRaisesRegex(ValueError, 'lowest quarter'):
            images.read_picture(path)


# An opacity of 0 hides magenta, one of half mixes it with white.
_COLOUR = np.array([204, 0, 204], np.uint8)
_OPACITIES = np.array([[255, 0, 51, 102]], np.uint8)


def _rgba():
    return np.concatenate(
        [np.broadcast_to(_COLOUR, (1, 4, 3)), _OPACITIES[..., None]], -1
    )


class OpacityTest(_FolderTest):
    def _expected(self):
        share = _OPACITIES[..., None] / 255
        return 2 * (share * _COLOUR / 255 + 1 - share) - 1

    @parameterized.parameters('png', 'webp', 'deep_png', 'tiff', 'npy', 'float')
    def test_colours_are_laid_over_white(self, kind):
        rgba = _rgba()
        path = self.folder / 'a'
        if kind == 'deep_png':
            path.write_bytes(portrait.deep_png(rgba))
        elif kind == 'tiff':
            tifffile.imwrite(
                path,
                rgba.astype(np.uint16) * 257,
                photometric='rgb',
                extrasamples=['unassalpha'],
            )
        elif kind == 'npy':
            path = self.save(rgba)
        elif kind == 'float':
            path = self.save(rgba / np.float32(255))
        else:
            options = (
                {'lossless': True, 'exact': True} if kind == 'webp' else {}
            )
            Image.fromarray(rgba).save(path, kind, **options)
        reading = images.read_picture(path)
        np.testing.assert_allclose(reading.x, self._expected(), atol=1e-5)
        self.assertIn('3 transparent pixels laid over white', reading.done)

    @parameterized.parameters(np.uint8, np.uint16, np.float32)
    def test_colours_that_were_multiplied_are_not_multiplied_again(self, kind):
        rgba = _rgba() / 255
        rgba[..., :3] *= rgba[..., 3:]
        full = np.iinfo(kind).max if np.dtype(kind).kind == 'u' else 1
        path = self.folder / 'a.tif'
        tifffile.imwrite(
            path,
            np.round(rgba * full).astype(kind)
            if full > 1
            else rgba.astype(kind),
            photometric='rgb',
            extrasamples=['assocalpha'],
        )
        x = images.read_picture(path).x
        # Pillow divides 8 bits, which rounds.
        np.testing.assert_allclose(x, self._expected(), atol=0.02)

    def test_grey_with_opacity_is_laid_over_white(self):
        grey = np.array([[[0, 255], [0, 0], [0, 51]]], np.uint8)
        path = self.folder / 'a.png'
        Image.fromarray(grey, 'LA').save(path)
        x = images.read_picture(path).x
        np.testing.assert_allclose(x[0, :, 0], [-1, 1, 0.6], atol=1e-6)
        path.write_bytes(portrait.deep_png(grey))
        np.testing.assert_allclose(images.read_picture(path).x, x, atol=1e-6)

    @parameterized.parameters(
        ('L', [[0, 100, 255]], 100),
        ('P', [[0, 1, 2]], 1),
        ('RGB', [[[0, 0, 0], [0, 255, 0], [9, 9, 9]]], (0, 255, 0)),
        ('1', [[0, 255, 0]], 255),
        ('I;16', [[0, 300, 65535]], 300),
    )
    def test_a_colour_that_stands_for_transparent_is_white(
        self, mode, pixels, transparent
    ):
        kind = np.uint16 if mode == 'I;16' else np.uint8
        image = Image.fromarray(np.array(pixels, kind))
        if mode == 'P':
            image = image.convert('L')
            image.putpalette([0, 0, 0, 255, 0, 255, 9, 9, 9])
        elif mode == '1':
            image = image.convert('1')
        path = self.folder / 'a.png'
        image.save(path, transparency=transparent)
        reading = images.read_picture(path)
        np.testing.assert_array_equal(reading.x[0, 1], 1)
        self.assertLess(reading.x[0, 0].max(), -0.99)
        self.assertIn('1 transparent pixels', reading.done)

    def test_what_is_transparent_all_over_is_refused(self):
        rgba = _rgba()
        rgba[..., 3] = 0
        path = self.save(rgba, 'a.png')
        with self.assertRaisesRegex(
            ValueError, 'a.png is transparent all over'
        ):
            images.read_picture(path)

    def test_opacity_that_is_no_share_is_refused(self):
        path = self.save(_rgba() / 255 * [1, 1, 1, 255])
        with self.assertRaisesRegex(ValueError, 'opacities from 0 to 255'):
            images.read_picture(path)


class SizeAndChannelsTest(_FolderTest):
    def test_grey_becomes_rgb_and_the_centre_square_is_taken(self):
        pixels = np.zeros((8, 24), np.uint8)
        pixels[:, 8:16] = 255
        reading = images.read_picture(self.save(pixels, 'a.png'), (8, 8))
        self.assertEqual(reading.x.shape, (8, 8, 3))
        np.testing.assert_allclose(reading.x, 1)
        self.assertIn('24 x 8, 8-bit grey; centre square resized', reading.done)

    @parameterized.parameters(np.uint16, np.float32)
    def test_every_type_is_resized_as_8_bits_are(self, kind):
        pixels = portrait.rgb(64)
        expected = images.read_picture(self.save(pixels, 'a.png'), (20, 30)).x
        x = images.read_picture(
            self.save(portrait.to_type(pixels, kind)), (20, 30)
        ).x
        self.assertEqual(x.shape, (20, 30, 3))
        # 8 bits are rounded and cut off after the rows and after the columns.
        off = np.abs(x - expected) * 127.5
        self.assertLess(off.max(), 5)
        self.assertLess(off.mean(), 0.5)

    def test_resizing_does_not_leave_the_range(self):
        pixels = np.zeros((64, 64), np.float32)
        pixels[::7, ::5] = 1
        x = images.read_picture(self.save(pixels), (40, 40)).x
        self.assertLessEqual(np.abs(x).max(), 1)

    def test_colour_becomes_grey_by_its_luma(self):
        colours = np.array(
            [[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8
        )
        reading = images.read_picture(self.save(colours, 'a.png'), channels=1)
        np.testing.assert_allclose(
            (reading.x[0, :, 0] + 1) / 2, [0.299, 0.587, 0.114, 1], atol=1e-6
        )
        self.assertIn('colour became grey', reading.done)

    def test_grey_stays_grey_in_one_channel(self):
        pixels = portrait.grey()
        x = images.read_picture(self.save(pixels, 'a.png'), channels=1).x
        np.testing.assert_array_equal(x[..., 0], images.to_float(pixels))

    def test_other_numbers_of_channels_are_those_of_the_file(self):
        values = np.random.default_rng(0).uniform(0, 1, (6, 9, 4))
        expected = 2 * values - 1
        reading = images.read_picture(self.save(values), channels=4)
        np.testing.assert_allclose(reading.x, expected, atol=1e-6)
        self.assertIn('opacity taken as data', reading.done)
        path = self.folder / 'a.tif'
        tifffile.imwrite(
            path,
            values[..., :2],
            photometric='minisblack',
            planarconfig='contig',
        )
        x = images.read_picture(path, channels=2).x
        np.testing.assert_allclose(x, expected[..., :2], atol=1e-6)
        with self.assertRaisesRegex(
            ValueError, 'has 2 channels, but must have 3'
        ):
            images.read_picture(path)
        with self.assertRaisesRegex(
            ValueError, 'must have 4 channels, in a TIFF'
        ):
            images.read_picture(self.save(_rgba(), 'a.png'), channels=4)

    def test_a_picture_of_one_pixel_is_read(self):
        path = self.save(np.full((1, 1, 3), 255, np.uint8), 'a.png')
        np.testing.assert_array_equal(images.read_picture(path, (4, 4)).x, 1)


class MeasurementTest(_FolderTest):
    def test_another_size_is_refused(self):
        path = self.folder / 'y.png'
        images.write_image(path, np.zeros((8, 16, 3)))
        with self.assertRaisesRegex(ValueError, '16 x 8, but must be 8 x 16'):
            images.read_measurement(path, (16, 8, 3))

    def test_noise_may_leave_a_range_that_is_given(self):
        values = np.array([[-1.2, 0.0, 1.3]])
        path = self.save(values, 'y.npy')
        y = images.read_measurement(path, (1, 3, 1), value_range=(-1, 1)).x
        np.testing.assert_allclose(y[..., 0], values, atol=1e-6)
        with self.assertRaisesRegex(ValueError, 'from -1.2 to 1.3'):
            images.read_measurement(path, (1, 3, 1))

    @parameterized.product(is_picture=[True, False], value=[np.nan, np.inf])
    def test_what_is_not_finite_is_zero_only_where_nothing_is_observed(
        self, is_picture, value
    ):
        values = np.full((2, 2, 3), 0.75)
        values[0, 0] = value
        support = np.ones((2, 2, 1))
        path = self.save(values, 'y.npy')
        arguments = path, (2, 2, 3), is_picture, None
        with self.assertRaisesRegex(ValueError, '3 values that are not finite'):
            images.read_measurement(*arguments, support)
        support[0, 0] = 0
        y = images.read_measurement(*arguments, support).x
        self.assertTrue(np.isfinite(y).all())
        np.testing.assert_allclose(y[1], 0.5 if is_picture else 0.75)

    def test_what_is_no_picture_is_read_as_it_is(self):
        values = np.random.default_rng(0).uniform(0, 50, (6, 6, 3))
        reading = images.read_measurement(
            self.save(values, 'y.npy'), (6, 6, 3), is_picture=False
        )
        np.testing.assert_allclose(reading.x, values, rtol=1e-6)
        self.assertIn('as they are', reading.done)

    def test_it_may_have_any_shape(self):
        for shape in ((7,), (2, 5), (3, 1, 2, 6)):
            y = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
            x = images.read_measurement(self.save(y, 'y.npy'), shape, False).x
            np.testing.assert_array_equal(x, y)

    def test_a_picture_of_what_is_none_is_refused(self):
        for name in ('y.png', 'y.tif'):
            path = self.save(np.zeros((6, 6), np.uint8), name)
            with self.assertRaisesRegex(
                ValueError,
                f'{name} is no .npy file, .* in a .npy file, 6 x 6 x 1',
            ):
                images.read_measurement(path, (6, 6, 1), is_picture=False)

    def test_numbers_that_cannot_be_are_refused(self):
        path = self.save(np.ones((6, 6, 3)), 'y.npy')
        with self.assertRaisesRegex(
            ValueError, '6 x 6 x 3, but must be 6 x 6 x 1'
        ):
            images.read_measurement(path, (6, 6, 1), is_picture=False)
        with self.assertRaisesRegex(
            ValueError, 'a value range is for pictures'
        ):
            images.read_measurement(path, (6, 6, 3), False, (0, 1))
        with self.assertRaisesRegex(
            ValueError, 'y.npy cannot be read as a Num'
        ):
            path.write_bytes(path.read_bytes()[:-1])
            images.read_measurement(path, (6, 6, 3), is_picture=False)
        # Above what float32 holds.
        path = self.save(np.full((6, 6, 3), 1e300), 'y.npy')
        with self.assertRaisesRegex(ValueError, 'not finite'):
            images.read_measurement(path, (6, 6, 3), is_picture=False)


class WritingTest(_FolderTest):
    def test_every_byte_survives_the_way_to_float_and_back(self):
        pixels = np.arange(256, dtype=np.uint8)
        np.testing.assert_array_equal(
            images.to_uint8(images.to_float(pixels)), pixels
        )

    @parameterized.parameters(1, 3)
    def test_what_is_written_is_read(self, channels):
        pixels = portrait.rgb()[..., :channels]
        path = self.folder / 'new/x.png'
        images.write_image(path, images.to_float(pixels))
        x = images.read_picture(path, channels=channels).x
        np.testing.assert_array_equal(x, images.to_float(pixels))

    def test_values_that_are_not_finite_are_not_written(self):
        path = self.folder / 'x.png'
        with self.assertRaisesRegex(ValueError, 'not finite'):
            images.write_image(path, np.full((4, 4, 3), np.nan))
        self.assertFalse(path.exists())

    @parameterized.parameters(1, 2, 3, 4, 5)
    def test_planes_stand_side_by_side_and_come_back(self, channels):
        x = np.random.default_rng(0).uniform(-1, 1, (4, 6, channels))
        shown = images.planes(x)
        np.testing.assert_array_equal(images.from_planes(shown, channels), x)
        if channels in (1, 3):
            self.assertEqual(images.plane_names(channels), '')
            return
        self.assertEqual(shown.shape, (4, 6 * channels, 1))
        for c in range(channels):
            plane = shown[:, 6 * c : 6 * (c + 1), 0]
            np.testing.assert_array_equal(plane, x[..., c])
        path = images.write_image(self.folder / 'x.png', x)
        read = images.read_picture(path, channels=1).x
        np.testing.assert_allclose(read, shown, atol=1.01 / 255)
        self.assertRegex(
            images.plane_names(channels),
            f'^channels 0, .*{channels - 1} from left',
        )

    def test_a_map_averages_colours_and_no_other_channels(self):
        x = np.random.default_rng(0).normal(size=(4, 6, 3))
        np.testing.assert_allclose(
            images.root_mean_square(x) ** 2 * 3,
            x[..., 0] ** 2 + x[..., 1] ** 2 + x[..., 2] ** 2,
        )
        np.testing.assert_allclose(
            images.root_mean_square(x[..., :2]),
            np.abs(np.hstack([x[..., 0], x[..., 1]])),
        )

    def test_what_is_no_picture_is_not_written(self):
        for shape in ((4, 4), (4, 4, 0), (1, 4, 4, 3)):
            with self.assertRaisesRegex(ValueError, 'one or more channels'):
                images.write_image(self.folder / 'x.png', np.zeros(shape))


if __name__ == '__main__':
    absltest.main()
