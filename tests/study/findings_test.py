"""What is told apart in a report, and what is never mixed without a word."""

import math

import numpy as np
from absl.testing import absltest, parameterized

from invjax.study import summaries, sweeps
from invjax.study.plan import MEASUREMENT
from invjax.study.summaries import Setting


def cell(method='dps', image=0, psnr=20.0, scores=None, **fields):
    protocol = {
        'task': 'denoising',
        'task_parameters': {},
        'noise_std': 0.05,
        'noise': {'noise': 'gaussian'},
        'seed': 0,
        'method': method,
        'image': image,
        'sample': 0,
        'settings': {'zeta': 1.0},
        **fields,
    }
    if method == MEASUREMENT:
        protocol['settings'] = {}
    else:
        protocol = {
            'prior': 'a' * 64,
            'dtype': 'float32',
            'version': 1,
            'num_steps': '100',
            'hold_out': 0.0,
            **protocol,
        }
    return {'protocol': protocol, 'scores': scores or {'psnr': psnr}}


def tasks_of(cells):
    return [c['protocol']['task'] for c in sweeps.tell_apart(cells)]


class TellApartTest(parameterized.TestCase):
    def test_what_all_share_is_not_named(self):
        cells = [cell(), cell(image=1), cell(MEASUREMENT)]
        self.assertEqual(sweeps.tell_apart(cells), cells)

    @parameterized.named_parameters(
        ('noise_std', {'noise_std': 0.1}, 'noise_std 0.05', 'noise_std 0.1'),
        (
            'noise',
            {'noise': {'noise': 'poisson', 'peak': 50.0}},
            'noise gaussian',
            'noise poisson, peak 50.0',
        ),
        ('seed', {'seed': 3}, 'seed 0', 'seed 3'),
        ('prior', {'prior': 'b' * 64}, 'prior aaaaaaaa', 'prior bbbbbbbb'),
        ('dtype', {'dtype': 'bfloat16'}, 'dtype float32', 'dtype bfloat16'),
    )
    def test_measurements_and_priors_of_another_kind_have_names(
        self, other, first, second
    ):
        self.assertEqual(
            tasks_of([cell(), cell(**other)]),
            [f'denoising, {first}', f'denoising, {second}'],
        )

    def test_another_task_does_not_change_a_name(self):
        cells = [cell(), cell(task='jpeg', noise_std=0.1)]
        self.assertEqual(tasks_of(cells), ['denoising', 'jpeg'])

    def test_a_measurement_stands_wherever_it_serves(self):
        cells = [
            cell(MEASUREMENT),
            cell(MEASUREMENT, noise_std=0.1),
            cell(),
            cell(prior='b' * 64),
            cell(noise_std=0.1),
        ]
        found = sweeps.tell_apart(cells)
        of_measurement = [
            c['protocol']['task']
            for c in found
            if c['protocol']['method'] == MEASUREMENT
        ]
        self.assertLen(of_measurement, 3)
        restored = {
            c['protocol']['task']
            for c in found
            if c['protocol']['method'] != MEASUREMENT
        }
        self.assertEqual(set(of_measurement), restored)

    def test_numbers_of_steps_and_versions_join_the_settings(self):
        cells = [
            cell(),
            cell(num_steps='20'),
            cell('ddnm', settings={}),
            cell('ddnm', version=2, settings={}),
        ]
        words = [
            sweeps.setting_of(c['protocol']).words()
            for c in sweeps.tell_apart(cells)
        ]
        self.assertEqual(
            words,
            [
                'num_steps 100, zeta 1',
                'num_steps 20, zeta 1',
                'version 1',
                'version 2',
            ],
        )

    def test_two_fractions_of_held_out_pixels_are_refused(self):
        cells = [cell(hold_out=0.1), cell(hold_out=0.2), cell()]
        with self.assertRaisesRegex(ValueError, 'fractions of .* 0.1, 0.2'):
            sweeps.tell_apart(cells)

    def test_noise_levels_are_not_averaged_in_a_report(self):
        cells = [cell(psnr=20.0), cell(psnr=30.0, noise_std=0.1)]
        text = '\n'.join(sweeps.report(sweeps.tell_apart(cells)))
        self.assertIn('## `denoising, noise_std 0.05`', text)
        self.assertIn('| 20.000 |', text)
        self.assertIn('| 30.000 |', text)
        self.assertNotIn('25.000', text)


