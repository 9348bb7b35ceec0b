"""Numbers of tables, choices and verdicts, on scores that were made by hand."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from invjax import metrics
from invjax.study import choosing, evaluation, sweeps, verdict
from invjax.study.evaluation import Row, Run


def cell(method, image, scores, task='denoising', sample=0, **settings):
    protocol = {
        'task': task,
        'method': method,
        'image': image,
        'sample': sample,
        'settings': settings,
    }
    return {
        'id': f'{method}{image}{settings}',
        'protocol': protocol,
        'scores': scores,
    }


def two_images():
    """dps at zeta 1 and 3, score_ald at gamma 1, over two images."""
    psnrs = {
        ('dps', 1.0): (20.0, 24.0),
        ('dps', 3.0): (22.0, 23.0),
        ('score_ald', 1.0): (19.0, 25.0),
    }
    lpips = {
        ('dps', 1.0): (0.3, 0.1),
        ('dps', 3.0): (0.2, 0.4),
        ('score_ald', 1.0): (0.25, 0.15),
    }
    chi = {
        ('dps', 1.0): (1.1, 4.0),
        ('dps', 3.0): (0.5, 0.9),
        ('score_ald', 1.0): (2.0, 2.0),
    }
    names = {'dps': 'zeta', 'score_ald': 'gamma_0'}
    return [
        cell(
            method,
            image,
            {
                'psnr': psnrs[method, value][image],
                'lpips_alex': lpips[method, value][image],
                'chi_square': chi[method, value][image],
            },
            **{names[method]: value},
        )
        for method, value in psnrs
        for image in range(2)
    ]


class SweepsTest(absltest.TestCase):
    def test_a_table_has_means_and_standard_errors_by_hand(self):
        lines = sweeps.table(two_images())
        # 20 and 24: mean 22, deviation sqrt(8), over sqrt(2) images 2.
        self.assertIn(
            '| `dps` | zeta 1 | 22.000 +- 2.000 | 0.200 +- 0.100 |',
            lines[5],
        )
        self.assertStartsWith(lines[0], '2 images')

    def test_one_image_has_no_standard_error(self):
        one = [c for c in two_images() if c['protocol']['image'] == 0]
        lines = sweeps.table(one)
        self.assertEqual(lines[0], '1 image.')
        self.assertNotIn('nan', '\n'.join(lines))
        self.assertNotIn('+-', '\n'.join(lines))

    def test_higher_is_better_turns_distances_round(self):
        found = sweeps.higher_is_better(two_images(), 'lpips_alex')
        np.testing.assert_allclose(found['dps'], [[-0.3, -0.1], [-0.2, -0.4]])
        found = sweeps.higher_is_better(two_images(), 'psnr')
        np.testing.assert_allclose(found['dps'], [[20, 24], [22, 23]])

    def test_losses_by_hand(self):
        rows = {
            (r.method, r.metric): r
            for r in sweeps.losses(['denoising'], two_images())
        }
        # A method of a single setting has nothing to choose from.
        self.assertCountEqual(rows, [('dps', 'psnr'), ('dps', 'lpips_alex')])
        psnr = rows['dps', 'psnr']
        # The best for each image: 22 and 24.
        self.assertAlmostEqual(psnr.oracle, 23.0)
        # Image 0 gets the best of image 1, zeta 1, and loses 2; image 1 gets
        # zeta 3 and loses 1.
        self.assertAlmostEqual(psnr.losses['fixed'].mean, 1.5)
        # |log 1.1| < |log 0.5| and |log 0.9| < |log 4|: zeta 1 and 3.
        self.assertAlmostEqual(psnr.losses['discrepancy'].mean, 1.5)
        lpips = rows['dps', 'lpips_alex']
        # The best are 0.2 and 0.1; by the other half 0.3 and 0.4 are taken.
        self.assertAlmostEqual(lpips.oracle, 0.15)
        self.assertAlmostEqual(lpips.losses['fixed'].mean, 0.2)
        self.assertAlmostEqual(lpips.losses['discrepancy'].mean, 0.2)

    def test_settings_that_lack_images_are_left_out_and_named(self):
        cells = [*two_images(), cell('dps', 0, {'psnr': 9.0}, zeta=9.0)]
        kept, sentences = sweeps.complete(cells)
        self.assertEqual(kept, two_images())
        self.assertEqual(
            sentences,
            ['left out: denoising, dps zeta 9, which has 1 of 2 images.'],
        )

    def test_a_report_of_any_method_without_lpips_and_of_one_image(self):
        cells = [cell('wiener', 0, {'psnr': 20.0}, mix=1.0)]
        text = '\n'.join(sweeps.report(cells))
        self.assertIn('| `wiener` | mix 1 | 20.000 |', text)
        for absent in ('Verdict', 'Tuning', 'lpips', 'nan'):
            self.assertNotIn(absent, text)

    def test_held_out_pixels_choose_where_they_were_measured(self):
        part = [
            {
                **c,
                'protocol': {**c['protocol'], 'hold_out': 0.1},
                'scores': {
                    'held_out': 5.0 - c['protocol']['settings'].get('zeta', 0)
                },
            }
            for c in two_images()
        ]
        rows = sweeps.losses(['denoising'], [*two_images(), *part])
        (psnr,) = (r for r in rows if r.metric == 'psnr' and r.method == 'dps')
        # zeta 3 foretells best: it loses 0 on the first image, 1 on the other.
        self.assertAlmostEqual(psnr.losses['held_out'].mean, 0.5)


class VerdictsTest(parameterized.TestCase):
    @parameterized.parameters(
        # The mean difference in standard errors, and what they decide.
        (1.5, 'undecided'),
        (-1.5, 'undecided'),
        (2.5, 'confirmed'),
        (-2.5, 'refuted'),
    )
    def test_two_standard_errors_decide(self, errors, word):
        # Odd images alone judge; of 8 the deviation is 1 by construction.
        noise = np.tile([1.0, -1.0], 4) * math.sqrt(7 / 8)
        difference = np.repeat(noise + errors / math.sqrt(8), 2)
        scores = {'a': (10 + difference)[None], 'b': np.full((1, 16), 10.0)}
        found = verdict.best_when_tuned(scores, 'a')
        self.assertAlmostEqual(
            found.difference.mean / found.difference.standard_error, errors
        )
        self.assertEqual(found.word, word)

    def test_the_table_of_claims_reads_lpips_the_right_way_round(self):
        # score_ald has the lower, so better, distance on all images.
        cells = []
        for image in range(8):
            for method, name, value in (
                ('score_ald', 'gamma_0', 0.1),
                ('dps', 'zeta', 0.3),
            ):
                scores = {
                    'psnr': 20.0 + value,
                    'lpips_alex': value + 0.001 * (image % 3),
                }
                cells.append(cell(method, image, scores, **{name: 1.0}))
        lines = sweeps.table_of_verdicts(['denoising'], cells)
        found = {
            line.split(' | ')[2]: line
            for line in lines
            if 'tuned Score' in line
        }
        self.assertIn('**confirmed**', found['lpips_alex'])
        self.assertIn('**refuted**', found['psnr'])


def row(method, task='denoising', **means):
    scores = {
        name: metrics.Estimate(np.float64(mean), np.float64(0.5))
        for name, mean in means.items()
    }
    cells = [cell(method, 0, {}, task, zeta=2.0, eta=0.0)]
    return Row(task, method, '20', cells, scores)


class EvaluationTest(parameterized.TestCase):
    def test_the_best_is_in_bold_in_the_direction_of_each_score(self):
        rows = [
            row('measurement', psnr=40.0, lpips_alex=0.0, chi_square=1.0),
            row('dps', psnr=20.0, lpips_alex=0.2, chi_square=0.5),
            row('ddrm', psnr=21.0, lpips_alex=0.3, chi_square=1.8),
        ]
        lines = evaluation.table(rows)
        self.assertNotIn('**', lines[2])  # A measurement is no method.
        self.assertIn('| 20.000 +- 0.500 | **0.200 +- 0.500** |', lines[3])
        self.assertIn('| **21.000 +- 0.500** | 0.300 +- 0.500 |', lines[4])
        # |log 0.5| = 0.69 is further from 0 than |log 1.8| = 0.59.
        self.assertIn('**1.800 +- 0.500**', lines[4])
        self.assertIn('| zeta 2 |', lines[3])

    def test_tasks_do_not_share_their_best(self):
        rows = [row('dps', psnr=20.0), row('dps', 'jpeg', psnr=30.0)]
        for line in evaluation.table(rows)[2:]:
            self.assertIn('**', line)

    def test_costs_add_up_and_what_is_not_finite_is_no_point(self):
        rows = [
            row('dps', psnr=22.0, forward=9.0, backward=9.0),
            row('dps', psnr=20.0, forward=5.0, backward=5.0),
            row('ddrm', psnr=math.inf, forward=5.0, backward=0.0),
        ]
        found = evaluation.points(rows, 'denoising', 'psnr', evaluation.COUNTS)
        self.assertEqual(list(found), ['dps'])
        np.testing.assert_array_equal(found['dps'], [[10, 20], [18, 22]])

    def test_runs_of_a_command_line(self):
        self.assertEqual(
            evaluation.parse_runs(['dps', 'ddrm:7'], ['5', 'quad9'], '100'),
            [Run('dps', '5'), Run('dps', 'quad9'), Run('ddrm', '7')],
        )
        self.assertEqual(
            evaluation.parse_runs(['dps'], [], '100'), [Run('dps', '100')]
        )
        self.assertEqual(
            evaluation.parse_runs(
                ['dps:zeta=3:clip=False', 'ddrm:5:transition=ddim'], ['7'], '9'
            ),
            [
                Run('dps', '7', (('clip', False), ('zeta', 3.0))),
                Run('ddrm', '5', (('transition', 'ddim'),)),
            ],
        )
        every = evaluation.parse_runs(['all', 'dps'], [], '9')
        self.assertLen(every, len(set(every)))
        self.assertNotIn('unconditional', [r.name for r in every])

    @parameterized.parameters('dps:5:6', 'dps:zeta=1:zeta=2', 'dps:')
    def test_a_run_of_two_minds_is_refused(self, text):
        with self.assertRaisesRegex(ValueError, f'got {text!r}'):
            evaluation.parse_runs([text], [], '9')

    @parameterized.parameters(
        ({'num_samples': 1, 'calibration': True}, 'calibration needs'),
        ({'num_samples': 1, 'choose_sample': True}, 'choose_sample needs'),
        (
            {'num_samples': 2, 'choose_sample': True, 'noise_std': 0.0},
            'choose_sample compares residuals',
        ),
        ({'tasks': ['nothing']}, 'task must be one of'),
        ({'runs': [Run('nothing')]}, 'method must be one of'),
        ({'runs': [Run('dps', 'five')]}, 'num_steps must be a number'),
        ({'runs': [Run('dps', 5, (('zeta', -1.0),))]}, 'zeta of dps must be'),
        ({'runs': [Run('dps', 5, (('lam', 1.0),))]}, "hyperparameter 'lam'"),
        (
            {'runs': [Run('mmps', 5, (('iterations', float('inf')),))]},
            'iterations of mmps must be a whole number',
        ),
    )
    def test_what_cannot_be_is_refused_before_any_work(self, asked, sentence):
        fields = {
            'tasks': ['denoising'],
            'runs': [Run('dps')],
            'num_samples': 1,
            'noise_std': 0.05,
            **asked,
        }
        with self.assertRaisesRegex(ValueError, sentence):
            evaluation.check(**fields)


class ChoosingTest(parameterized.TestCase):
    ROWS = (
        {'setting': {'zeta': 1.0}, 'chi_square': 3.0, 'held_out': 1.4},
        {'setting': {'zeta': 2.0}, 'chi_square': 0.8, 'held_out': 1.9},
        {'setting': {'zeta': 4.0}, 'chi_square': 0.2, 'held_out': 1.2},
        {'setting': {'zeta': 8.0}, 'chi_square': np.nan, 'held_out': np.nan},
    )

    @parameterized.parameters(
        # |log| of 3, 0.8 and 0.2 are 1.1, 0.22 and 1.6.
        ('discrepancy', 1),
        ('held_out', 2),
        ('default', 0),
    )
    def test_each_criterion_takes_its_own_best(self, by, chosen):
        self.assertEqual(choosing.choose(self.ROWS, by, {'zeta': 1.0}), chosen)

    def test_nothing_finite_is_refused(self):
        with self.assertRaisesRegex(ValueError, 'no setting gave a finite'):
            choosing.choose(self.ROWS[3:], 'discrepancy', {})


if __name__ == '__main__':
    absltest.main()
