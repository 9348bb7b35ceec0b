"""The page of a restoration: its pictures, its sentences, and nothing foreign."""

import dataclasses
import pathlib
import re
import tempfile
from unittest import mock

import hand_made
import numpy as np
from absl.testing import absltest, parameterized

from invjax import images
from invjax.priors.card import Coverage
from invjax.report import drawing, pages, restored, restored_page


class RestoredPageTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / 'report.html'

    def page(self, **kwargs):
        found = hand_made.restored_page_of(self.path, **kwargs)
        return found, hand_made.Page(self.path.read_text())

    @parameterized.parameters(
        ('box_inpainting', 0.05),
        ('gaussian_deblur', 0.05),
        ('super_resolution', 0.0),
        ('phase_retrieval', 0.05),
        ('compressed_sensing', 0.05),
    )
    def test_a_page_is_whole_and_asks_for_nothing(self, task, noise_std):
        _, page = self.page(task=task, noise_std=noise_std)
        self.assertTrue(page.balanced)
        self.assertEqual(page.outside(), [])
        self.assertNotRegex(page.source, r'https?://')

    def test_pictures_have_the_pixels_of_the_arrays(self):
        found, page = self.page()
        by_name = {a.get('alt'): a.get('src') for a in page.of('img')}
        expected = {
            'truth': found.problem.truth,
            'measurement': found.problem.as_picture(),
            'mean': found.mean,
            **{f'sample {i}': x for i, x in enumerate(found.samples)},
        }
        for name, x in expected.items():
            np.testing.assert_array_equal(
                hand_made.decoded(by_name[name]),
                images.to_uint8(x),
                err_msg=name,
            )
        # The box is black in the mask and all else is white.
        mask = np.broadcast_to(
            found.problem.operator.mask_of_x(), found.image.shape
        )
        np.testing.assert_array_equal(
            hand_made.decoded(by_name['mask']), 255 * mask
        )

    @parameterized.parameters(1, 2, 4)
    def test_other_channels_are_shown_as_planes(self, channels):
        found, page = self.page(channels=channels, task='super_resolution')
        by_name = {a.get('alt'): a.get('src') for a in page.of('img')}
        width = hand_made.SIDE * (1 if channels == 1 else channels)
        for name, x in {
            'truth': found.problem.truth,
            'sample 1': found.samples[1],
        }.items():
            np.testing.assert_array_equal(
                hand_made.decoded(by_name[name])[..., :1],
                images.to_uint8(images.planes(x)),
            )
        # Maps lie over the pictures, so they have their shape.
        for name in ('standard deviation', 'error', 'residual, y - A(x)'):
            height, width_of_map, _ = hand_made.decoded(by_name[name]).shape
            self.assertEqual(width_of_map / height, width / hand_made.SIDE)
        words = images.plane_names(channels)
        self.assertEqual(words != '', bool(words) and words in page.source)

    def test_files_of_other_channels_have_numbers_beside_the_planes(self):
        found = hand_made.restoration(channels=2)
        restored.write(self.path.parent, found, restored.judge(found))
        np.testing.assert_array_equal(
            np.load(self.path.parent / 'restored_1.npy'), found.samples[1]
        )
        shown = images.read_picture(
            self.path.parent / 'restored_1.png', channels=1
        ).x
        np.testing.assert_allclose(
            shown, images.planes(found.samples[1]), atol=1.01 / 255
        )

    def test_doubt_and_error_are_dark_where_there_is_none(self):
        _, page = self.page()
        by_name = {a.get('alt'): a.get('src') for a in page.of('img')}
        for name in ('standard deviation', 'error'):
            pixels = hand_made.decoded(by_name[name])
            half = hand_made.SIDE // 2
            self.assertEqual(
                {tuple(p) for p in pixels[half:].reshape(-1, 3)}, {(0, 0, 4)}
            )
            self.assertGreater(pixels[:half].mean(), 20)

    def test_an_error_is_a_pixel_s_distance_over_the_root_of_its_channels(self):
        found, page = self.page()
        by_name = {a.get('alt'): a.get('src') for a in page.of('img')}
        distance = np.linalg.norm(found.mean - found.problem.truth, axis=2)
        spread = np.sqrt(np.var(found.samples, axis=0, ddof=1).mean(axis=2))
        error = distance / np.sqrt(found.mean.shape[2])
        largest = max(error.max(), spread.max())
        for name, values in (('error', error), ('standard deviation', spread)):
            np.testing.assert_allclose(
                hand_made.decoded(by_name[name]).astype(float),
                hand_made.decoded(pages.mapped(values, largest)).astype(float),
                atol=2,
                err_msg=name,
            )

    def test_what_anybody_names_is_text(self):
        found = hand_made.restoration()
        part = restored_page.part(
            hand_made.HOSTILE, found, restored.judge(found)
        )
        restored_page.write(
            self.path,
            hand_made.HOSTILE,
            [part, part],
            {hand_made.HOSTILE: hand_made.HOSTILE},
            hand_made.HOSTILE,
            hand_made.HOSTILE,
        )
        text = self.path.read_text()
        page = hand_made.Page(text)
        self.assertNotIn('<script>alert', text)
        self.assertTrue(page.balanced)
        self.assertGreaterEqual(page.text.count(hand_made.HOSTILE), 4)

    def test_what_was_not_measured_is_said(self):
        _, page = self.page()
        self.assertIn('was not measured for none with 5 steps', page.text)

    @parameterized.parameters(
        ((0.45, 0.88), 'good'), ((0.3, 0.6), 'bad'), ((0.7, 0.99), 'unknown')
    )
    def test_coverage_is_judged_by_its_worst_interval(self, observed, kind):
        found = hand_made.restoration()
        coverage = Coverage(
            'dps', 'box', '5', 8, (0.5, 0.9), observed, (0.01, 0.01)
        )
        part = restored_page.Part('', found, restored.judge(found), coverage)
        kinds = [
            v.kind
            for v in restored_page.verdicts(part)
            if 'other pictures' in v.text
        ]
        self.assertEqual(kinds, [kind])

    def test_the_truth_is_in_the_expected_range_of_chi_square(self):
        # m = 3 x (256 - 64) = 576 measured numbers: 1 +- 2 sqrt(2 / 576).
        found = hand_made.restoration()
        low, high = restored_page.expected_chi_square(found.problem)
        self.assertAlmostEqual(low, 1 - 2 / 288**0.5)
        self.assertAlmostEqual(high, 1 + 2 / 288**0.5)

    def test_too_many_samples_are_left_out_with_a_word(self):
        found = hand_made.restoration(
            num_samples=restored_page._MOST_SAMPLES + 2
        )
        part = restored_page.part('', found, restored.judge(found))
        restored_page.write(self.path, '', [part], {})
        self.assertIn('2 more samples', self.path.read_text())
        self.assertLess(self.path.stat().st_size, pages.MAX_BYTES)

    def test_a_method_of_one_answer_is_not_said_to_agree_with_itself(self):
        found = hand_made.restoration(num_samples=3)
        same = np.repeat(found.samples[:1], 3, axis=0)
        object.__setattr__(found, 'samples', same)
        part = restored_page.part('', found, restored.judge(found))
        words = ' '.join(v.text for v in restored_page.verdicts(part))
        self.assertIn('one and the same picture', words)
        self.assertNotIn('samples agree', words)

    def test_samples_that_differ_beyond_the_range_alone_are_one_picture(self):
        found = hand_made.restoration(num_samples=3)
        beyond = np.ones_like(found.samples)
        beyond *= np.array([1.2, 1.4, 1.6])[:, None, None, None]
        found = dataclasses.replace(found, samples=beyond)
        part = restored_page.part('', found, restored.judge(found))
        words = ' '.join(v.text for v in restored_page.verdicts(part))
        self.assertIn('one and the same picture', words)

    def test_a_sample_that_failed_in_its_first_step_is_not_judged(self):
        found = hand_made.restoration(num_samples=3)
        kept = restored.judge(found)['restored']
        residual = found.info.residual.copy()
        residual[1] = np.nan
        samples = found.samples.copy()
        samples[1] = np.nan
        found = dataclasses.replace(
            found,
            info=found.info._replace(residual=residual),
            samples=samples,
        )
        judged = restored.judge(found)
        self.assertEqual(judged['nonfinite_samples'], [1])
        self.assertEqual(judged['restored'], [kept[0], kept[2]])
        part = restored_page.part('', found, judged)
        words = ' '.join(v.text for v in restored_page.verdicts(part))
        self.assertIn('1 of 3 samples are not finite', words)

    def test_a_single_sample_without_truth_has_a_page(self):
        found = hand_made.restoration(num_samples=1)
        object.__setattr__(found, 'problem', found.problem.replace(truth=None))
        part = restored_page.part('', found, restored.judge(found))
        restored_page.write(self.path, '', [part], {})
        page = hand_made.Page(self.path.read_text())
        keys = [a['data-key'] for a in page.of('img') if 'data-key' in a]
        self.assertEqual(keys, ['measurement', 'restored'])
        self.assertIn('One sample says nothing', page.text)


