"""Cells on disk: named by what they depend on, whole or not there at all."""

import json
import pathlib
import tempfile

import numpy as np
from absl.testing import absltest

from invjax import records

_X = np.zeros((2, 2, 3), np.float32)


def _protocol(image=0, **others):
    return {'image': image, 'method': 'dps', 'sample': 0, **others}


class RecordsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, *images, process=0):
        writer = records.Writer(self.folder, process)
        for image in images:
            writer.write(_protocol(image), {'psnr': 20.0 + image}, _X)

    def test_a_name_depends_on_all_values_and_on_no_order(self):
        name = records.cell_id({'a': 1, 'b': {'c': 2.0}})
        self.assertEqual(name, records.cell_id({'b': {'c': 2.0}, 'a': 1}))
        self.assertNotEqual(name, records.cell_id({'a': 1, 'b': {'c': 2.5}}))
        self.assertRegex(name, '^[0-9a-f]{16}$')

    def test_what_was_written_is_read_once(self):
        self.write(0, 1)
        self.write(1, 2)
        self.write(2, 3, process=1)
        cells = records.read(self.folder)
        self.assertCountEqual([c['protocol']['image'] for c in cells], range(4))
        for cell in cells:
            self.assertTrue(
                records.picture_path(self.folder, cell['id']).is_file()
            )
            self.assertEqual(cell['id'], records.cell_id(cell['protocol']))

    def test_a_line_that_a_kill_tore_is_written_anew(self):
        self.write(0, 1)
        path = pathlib.Path(self.folder) / 'cells-0.jsonl'
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])
        self.assertLen(records.read(self.folder), 1)
        self.write(0, 1)
        self.assertEqual(path.read_bytes(), whole)
        for line in whole.splitlines():
            json.loads(line)

    def test_estimates_are_over_images_after_the_mean_over_samples(self):
        writer = records.Writer(self.folder)
        for image, psnrs in enumerate(([10.0, 20.0], [21.0, 29.0])):
            for sample, psnr in enumerate(psnrs):
                protocol = {**_protocol(image), 'sample': sample}
                writer.write(protocol, {'psnr': psnr}, _X)
        summary = records.summarise(
            records.read(self.folder), lambda p: (p['method'],)
        )
        mean, standard_error = summary['dps',]['psnr']
        # Images' means are 15 and 25: their deviation sqrt(50), over sqrt(2).
        self.assertAlmostEqual(mean, 20.0)
        self.assertAlmostEqual(standard_error, 5.0)

    def test_a_score_that_some_cells_lack_has_no_estimate(self):
        writer = records.Writer(self.folder)
        writer.write(_protocol(0), {'psnr': 10.0}, _X)
        writer.write(_protocol(1), {'psnr': 20.0, 'seconds': 1.0}, _X)
        ((_, scores),) = records.summarise(
            records.read(self.folder), lambda _: ()
        ).items()
        self.assertAlmostEqual(scores['psnr'].mean, 15.0)
        self.assertTrue(np.isnan(scores['seconds'].mean))

    def test_the_sample_with_the_least_residual_stands_for_an_image(self):
        writer = records.Writer(self.folder)
        for sample, (chi_square, psnr) in enumerate(
            [(9.0, 10.0), (np.nan, 40.0), (1.1, 25.0), (1.5, 30.0)]
        ):
            scores = {'psnr': psnr, 'chi_square': chi_square, 'seconds': 2.0}
            writer.write(_protocol(0, sample=sample), scores, _X)
        writer.write(
            _protocol(1), {'psnr': 7.0, 'chi_square': 4.0, 'seconds': 3.0}, _X
        )
        writer.write(_protocol(2), {'psnr': 7.0, 'chi_square': 1.0}, _X)
        chosen = records.choose_samples(
            records.read(self.folder), most=1.5, costs=('seconds',)
        )
        scores = {c['protocol']['image']: c['scores'] for c in chosen}
        self.assertEqual(scores[0]['psnr'], 25.0)
        self.assertEqual(scores[0]['seconds'], 8.0)
        self.assertEqual(scores[0]['success'], 0.5)
        self.assertEqual(scores[1]['seconds'], 3.0)
        self.assertEqual(scores[1]['success'], 0.0)
        self.assertTrue(np.isnan(scores[2]['seconds']))


if __name__ == '__main__':
    absltest.main()
