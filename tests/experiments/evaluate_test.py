"""`evaluate` over methods and numbers of steps, as a user runs it."""

import json
import pathlib
import re
import tempfile

import numpy as np
import pytest
from absl.testing import absltest

from invjax import images
from invjax.report import figures
from tests.experiments import tiny_prior

_TASKS = ('box_inpainting', 'phase_retrieval')


# Runs `evaluate`, and says how many compiled programs each method leaves behind.
_COUNTING = """
import jax
from experiments import evaluate
from invjax.commandline.program import run
from invjax.study import running

compute = running.compute


def counted(*arguments, **how):
    done = compute(*arguments, **how)
    print('left:', len(jax.devices()[0].client.live_executables()))
    return done


running.compute = counted
run(evaluate.main, evaluate.FLAGS)
"""


def _start(folder, *arguments):
    return tiny_prior.start('evaluate', folder, *_flags(folder), *arguments)


def _flags(folder):
    return (
        f'--images={folder}/images',
        '--num_images=2',
        f'--tasks={",".join(_TASKS)}',
        '--lpips=none',
        f'--out={folder}/out',
    )


class EvaluateTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        tiny_prior.write(cls.folder, num_images=2)
        mistakes = {
            'steps': _start(cls.folder, '--steps=five'),
            'method': _start(cls.folder, '--methods=dps,nothing:5'),
            'choose_sample': _start(cls.folder, '--choose_sample'),
        }
        cls.texts, cls.files = [], []
        for _ in range(2):
            process = _start(cls.folder, '--methods=dps,ddrm:4', '--steps=2,4')
            text, error = process.communicate()
            assert process.returncode == 0, error
            cls.texts.append(text)
            out = cls.folder / 'out'
            cls.files.append(
                [
                    path.read_bytes()
                    for path in [
                        *sorted(out.glob('*/cells-*.jsonl')),
                        out / 'evaluation.md',
                    ]
                ]
            )
        found = json.loads((cls.folder / 'out/evaluation.json').read_text())
        cls.rows = found['rows']
        cls.mistakes = {
            name: (process.communicate()[1], process.returncode)
            for name, process in mistakes.items()
        }

    def rows_of(self, task, *methods):
        return [
            row
            for row in self.rows
            if row['task'] == task and row['method'] in methods
        ]

    def test_a_method_runs_at_each_number_of_steps_or_at_its_own(self):
        for task in _TASKS:
            found = self.rows_of(task, 'dps', 'ddrm')
            self.assertEqual(
                [(row['method'], row['num_steps']) for row in found],
                [('dps', '2'), ('dps', '4'), ('ddrm', '4')],
            )

    def test_costs_are_counted_and_timed(self):
        found = self.rows_of('box_inpainting', 'dps', 'ddrm')
        counts = [
            (
                row['scores']['forward']['mean'],
                row['scores']['backward']['mean'],
            )
            for row in found
        ]
        # The gradient of dps goes back through the network, ddrm has none.
        self.assertEqual(counts, [(2, 2), (4, 4), (4, 0)])
        for row in found:
            self.assertGreater(row['scores']['seconds']['mean'], 0)

    def test_a_method_that_cannot_do_a_task_has_dashes(self):
        (row,) = self.rows_of('phase_retrieval', 'ddrm')
        self.assertFalse(row['can_do'])
        self.assertRegex(
            self.texts[0],
            r'\| `phase_retrieval` \| `ddrm` \| 4 \|  (\| - ){6}\|',
        )
        for row in self.rows_of('phase_retrieval', 'dps'):
            self.assertTrue(row['can_do'])

    def test_the_best_method_of_a_task_is_in_bold(self):
        for task in _TASKS:
            best = max(
                row['scores']['psnr']['mean']
                for row in self.rows_of(task, 'dps', 'ddrm')
                if row['can_do']
            )
            bold = [
                line.split(' | ')[4]
                for line in self.texts[0].splitlines()
                if line.startswith(f'| `{task}`')
                and line.split(' | ')[4].startswith('**')
            ]
            self.assertLen(bold, 1)
            self.assertStartsWith(bold[0], f'**{best:.3f} +- ')

    def test_the_same_command_computes_nothing_and_says_the_same(self):
        self.assertEqual(self.files[0], self.files[1])
        self.assertIn('2 of 2 cells are there.', self.texts[1])
        for name in ('fronts_evaluations', 'fronts_seconds'):
            images.read_image(self.folder / 'out' / f'{name}.png')

    @pytest.mark.slow
    def test_compiled_programs_do_not_pile_up_with_the_methods(self):
        process = tiny_prior.start_python(
            *('-c', _COUNTING),
            *(f'--prior={self.folder}/prior', *_flags(self.folder)),
            *('--tasks=box_inpainting', '--methods=admm_tv,hqs,ddrm'),
            *('--num_steps=2', f'--out={self.folder}/counted'),
        )
        text, error = process.communicate()
        self.assertEqual(process.returncode, 0, error)
        left = re.findall('left: ([0-9]+)', text)
        self.assertLen(left, 3)
        self.assertLen(set(left), 1)

    def test_mistakes_are_one_sentence(self):
        for name, sentence in {
            'steps': "num_steps must be a number such as 100, 'ddim50'",
            'method': 'method must be one of ',
            'choose_sample': 'choose_sample needs num_samples of 2 or more',
        }.items():
            error, status = self.mistakes[name]
            self.assertEqual(status, 2)
            self.assertStartsWith(error, f'error: {sentence}')
            self.assertEqual(error.count('\n'), 1)


class FrontTest(absltest.TestCase):
    def test_no_point_of_the_front_is_beaten_and_all_others_are(self):
        points = np.random.default_rng(0).uniform(size=(40, 2))
        for sign in (1, -1):
            cost, quality = points[:, 0], sign * points[:, 1]
            beaten = np.any(
                (cost[None] < cost[:, None])
                & (quality[None] > quality[:, None]),
                axis=1,
            )
            expected = points[~beaten]
            np.testing.assert_array_equal(
                figures.front(points, sign),
                expected[np.argsort(expected[:, 0])],
            )


if __name__ == '__main__':
    absltest.main()
