"""A comparison with another side that is made by hand."""

import dataclasses
import itertools
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch, keys, restoration
from invjax.comparison import comparing
from invjax.comparison.remote import Restored
from invjax.report import comparisons
from invjax.study.plan import Data, Plan
from tests.standard_normal import StandardNormal

# LPIPS needs 31 pixels a side.
_SHAPE = (32, 32, 3)
_TASKS = ('denoising', 'box_inpainting')


_PRIOR = StandardNormal(_SHAPE)


class _Other:
    """The other side: its restorations are y, off by a constant.

    Args:
        off: (settings, number of the image) -> the constant.
    """

    def __init__(self, off=lambda settings, number: 0.2):
        self.off = off
        self.asked = []

    def load(self, prior):
        self.prior = prior
        return {'other': '1.0'}

    def predict(self, x_t, t):
        return np.asarray(self.prior(x_t, t).eps)

    def measure(self, problem, x):
        return np.asarray(problem.operator.forward(x))

    def restore(self, problem, method, num_steps, seed, settings):
        number = (seed - 1) % 1000
        self.asked.append((method, num_steps, seed, dict(settings)))
        x = np.asarray(problem.y) + self.off(settings, number)
        return Restored(x, 1.0 + number, num_steps)


def _data(first, number):
    rng = np.random.default_rng(first)
    truths = [
        rng.uniform(-0.5, 0.5, _SHAPE).astype(np.float32) for _ in range(number)
    ]
    return Data(_PRIOR, truths, first)


def _compare(other, data, tasks=_TASKS[:1], **kwargs):
    lines = []
    found = comparing.compare(
        other,
        data,
        tasks,
        [('ddrm', '5')],
        noise_std=0.0,
        say=lines.append,
        **kwargs,
    )
    return found, lines


