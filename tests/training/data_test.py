"""Pictures and batches: every picture once, and the same after a break."""

import collections
import json
import pathlib
import tempfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from invjax import images, phantoms
from invjax.training import data


class Numbered:
    """Pictures of one colour, their number."""

    words = 'numbered'

    def __init__(self, number, side=8):
        self._number, self._side = number, side

    def __len__(self):
        return self._number

    def read(self, number):
        ramp = np.arange(self._side**2, dtype=np.float32) / self._side**2
        return (number + ramp).reshape(self._side, self._side, 1)


def _batches(number=10, batch=4, size=(8, 8), flips='none', side=8, **kwargs):
    return data.Batches(
        Numbered(number, side),
        np.arange(number),
        batch,
        size,
        flips,
        3,
        **kwargs,
    )


def _all_but(number, value, total=2000):
    """Pictures that are grey but for one, which has a value."""
    pictures = np.full((total, 8, 8), 0.5, np.float32)
    pictures[number] = value
    return pictures


def _numbers(batch):
    return np.floor(batch.min(axis=(1, 2, 3))).astype(int).tolist()


class BatchesTest(parameterized.TestCase):
    def test_each_picture_comes_once_before_any_comes_again(self):
        batches = _batches()
        order = [n for _ in range(10) for n in _numbers(next(batches))]
        for epoch in range(4):
            part = order[10 * epoch : 10 * epoch + 10]
            self.assertEqual(sorted(part), list(range(10)))
        self.assertNotEqual(order[:10], order[10:20])

    def test_after_a_break_the_very_next_batch_comes(self):
        kept = _batches(flips='all', size=(6, 6))
        for _ in range(7):
            next(kept)
        state = json.loads(json.dumps(kept.state()))
        other = _batches(flips='all', size=(6, 6))
        next(other)
        other.set_state(state)
        for _ in range(5):
            np.testing.assert_array_equal(next(other), next(kept))

    def test_processes_have_the_rows_of_one(self):
        alone = _batches(flips='all', size=(6, 6))
        shares = [
            _batches(flips='all', size=(6, 6), process=i, num_processes=2)
            for i in range(2)
        ]
        for _ in range(4):
            together = np.concatenate([next(share) for share in shares])
            np.testing.assert_array_equal(together, next(alone))

    def test_other_seeds_have_another_order(self):
        pictures, numbers = Numbered(50), np.arange(50)
        first, second = (
            data.Batches(pictures, numbers, 50, (8, 8), 'none', seed)
            for seed in (0, 1)
        )
        self.assertNotEqual(_numbers(next(first)), _numbers(next(second)))


class VaryTest(parameterized.TestCase):
    @parameterized.parameters(('none', 1), ('horizontal', 2), ('all', 8))
    def test_all_flips_are_as_likely_and_there_are_no_others(
        self, flips, kinds
    ):
        x = np.arange(9, dtype=np.float32).reshape(3, 3, 1)
        rng = np.random.default_rng(0)
        seen = collections.Counter(
            data.vary(x, (3, 3), flips, rng).tobytes() for _ in range(800)
        )
        turned = [np.rot90(x, k) for k in range(4)]
        symmetries = {
            y.tobytes()
            for t in turned
            for y in (t, np.ascontiguousarray(t[::-1]))
        }
        self.assertLen(seen, kinds)
        self.assertLessEqual(set(seen), symmetries)
        share = 800 / kinds
        self.assertGreaterEqual(
            min(seen.values()), share - 5 * share**0.5 - 1e-6
        )

    def test_windows_are_everywhere(self):
        x = np.arange(30, dtype=np.float32).reshape(5, 6, 1)
        rng = np.random.default_rng(0)
        corners = collections.Counter(
            data.vary(x, (4, 4), 'none', rng)[0, 0, 0] for _ in range(600)
        )
        expected = {6 * i + j for i in range(2) for j in range(3)}
        self.assertEqual(set(corners), expected)
        self.assertGreater(min(corners.values()), 100 - 5 * 10)


