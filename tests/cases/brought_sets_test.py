"""Sets of pictures as people have them: all found in order, or one sentence."""

import pathlib
import tempfile

import numpy as np
from absl.testing import absltest, parameterized
from PIL import Image

from invjax import images
from tests.cases.brought import DATA, SHAPE, colours, face


class BroughtSetsTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = self.enter_context(tempfile.TemporaryDirectory())
        self.folder = pathlib.Path(holder)
        with Image.open(DATA / 'images/ref_rgb8.png') as picture:
            self.picture = picture.convert('RGB')
        self.pixels = np.asarray(self.picture)

    def write(self, *names):
        for name in names:
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            # Pillow writes TIFF for this suffix too, in any case of letters.
            self.picture.save(path)
        return str(self.folder)

    def read(self, name):
        return images.read_set(name, SHAPE, number=20)

    def write_array(self, values):
        path = self.folder / 'set.npz'
        np.savez(path, x=values)
        return f'{path}:x'

    @parameterized.named_parameters(
        ('mixed', ('a.png', 'b.JPG', 'c.webp', 'd.tif', 'e.jpeg')),
        ('upper', ('a.PNG', 'b.JPG', 'c.JPEG')),
        ('other', ('a.webp', 'b.tif', 'c.bmp', 'd.tiff', 'e.gif')),
        ('numbers', ('1.png', '10.png', '2.png')),
        ('nested', ('00000/00000.png',)),
    )
    def test_all_are_found_in_the_stated_order(self, names):
        found = self.read(self.write(*reversed(names)))
        self.assertEqual(found.names, names)
        self.assertIn(f'{len(names)} of {len(names)} pictures', found.done)
        for x in found.x:
            self.assertLess(np.abs(x - face()).mean(), 0.05)

    def test_what_macos_adds_is_passed_over(self):
        folder = self.write('a.png')
        (self.folder / '._a.png').write_bytes(b'\0\5\x16\7')
        self.assertEqual(self.read(folder).names, ('a.png',))

    def test_junk_is_refused_in_one_sentence_with_its_name(self):
        folder = self.write('a.png', 'b.png')
        (self.folder / 'z.png').write_bytes(b'not a picture')
        with self.assertRaisesRegex(ValueError, r'z\.png cannot be read'):
            self.read(folder)

    @parameterized.named_parameters(
        ('uint8', lambda x: x[None]),
        ('float', lambda x: (x / 255).astype(np.float32)[None]),
        ('uint16', lambda x: x[None].astype(np.uint16) * 257),
        ('nchw', lambda x: np.moveaxis(x, -1, 0)[None]),
        ('one', lambda x: x),
        (
            'opaque',
            lambda x: np.concatenate([x, 0 * x[..., :1] + 255], -1)[None],
        ),
    )
    def test_arrays_of_every_type_and_layout_hold_the_face(self, convert):
        found = self.read(self.write_array(convert(self.pixels)))
        np.testing.assert_allclose(found.x, face()[None], atol=1e-5)
        self.assertEqual(found.names, ('x[0]',))

    def test_an_array_with_opacity_is_laid_over_white(self):
        # From wholly transparent to opaque along each row.
        opacity = np.arange(64) * 255 // 63
        pixels = np.empty((*SHAPE[:2], 4), np.uint8)
        pixels[..., :3], pixels[..., 3] = colours(), opacity
        found = self.read(self.write_array(pixels[None]))
        share = opacity[:, None] / 255
        expected = share * (colours() / 127.5 - 1) + (1 - share)
        # A level of 8 bits is 2 / 255.
        np.testing.assert_allclose(found.x[0], expected, atol=0.51 * 2 / 255)
        # All but the last column.
        self.assertRegex(
            found.done, r'4,032 transparent pixels laid over white'
        )

    def test_grey_is_repeated(self):
        found = self.read(self.write_array(self.pixels[None, ..., 1]))
        self.assertEqual(found.x.shape, (1, *SHAPE))
        np.testing.assert_array_equal(found.x[..., 0], found.x[..., 2])

    @parameterized.named_parameters(
        (
            'from_minus_1',
            lambda x: (x / 127.5 - 1)[None],
            'values from -1 to 1, but must be from 0 to 1; .* such as -1,1',
        ),
        (
            'int64',
            lambda x: x[None].astype(np.int64),
            'values from 0 to 255, of .* such as 0,255',
        ),
        (
            'objects',
            lambda x: np.array([x, None], object),
            'holds object, but must hold bool, integers or floats',
        ),
        (
            'another_size',
            lambda x: x[None, :32],
            r'\(1, 32, 64, 3\), but must be \(N, 64, 64, C\)',
        ),
    )
    def test_what_no_rule_explains_is_one_sentence(self, convert, sentence):
        name = self.write_array(convert(self.pixels))
        with self.assertRaisesRegex(ValueError, sentence) as refused:
            self.read(name)
        self.assertNotIn('\n', str(refused.exception))

    def test_the_array_must_be_named_where_there_are_several(self):
        np.savez(self.folder / 'two.npz', a=self.pixels, b=self.pixels)
        with self.assertRaisesRegex(ValueError, r'has the arrays a, b; name'):
            self.read(str(self.folder / 'two.npz'))


if __name__ == '__main__':
    absltest.main()