class SettingsTest(absltest.TestCase):
    def test_choices_are_shown_where_they_are_not_the_default(self):
        settings = {
            'zeta': 3.0,
            'normalise': 'residual',
            'transition': 'ddpm',
            'eta': 0.0,
            'clip': True,
        }
        self.assertEqual(summaries.setting_words(settings, 'dps'), 'zeta 3')
        others = {
            **settings,
            'normalise': 'gradient',
            'transition': 'ddim',
            'eta': 0.5,
            'clip': False,
        }
        self.assertEqual(
            summaries.setting_words(others, 'dps'),
            'zeta 3, normalise gradient, transition ddim, eta 0.5, clip False',
        )

    def test_cells_of_other_choices_are_other_settings(self):
        cells = [
            cell(settings={'zeta': 1.0, 'normalise': 'residual'}),
            cell(settings={'zeta': 1.0, 'normalise': 'gradient'}),
        ]
        self.assertLen({sweeps.setting_of(c['protocol']) for c in cells}, 2)

    def test_an_infinite_number_is_a_number(self):
        self.assertEqual(
            sweeps.setting_of(
                cell('ald', settings={'gamma': 'inf'})['protocol']
            ),
            Setting('ald', (('gamma', math.inf),)),
        )
        self.assertEqual(
            summaries.setting_words({'gamma': 'inf'}, 'ald'), 'gamma inf'
        )


def of_setting(zeta, images, **fields):
    return [
        cell(image=image, settings={'zeta': zeta}, **fields) for image in images
    ]


class CompleteTest(absltest.TestCase):
    def test_as_many_other_images_are_not_the_same_images(self):
        cells = of_setting(1.0, range(4)) + of_setting(2.0, range(4, 8))
        kept, sentences = sweeps.complete(cells)
        self.assertEqual(kept, cells[:4])
        self.assertEqual(
            sentences,
            ['left out: denoising, dps zeta 2, which has 0 of 4 images.'],
        )

    def test_measurements_of_other_images_are_left_out_too(self):
        cells = of_setting(1.0, range(2))
        measured = [cell(MEASUREMENT, image) for image in range(5)]
        kept, sentences = sweeps.complete(cells + measured)
        self.assertEqual(sentences, [])
        self.assertEqual(kept, cells + measured[:2])

    def test_what_was_held_out_does_not_stand_in_for_an_image(self):
        whole = of_setting(1.0, range(4)) + of_setting(2.0, range(2))
        part = of_setting(2.0, range(2, 4), hold_out=0.1)
        kept, sentences = sweeps.complete(whole + part)
        self.assertEqual(kept, whole[:4] + part)
        self.assertLen(sentences, 1)


class LossesTest(absltest.TestCase):
    def test_held_out_pixels_of_other_settings_choose_nothing(self):
        psnrs = {1.0: (20.0, 24.0), 2.0: (22.0, 23.0)}
        whole = [
            cell(image=i, psnr=psnrs[zeta][i], settings={'zeta': zeta})
            for zeta in psnrs
            for i in range(2)
        ]
        held_out = {1.0: 3.0, 2.0: 1.0, 3.0: 2.0}

        def part(zetas):
            return [
                cell(
                    image=i,
                    scores={'held_out': held_out[zeta]},
                    settings={'zeta': zeta},
                    hold_out=0.1,
                )
                for zeta in zetas
                for i in range(2)
            ]

        (row,) = sweeps.losses(['denoising'], whole + part([2.0, 3.0]))
        self.assertNotIn('held_out', row.losses)
        (row,) = sweeps.losses(['denoising'], whole + part([1.0, 2.0, 3.0]))
        # zeta 2 foretells best of those that there are: it loses 0 and 1.
        self.assertAlmostEqual(row.losses['held_out'].mean, 0.5)

    def test_a_method_that_diverged_somewhere_is_named(self):
        cells = [
            *of_setting(1.0, range(2)),
            *of_setting(2.0, [0]),
            cell(image=1, scores={'psnr': None}, settings={'zeta': 2.0}),
        ]
        self.assertEqual(sweeps.losses(['denoising'], cells), [])
        self.assertIn(
            '`denoising`: `dps` stand in no comparison by psnr, which is not '
            'finite in some of their cells.',
            sweeps.report(cells),
        )


