"""Cells on disk: named by what they depend on, whole or not there at all."""

import gc
import json
import logging
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
from absl.testing import absltest

from invjax import images
from invjax.study import cells, summaries
from invjax.study.plan import PROTOCOL

_ROOT = pathlib.Path(__file__).parents[2]
_X = np.zeros((2, 2, 3), np.float32)
_CLAIMING = """
import sys, time
from invjax.study import cells
with cells.Store(sys.argv[1]).claimed(['a', 'b']):
    print('claimed', flush=True)
    time.sleep(600)
"""


def _protocol(image=0, **others):
    return {
        'protocol': PROTOCOL,
        'image': image,
        'method': 'dps',
        'sample': 0,
        **others,
    }


class RecordsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def write(self, *numbers, process=0):
        writer = cells.Store(self.folder, process)
        for image in numbers:
            writer.write(_protocol(image), {'psnr': 20.0 + image}, _X)

    def test_a_name_depends_on_all_values_and_on_no_order(self):
        name = cells.cell_id({'a': 1, 'b': {'c': 2.0}})
        self.assertEqual(name, cells.cell_id({'b': {'c': 2.0}, 'a': 1}))
        self.assertNotEqual(name, cells.cell_id({'a': 1, 'b': {'c': 2.5}}))
        self.assertRegex(name, '^[0-9a-f]{16}$')

    def test_what_was_written_is_read_once(self):
        self.write(0, 1)
        self.write(1, 2)
        self.write(2, 3, process=1)
        found = cells.read(self.folder)
        self.assertCountEqual([c['protocol']['image'] for c in found], range(4))
        for cell in found:
            self.assertTrue(
                cells.picture_path(self.folder, cell['id']).is_file()
            )
            self.assertEqual(cell['id'], cells.cell_id(cell['protocol']))

    def test_pictures_of_any_channels_come_back(self):
        rng = np.random.default_rng(0)
        for channels in (1, 2, 3, 4, 5):
            pixels = rng.integers(0, 256, (4, 6, channels))
            protocol = _protocol(channels)
            cells.Store(self.folder, 0).write(
                protocol, {}, images.to_float(pixels)
            )
            x = cells.read_picture(self.folder, cells.cell_id(protocol))
            np.testing.assert_array_equal(images.to_uint8(x), pixels)

    def test_a_line_that_a_kill_tore_is_written_anew(self):
        self.write(0, 1)
        path = pathlib.Path(self.folder) / 'cells-0.jsonl'
        whole = path.read_bytes()
        path.write_bytes(whole[:-7])
        self.assertLen(cells.read(self.folder), 1)
        self.write(0, 1)
        self.assertEqual(path.read_bytes(), whole)
        for line in whole.splitlines():
            json.loads(line)

    def test_a_cell_without_a_whole_picture_is_written_again(self):
        self.write(0, 1)
        first, second = cells.read(self.folder)
        torn = cells.picture_path(self.folder, first['id'])
        whole = torn.read_bytes()
        torn.write_bytes(whole[:45])
        cells.picture_path(self.folder, second['id']).unlink()
        names = [first['id'], second['id']]
        self.assertEqual(cells.Store(self.folder).missing(names), names)
        self.write(0, 1)
        self.assertEqual(torn.read_bytes(), whole)
        self.assertEqual(cells.Store(self.folder).missing(names), [])
        self.assertEqual(cells.read(self.folder), [first, second])

    def test_foreign_lines_are_left_out_with_their_place(self):
        self.write(0)
        path = pathlib.Path(self.folder) / 'cells-0.jsonl'
        (whole,) = path.read_bytes().splitlines()
        older, renamed, changed = (json.loads(whole) for _ in range(3))
        del older['protocol']['protocol']
        renamed['id'] = '0' * 16
        changed['scores']['psnr'] = 21.0
        lines = [
            b'no json',
            b'[]',
            b'{"id": "x"}',
            whole,
            b'\xff\xfe',
            b'[' * 100_000,
            *(json.dumps(c).encode() for c in (older, renamed, changed)),
        ]
        path.write_bytes(b'\n'.join([*lines, b'']))
        with self.assertLogs('invjax', 'WARNING') as logged:
            found = cells.read(self.folder)
            # It is not said twice.
            cells.read(self.folder)
        self.assertEqual(found, [json.loads(whole)])
        said = [text.partition('cells-0.jsonl, ')[2] for text in logged.output]
        self.assertEqual(
            said,
            [
                'line 1, 5-6: no JSON, left out.',
                'line 2-3: no cell, left out.',
                'line 7: a cell of protocol 1, left out; this version reads 2.',
                'line 8: its name does not fit its protocol, left out.',
                'line 9: its scores do not have their checksum, left out.',
            ],
        )

    def test_any_damage_leaves_the_right_cells_and_no_others(self):
        self.write(0, 1)
        path = pathlib.Path(self.folder) / 'cells-0.jsonl'
        whole = path.read_bytes()
        right = cells.read(self.folder)
        rng = np.random.default_rng(0)
        logging.disable()
        self.addCleanup(logging.disable, logging.NOTSET)
        for _ in range(500):
            damaged = bytearray(whole)
            for place in rng.integers(len(whole), size=rng.integers(1, 4)):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged)
            for cell in cells.read(self.folder):
                self.assertIn(cell, right)

    def test_a_whole_number_is_the_same_setting_as_a_float(self):
        self.assertEqual(
            cells.cell_id({'settings': {'zeta': 3}, 'parts': [1]}),
            cells.cell_id({'settings': {'zeta': 3.0}, 'parts': [1.0]}),
        )
        self.assertNotEqual(
            cells.cell_id({'clip': True}), cells.cell_id({'clip': 1.5})
        )

    def test_a_run_claims_what_is_missing_and_no_more_than_it_asked(self):
        store = cells.Store(self.folder)
        done = cells.cell_id(_protocol(0))
        self.write(0, process=1)
        with store.claimed([done, 'a', 'b', 'c'], most=3) as free:
            self.assertEqual(free, ['a', 'b'])
        with store.claimed([done, 'a', 'b', 'c'], most=3) as free:
            self.assertEqual(free, ['a', 'b', 'c'])

    def test_what_another_process_has_claimed_is_left_to_it_until_it_dies(self):
        other = subprocess.Popen(
            [sys.executable, '-c', _CLAIMING, self.folder],
            stdout=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': str(_ROOT)},
        )
        self.addCleanup(other.stdout.close)
        self.assertEqual(other.stdout.readline(), b'claimed\n')
        store = cells.Store(self.folder, 1)
        with store.claimed(['b', 'c']) as free:
            self.assertEqual(free, ['c'])
        other.kill()
        other.wait()
        with store.claimed(['a', 'b']) as free:
            self.assertEqual(free, ['a', 'b'])

    def test_a_score_that_is_not_finite_is_strict_json(self):
        store = cells.Store(self.folder)
        store.write(_protocol(0), {'psnr': float('nan')}, _X)
        (line,) = (
            (pathlib.Path(self.folder) / 'cells-0.jsonl')
            .read_text()
            .splitlines()
        )
        self.assertNotIn('NaN', line)
        (cell,) = cells.read(self.folder)
        self.assertIsNone(cell['scores']['psnr'])

    def test_estimates_are_over_images_after_the_mean_over_samples(self):
        writer = cells.Store(self.folder)
        for image, psnrs in enumerate(([10.0, 20.0], [21.0, 29.0])):
            for sample, psnr in enumerate(psnrs):
                protocol = {**_protocol(image), 'sample': sample}
                writer.write(protocol, {'psnr': psnr}, _X)
        summary = summaries.summarise(
            cells.read(self.folder), lambda p: (p['method'],)
        )
        mean, standard_error = summary['dps',]['psnr']
        # Images' means are 15 and 25: their deviation sqrt(50), over sqrt(2).
        self.assertAlmostEqual(mean, 20.0)
        self.assertAlmostEqual(standard_error, 5.0)

    def test_a_score_that_some_cells_lack_has_no_estimate(self):
        writer = cells.Store(self.folder)
        writer.write(_protocol(0), {'psnr': 10.0}, _X)
        writer.write(_protocol(1), {'psnr': 20.0, 'seconds': 1.0}, _X)
        ((_, scores),) = summaries.summarise(
            cells.read(self.folder), lambda _: ()
        ).items()
        self.assertAlmostEqual(scores['psnr'].mean, 15.0)
        self.assertTrue(np.isnan(scores['seconds'].mean))

    def test_the_sample_with_the_least_residual_stands_for_an_image(self):
        writer = cells.Store(self.folder)
        for sample, (chi_square, psnr) in enumerate(
            [(9.0, 10.0), (np.nan, 40.0), (1.1, 25.0), (1.5, 30.0)]
        ):
            scores = {'psnr': psnr, 'chi_square': chi_square, 'seconds': 2.0}
            writer.write(_protocol(0, sample=sample), scores, _X)
        writer.write(
            _protocol(1), {'psnr': 7.0, 'chi_square': 4.0, 'seconds': 3.0}, _X
        )
        writer.write(_protocol(2), {'psnr': 7.0, 'chi_square': 1.0}, _X)
        chosen = summaries.choose_samples(
            cells.read(self.folder), most=1.5, costs=('seconds',)
        )
        scores = {c['protocol']['image']: c['scores'] for c in chosen}
        self.assertEqual(scores[0]['psnr'], 25.0)
        self.assertEqual(scores[0]['seconds'], 8.0)
        self.assertEqual(scores[0]['success'], 0.5)
        self.assertEqual(scores[1]['seconds'], 3.0)
        self.assertEqual(scores[1]['success'], 0.0)
        self.assertTrue(np.isnan(scores[2]['seconds']))


class PassingFolderTest(absltest.TestCase):
    def test_it_goes_with_the_object(self):
        folder = cells.PassingFolder()
        path = pathlib.Path(folder.path)
        (path / 'cells').mkdir()
        self.assertTrue(path.is_dir())
        del folder
        gc.collect()
        self.assertFalse(path.exists())


if __name__ == '__main__':
    absltest.main()
