"""The explorer: each setting has its own picture and its own numbers."""

import pathlib
import tempfile
from unittest import mock

import hand_made
import numpy as np
from absl.testing import absltest

from invjax import images
from invjax.report import explorer, pages, sprites


class ExplorerTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / 'report.html'

    def page(self, *groups):
        explorer.write(self.path, 'A title', groups, {'seed': 0}, 'run')
        return hand_made.Page(self.path.read_text())

    def test_each_setting_and_image_has_its_picture(self):
        group = hand_made.group()
        page = self.page(group)
        (part,) = page.constant('parts')
        layouts = page.constant('layouts')
        seen = 0
        for s, i, sample, place in part['places']:
            zeta, eta = (
                axis['values'][at]
                for axis, at in zip(
                    part['axes'], part['settings'][s], strict=True
                )
            )
            (shot,) = [
                shot
                for shot in group.shots
                if shot.image == part['images'][i]
                and shot.setting == {'zeta': float(zeta), 'eta': float(eta)}
            ]
            layout = layouts[part['sprites'][i]['list']]
            np.testing.assert_array_equal(
                hand_made.tile(layout, place), images.to_uint8(shot.x())
            )
            score = part['scores'][0]
            self.assertEqual(score['name'], 'psnr')
            self.assertAlmostEqual(score['values'][s][i], shot.scores['psnr'])
            self.assertEqual(sample, 0)
            seen += 1
        self.assertEqual(seen, len(group.shots))
        # The truth comes first.
        np.testing.assert_array_equal(
            hand_made.tile(layouts[part['sprites'][1]['list']], 0),
            images.to_uint8(hand_made.picture(207)),
        )

    def test_means_and_errors_are_over_images(self):
        # PSNR is 20 + zeta + 2 eta + image, of images 4 and 7: their mean is
        # 5.5 above, and the standard error is 1.5.
        (part,) = self.page(hand_made.group()).constant('parts')
        psnr = part['scores'][0]
        self.assertEqual(psnr['means'][0], 26.5)
        self.assertEqual(set(psnr['errors']), {1.5})

    def test_the_best_by_truth_and_without_it(self):
        # The largest of all PSNRs is at zeta 3, eta 1, and chi-square is 1 at
        # zeta 1, eta 0.
        (part,) = self.page(hand_made.group()).constant('parts')
        best = {b['name']: b for b in part['best']}
        last = len(part['settings']) - 1
        self.assertEqual(best['PSNR, dB']['overall'], last)
        self.assertTrue(best['PSNR, dB']['needsTruth'])
        self.assertEqual(best['discrepancy']['byImage'], [0, 0])
        self.assertFalse(best['discrepancy']['needsTruth'])

    def test_a_setting_that_is_not_finite_is_never_best(self):
        group = hand_made.group()
        shots = [
            s._replace(scores={'psnr': None}) if s.setting['zeta'] == 3 else s
            for s in group.shots
        ]
        found = explorer.grid(group._replace(shots=shots))
        (best,) = [b for b in explorer.best(found) if b.needs_truth]
        setting = found.settings[best.overall]
        self.assertEqual(found.axes[0][1][setting[0]], 1)

    def test_a_grid_with_holes_has_no_picture_there(self):
        group = hand_made.group()
        page = self.page(group._replace(shots=group.shots[:-1]))
        (part,) = page.constant('parts')
        self.assertLen(part['places'], len(group.shots) - 1)

    def test_the_page_is_whole_and_asks_for_nothing(self):
        page = self.page(hand_made.group(), hand_made.group(name='other'))
        self.assertTrue(page.balanced)
        self.assertEqual(page.outside(), [])

    def test_what_anybody_names_is_text(self):
        text = hand_made.HOSTILE
        group = hand_made.group(name=text)
        shots = [
            s._replace(setting={text: f'{text}{i}'})
            for i, s in enumerate(group.shots)
        ]
        explorer.write(
            self.path, text, [group._replace(shots=shots)] * 2, {}, text, text
        )
        page = hand_made.Page(self.path.read_text())
        self.assertNotIn('<script>alert', page.source)
        self.assertTrue(page.balanced)
        self.assertEqual(page.constant('parts')[0]['axes'][0]['name'], text)

    def test_what_does_not_fit_lies_beside_and_is_loaded_as_needed(self):
        group = hand_made.group()
        with mock.patch.object(sprites, 'fitting', lambda *_: None):
            page = self.page(group)
        layouts = page.constant('layouts')
        self.assertEqual(
            [layout['sheets'] for layout in layouts],
            [['report/0-0.webp'], ['report/1-0.webp']],
        )
        for layout in layouts:
            for address in layout['sheets']:
                self.assertTrue((self.path.parent / address).is_file())
        self.assertLess(self.path.stat().st_size, 10**5)

    def test_thousands_of_cells_stay_below_what_a_mail_takes(self):
        rng = np.random.default_rng(0)
        noise = rng.uniform(-1, 1, (8, 64, 64, 3))
        shots = [
            explorer.Shot(
                {'a': a, 'b': b},
                image,
                0,
                {'psnr': 1.0},
                lambda a=a: noise[a % 8],
            )
            for image in range(4)
            for a in range(16)
            for b in range(32)
        ]
        explorer.write(self.path, 'many', [explorer.Group('g', shots, {})], {})
        self.assertLess(self.path.stat().st_size, pages.MAX_BYTES)


class SpritesTest(absltest.TestCase):
    def test_pictures_are_where_the_layout_says(self):
        with mock.patch.object(sprites, '_MOST_SIDE', 40):
            # Two rows of two to a sheet.
            found = sprites.make([hand_made.picture(i) for i in range(11)])
        self.assertLen(found.sheets, 3)
        layout = found.embedded()
        for i in range(11):
            np.testing.assert_array_equal(
                hand_made.tile(layout, i),
                images.to_uint8(hand_made.picture(i)),
            )

    def test_pictures_of_two_sizes_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'one size'):
            sprites.make([np.zeros((4, 4, 3)), np.zeros((4, 5, 3))])


if __name__ == '__main__':
    absltest.main()
