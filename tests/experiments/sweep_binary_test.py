"""The sweep as a user runs it: killed, continued, shared among processes."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import types
from unittest import mock

import pytest
from absl.testing import absltest

from invjax.commandline import groups
from invjax.study import cells as records
from tests.experiments import tiny_prior

_NUM_IMAGES = 3
_TAUS = (100, 300, 500, 700)
_NUM_CELLS = _NUM_IMAGES * len(_TAUS)


def _start(folder, out, *arguments):
    return tiny_prior.start(
        'sweep',
        folder,
        f'--images={folder}/images',
        f'--num_images={_NUM_IMAGES}',
        '--task=box_inpainting',
        '--method=sdedit',
        f'--grid=tau={",".join(map(str, _TAUS))}',
        '--lpips=none',
        '--max_lanes=2',
        f'--out={out}',
        *arguments,
    )


def _cells_and_pictures(out):
    cells = records.read(out)
    return {
        cell['id']: (
            cell,
            records.picture_path(out, cell['id']).read_bytes(),
        )
        for cell in cells
    }


class SweepTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        tiny_prior.write(cls.folder, _NUM_IMAGES)
        cls.whole = cls.folder / 'whole'
        process = _start(cls.folder, cls.whole)
        out, error = process.communicate()
        assert process.returncode == 0, error
        cls.report = out

    def test_every_cell_and_measurement_is_there_with_its_table(self):
        cells = records.read(self.whole)
        methods = [cell['protocol']['method'] for cell in cells]
        self.assertEqual(methods.count('sdedit'), _NUM_CELLS)
        self.assertEqual(methods.count('measurement'), _NUM_IMAGES)
        for tau in _TAUS:
            self.assertIn(f'sdedit tau {tau} ', self.report)
        self.assertTrue((self.whole / 'sheet.png').is_file())

    def test_a_killed_sweep_continues_to_the_same_files(self):
        out = self.folder / 'killed'
        process = _start(self.folder, out)
        while process.poll() is None and len(records.read(out)) < 5:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        before = len(records.read(out))
        self.assertLess(before, _NUM_CELLS + _NUM_IMAGES)

        process = _start(self.folder, out)
        report, error = process.communicate()

        self.assertEqual(process.returncode, 0, error)
        self.assertRegex(report, rf'\d+ of {_NUM_CELLS} cells are there')
        self.assertEqual(
            _cells_and_pictures(out), _cells_and_pictures(self.whole)
        )

    def start_two(self, out):
        """Two processes that share the cells by their numbers."""
        return [
            _start(self.folder, out, '--num_processes=2', f'--process_id={i}')
            for i in range(2)
        ]

    @pytest.mark.slow
    def test_two_processes_share_the_cells(self):
        out = self.folder / 'shared'
        for process in self.start_two(out):
            _, error = process.communicate()
            self.assertEqual(process.returncode, 0, error)
        self.assertEqual(
            _cells_and_pictures(out), _cells_and_pictures(self.whole)
        )
        for i in range(2):
            lines = (out / f'cells-{i}.jsonl').read_text().splitlines()
            measured = _NUM_IMAGES if i == 0 else 0
            self.assertLen(lines, _NUM_CELLS // 2 + measured)

    @pytest.mark.slow
    def test_a_killed_process_does_not_take_the_other_with_it(self):
        out = self.folder / 'bereft'
        killed, other = self.start_two(out)
        while killed.poll() is None and not records.read(out):
            time.sleep(0.01)
        killed.kill()
        killed.communicate()
        text, error = other.communicate()
        self.assertEqual(other.returncode, 0, error)
        self.assertIn('others are at work', text)
        own = (out / 'cells-1.jsonl').read_text().splitlines()
        self.assertLen(own, _NUM_CELLS // 2)

    @pytest.mark.slow
    def test_two_runs_into_one_folder_compute_nothing_twice(self):
        out = self.folder / 'twice'
        processes = [_start(self.folder, out) for _ in range(2)]
        counts = []
        for process in processes:
            text, error = process.communicate()
            self.assertEqual(process.returncode, 0, error)
            counts.append(int(re.search(r'^(\d+) cells in', text, re.M)[1]))
        self.assertEqual(sum(counts), _NUM_CELLS)
        lines = (out / 'cells-0.jsonl').read_text().splitlines()
        self.assertLen(set(lines), _NUM_CELLS + _NUM_IMAGES)
        self.assertLen(lines, _NUM_CELLS + _NUM_IMAGES)
        self.assertEqual(
            _cells_and_pictures(out), _cells_and_pictures(self.whole)
        )

    def test_pictures_that_are_torn_or_gone_are_computed_anew(self):
        out = self.folder / 'repaired'
        shutil.copytree(self.whole, out)
        restored = [
            records.picture_path(out, cell['id'])
            for cell in records.read(out)
            if cell['protocol']['method'] == 'sdedit'
        ]
        restored[0].unlink()
        restored[1].write_bytes(restored[1].read_bytes()[:-40])
        process = _start(self.folder, out)
        text, error = process.communicate()
        self.assertEqual(process.returncode, 0, error)
        self.assertIn(f'{_NUM_CELLS - 2} of {_NUM_CELLS} cells are', text)
        self.assertEqual(
            _cells_and_pictures(out), _cells_and_pictures(self.whole)
        )


def _join(number=None, of=None, coordinator=None):
    return groups.join_processes(
        types.SimpleNamespace(
            coordinator=coordinator, num_processes=of, process_id=number
        )
    )


_DIVIDED = """
import sys
from invjax.commandline import groups
asked, = (int(n) if n else None for n in sys.argv[1:])
groups._num_cores = lambda: 3
groups.divide_cpu(asked)
import jax
print(jax.local_device_count())
# Too late, and said to nobody.
groups.divide_cpu(5)
"""


def _divide(asked='', **environment):
    kept = dict(os.environ)
    kept.pop('JAX_NUM_CPU_DEVICES', None)
    done = subprocess.run(
        [sys.executable, '-c', _DIVIDED, asked],
        env={**kept, 'PYTHONPATH': str(tiny_prior.ROOT), **environment},
        capture_output=True,
        text=True,
    )
    return done.stdout.strip() if done.returncode == 0 else done.stderr


class DivideTest(absltest.TestCase):
    def test_the_cpu_is_a_device_a_core_or_as_many_as_asked_for(self):
        self.assertEqual(_divide(), '3')
        self.assertEqual(_divide('2'), '2')

    def test_what_the_user_has_told_jax_stands(self):
        self.assertEqual(_divide(JAX_NUM_CPU_DEVICES='1'), '1')
        told = '--xla_force_host_platform_device_count=5'
        self.assertEqual(_divide(XLA_FLAGS=told), '5')


class ProcessesTest(absltest.TestCase):
    def test_numbers_that_do_not_fit_are_refused(self):
        self.assertEqual(_join(1, 2), (1, 2))
        self.assertEqual(_join(), (0, 1))
        with self.assertRaisesRegex(ValueError, 'go together'):
            _join(0)
        with self.assertRaisesRegex(ValueError, 'below --num_processes, 2'):
            _join(2, 2)
        with self.assertRaisesRegex(ValueError, '--coordinator must be auto'):
            _join(0, 2, 'host:1')

    def test_a_cluster_tells_a_process_its_number(self):
        for names in (
            ('SLURM_PROCID', 'SLURM_NTASKS'),
            ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE'),
        ):
            told = dict(zip(names, ('3', '8'), strict=True))
            with mock.patch.dict(os.environ, told, clear=True):
                self.assertEqual(_join(coordinator='auto'), (3, 8))


_ON_EIGHT_DEVICES = """
import jax, numpy as np
from invjax import batch, dps
from tests import batch_test as t
assert jax.device_count() == 8
methods = [dps(zeta) for zeta in (0.1, 0.3, 1.0, 2.0)]
lanes = batch.make_lanes(t.KEY, t.make_problems(4), methods)
one = batch.run_lanes(
    lanes, t.PRIOR, 20, max_lanes=2, devices=jax.devices()[:1])
eight = batch.run_lanes(lanes, t.PRIOR, 20, max_lanes=16)
np.testing.assert_array_equal(eight.lanes, one.lanes)
# Another program, whose sums may be fused in another way: rounding of values
# of order 1, over 20 steps.
np.testing.assert_allclose(eight.x, one.x, atol=1e-5)
"""


class DevicesTest(absltest.TestCase):
    def test_eight_devices_give_what_one_gives(self):
        environment = {
            **os.environ,
            'JAX_NUM_CPU_DEVICES': '8',
            'PYTHONPATH': str(tiny_prior.ROOT),
        }
        done = subprocess.run(
            [sys.executable, '-c', _ON_EIGHT_DEVICES],
            env=environment,
            capture_output=True,
            text=True,
        )
        self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == '__main__':
    absltest.main()
