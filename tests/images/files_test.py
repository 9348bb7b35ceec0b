"""Every format and type gives the same face; damage gives one sentence."""

import io
import os
import pathlib
import tempfile

import hypothesis
import numpy as np
import tifffile
from absl.testing import absltest, parameterized
from hypothesis import strategies as st
from PIL import Image, ImageOps

from invjax import images
from invjax.images import arrays, files
from tests.images import portrait

# Name, writer, the face that it stores, and levels of 255 that it may be off.
_EXACT = [
    *(
        (f'grey_{name}', write, portrait.grey, levels)
        for name, (write, levels) in portrait.EXACT_GREY.items()
    ),
    *(
        (f'rgb_{name}', write, portrait.rgb, levels)
        for name, (write, levels) in portrait.EXACT_RGB.items()
    ),
]
_ALL = [
    *((name, write, face) for name, write, face, _ in _EXACT),
    *((f'lossy_{n}', w, portrait.rgb) for n, w in portrait.LOSSY_RGB.items()),
]
# A small one of each, to be damaged.
_SEEDS = [write(face(9)) for _, write, face in _ALL]


class _FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def write(self, data: bytes, name='file.png') -> pathlib.Path:
        path = self.folder / name
        path.write_bytes(data)
        return path

    def assert_picture_or_sentence(self, path, read=images.read_picture):
        """Returns the picture, or None if it was refused as it should be."""
        try:
            x = read(path).x
        except ValueError as error:
            sentence = str(error)
            self.assertIn(str(path), sentence)
            self.assertNotIn('\n', sentence)
            self.assertLess(len(sentence) - len(str(path)), 400)
            return None
        self.assertEqual(x.dtype, np.float32)
        self.assertEqual((x.ndim, x.shape[-1]), (3, 3))
        self.assertLessEqual(np.abs(x).max(), 1 + 1e-6)
        return x