class CompareTest(parameterized.TestCase):
    def test_scores_of_the_other_side_are_those_of_what_it_gave(self):
        # Without noise y is the truth. A constant d in [-1, 1] units has a mean
        # square of d^2 / 4 in those of a PSNR.
        other = _Other(lambda settings, number: {7: 0.2, 8: 0.02}[number])
        found, lines = _compare(other, _data(7, 2))
        ours, theirs = found.runs
        self.assertEqual(
            [run.side for run in (ours, theirs)],
            [comparing.OURS, comparing.THEIRS],
        )
        np.testing.assert_allclose(theirs.scores['psnr'], [20, 40], rtol=1e-4)
        self.assertEqual(theirs.seconds, [8.0, 9.0])
        self.assertEqual(found.versions, {'other': '1.0'})
        self.assertIn('deepinv (default): 30.00 dB', lines[-1])
        # The means of 20 and 40 dB, with a standard error of 10.
        row = comparisons.table(found.runs)[-1]
        self.assertIn('| 30.00 +- 10.00 |', row)

    def test_each_image_has_a_seed_of_its_own_and_all_steps(self):
        other = _Other()
        _compare(other, _data(7, 2), seed=3)
        self.assertEqual(
            other.asked, [('ddrm', 5, 3008, {}), ('ddrm', 5, 3009, {})]
        )

    def test_ours_is_what_a_sweep_and_restore_make_of_the_measurements(self):
        data = _data(0, 2)
        found, _ = _compare(_Other(), data, ['box_inpainting'], seed=3)
        ours = found.runs[0]
        problems = [image.problems['box_inpainting'] for image in found.images]
        restored = restoration.restore(problems[0], _PRIOR, 'ddrm', 5, seed=3)
        np.testing.assert_allclose(ours.x[0], restored.image, atol=1e-5)
        self.assertEqual(dict(ours.settings), restored.method.settings())
        lanes = batch.make_lanes(keys.root(3), problems, [restored.method])
        both = batch.run_lanes(lanes, _PRIOR, 5)
        np.testing.assert_allclose(ours.x, both.x, atol=1e-5)
        plan = Plan('box_inpainting', (restored.method,), seed=3)
        for (number, truth), image in zip(
            data.numbered(), found.images, strict=True
        ):
            expected = plan.problem(number, truth, 0.0)
            np.testing.assert_array_equal(
                image.problems['box_inpainting'].y, expected.y
            )

    @parameterized.parameters(
        # How far off each setting of the grid is, and the best of them.
        ((0.02, 0.5, 0.5, 0.5), 0),
        ((0.5, 0.02, 0.5, 0.5), 1),
        ((np.nan, 0.5, 0.5, 0.02), 3),
    )
    def test_it_is_tuned_to_the_highest_psnr(self, offs, best):
        grid = comparing.GRIDS['ddrm']
        expected = grid[best]
        other = _Other(lambda settings, number: offs[grid.index(settings)])
        found, lines = _compare(other, _data(7, 1), tuning=_data(40, 2))
        tuned = found.runs[-1]
        self.assertEqual(tuned.side, comparing.TUNED)
        self.assertEqual(tuned.settings, expected)
        np.testing.assert_allclose(tuned.scores['psnr'], [40], rtol=1e-4)
        self.assertLen(lines, 3 + len(grid))
        tuned_on = {seed - 1 for *_, seed, _ in other.asked[1:-1]}
        self.assertContainsSubset({40, 41}, tuned_on)
        # Where its own settings are the best they need not run again.
        self.assertLen(other.asked, 1 + 2 * len(grid) + (1 if expected else 0))

    def test_its_own_settings_are_the_first_of_each_grid(self):
        for grid in comparing.GRIDS.values():
            self.assertEqual(grid[0], {})
            for a, b in itertools.combinations(grid, 2):
                self.assertNotEqual(a, b)

    def assert_refused(self, other, words):
        with self.assertRaisesRegex(ValueError, words):
            _compare(other, _data(0, 1), _TASKS)
        self.assertEmpty(other.asked, 'something was restored before.')

    @parameterized.parameters(1.001, np.nan)
    def test_another_network_is_refused_before_anything_runs(self, factor):
        other = _Other()
        predict = other.predict
        other.predict = lambda x_t, t: (
            predict(x_t, t) * (factor if t == 999 else 1)
        )
        self.assert_refused(other, 'the networks at t = 999 differ')

    def test_another_operator_is_refused_before_anything_runs(self):
        other = _Other()
        measure = other.measure
        # The second task's: off in one corner.
        other.measure = lambda problem, x: (
            measure(problem, x)
            + (problem.task == _TASKS[1])
            * (np.arange(np.prod(_SHAPE)).reshape(_SHAPE) == 0)
        )
        self.assert_refused(other, 'the operators .* differ')

    def test_a_measurement_of_another_shape_is_refused(self):
        other = _Other()
        other.measure = lambda problem, x: x[:1]
        self.assert_refused(other, 'give shapes')

    def test_another_number_of_evaluations_is_refused(self):
        other = _Other()
        restore = other.restore
        other.restore = lambda *arguments: restore(*arguments)._replace(
            num_evaluations=6
        )
        with self.assertRaisesRegex(ValueError, '6 times, not 5'):
            _compare(other, _data(0, 1))


class AskedTest(parameterized.TestCase):
    def test_a_run_is_a_method_and_steps(self):
        self.assertEqual(comparing.parse_run('dps:quad20'), ('dps', 'quad20'))

    @parameterized.parameters(
        ('sdedit:9', 'must be METHOD:STEPS'),
        ('dps', 'num_steps must be'),
        ('dps:1', '2 steps or more'),
    )
    def test_others_are_refused(self, text, words):
        with self.assertRaisesRegex(ValueError, words):
            comparing.parse_run(text)

    @parameterized.parameters(
        (range(0, 8), range(7, 9)),
        (range(7, 9), range(0, 8)),
        (range(0, 8), range(2, 4)),
    )
    def test_images_are_compared_or_tuned_on_but_not_both(self, one, two):
        with self.assertRaisesRegex(ValueError, 'must not be among'):
            comparing.check_tuning(one, two)

    @parameterized.parameters(
        (range(0, 8), range(8, 10)),
        (range(2, 4), range(0, 2)),
        (range(0, 8), range(4, 4)),
    )
    def test_images_apart_are_not(self, one, two):
        comparing.check_tuning(one, two)


def _run(side, psnr, lpips, **changes):
    run = comparing.Run(
        task='denoising',
        method='ddrm',
        num_steps='20',
        side=side,
        settings=restoration.resolve('ddrm').method.settings()
        if side == comparing.OURS
        else {},
        seconds=[1.0, 9.0, 2.0][: len(psnr)],
        scores={'psnr': psnr, 'lpips_alex': lpips},
    )
    return dataclasses.replace(run, **changes)