class OutlineTest(absltest.TestCase):
    def test_the_outline_of_a_pixel_is_its_four_sides(self):
        where = np.zeros((4, 5), bool)
        where[1, 2] = True
        self.assertEqual(drawing.outline(where), 'M2 1h1M2 2h1M2 1v1M3 1v1')

    def test_neighbours_share_no_side(self):
        # A rectangle of 2 x 3 has two sides of 3 and two of 2.
        where = np.zeros((4, 5), bool)
        where[1:3, 1:4] = True
        self.assertEqual(drawing.outline(where), 'M1 1h3M1 3h3M1 1v2M4 1v2')

    def test_no_pixel_has_no_outline(self):
        self.assertEqual(drawing.outline(np.zeros((3, 3), bool)), '')

    def test_ticks_are_round_and_inside(self):
        np.testing.assert_allclose(
            drawing.ticks(0.1, 1.05), [0.25, 0.5, 0.75, 1]
        )
        np.testing.assert_allclose(drawing.log_ticks(0.5, 200), [1, 10, 100])

    def test_ticks_are_some_and_not_many_whatever_the_range(self):
        for low, high in ((0.9, 12), (1, 1e5), (0.3, 4e6), (1e-9, 2), (3, 5)):
            found = drawing.log_ticks(low, high)
            self.assertBetween(len(found), 2, 5)
            self.assertLessEqual(found[-1], high * 1.01)
            self.assertGreaterEqual(found[0], low * 0.99)