class SameFaceTest(_FolderTest):
    @parameterized.named_parameters(*_EXACT)
    def test_it_equals_the_face_in_8_bits(self, write, face, levels):
        pixels = face()
        x = images.read_picture(self.write(write(pixels))).x
        expected = images.to_float(pixels.reshape(32, 32, -1))
        self.assertLessEqual(np.abs(x - expected).max() * 127.5, levels + 1e-4)

    @parameterized.named_parameters(*portrait.LOSSY_RGB.items())
    def test_it_is_the_face_but_for_what_was_lost(self, write):
        pixels = portrait.rgb(64)
        x = images.read_picture(self.write(write(pixels))).x
        off = np.abs(x - images.to_float(pixels)) * 127.5
        self.assertLess(off.mean(), 7)

    @parameterized.parameters(
        *('L', 'LA', 'La', 'I', 'F', 'I;16', 'I;16L', 'I;16B', 'I;16N'),
    )
    def test_every_grey_mode_of_pillow_is_read(self, mode):
        pixels = portrait.grey()
        image = portrait.to_mode(Image.fromarray(pixels), mode)
        self.assertEqual(image.mode, mode)
        raw = files.of_pillow(image, 'memory')
        values = raw.colours[..., 0] / (raw.full or 1)
        np.testing.assert_allclose(values, pixels / 255, atol=1e-6)

    @parameterized.parameters(
        *(('RGB', 0, 0), ('RGBA', 0, 0), ('RGBa', 0, 0), ('RGBX', 0, 0)),
        *(('CMYK', 0, 0), ('YCbCr', 3, 1.5), ('LAB', 6, 1.5), ('HSV', 12, 3)),
        *(('P', 40, 4), ('PA', 40, 4)),
    )
    def test_every_colour_mode_of_pillow_is_read(self, mode, most, mean):
        pixels = portrait.rgb()
        image = portrait.to_mode(Image.fromarray(pixels), mode)
        self.assertEqual(image.mode, mode)
        raw = files.of_pillow(image, 'memory')
        off = np.abs(raw.colours.astype(float) - pixels)
        self.assertLessEqual(off.max(), most)
        self.assertLessEqual(off.mean(), mean)

    def test_one_bit_is_black_and_white(self):
        pixels = portrait.grey() > 127
        for write in (
            portrait.pillow('PNG'),
            portrait.pillow('TIFF'),
            portrait.pillow('PPM'),
            portrait.npy(bool),
        ):
            reading = images.read_picture(self.write(write(pixels)))
            np.testing.assert_array_equal(reading.x[..., 0], 2.0 * pixels - 1)
            self.assertIn('1-bit', reading.done)

    @parameterized.parameters('C', 'F')
    def test_an_array_of_unequal_sides_is_read_in_either_order(self, order):
        pixels = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
        path = self.folder / 'array.npy'
        np.save(path, np.asarray(pixels, order=order))
        np.testing.assert_array_equal(arrays.read(path), pixels)

    def test_a_tiff_of_12_bits_is_white_at_4095(self):
        pixels = portrait.grey().astype(np.uint16) * 16
        pixels[0, 1] = 4095
        bits = np.unpackbits(
            np.stack([pixels >> 8, pixels & 255], -1).astype(np.uint8)[
                ..., None
            ],
            axis=-1,
        ).reshape(32, 32, 16)[..., 4:]
        data = np.packbits(bits.reshape(32, -1), axis=-1).tobytes()
        file = io.BytesIO()
        tags = (
            (256, 4, 32), (257, 4, 32), (258, 3, 12), (259, 3, 1), (262, 3, 1),
            (273, 4, 8), (277, 3, 1), (278, 4, 32), (279, 4, len(data)),
        )  # fmt: skip
        file.write(b'II*\0' + (8 + len(data)).to_bytes(4, 'little') + data)
        file.write(len(tags).to_bytes(2, 'little'))
        for code, kind, value in tags:
            file.write(code.to_bytes(2, 'little') + kind.to_bytes(2, 'little'))
            file.write((1).to_bytes(4, 'little') + value.to_bytes(4, 'little'))
        file.write(bytes(4))
        x = images.read_picture(self.write(file.getvalue(), 'a.tif')).x
        np.testing.assert_allclose(
            x[..., 0], 2 * (pixels / 4095.0) - 1, atol=1e-6
        )

    @parameterized.product(
        orientation=list(range(1, 9)),
        kind=('jpeg', 'png', 'webp', 'tiff', 'deep_tiff'),
    )
    def test_the_orientation_is_respected(self, orientation, kind):
        # Upright, the top left quarter is white and the one below it is grey.
        upright = np.zeros((16, 32, 3), np.uint8)
        upright[:8, :16] = 255
        upright[8:, :16] = 128
        # What is stored becomes upright by the turn that the number names; so
        # it is made by the inverse turn: 6 and 8 are each other's.
        exif = Image.Exif()
        exif[0x0112] = {6: 8, 8: 6}.get(orientation, orientation)
        inverse = Image.fromarray(upright)
        inverse.info['exif'] = exif.tobytes()
        stored = ImageOps.exif_transpose(inverse)
        exif[0x0112] = orientation
        path = self.folder / f'a.{kind}'
        if kind == 'deep_tiff':
            tifffile.imwrite(
                path,
                np.asarray(stored).astype(np.uint16) * 257,
                photometric='rgb',
                extratags=[(0x0112, 'H', 1, orientation, True)],
            )
        else:
            stored.info.clear()
            options = {'quality': 100} if kind == 'jpeg' else {}
            options |= {'lossless': True} if kind == 'webp' else {}
            stored.save(path, kind, exif=exif, **options)
        reading = images.read_picture(path)
        np.testing.assert_allclose(
            reading.x, images.to_float(upright), atol=0.03
        )
        if kind != 'tiff':
            self.assertEqual('turned' in reading.done, orientation != 1)

    @parameterized.parameters('GIF', 'PNG', 'WEBP', 'TIFF', 'AVIF')
    def test_the_first_of_several_frames_is_read_and_said(self, kind):
        frames = [np.full((16, 16, 3), v, np.uint8) for v in (200, 20)]
        first, second = map(Image.fromarray, frames)
        path = self.folder / 'a'
        first.save(path, kind, save_all=True, append_images=[second])
        reading = images.read_picture(path)
        np.testing.assert_allclose(
            reading.x, images.to_float(frames[0]), atol=0.03
        )
        self.assertIn('the first of its frames', reading.done)

    def test_the_first_page_of_a_deep_tiff_is_read_and_said(self):
        pages = np.stack([np.full((8, 8), v, np.uint16) for v in (65535, 9)])
        path = self.folder / 'a.tif'
        tifffile.imwrite(path, pages, photometric='minisblack')
        reading = images.read_picture(path)
        np.testing.assert_array_equal(reading.x, 1)
        self.assertIn('the first of its pages', reading.done)

    def test_a_colour_profile_that_is_not_applied_is_said(self):
        path = self.folder / 'a.png'
        for profile, said in ((b'Display P3', True), (b'.. sRGB ..', False)):
            Image.fromarray(portrait.rgb()).save(path, icc_profile=profile)
            done = images.read_picture(path).done
            self.assertEqual('profile not applied' in done, said)


