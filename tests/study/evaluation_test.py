"""`evaluate` as Python users call it, on a prior in closed form."""

import tempfile

import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import images, metrics, schedule, uncertainty
from invjax.priors import gaussian
from invjax.study import cells, evaluation
from invjax.study.evaluation import BETTER, Run, make_runs

_SHAPE = (12, 12, 3)
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_PRIOR = gaussian.GaussianPrior.isotropic(np.zeros(_SHAPE), 0.2, _ALPHA_BAR)
_TRUTHS = np.random.default_rng(0).uniform(-1, 1, (2, *_SHAPE))
_FIRST = 5


class EvaluateTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.found = invjax.evaluate(
            _TRUTHS,
            _PRIOR,
            ['denoising', 'phase_retrieval'],
            [
                invjax.dps(zeta=0.5),
                invjax.ddrm(eta_a=0.5),
                Run(invjax.ddrm(eta_a=1.0), 2),
            ],
            3,
            num_samples=3,
            first_image=_FIRST,
            calibration=True,
        )

    def rows(self, task):
        return [row for row in self.found.rows if row.task == task]

    def test_there_is_a_row_for_each_task_and_run(self):
        for task in ('denoising', 'phase_retrieval'):
            self.assertEqual(
                [
                    (row.line or row.method, row.num_steps)
                    for row in self.rows(task)
                ],
                [
                    ('measurement', ''),
                    ('dps zeta 0.5', '3'),
                    ('ddrm eta_a 0.5, eta_b 1', '3'),
                    ('ddrm eta_a 1, eta_b 1', '2'),
                ],
            )

    def test_a_method_that_cannot_do_a_task_has_dashes(self):
        for row in self.rows('phase_retrieval')[2:]:
            self.assertEqual((row.cells, row.scores), ([], {}))
        self.assertEqual(self.found.table()[-1].count(' - '), 6)

    def test_scores_are_of_the_pictures_against_their_own_truths(self):
        folder = self.found.folder / 'denoising'
        for row in self.rows('denoising'):
            by_image = {}
            for cell in row.cells:
                number = cell['protocol']['image']
                x = cells.read_picture(folder, cell['id'])
                psnr = metrics.psnr(x, np.float32(_TRUTHS[number - _FIRST]))
                by_image.setdefault(number, []).append(psnr)
            self.assertEqual([*by_image], [_FIRST, _FIRST + 1])
            expected = metrics.mean_and_standard_error(
                [np.mean(psnrs) for psnrs in by_image.values()]
            )
            # Pictures have 256 levels.
            np.testing.assert_allclose(row.scores['psnr'], expected, atol=0.05)

    def test_costs_are_those_of_the_method(self):
        for row in self.rows('denoising')[1:]:
            number = int(row.num_steps)
            backward = number if row.method == 'dps' else 0
            self.assertEqual(row.scores['forward'].mean, number)
            self.assertEqual(row.scores['backward'].mean, backward)
            self.assertGreater(row.scores['seconds'].mean, 0)

    def test_coverage_is_that_of_the_pictures(self):
        folder = self.found.folder / 'denoising'
        row = self.rows('denoising')[1]
        observed, stacked = [], []
        for i, truth in enumerate(_TRUTHS):
            samples = [
                cells.read_picture(folder, cell['id'])
                for cell in row.cells
                if cell['protocol']['image'] == _FIRST + i
            ]
            self.assertLen(samples, 3)
            stacked.append(np.stack(samples))
            # Of 256 levels, as the pictures are.
            truth = images.to_float(images.to_uint8(truth))
            observed.append(uncertainty.coverage(np.stack(samples), truth))
        found = self.found.coverage[0]
        self.assertEqual((found.task, found.method), ('denoising', 'dps'))
        # Two rows of ddrm are told apart by their settings.
        shown = [row.shown for row in self.found.coverage[1:3]]
        self.assertEqual(
            shown, ['ddrm eta_a 0.5, eta_b 1', 'ddrm eta_a 1, eta_b 1']
        )
        np.testing.assert_allclose(found.nominal, [0.5])
        np.testing.assert_allclose(
            found.observed[0],
            metrics.mean_and_standard_error([c.observed[0] for c in observed]),
            rtol=1e-6,
        )
        shares = uncertainty.held_out_coverage(stacked, _TRUTHS, 0.5, False)
        # Of 864 values some are of one level, which is told apart at random.
        np.testing.assert_allclose(
            found.widened[0],
            metrics.mean_and_standard_error(shares),
            atol=0.02,
        )
        self.assertIn('| `dps zeta 0.5` widened |', repr(self.found))
        # Those that cannot do phase retrieval have no samples.
        self.assertLen(self.found.coverage, 3 + 1)

    def test_it_shows_itself_as_a_table(self):
        page = self.found._repr_html_()
        self.assertEqual(page.count('<tr>'), 1 + len(self.found.rows))
        self.assertNotIn('**', page)
        # The best of two tasks by three scores.
        self.assertEqual(page.count('<b>'), repr(self.found).count('**') // 2)
        self.assertNotIn('nan', repr(self.found))


class WidenedTest(absltest.TestCase):
    def test_of_few_levels_intervals_are_widened_to_nominal(self):
        # With ties as they are, no width holds less than all of a level.
        draws = np.random.default_rng(0).binomial(2, 0.3, (4, 10, 60, 60, 1))
        levels = 2 / 255 * (draws - 1)
        found = evaluation._widened(levels[:, 1:], levels[:, 0], [0.2, 0.6])
        means = [float(estimate.mean) for estimate in found]
        np.testing.assert_allclose(means, [0.2, 0.6], atol=0.02)

    def test_without_a_spread_there_is_none(self):
        samples = np.zeros((2, 3, 4, 4, 1))
        self.assertEqual(
            evaluation._widened(samples, np.ones((2, 4, 4, 1)), [0.5]), []
        )


class ChooseSampleTest(absltest.TestCase):
    def test_the_least_residual_stands_for_an_image_at_the_cost_of_all(self):
        arguments = {
            'images': _TRUTHS,
            'prior': _PRIOR,
            'tasks': ['denoising'],
            'methods': [invjax.ddrm()],
            'num_steps': 2,
            'num_samples': 2,
            'folder': self.enterContext(tempfile.TemporaryDirectory()),
        }
        every = invjax.evaluate(**arguments).rows[1]
        chosen = invjax.evaluate(**arguments, choose_sample=True).rows[1]
        by_image = {}
        for cell in every.cells:
            scores = cell['scores']
            best = by_image.setdefault(cell['protocol']['image'], scores)
            if scores['chi_square'] < best['chi_square']:
                by_image[cell['protocol']['image']] = scores
        self.assertAlmostEqual(
            float(chosen.scores['psnr'].mean),
            np.mean([scores['psnr'] for scores in by_image.values()]),
            places=6,
        )
        self.assertEqual(chosen.scores['forward'].mean, 4)
        self.assertEqual(every.scores['forward'].mean, 2)
        self.assertIn('success', chosen.scores)


class RunsTest(absltest.TestCase):
    def test_a_method_runs_at_each_number_of_steps_or_at_its_own(self):
        self.assertEqual(
            make_runs(['dps', Run('ddrm', 7), invjax.ddnm], [5, 'quad9']),
            [
                Run('dps', 5),
                Run('dps', 'quad9'),
                Run('ddrm', 7),
                Run(invjax.ddnm, 5),
                Run(invjax.ddnm, 'quad9'),
            ],
        )
        self.assertEqual(make_runs(['dps'], '10,20'), [Run('dps', '10,20')])

    def test_of_shared_settings_a_run_has_those_that_it_reads(self):
        shared = {'variance': 'beta', 'clip': False}
        for method, expected in (
            ('dps', ('beta', False)),
            ('ddrm', ('learned', False)),
            ('dip', ('learned', True)),
        ):
            found = Run(method, 5).resolve(_PRIOR, 'denoising', shared)
            transition = found.transition
            self.assertEqual((transition.variance, transition.clip), expected)
        # What is its own is refused.
        with self.assertRaisesRegex(ValueError, 'clip is not read by dip'):
            Run('dip', 5, (('clip', False),)).resolve(_PRIOR, 'denoising')

    def test_values_of_a_method_are_told_apart_and_names_are_not(self):
        self.assertEqual(Run('dps').line, 'dps')
        self.assertEqual(Run(invjax.dps).line, 'dps')
        self.assertEqual(
            Run(invjax.dps(zeta=3.0, normalise='gradient')).line,
            'dps zeta 3, normalise gradient',
        )

    def test_settings_of_a_run_are_of_its_line_and_its_method(self):
        of_name = Run('dps', 5, (('zeta', 3.0),))
        self.assertEqual(of_name.line, 'dps zeta 3')
        self.assertEqual(of_name.resolve(), invjax.dps(zeta=3.0))
        # A run's own come last.
        self.assertEqual(
            of_name.resolve(settings={'zeta': 1.0, 'clip': False}),
            invjax.dps.of({'zeta': 3.0, 'clip': False}),
        )
        of_value = Run(invjax.dps(normalise='gradient'), 5, (('zeta', 3.0),))
        self.assertEqual(of_value.line, 'dps zeta 3, normalise gradient')


class RefusalTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('task', {'tasks': ['denoising', 'nothing']}, "got 'nothing'"),
        ('method', {'methods': ['dps', 'nothing']}, "got 'nothing'"),
        ('steps', {'num_steps': [3, 'five']}, "got 'five'"),
        ('setting', {'settings': {'zeta': 3.0}}, "hyperparameter 'zeta'"),
        ('images', {'images': [np.zeros((4, 4, 3))]}, 'images must be'),
        (
            'a task that is not for such images',
            {
                'images': np.zeros((1, 12, 12, 1)),
                'prior': gaussian.GaussianPrior.isotropic(
                    np.zeros((12, 12, 1)), 0.2, _ALPHA_BAR
                ),
                'tasks': ['denoising', 'jpeg'],
            },
            'jpeg|3 channels',
        ),
        ('calibration', {'calibration': True}, 'calibration needs num_samples'),
    )
    def test_mistakes_are_refused_before_any_work(self, changed, sentence):
        asked = {
            'images': _TRUTHS,
            'prior': _PRIOR,
            'tasks': ['denoising'],
            'methods': ['ddrm'],
            'num_steps': 3,
            'progress': self.fail,
            **changed,
        }
        with self.assertRaisesRegex(ValueError, sentence):
            invjax.evaluate(**asked)


class BetterTest(parameterized.TestCase):
    @parameterized.parameters(
        ('psnr', 30.0, 20.0),
        ('ssim', 0.9, 0.8),
        ('lpips_alex', 0.1, 0.2),
        ('lpips_vgg', 0.1, 0.2),
        ('chi_square', 1.0, 1.5),
        ('chi_square', 1.0, 0.7),
    )
    def test_the_better_of_two_scores_is_known(self, score, better, worse):
        of = BETTER[score]
        self.assertGreater(of(better), of(worse))


if __name__ == '__main__':
    absltest.main()