class DrawingTest(absltest.TestCase):
    def numbers(self, svg, pattern):
        return [float(n) for n in re.findall(pattern, svg)]

    def test_equal_ratios_of_chi_square_are_as_far_apart(self):
        svg = drawing.gauge([0.04, 0.5, 1, 2, 25], 0.8, 1.2, 1.5)
        at = self.numbers(svg, r'class="mark" cx="([-\d.]+)"')
        ((left, right),) = re.findall(
            r'class="axis" x1="(\d+)" x2="(\d+)" y1="34" y2="34"', svg
        )
        np.testing.assert_allclose(at[2] - at[1], at[3] - at[2], atol=0.11)
        octaves = (at[3] - at[2]) * np.log2(12.5)
        np.testing.assert_allclose(at[4] - at[3], octaves, atol=0.5)
        self.assertBetween(at[0], float(left), at[1])
        self.assertBetween(at[4], at[3], float(right))
        # The axis goes as far beyond the least as beyond the largest.
        np.testing.assert_allclose(
            at[0] - float(left), float(right) - at[4], atol=0.11
        )

    def test_a_histogram_has_0_in_the_middle_and_fills_its_width(self):
        svg = drawing.histogram(np.zeros(5), 'residual')
        ((width, _),) = re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)
        ticks = {
            words: float(x)
            for x, words in re.findall(r'<text x="([-\d.]+)"[^>]*>(-?\d)<', svg)
        }
        self.assertEqual(ticks['0'], float(width) / 2)
        self.assertEqual(ticks['-4'] + ticks['4'], float(width))
        self.assertBetween(ticks['4'], 0.9 * float(width), float(width))
        # All values are 0, so the bar around it alone has a height.
        bars = re.findall(
            r'class="bar" x="([\d.]+)" y="[\d.]+" width="([\d.]+)" '
            r'height="([\d.]+)"',
            svg,
        )
        ((x, across, _),) = [bar for bar in bars if float(bar[2])]
        self.assertBetween(ticks['0'], float(x), float(x) + float(across))


class PagesTest(absltest.TestCase):
    def test_a_page_that_is_too_large_is_refused_and_not_written(self):
        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(pages, 'MAX_BYTES', 2**20),
        ):
            path = pathlib.Path(folder) / 'report.html'
            # Of two bytes each.
            with self.assertRaisesRegex(ValueError, '2.0 MB, .* at most 1; ta'):
                pages.write(path, '\u00e9' * (2**20))
            self.assertFalse(path.exists())
            pages.write(path, 'e' * 2**20)
            self.assertEqual(path.stat().st_size, 2**20)


if __name__ == '__main__':
    absltest.main()