class DamageTest(_FolderTest):
    @parameterized.named_parameters(*_ALL)
    def test_a_file_that_ends_early_is_refused(self, write, face):
        """Or is whole, if what is missing carries nothing."""
        data = write(face(9))
        whole = images.read_picture(self.write(data)).x
        cuts = {0, 1, 8, *range(20, len(data), max(1, len(data) // 40))}
        refused = 0
        for length in {*cuts, len(data) - 1}:
            path = self.write(data[:length])
            x = self.assert_picture_or_sentence(path)
            refused += x is None
            if x is not None:
                np.testing.assert_array_equal(x, whole, err_msg=str(length))
        self.assertGreater(refused, len(cuts) / 2)

    def test_packed_light_that_ends_between_two_planes_is_refused(self):
        # Eight counts of 1 make the plane of red longer than the shortest row
        # could be, and the body ends where the count of green should be.
        body = bytes((2, 2, 0, 8)) + bytes((1, 128)) * 8
        header = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 1 +X 8\n'
        path = self.write(header + body, 'light.hdr')
        with self.assertRaisesRegex(ValueError, 'a packed row is not whole'):
            images.read_picture(path)
        # With the other three planes it is whole.
        path = self.write(header + body + bytes((1, 128)) * 24, 'light.hdr')
        self.assertIsNotNone(self.assert_picture_or_sentence(path))

    @hypothesis.settings(
        max_examples=300, deadline=3000, derandomize=True, database=None
    )
    @hypothesis.given(data=st.data())
    def test_any_bytes_are_a_picture_or_one_sentence(self, data):
        seed = data.draw(st.sampled_from(_SEEDS))
        changed = bytearray(seed)
        for _ in range(data.draw(st.integers(0, 4))):
            # Headers are at either end.
            place = data.draw(
                st.integers(0, min(100, len(seed) - 1))
                | st.integers(0, len(seed) - 1)
                | st.integers(max(0, len(seed) - 200), len(seed) - 1)
            )
            part = data.draw(
                st.binary(min_size=1, max_size=4)
                | st.sampled_from([b'\xff' * 4, bytes(4), b'\x7f\xff\xff\xff'])
            )
            changed[place : place + len(part)] = part
        changed += data.draw(st.binary(max_size=8))
        self.assert_picture_or_sentence(self.write(bytes(changed)))

    @hypothesis.settings(
        max_examples=200, deadline=3000, derandomize=True, database=None
    )
    @hypothesis.given(
        start=st.sampled_from(
            [b'', *{seed[:k] for seed in _SEEDS for k in (4, 12, 30)}]
        ),
        rest=st.binary(max_size=300),
        suffix=st.sampled_from(sorted(files.SUFFIXES)),
    )
    def test_noise_with_a_suffix_is_refused(self, start, rest, suffix):
        path = self.write(start + rest, f'noise{suffix}')
        self.assert_picture_or_sentence(path)

    @parameterized.parameters(
        ('png', b'\0\0\x4e\x20\0\0\x27\x10', 16),
        ('npy', None, None),
        ('hdr', None, None),
        ('ppm', None, None),
    )
    def test_a_picture_that_is_too_large_is_refused(self, kind, size, place):
        if kind == 'png':
            data = bytearray(portrait.deep_png(portrait.grey(9)))
            data[place : place + 8] = size
        elif kind == 'hdr':
            data = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 10000 +X 20000\n'
        elif kind == 'ppm':
            data = b'P6 10000 20000 255\n'
        else:
            file = io.BytesIO()
            np.lib.format.write_array_header_1_0(
                file,
                {
                    'descr': '|u1',
                    'fortran_order': False,
                    'shape': (10**6, 10**6),
                },
            )
            data = file.getvalue()
        path = self.write(bytes(data), f'huge.{kind}')
        with self.assertRaisesRegex(
            ValueError, 'huge.* (at most 100,000,000 pixels|cannot be read)'
        ):
            images.read_picture(path)

    def test_what_is_no_file_is_refused(self):
        fifo = self.folder / 'pipe.png'
        os.mkfifo(fifo)
        for path, sentence in (
            (self.folder, 'is a folder, but must be a file'),
            (self.folder / 'absent.png', 'there is no file .*absent.png'),
            (fifo, 'there is no file .*pipe.png'),
            ('a\0b.png', 'there is no file'),
        ):
            with self.assertRaisesRegex(ValueError, sentence):
                images.read_picture(path)

    def test_numbers_that_are_no_real_ones_are_refused(self):
        for values, kind in (
            (np.ones((4, 4), complex), 'complex128'),
            (np.array([['a', 'b']]), '<U1'),
            (np.array([[None]]), 'object'),
        ):
            path = self.folder / 'a.npy'
            np.save(path, values)
            with self.assertRaisesRegex(ValueError, f'a.npy .*{kind}'):
                images.read_picture(path)


if __name__ == '__main__':
    absltest.main()
