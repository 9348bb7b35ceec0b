"""Contact sheets: pictures are not shrunk, and text is not cut off."""

import hypothesis
import numpy as np
from absl.testing import absltest
from hypothesis import strategies as st

from invjax import images
from tests.images import portrait


def _flat(value, side=2):
    return np.full((side, side, 3), float(value))


class SheetTest(absltest.TestCase):
    def test_it_shows_each_image_in_its_cell(self):
        rows = [[_flat(-1), _flat(1)], [_flat(0)]]
        pixels = np.asarray(images.sheet(rows, cell=10))
        np.testing.assert_array_equal(pixels[:10, :10], 0)
        np.testing.assert_array_equal(pixels[:10, 14:24], 255)
        np.testing.assert_array_equal(pixels[14:24, :10], 128)

    @hypothesis.settings(
        max_examples=60, derandomize=True, deadline=None, database=None
    )
    @hypothesis.given(
        sides=st.lists(
            st.tuples(st.integers(1, 40), st.integers(1, 40)),
            min_size=1,
            max_size=4,
        ),
        cell=st.integers(1, 90),
        channels=st.sampled_from([1, 3]),
    )
    def test_every_pixel_is_a_square_of_whole_size(self, sides, cell, channels):
        rng = np.random.default_rng(0)
        row = [
            images.to_float(rng.integers(0, 256, (*side, channels)))
            for side in sides
        ]
        pixels = np.asarray(images.sheet([row], cell=cell))
        largest = np.max(sides, axis=0)
        scale = max(1, cell // largest.max())
        width = scale * largest[1]
        self.assertEqual(pixels.shape[0], scale * largest[0])
        for i, x in enumerate(row):
            times = min(scale * largest // x.shape[:2])
            self.assertGreaterEqual(times, 1)
            shown = np.repeat(np.repeat(x, times, 0), times, 1)
            left = i * (width + 4)
            part = pixels[: shown.shape[0], left : left + shown.shape[1]]
            np.testing.assert_array_equal(
                part.reshape(*shown.shape[:2], -1)[..., :channels],
                images.to_uint8(shown),
            )

    def test_other_channels_are_planes_that_the_title_names(self):
        x = np.random.default_rng(0).uniform(-1, 1, (8, 100, 2))
        bare = np.asarray(images.sheet([[images.planes(x)]]))
        titled = np.asarray(images.sheet([[x]]))
        np.testing.assert_array_equal(titled[-len(bare) :], bare)
        words = images.plane_names(2)
        for titles, same in (((), [words]), (['a'], [f'a\n{words}'])):
            np.testing.assert_array_equal(
                np.asarray(images.sheet([[x]], titles)),
                np.asarray(images.sheet([[images.planes(x)]], same)),
            )

    def test_a_picture_larger_than_its_cell_is_shown_whole(self):
        x = images.to_float(portrait.rgb(64))
        pixels = np.asarray(images.sheet([[x]], cell=50))
        np.testing.assert_array_equal(pixels, portrait.rgb(64))

    def test_text_stays_within_its_column_and_above_the_pictures(self):
        # Pictures are white: all that is dark is text.
        title = 'dps zeta=3.0 num_steps=1000\nPSNR 24.3 dB, ' + 'W' * 60
        rows = [[_flat(1, 16)] * 2]
        pixels = np.asarray(images.sheet(rows, ['', title], cell=64)).min(-1)
        dark = np.argwhere(pixels < 200)
        self.assertGreater(len(dark), 100)
        top = pixels.shape[0] - 64
        self.assertLess(dark[:, 0].max(), top)
        self.assertGreaterEqual(dark[:, 1].min(), 68)
        self.assertLess(dark[:, 1].max(), pixels.shape[1] - 1)

    def test_all_words_of_a_title_are_there(self):
        # A title on one line, and the same one broken, have as much ink.
        title = 'box inpainting of a face'
        amounts = []
        for side in (240, 60):
            sheet = images.sheet([[_flat(1, side)]], [title], cell=side)
            amounts.append((255 - np.asarray(sheet, float)).sum())
        np.testing.assert_allclose(*amounts, rtol=0.05)

    def test_labels_stand_left_of_their_rows(self):
        rows = [[_flat(1, 8)], [_flat(1, 8)]]
        labels = ['super-resolution by four, ' * 8, 'second']
        sheet = images.sheet(rows, labels=labels, cell=16)
        pixels = np.asarray(sheet).min(-1)
        left = pixels.shape[1] - 16
        self.assertGreater(left, 100)
        self.assertEqual(pixels[:, left:].min(), 255)
        # The first label is higher than its picture, and pushes the next row.
        rows_with_text = np.flatnonzero((pixels < 200).any(axis=1))
        self.assertLess(rows_with_text[-1], pixels.shape[0] - 1)
        self.assertGreater(pixels.shape[0], 2 * 16 + 4 + 40)


if __name__ == '__main__':
    absltest.main()
