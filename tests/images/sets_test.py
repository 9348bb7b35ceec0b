"""Sets of pictures: which are found, in which order; arrays."""

import os
import pathlib
import tempfile

import hypothesis
import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import strategies as st

from invjax import images, phantoms
from invjax.images import files
from tests.images import portrait

_SHAPE = (16, 16, 3)


def _numbered(number):
    """Pictures that differ in one pixel."""
    pictures = np.stack([portrait.rgb(16)] * number)
    pictures[:, 8, 8] = np.arange(number)[:, None] * 7 % 256
    return pictures


class _FolderTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


class FolderTest(_FolderTest):
    def write(self, name, data=None):
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            portrait.pillow('PNG')(portrait.rgb(16)) if data is None else data
        )

    def test_all_suffixes_in_any_case_are_found_in_folders_below(self):
        names = [f'a{suffix}' for suffix in sorted(files.SUFFIXES)]
        names += [f'B{suffix.upper()}' for suffix in sorted(files.SUFFIXES)]
        names += ['c/00000/x.png', 'c/00001.png', 'C/x.JPG']
        for name in names:
            self.write(name)
        found = images.read_set(self.folder, _SHAPE, 0, 100)
        # Code points, part by part: 'C' < 'a', and 'c/00000/x' < 'c/00001'.
        expected = sorted(names, key=lambda name: pathlib.PurePath(name).parts)
        self.assertEqual(found.names, tuple(expected))
        self.assertLen(found.x, len(names))
        np.testing.assert_array_equal(
            found.x[3], images.to_float(portrait.rgb(16))
        )

    def test_what_is_no_picture_is_passed_over_and_said(self):
        for name in (
            *('a.png', '._a.png', '.hidden.png', 'Thumbs.db', '.git/b.png'),
            *('__MACOSX/a.png', 'list.txt', 'more.TXT', 'README'),
        ):
            self.write(name)
        found = images.read_set(self.folder, _SHAPE, 0, 1)
        self.assertEqual(found.names, ('a.png',))
        self.assertIn('1 of 1 pictures', found.done)
        self.assertIn('passed over: 2 .txt, 1 without a suffix', found.done)

    def test_links_are_followed_once(self):
        self.write('set/a.png')
        inner = self.folder / 'set/again'
        os.symlink(self.folder / 'set', inner)
        self.write('elsewhere/b.png')
        os.symlink(self.folder / 'elsewhere', self.folder / 'set/linked')
        found, _ = images.list_pictures(self.folder / 'set')
        self.assertEqual(
            [str(path.relative_to(self.folder / 'set')) for path in found],
            ['a.png', 'linked/b.png'],
        )

    @parameterized.parameters((0, 2), (2, 2), (4, 1), (3, 9))
    def test_pictures_are_numbered_from_0(self, first, number):
        for i, pixels in enumerate(_numbered(5)):
            self.write(f'{i}.png', portrait.pillow('PNG')(pixels))
        found = images.read_set(self.folder, _SHAPE, first, number)
        last = min(first + number, 5)
        np.testing.assert_array_equal(
            found.x, images.to_float(_numbered(5))[first:last]
        )
        self.assertEqual(
            'not the 9 asked for' in found.done, first + number > 5
        )

    def test_pictures_are_brought_to_the_size(self):
        self.write('a.png', portrait.pillow('PNG')(portrait.rgb(40)))
        found = images.read_set(self.folder, (16, 24, 1))
        self.assertEqual(found.x.shape, (1, 16, 24, 1))
        self.assertIn('a.png: 40 x 40, 8-bit RGB; ', found.done)

    def test_one_picture_is_a_set(self):
        self.write('a.png')
        found = images.read_set(str(self.folder / 'a.png'), _SHAPE, 0, 4)
        self.assertEqual(found.names, ('a.png',))

    def test_what_cannot_be_is_refused(self):
        self.write('notes.txt')
        self.write('junk/a.png')
        self.write('junk/z.png', b'no picture')
        for name, first, sentence in (
            (self.folder / 'absent', 0, 'there is no folder .*absent'),
            (self.folder / 'junk', 0, 'z.png cannot be read as a picture'),
            (self.folder / 'junk', 2, 'has 2 pictures, .* no number 2'),
            (self.folder / 'junk', -1, 'must be 0 or more .* got -1 and 2'),
        ):
            with self.assertRaisesRegex(ValueError, sentence):
                images.read_set(name, _SHAPE, first, 2)
        os.remove(self.folder / 'junk/a.png')
        os.remove(self.folder / 'junk/z.png')
        with self.assertRaisesRegex(
            ValueError, r'no picture, only other files \(1 .txt\); pictures end'
        ):
            images.read_set(self.folder, _SHAPE)