class TableTest(absltest.TestCase):
    def test_differences_are_paired_image_by_image(self):
        # Two images. Ours: 31 +- 1 and 0.15 +- 0.05. Theirs: 29.5 +- 1.5 and
        # 0.25 +- 0.05. The differences are 2 and 1, and -0.2 and 0.
        runs = [
            _run(comparing.THEIRS, [28, 31], [0.3, 0.2]),
            _run(comparing.OURS, [30, 32], [0.1, 0.2]),
        ]
        theirs, ours = comparisons.table(runs)[2:]
        self.assertEqual(
            theirs,
            '| `denoising` | `ddrm` | 20 | deepinv | default '
            '| 29.50 +- 1.50 | 0.250 +- 0.050 | 5.0 '
            '| 1.50 +- 0.50 | -0.100 +- 0.100 |',
        )
        self.assertEqual(
            ours,
            '| `denoising` | `ddrm` | 20 | invjax | default '
            '| 31.00 +- 1.00 | 0.150 +- 0.050 | 5.0 |  |  |',
        )
        # So they are on the page.
        _, theirs, ours = comparisons.entries(runs, [])
        self.assertEqual(tuple(theirs.scores['psnr_difference']), (1.5, 0.5))
        self.assertNotIn('psnr_difference', ours.scores)

    def test_a_run_stands_against_ours_of_its_own_task_and_steps(self):
        runs = [
            _run(comparing.OURS, [30.0, 32.0], [0.1, 0.1]),
            _run(comparing.OURS, [20.0, 22.0], [0.1, 0.1], num_steps='100'),
            _run(comparing.OURS, [10.0, 12.0], [0.1, 0.1], task='jpeg'),
            _run(comparing.THEIRS, [29.0, 31.0], [0.1, 0.1]),
            _run(comparing.TUNED, [18.0, 20.0], [0.1, 0.1], num_steps='100'),
            _run(comparing.THEIRS, [7.0, 9.0], [0.1, 0.1], task='jpeg'),
        ]
        differences = [
            line.split('|')[9].strip() for line in comparisons.table(runs)[5:]
        ]
        self.assertEqual(
            differences, ['1.00 +- 0.00', '2.00 +- 0.00', '3.00 +- 0.00']
        )

    def test_one_image_has_no_standard_error(self):
        runs = [
            _run(comparing.OURS, [30.0], [0.1]),
            _run(comparing.THEIRS, [28.0], [0.3]),
        ]
        line = comparisons.table(runs)[-1]
        self.assertIn('| 28.00 | 0.300 | 1.0 | 2.00 | -0.200 |', line)

    def test_settings_that_are_not_the_defaults_are_named(self):
        settings = restoration.resolve(
            'ddrm', settings={'eta_b': 0.5}
        ).method.settings()
        ours = _run(comparing.OURS, [1.0], [1.0], settings=settings)
        theirs = _run(
            comparing.TUNED,
            [1.0],
            [1.0],
            settings={'sigmas': 'timesteps', 'eta': 0.0},
        )
        self.assertEqual(comparing.setting_words(ours), 'eta_b 0.5')
        self.assertEqual(
            comparing.setting_words(theirs), 'sigmas timesteps, eta 0'
        )

    def test_the_record_has_all_but_the_pictures(self):
        run = _run(comparing.OURS, [30.0], [0.1], x=[np.zeros(_SHAPE)])
        self.assertEqual(
            set(run.describe()),
            {
                'task',
                'method',
                'num_steps',
                'side',
                'settings',
                'seconds',
                'scores',
            },
        )


class SheetTest(absltest.TestCase):
    def test_each_picture_stands_in_its_place(self):
        found, _ = _compare(_Other(), _data(0, 2))
        with mock.patch.object(comparisons.images, 'sheet') as sheet:
            comparisons.sheet(found.runs, found.images)
        (rows, titles), _ = sheet.call_args
        for i, image in enumerate(found.images):
            truth, y, *restored = rows[i]
            np.testing.assert_array_equal(truth, image.truth)
            np.testing.assert_array_equal(y, image.problems['denoising'].y)
            for x, run in zip(restored, found.runs, strict=True):
                np.testing.assert_array_equal(x, run.x[i])
        self.assertEqual(titles[:2], ['truth', 'measurement'])
        self.assertEqual(titles[3], 'ddrm, 5\ndeepinv\n20.0 dB')
        size = comparisons.sheet(found.runs, found.images[:1]).size
        self.assertGreater(size[0], 4 * 128)


if __name__ == '__main__':
    absltest.main()
