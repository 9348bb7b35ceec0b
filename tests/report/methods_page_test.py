"""The table of methods: its numbers, its best ones, and its downloads."""

import base64
import csv
import io
import pathlib
import tempfile
import types
from unittest import mock

import hand_made
import numpy as np
from absl.testing import absltest

from invjax import images
from invjax.report import methods_page
from invjax.study import tidy
from invjax.study.evaluation import Row


class MethodsPageTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = pathlib.Path(folder.name) / 'report.html'

    def page(self, rows):
        methods_page.write(
            self.path,
            'A title',
            rows,
            {'seed': 0},
            truths={0: hand_made.picture(9)},
            protocol='Over one face.',
            command='run',
        )
        return hand_made.Page(self.path.read_text())

    def test_the_page_is_whole_and_has_the_numbers_of_the_rows(self):
        page = self.page(hand_made.entries())
        self.assertTrue(page.balanced)
        self.assertEqual(page.outside(), [])
        sorts = [a['data-sort'] for a in page.of('td') if 'data-sort' in a]
        self.assertEqual(sorts[:6], ['30.0', '2.0', '', '', '21.5', '1.0'])
        self.assertIn('21.50', page.text)
        self.assertIn('± 0.10', page.text)

    def test_the_best_is_the_best_method_and_not_the_measurement(self):
        # PSNR is largest for ddrm; chi-square is 1 for dps.
        rows = hand_made.entries()
        self.assertEqual(
            methods_page.is_best(rows), {(2, 'psnr'), (1, 'chi_square')}
        )

    def test_a_face_has_each_method_in_its_place(self):
        (face,) = self.page(hand_made.entries()).constant('faces')
        self.assertTrue(face['truth'])
        for row, place in face['places'].items():
            np.testing.assert_array_equal(
                hand_made.tile(face['layout'], place),
                images.to_uint8(hand_made.picture(int(row))),
            )

    def test_downloads_are_what_the_library_makes(self):
        rows = hand_made.entries()
        page = self.page(rows)
        found = {
            a['id']: base64.b64decode(
                a['href'].partition('base64,')[2]
            ).decode()
            for a in page.of('a')
            if 'download' in a
        }
        self.assertEqual(found['csv'], methods_page.as_csv(rows))
        self.assertEqual(
            found['latex'], methods_page.as_latex(rows, 'Over one face.')
        )

    def test_the_csv_has_means_and_standard_errors(self):
        text = methods_page.as_csv(hand_made.entries())
        rows = [*csv.DictReader(io.StringIO(text))]
        self.assertEqual(rows[2]['method'], 'ddrm')
        self.assertEqual(float(rows[2]['psnr']), 23.25)
        self.assertEqual(float(rows[2]['psnr_standard_error']), 0.1)
        self.assertEqual(rows[0]['forward'], '')

    def test_latex_has_the_best_in_bold_with_errors_and_its_protocol(self):
        text = methods_page.as_latex(
            hand_made.entries('box_inpainting'), 'Of 100 % & more.'
        )
        self.assertIn(r'\caption{box\_inpainting. Of 100 \% \& more.}', text)
        self.assertIn(r'ddrm & 20 & $\mathbf{23.25} \pm 0.10$', text)
        for rule in (r'\toprule', r'\midrule', r'\bottomrule'):
            self.assertEqual(text.count(rule), 1)
        body = text.split(r'\midrule')[1].split(r'\bottomrule')[0]
        columns = {line.count(' & ') for line in body.strip().splitlines()}
        self.assertEqual(columns, {5})

    def test_what_anybody_names_is_text(self):
        rows = [
            r._replace(task=hand_made.HOSTILE, settings=hand_made.HOSTILE)
            for r in hand_made.entries()
        ]
        page = self.page(rows)
        self.assertNotIn('<script>alert', page.source)
        self.assertTrue(page.balanced)


class EntriesTest(absltest.TestCase):
    def test_a_picture_is_the_first_sample_of_its_image(self):
        cells = [
            {
                'id': f'{image}-{sample}',
                'protocol': {'image': image, 'sample': sample, 'settings': {}},
            }
            for image in (4, 7)
            for sample in (0, 1, 2)
        ]
        folder = pathlib.Path('out')
        row = Row('denoising', 'dps', '20', cells, {}, '')
        cannot = Row('denoising', 'ddnm', '20', [], {}, '')
        with mock.patch.object(methods_page, 'read_picture') as read:
            (entry,) = methods_page.entries(
                types.SimpleNamespace(rows=[row, cannot], folder=folder)
            )
            self.assertEqual([*entry.pictures], [4, 7])
            for picture in entry.pictures.values():
                picture()
        self.assertEqual(
            [call.args for call in read.call_args_list],
            [(folder / 'denoising', '4-0'), (folder / 'denoising', '7-0')],
        )
        (bare,) = methods_page.entries(
            types.SimpleNamespace(rows=[row], folder=None)
        )
        self.assertEqual(bare.pictures, {})

    def test_a_cost_is_of_both_counts_or_not_known(self):
        def cost(**counts):
            scores = {n: hand_made.estimate(v) for n, v in counts.items()}
            return methods_page._cost(
                methods_page.Entry('denoising', 'dps', '20', '', scores)
            )

        self.assertEqual(cost(forward=20.0, backward=19.0), 39)
        self.assertIsNone(cost(psnr=20.0))
        self.assertIsNone(cost(forward=20.0, backward=np.nan))


class TidyTest(absltest.TestCase):
    def test_a_row_a_cell_with_one_set_of_columns(self):
        cells = [
            {
                'id': 'a',
                'protocol': {
                    'task': 'denoising',
                    'method': 'dps',
                    'image': 3,
                    'sample': 0,
                    'settings': {'zeta': 1.5},
                },
                'scores': {'psnr': 20.0},
            },
            {
                'id': 'b',
                'protocol': {
                    'task': 'denoising',
                    'method': 'measurement',
                    'image': 3,
                    'sample': 0,
                    'settings': {},
                    'task_parameters': {'factor': 4},
                },
                'scores': {'ssim': 0.5},
            },
        ]
        rows = [*csv.DictReader(io.StringIO(tidy.as_csv(tidy.rows(cells))))]
        self.assertEqual(rows[0]['setting.zeta'], '1.5')
        self.assertEqual(rows[1]['setting.zeta'], '')
        self.assertEqual(rows[1]['task.factor'], '4')
        self.assertEqual([r['psnr'] for r in rows], ['20.0', ''])

    def test_nothing_is_an_empty_text(self):
        self.assertEqual(tidy.as_csv(tidy.rows([])), '')


if __name__ == '__main__':
    absltest.main()