class ArrayTest(_FolderTest):
    def save(self, values, key='images', **others):
        path = self.folder / 'set.npz'
        np.savez_compressed(path, **{key: values}, **others)
        return f'{path}:{key}'

    @parameterized.product(
        kind=['uint8', 'uint16', 'uint32', 'float16', 'float32', '>f8'],
        layout=['NHWC', 'NCHW', 'HWC', 'npy', 'fortran'],
    )
    def test_types_and_layouts_hold_the_same_pictures(self, kind, layout):
        values = portrait.to_type(_numbered(4), kind)
        expected = images.to_float(_numbered(4))[1:3]
        first = 1
        if layout == 'NCHW':
            values = np.moveaxis(values, -1, 1)
        elif layout == 'HWC':
            values, expected, first = values[0], expected[:1], 0
            expected = images.to_float(_numbered(4))[:1]
        elif layout == 'fortran':
            values = np.asfortranarray(values)
        name = self.save(values)
        if layout == 'npy':
            name = str(self.folder / 'set.npy')
            np.save(name, values)
        found = images.read_set(name, _SHAPE, first, 2)
        np.testing.assert_allclose(found.x, expected, atol=1e-3)
        stem = 'set' if layout == 'npy' else 'images'
        self.assertEqual(found.names[0], f'{stem}[{first}]')

    @parameterized.parameters(
        ((5, 16, 16),), ((5, 16, 16, 1),), ((5, 1, 16, 16),), ((16, 16),)
    )
    def test_grey_is_repeated(self, shape):
        values = np.resize(np.arange(256, dtype=np.uint8), shape)
        grey = values.reshape(-1, 16, 16, 1)
        found = images.read_set(self.save(values), _SHAPE, 0, 9)
        np.testing.assert_array_equal(
            found.x, np.repeat(images.to_float(grey), 3, -1)
        )
        found = images.read_set(self.save(values), (16, 16, 1), 0, 9)
        np.testing.assert_array_equal(found.x, images.to_float(grey))

    def test_opacity_is_laid_over_white_as_in_a_file(self):
        rgba = np.concatenate(
            [_numbered(2), np.full((2, 16, 16, 1), 51, np.uint8)], -1
        )
        found = images.read_set(self.save(rgba), _SHAPE, 0, 2)
        expected = 0.2 * _numbered(2) / 255 + 0.8
        np.testing.assert_allclose(found.x, 2 * expected - 1, atol=1e-6)
        self.assertIn('laid over white', found.done)

    def test_a_value_range_is_respected(self):
        values = images.to_float(_numbered(2))
        name = self.save(values)
        with self.assertRaisesRegex(ValueError, 'images has .* such as -1,1'):
            images.read_set(name, _SHAPE)
        found = images.read_set(name, _SHAPE, 0, 2, value_range=(-1, 1))
        np.testing.assert_allclose(found.x, values, atol=1e-6)

    def test_a_file_of_one_array_needs_no_key(self):
        name = self.save(_numbered(2)).removesuffix(':images')
        self.assertEqual(images.read_set(name, _SHAPE).names, ('images[0]',))
        self.save(_numbered(2), labels=np.arange(2))
        with self.assertRaisesRegex(
            ValueError, 'has the arrays images, labels; name one'
        ):
            images.read_set(name, _SHAPE)

    @parameterized.parameters(
        (
            np.zeros((2, 8, 8, 3), np.uint8),
            r'uint8 \(2, 8, 8, 3\), but must be',
        ),
        (np.zeros((2, 16, 16, 5)), r'float64 \(2, 16, 16, 5\), but must be'),
        (np.zeros((768,)), r'float64 \(768,\), but must be'),
        (np.zeros((3, 16, 16)), 'which can be read in two ways'),
        (np.zeros((2, 16, 16, 3), complex), 'holds complex128, but must'),
        (np.array(['a']), 'holds <U1, but must'),
        (np.array([None]), 'holds object, but must'),
        (np.zeros((0, 16, 16, 3)), 'has 0 pictures'),
        (np.full((2, 16, 16, 3), np.nan), 'not finite'),
        (np.full((2, 16, 16, 3), 255), 'almost black.* such as 0,255'),
    )
    def test_what_cannot_be_is_refused(self, values, sentence):
        with self.assertRaisesRegex(ValueError, sentence):
            images.read_set(self.save(values), _SHAPE)

    def test_an_absent_file_or_key_is_refused(self):
        name = self.save(_numbered(1))
        with self.assertRaisesRegex(ValueError, "no array 'x'; it has images"):
            images.read_set(name.replace(':images', ':x'), _SHAPE)
        with self.assertRaisesRegex(
            ValueError, 'there is no file .*absent.npz'
        ):
            images.read_set(str(self.folder / 'absent.npz:x'), _SHAPE)

    def test_a_flipped_bit_is_found_behind_what_is_read(self):
        """The zip file's sum is checked at the end of the array."""
        name = self.save(
            np.random.default_rng(0)
            .integers(0, 256, (9, 16, 16, 3))
            .astype(np.uint8)
        )
        path = pathlib.Path(name.removesuffix(':images'))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 16
        path.write_bytes(data)
        with self.assertRaisesRegex(ValueError, 'set.npz cannot be read'):
            images.read_set(name, _SHAPE, 0, 1)

    @hypothesis.settings(
        max_examples=200, deadline=3000, derandomize=True, database=None
    )
    @hypothesis.given(data=st.data(), kind=st.sampled_from(['npy', 'npz']))
    def test_damaged_files_give_the_pictures_or_one_sentence(self, data, kind):
        values = _numbered(2)[:, :4, :4]
        path = self.folder / f'set.{kind}'
        np.save(path, values) if kind == 'npy' else np.savez(path, a=values)
        changed = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(changed) - 1))
            part = data.draw(st.binary(min_size=1, max_size=3))
            changed[place : place + len(part)] = part
        length = data.draw(st.integers(0, 2 * len(changed)))
        path.write_bytes(changed[:length])
        try:
            x = images.read_set(str(path), (4, 4, 3), 0, 2).x
        except ValueError as error:
            self.assertIn(str(path), str(error))
            self.assertNotIn('\n', str(error))
        else:
            self.assertEqual(x.shape[1:], (4, 4, 3))
            self.assertLessEqual(np.abs(x).max(), 1)