class ReportTest(absltest.TestCase):
    def cells(self, lpips_of_dps):
        """dps at two settings and sdedit at two, over two images, by hand."""
        psnr = {
            ('dps', 1.0): (20.0, 21.0),
            ('dps', 2.0): (19.0, 20.0),
            ('sdedit', 1.0): (22.0, 23.0),
            ('sdedit', 2.0): (10.0, 11.5),
        }
        lpips = {
            ('dps', 1.0): lpips_of_dps,
            ('dps', 2.0): lpips_of_dps,
            ('sdedit', 1.0): (0.3, 0.3),
            ('sdedit', 2.0): (0.1, 0.1),
        }
        return [
            cell(
                method,
                image,
                scores={
                    'psnr': psnr[method, value][image],
                    'lpips_alex': lpips[method, value][image],
                },
                settings={'zeta' if method == 'dps' else 'tau': value},
            )
            for method, value in psnr
            for image in range(2)
        ]

    def outcome(self, lines, metric):
        (line,) = [
            line
            for line in lines
            if line.startswith('| untuned DPS') and f'| {metric} ' in line
        ]
        return line

    def test_two_images_through_the_report_and_its_verdict(self):
        lines = sweeps.report(self.cells(lpips_of_dps=(0.2, 0.2)))
        # Best of all: 22 and 23. dps's worst loses 3 and 3, sdedit's 12 and
        # 11.5: the difference is 9 and 8.5, of deviation sqrt(0.125).
        self.assertIn('| 8.750 +- 0.250 |', self.outcome(lines, 'psnr'))
        self.assertIn('**confirmed**', self.outcome(lines, 'psnr'))
        # Best of all: 0.1. dps's worst loses 0.1, sdedit's 0.2.
        self.assertIn('| 0.100 +- 0.000 |', self.outcome(lines, 'lpips_alex'))
        self.assertIn('**confirmed**', self.outcome(lines, 'lpips_alex'))
        # Four images and more decide on the other claim.
        self.assertNotIn('tuned ScoreALD', '\n'.join(lines))

    def test_a_difference_of_one_error_decides_nothing(self):
        lines = sweeps.report(self.cells(lpips_of_dps=(0.1, 0.3)))
        # dps loses 0 and 0.2, sdedit 0.2 and 0.2: 0.2 and 0.
        self.assertIn('| 0.100 +- 0.100 |', self.outcome(lines, 'lpips_alex'))
        self.assertIn('**undecided**', self.outcome(lines, 'lpips_alex'))

    def test_losses_are_shown_with_their_errors(self):
        lines = sweeps.report(self.cells(lpips_of_dps=(0.2, 0.2)))
        (line,) = [
            text
            for text in lines
            if text.startswith('| `denoising` | `sdedit` | psnr')
        ]
        # tau 1 is best for both images.
        self.assertIn('| 22.500 | 0.000 +- 0.000 |', line)
        (line,) = [
            text
            for text in lines
            if text.startswith('| `denoising` | `sdedit` | lpips_alex')
        ]
        # The oracle is a distance again, the lower one.
        self.assertIn('| 0.100 | 0.000 +- 0.000 |', line)


class SummariseTest(absltest.TestCase):
    def test_a_count_has_no_decimals_and_nothing_is_a_dash(self):
        one = summaries.metrics.Estimate(np.float64(7), np.float64(0))
        self.assertEqual(summaries.words(one, is_count=True), '7')
        self.assertEqual(summaries.words(None), '-')
        nothing = summaries.metrics.Estimate(np.float64(np.nan), np.nan)
        self.assertEqual(summaries.words(nothing), '-')
        alone = summaries.metrics.Estimate(np.float64(7), np.nan)
        self.assertEqual(summaries.words(alone), '7.000')


if __name__ == '__main__':
    absltest.main()
