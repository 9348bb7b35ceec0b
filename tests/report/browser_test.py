"""The pages in a real browser: they move, sort, and ask for nothing."""

import pathlib
import shutil
import tempfile
from unittest import mock

import hand_made
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from invjax.report import explorer, methods_page, sprites
from invjax.training import page as training_page

try:
    from playwright import sync_api
except ImportError:
    sync_api = None


def _find_chromium():
    """Debian's, or the one that `playwright install chromium` has fetched."""
    found = shutil.which('chromium') or shutil.which('chromium-browser')
    if found is None:
        with sync_api.sync_playwright() as driver:
            own = driver.chromium.executable_path
        found = own if pathlib.Path(own).exists() else None
    return found


_CHROMIUM = None if sync_api is None else _find_chromium()
if _CHROMIUM is None:
    pytest.skip(
        'browser tests are left out: they need playwright (the extra `browser`) '
        'and chromium.',
        allow_module_level=True,
    )

_WIDTHS = (400, 1600)
_ARGUMENTS = (
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
)


class BrowserTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.driver = sync_api.sync_playwright().start()
        cls.browser = cls.driver.chromium.launch(
            executable_path=_CHROMIUM, args=_ARGUMENTS
        )

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.driver.stop()
        super().tearDownClass()

    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / 'report.html'

    def open(self, width, **kwargs):
        """The page, whose complaints and requests are held against it."""
        page = self.browser.new_page(
            viewport={'width': width, 'height': 800}, **kwargs
        )
        self.addCleanup(page.close)
        self.wrong = []
        self.requests = []
        page.on('pageerror', lambda error: self.wrong.append(str(error)))
        page.on(
            'console',
            lambda message: (
                self.wrong.append(message.text)
                if message.type in ('error', 'warning')
                else None
            ),
        )
        page.on('request', lambda request: self.requests.append(request.url))
        page.goto(self.path.as_uri())
        return page

    def check(self, page, width):
        self.assertEqual(self.wrong, [])
        asked = [u for u in self.requests if not u.startswith('data:')]
        self.assertEqual(asked, [self.path.as_uri()])
        self.assertLessEqual(
            page.evaluate('document.documentElement.scrollWidth'), width
        )

    def pixel(self, page, selector):
        """The colour in the middle of a canvas."""
        page.wait_for_timeout(100)
        # Of a copy: the browser warns of a canvas that is read twice.
        return page.eval_on_selector(
            selector,
            """c => {
                const copy = document.createElement('canvas');
                const context = copy.getContext('2d');
                context.drawImage(c, 0, 0);
                return [...context.getImageData(8, 8, 1, 1).data];
            }""",
        )[:3]

    @parameterized.parameters(*_WIDTHS)
    def test_a_restoration_is_compared_flipped_and_enlarged(self, width):
        hand_made.restored_page_of(self.path)
        page = self.open(width, permissions=['clipboard-read'])
        bar = page.locator('.compare .bar')
        before = bar.bounding_box()['x']
        page.locator('.compare input').focus()
        for _ in range(20):
            page.keyboard.press('ArrowRight')
        self.assertGreater(bar.bounding_box()['x'], before)
        # A touch or a click is where the bar goes.
        box = page.locator('.compare').bounding_box()
        page.mouse.click(box['x'] + box['width'] / 4, box['y'] + 50)
        self.assertAlmostEqual(
            bar.bounding_box()['x'],
            box['x'] + box['width'] / 4,
            delta=box['width'] / 20,
        )
        after = page.locator('.compare .after')
        first = after.get_attribute('src')
        page.locator('.flip .next').click()
        self.assertNotEqual(after.get_attribute('src'), first)
        self.assertEqual(page.locator('.flip output').inner_text(), '1')
        page.locator('select.left').select_option('truth')
        self.assertEqual(
            page.locator('.compare .before').get_attribute('src'),
            page.locator('img[data-key=truth]').get_attribute('src'),
        )
        page.locator('.code button').first.click()
        page.locator('.code button', has_text='copied').wait_for()
        self.assertEqual(page.evaluate('navigator.clipboard.readText()'), 'run')
        self.check(page, width)

    @parameterized.parameters(*_WIDTHS)
    def test_pictures_are_enlarged_with_sharp_pixels(self, width):
        hand_made.restored_page_of(self.path)
        page = self.open(width, device_scale_factor=2)
        page.locator('img[data-key=truth]').click()
        name, shown = page.locator('#zoom strong'), page.locator('#zoom img')
        self.assertEqual(name.inner_text(), 'truth')
        self.assertEqual(
            shown.evaluate('img => getComputedStyle(img).imageRendering'),
            'pixelated',
        )

        def pixels_of_the_screen():
            return shown.bounding_box()['width'] * 2 / hand_made.SIDE

        before = pixels_of_the_screen()
        self.assertGreater(before, 1)
        self.assertAlmostEqual(before, round(before), places=3)
        page.keyboard.press('-')
        self.assertAlmostEqual(pixels_of_the_screen(), before - 1, places=3)
        page.keyboard.press('ArrowRight')
        self.assertEqual(name.inner_text(), 'measurement')
        self.assertAlmostEqual(pixels_of_the_screen(), before - 1, places=3)
        page.keyboard.press('Escape')
        self.assertFalse(page.locator('#zoom').is_visible())
        self.check(page, width)

    def test_the_bar_follows_a_finger(self):
        hand_made.restored_page_of(self.path)
        page = self.open(400, has_touch=True, is_mobile=True)
        box = page.locator('.compare').bounding_box()
        middle = box['y'] + box['height'] / 2

        def share():
            at = page.locator('.compare .bar').bounding_box()['x']
            return (at - box['x']) / box['width']

        page.touchscreen.tap(box['x'] + 0.8 * box['width'], middle)
        self.assertAlmostEqual(share(), 0.8, delta=0.02)
        finger = page.context.new_cdp_session(page)
        for kind, at in (
            ('touchStart', 0.8),
            ('touchMove', 0.6),
            ('touchMove', 0.3),
            ('touchEnd', None),
        ):
            place = {'x': box['x'] + (at or 0) * box['width'], 'y': middle}
            finger.send(
                'Input.dispatchTouchEvent',
                {'type': kind, 'touchPoints': [] if at is None else [place]},
            )
        self.assertAlmostEqual(share(), 0.3, delta=0.02)
        self.check(page, 400)

    @parameterized.parameters(*_WIDTHS)
    def test_an_explorers_sliders_change_picture_and_point(self, width):
        explorer.write(self.path, 'A title', [hand_made.group()], {}, 'run')
        page = self.open(width)
        # It begins at the best PSNR, zeta 3 and eta 1, the sixth picture.
        ring = page.locator('#curves .here').first
        at = ring.get_attribute('cx')
        first = self.pixel(page, '.compare .after')
        page.locator('input[data-name=zeta]').focus()
        page.keyboard.press('ArrowLeft')
        second = self.pixel(page, '.compare .after')
        # Red is number % 16 / 8 - 1, from 0 to 255 over 2: the sixth is 5,
        # and three settings of eta before it is 2.
        self.assertEqual([first[0], second[0]], [80, 32])
        self.assertNotEqual(ring.get_attribute('cx'), at)
        page.locator('#after').click()
        # Six pictures later.
        self.assertEqual(self.pixel(page, '.compare .after')[0], 128)
        # The middle of the second curve is eta 0.5.
        page.locator('#curves svg').nth(1).locator('.hit').nth(1).click()
        eta = page.locator('input[data-name=eta]')
        self.assertEqual(eta.input_value(), '1')
        self.assertEqual(self.pixel(page, '.compare .after')[0], 112)
        page.locator('#bestHere button', has_text='discrepancy').click()
        self.assertEqual(self.pixel(page, '.compare .after')[0], 96)
        self.assertEqual(page.locator('#curves svg').count(), 2)
        self.check(page, width)

    def test_pictures_beside_the_page_are_loaded_as_they_are_looked_at(self):
        with mock.patch.object(sprites, 'fitting', lambda *_: None):
            explorer.write(self.path, 'A title', [hand_made.group()], {})
        page = self.open(1600)
        page.wait_for_timeout(200)
        asked = [u.rpartition('/')[2] for u in self.requests[1:]]
        self.assertEqual([u for u in asked if u.endswith('webp')], ['0-0.webp'])
        page.locator('#after').click()
        page.wait_for_timeout(200)
        self.assertTrue(self.requests[-1].endswith('report/1-0.webp'))
        self.assertEqual(self.wrong, [])
        place = page.locator('.compare .after').get_attribute('data-place')
        self.assertEqual(place, '6')

    @parameterized.parameters(*_WIDTHS)
    def test_a_table_sorts_filters_and_shows_a_face_by_two(self, width):
        methods_page.write(
            self.path, 'A title', hand_made.entries(), {}, protocol='How.'
        )
        page = self.open(width)

        def methods():
            return page.eval_on_selector_all(
                '#table tbody tr:not([hidden])',
                'rows => rows.map(r => r.dataset.method)',
            )

        head = page.locator('#table th button', has_text='PSNR')
        head.click()
        rising = ['wiener', 'dps', 'ddrm', 'measurement']
        self.assertEqual(methods(), rising)
        head.click()
        self.assertEqual(methods(), rising[::-1])
        page.locator('#table th button', has_text='method').click()
        self.assertEqual(methods(), sorted(rising))
        # Without the dearest method its best is another's.
        page.locator('#cost').focus()
        page.keyboard.press('ArrowLeft')
        self.assertNotIn('dps', methods())
        best = page.locator('td.best').all_inner_texts()
        self.assertLen(best, 2)
        page.locator('tr[data-method=wiener]').hover()
        self.assertEqual(self.pixel(page, '.compare .after')[0], 48)
        page.locator('tr[data-method=wiener]').click()
        page.locator('tr[data-method=ddrm]').focus()
        self.assertEqual(self.pixel(page, '.compare .after')[0], 32)
        self.assertEqual(self.pixel(page, '.compare .before')[0], 48)
        with page.expect_download() as download:
            page.locator('#csv').click()
        text = pathlib.Path(download.value.path()).read_text()
        self.assertEqual(text, methods_page.as_csv(hand_made.entries()))
        with page.expect_download() as download:
            page.locator('#latex').click()
        text = pathlib.Path(download.value.path()).read_text()
        latex = methods_page.as_latex(hand_made.entries(), 'How.')
        self.assertEqual(text, latex)
        self.check(page, width)

    def test_a_dark_page_is_dark_and_paper_is_white(self):
        hand_made.restored_page_of(self.path)
        page = self.open(1600)

        def background():
            return page.evaluate(
                'getComputedStyle(document.body).backgroundColor'
            )

        page.emulate_media(color_scheme='dark')
        self.assertEqual(background(), 'rgb(20, 23, 27)')
        page.emulate_media(media='print', color_scheme='light')
        self.assertEqual(background(), 'rgb(255, 255, 255)')
        self.assertFalse(page.locator('.controls').first.is_visible())
        # What is folded is printed, and no wider than a sheet of A4 between
        # margins of a centimetre.
        page.set_viewport_size({'width': 718, 'height': 1000})
        page.pdf()
        self.assertTrue(page.locator('details pre').first.is_visible())
        self.check(page, 718)

    @parameterized.parameters(*_WIDTHS)
    def test_the_page_of_a_training_run_fits(self, width):
        looks = {'t': [10, 500], 'error': [0.2, 0.01]}
        looks |= {'noise_std': [0.1, 3.0], 'psnr': [30.0, 15.0]}
        history = training_page.History(
            [
                {'step': s, 'total': 1 / s, 'error': 1 / s, 'bound': 0.1}
                | {'pooled': 0.0}
                for s in (1, 2, 3)
            ],
            [{'step': s, 'levels': [looks, looks], 'best': 0} for s in (1, 3)],
        )
        folder = self.path.parent
        x = np.zeros((64, 64, 1))
        for name in ('pictures', 'samples-00000003', 'restorations'):
            training_page.sheet([[x] * 8]).save(folder / f'{name}.png')
        training_page.write(
            folder, mock.Mock(prior_name='mine'), history, {}, {}, 'run'
        )
        page = self.open(width)
        # The loss's second line lies on its first; its fourth is not above 0.
        loss = page.locator('svg.plot').first
        self.assertEqual(loss.locator('polyline').count(), 3)
        self.assertEqual(page.locator('.key').count(), 3 + 2 + 1)
        page.locator('img').first.click()
        self.assertTrue(page.locator('#zoom').is_visible())
        self.check(page, width)


if __name__ == '__main__':
    absltest.main()