class PhantomsTest(_FolderTest):
    def test_they_are_drawn_by_number_as_many_as_one_likes(self):
        found = images.read_set('phantoms', (16, 16, 1), 10**6, 2)
        np.testing.assert_array_equal(
            found.x, phantoms.draw(1, 2, 10**6, side=16)
        )
        self.assertEqual(
            found.names, ('phantoms[1000000]', 'phantoms[1000001]')
        )
        self.assertIn('2 slices (1000000 to 1000001)', found.done)

    def test_they_are_grey_for_any_number_of_channels(self):
        (x,) = images.read_set('phantoms', (16, 16, 3), 3).x
        self.assertEqual(x.shape, (16, 16, 3))
        np.testing.assert_array_equal(x[..., 0], x[..., 1])
        np.testing.assert_array_equal(x[..., 0], x[..., 2])

    def test_others_than_squares_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'squares, got .* 16 x 32'):
            images.read_set('phantoms', (16, 32, 1))

    def test_what_has_no_meaning_for_them_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'at most 10,000 .* 10,001'):
            images.read_set('phantoms', (16, 16, 1), 0, 10_001)
        with self.assertRaisesRegex(ValueError, 'leave out value_range'):
            images.read_set('phantoms', (16, 16, 1), value_range=(0, 1))

    def test_a_folder_of_that_name_is_a_folder(self):
        (self.folder / 'phantoms').mkdir()
        before = os.getcwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        with self.assertRaisesRegex(ValueError, 'phantoms has no picture'):
            images.read_set('phantoms', (16, 16, 1))


if __name__ == '__main__':
    absltest.main()