class SplitTest(parameterized.TestCase):
    @parameterized.parameters((10, 0.02, 1), (100, 0.1, 10), (5, 0, 0))
    def test_a_picture_is_either_trained_on_or_held_out(
        self, number, share, expected
    ):
        found = data.split(number, share, seed=0)
        self.assertLen(found.held_out, expected)
        together = np.concatenate([found.trained, found.held_out])
        self.assertEqual(sorted(together), list(range(number)))

    def test_all_of_them_cannot_be_held_out(self):
        with self.assertRaisesRegex(ValueError, 'leave none'):
            data.split(1, 0.1, 0)


class OpenPicturesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = pathlib.Path(temporary.name)

    def _save(self, values):
        np.save(self.folder / 'x.npy', values)
        np.savez(self.folder / 'x.npz', images=values)
        return str(self.folder / 'x.npy')

    @parameterized.parameters(
        (np.uint8, None, 255),
        (np.uint16, None, 65535),
        (np.int16, (-1000, 3000), None),
        (np.float32, None, 1.0),
        (np.float64, (-5.0, 5.0), None),
    )
    def test_values_of_arrays_go_from_minus_1_to_1(self, dtype, given, full):
        low, high = given or (0, full)
        values = np.linspace(low, high, 128).astype(dtype).reshape(2, 8, 8)
        name = self._save(values)
        for source in (name, name[:-1] + 'z:images'):
            found = data.open_pictures(source, (8, 8), 1, value_range=given)
            self.assertLen(found, 2)
            x = np.stack([found.read(0), found.read(1)])
            self.assertEqual(x.dtype, np.float32)
            self.assertEqual(x.shape, (2, 8, 8, 1))
            # Whole numbers are only near the line.
            np.testing.assert_allclose(
                x.ravel(), np.linspace(-1, 1, 128), atol=1 / 100
            )
            self.assertIn(f'-1 for {low:g}', found.words)

    def test_complex_numbers_are_two_channels(self):
        rng = np.random.default_rng(0)
        values = rng.uniform(-1, 1, (3, 8, 8)) + 1j * rng.uniform(
            -1, 1, (3, 8, 8)
        )
        found = data.open_pictures(
            self._save(values), (8, 8), 2, value_range=(-1, 1)
        )
        x = found.read(1)
        np.testing.assert_allclose(x[..., 0], values[1].real, atol=1e-6)
        np.testing.assert_allclose(x[..., 1], values[1].imag, atol=1e-6)

    def test_a_folder_is_cut_and_resized_or_has_windows(self):
        rng = np.random.default_rng(0)
        for i in range(3):
            picture = rng.uniform(-1, 1, (20, 12, 3)).astype(np.float32)
            images.write_image(self.folder / f'{i}.png', picture)
        name = str(self.folder)
        centre = data.open_pictures(name, (8, 8), 1)
        self.assertLen(centre, 3)
        expected = images.read_picture(self.folder / '1.png', (8, 8), 1).x
        np.testing.assert_array_equal(centre.read(1), expected)
        windows = data.open_pictures(name, (8, 8), 3, crop='random')
        self.assertEqual(windows.read(0).shape, (20, 12, 3))

    def test_phantoms_beyond_what_is_kept_are_drawn_as_the_others(self):
        with mock.patch.object(data, '_MOST_KEPT', 4 * 8 * 8 * 5):
            found = data.open_pictures('phantoms:9', (8, 8), 1)
        for number in (0, 0, 8, 8):
            np.testing.assert_array_equal(
                found.read(number), phantoms.draw(0, 1, number, 8)[0]
            )

    def test_phantoms_are_those_that_are_drawn(self):
        found = data.open_pictures('phantoms:7', (16, 16), 1)
        self.assertLen(found, 7)
        expected = phantoms.draw(0, 7, side=16)[4]
        np.testing.assert_array_equal(found.read(4), expected)

    @parameterized.named_parameters(
        ('nothing there', 'nowhere', 3, {}, 'not there'),
        ('phantoms without number', 'phantoms:', 1, {}, 'phantoms:100000'),
        ('phantoms in colour', 'phantoms:3', 3, {}, 'square and grey'),
        ('phantoms cut', 'phantoms:3', 1, {'crop': 'random'}, 'leave out crop'),
        (
            'phantoms of a range',
            'phantoms:3',
            1,
            {'value_range': (0, 1)},
            'leave',
        ),
        ('endless phantoms', f'phantoms:{10**13}', 1, {}, 'at most 10,000,000'),
    )
    def test_a_wrong_name_is_refused(self, name, channels, kwargs, words):
        with self.assertRaisesRegex(ValueError, words):
            data.open_pictures(name, (8, 8), channels, **kwargs)

    @parameterized.named_parameters(
        ('other size', np.zeros((2, 9, 8)), 1, {}, 'not resized'),
        ('too small', np.zeros((2, 9, 7)), 1, {'crop': 'random'}, 'too small'),
        ('not finite', np.full((2, 8, 8), np.nan), 1, {}, 'not finite'),
        ('out of range', np.full((2, 8, 8), 3.0), 1, {}, 'value_range'),
        ('first not finite', _all_but(0, np.inf), 1, {}, 'not finite'),
        ('last not finite', _all_but(1999, np.inf), 1, {}, 'not finite'),
        ('first out of range', _all_but(0, 3.0), 1, {}, 'value_range'),
        ('last out of range', _all_but(1999, 3.0), 1, {}, 'value_range'),
        ('channels', np.zeros((2, 8, 8, 3)), 2, {}, '3 channels'),
        ('text', np.full((2, 8, 8), 'a'), 1, {}, 'must be numbers'),
        ('complex', np.zeros((2, 8, 8), complex), 1, {}, 'must be numbers'),
        ('nothing', np.zeros((0, 8, 8)), 1, {}, 'no picture'),
    )
    def test_arrays_that_do_not_fit_are_refused(
        self, values, channels, kwargs, words
    ):
        with self.assertRaisesRegex(ValueError, words):
            data.open_pictures(self._save(values), (8, 8), channels, **kwargs)

    def test_another_key_is_refused_with_the_keys_that_there_are(self):
        name = self._save(np.zeros((2, 8, 8)))
        with self.assertRaisesRegex(ValueError, "'faces'; it has images"):
            data.open_pictures(name[:-1] + 'z:faces', (8, 8), 1)

    def test_files_that_are_no_arrays_are_refused(self):
        whole = self.folder / 'whole.npz'
        np.savez(whole, images=np.zeros((2, 8, 8)), masks=np.zeros(3))
        (self.folder / 'cut.npz').write_bytes(whole.read_bytes()[:-40])
        (self.folder / 'empty.npy').write_bytes(b'')
        (self.folder / 'several.npy').write_bytes(whole.read_bytes())
        np.save(self.folder / 'x.npy', np.zeros((2, 8, 8)))
        (self.folder / 'one.npz').write_bytes(
            (self.folder / 'x.npy').read_bytes()
        )
        for name, words in (
            ('cut.npz:images', 'cannot be read as a NumPy file'),
            ('empty.npy', 'cannot be read as a NumPy file'),
            ('several.npy', r'several arrays \(images, masks\)'),
            ('one.npz:images', 'leave out .images.'),
        ):
            with self.assertRaisesRegex(ValueError, words):
                data.open_pictures(str(self.folder / name), (8, 8), 1)

    def test_other_pictures_have_another_mark(self):
        values = np.random.default_rng(0).uniform(size=(20, 8, 8))
        name = self._save(values)
        mark = data.open_pictures(name, (8, 8), 1).mark
        self.assertEqual(data.open_pictures(name, (8, 8), 1).mark, mark)
        for other in (values[:-1], values.astype(np.float32), 1 - values):
            name = self._save(other)
            self.assertNotEqual(data.open_pictures(name, (8, 8), 1).mark, mark)
        mark = data.open_pictures('phantoms:8', (8, 8), 1).mark
        self.assertNotEqual(
            data.open_pictures('phantoms:9', (8, 8), 1).mark, mark
        )
        with mock.patch.object(phantoms, 'VERSION', phantoms.VERSION + 1):
            drawn_otherwise = data.open_pictures('phantoms:8', (8, 8), 1)
        self.assertNotEqual(drawn_otherwise.mark, mark)


if __name__ == '__main__':
    absltest.main()
