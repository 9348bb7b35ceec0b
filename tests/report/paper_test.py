"""The paper's figures, on a prior of which all is known."""

import json
import pathlib
import tempfile
from unittest import mock

import jax
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import images, keys, metrics, restoration
from invjax.priors.card import Card
from invjax.report import paper
from tests.standard_normal import StandardNormal

# LPIPS needs 31 pixels a side.
_SHAPE = (32, 32, 3)
_TUNED = (
    {
        'method': 'dps',
        'tasks': ['box_inpainting'],
        'num_steps': 3,
        'settings': {'zeta': 0.25},
    },
)
_PRIOR = StandardNormal(_SHAPE, Card({'name': 'normal'}, _TUNED))


def _paper(folder, **changes):
    truth = np.random.default_rng(0).uniform(-0.9, 0.9, _SHAPE)
    return paper.Paper(
        pathlib.Path(folder),
        _PRIOR,
        truth.astype(np.float32),
        num_steps=3,
        seed=2,
        **changes,
    )


class DenoiseOnceTest(parameterized.TestCase):
    @parameterized.parameters(0, 100, 999)
    def test_it_is_the_mean_given_the_noisy_image(self, t):
        truth = _paper('').truth
        shown = paper.denoise_once(_PRIOR, truth, t, jax.random.key(0))
        self.assertEqual(list(shown), ['truth', 'noisy', 'denoised'])
        np.testing.assert_array_equal(shown['truth'], truth)
        # The mean is sqrt(alpha_bar) x_t, and what is shown is x_t over that.
        alpha_bar = _PRIOR.alpha_bar[t]
        np.testing.assert_allclose(
            shown['denoised'], alpha_bar * shown['noisy'], atol=1e-4
        )
        deviation = np.std(shown['noisy'] - truth)
        expected = ((1 - alpha_bar) / alpha_bar) ** 0.5
        self.assertLess(abs(deviation / expected - 1), 0.06)

    @parameterized.parameters(-1, 1000)
    def test_a_timestep_that_there_is_not_is_refused(self, t):
        with self.assertRaisesRegex(
            ValueError, f't must be from 0 to 999.*{t}'
        ):
            paper.denoise_once(_PRIOR, _paper('').truth, t, jax.random.key(0))


class DrawTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        cls.paper = _paper(cls.folder, num_samples=5, t=50)
        cls.drawn = {}
        grid = paper._grid

        def kept(folder, name, *arguments, **kwargs):
            cls.drawn[name] = arguments
            grid(folder, name, *arguments, **kwargs)

        with mock.patch.object(paper, '_grid', kept):
            cls.numbers = paper.draw(cls.paper)

    def test_each_figure_is_a_picture_and_a_page(self):
        for name in ('1', '2', '3', '4', '4_tuned'):
            for suffix in ('png', 'pdf'):
                path = self.folder / f'figure_{name}.{suffix}'
                self.assertGreater(path.stat().st_size, 1000)
        x, _ = images.read_image(self.folder / 'figure_4.png')
        self.assertEqual(x.ndim, 3)

    def test_numbers_are_plain_data_of_the_figures_that_were_asked_for(self):
        self.assertEqual(list(self.numbers), [f'figure {i}' for i in '1234'])
        json.dumps(self.numbers)
        with tempfile.TemporaryDirectory() as folder:
            some = paper.draw(_paper(folder), '3')
            self.assertEqual(list(some), ['figure 3'])
            self.assertLen(list(pathlib.Path(folder).iterdir()), 2)

    def test_figure_1_has_the_quality_before_and_after(self):
        shown = paper.denoise_once(
            _PRIOR, self.paper.truth, 50, keys.root(self.paper.seed)
        )
        for name in ('noisy', 'denoised'):
            self.assertAlmostEqual(
                self.numbers['figure 1'][name],
                float(metrics.psnr(shown[name], self.paper.truth)),
                places=4,
            )

    def test_figure_2_has_the_samples_that_were_asked_for(self):
        (rows,) = self.drawn['figure_2']
        self.assertEqual([len(row) for row in rows], [4, 1])

    def test_figure_3_has_the_measurements_that_others_make(self):
        (row,), _ = self.drawn['figure_3']
        measured = invjax.measure(
            self.paper.truth, 'random_inpainting', noise_std=0.05, seed=2
        )
        np.testing.assert_array_equal(row[3], measured.y)
        self.assertAlmostEqual(
            self.numbers['figure 3']['random_inpainting'],
            float(metrics.psnr(measured.y, self.paper.truth)),
            places=4,
        )

    def test_figure_4_has_what_restore_makes_with_each_setting(self):
        rows = self.numbers['figure 4']['figure_4']['box_inpainting']
        pictures = self.drawn['figure_4'][0]
        self.assertLen(rows, len(paper._PAPER_ROWS))
        measured = invjax.measure(self.paper.truth, 'box_inpainting', seed=2)
        for i in (1, 4, 9):
            name, settings = paper._PAPER_ROWS[i]
            row = rows[i]
            self.assertEqual(row['method'], name)
            for setting, value in settings.items():
                self.assertEqual(row['settings'][setting], value)
            restored = restoration.restore(
                measured, _PRIOR, row['method'], 3, seed=2, **row['settings']
            )
            np.testing.assert_allclose(
                pictures[i][1], restored.image, atol=1e-4
            )
            score = restored.scores()[0]
            self.assertAlmostEqual(row['psnr'], score['psnr'], places=3)

    def test_the_other_figure_4_has_the_settings_of_the_prior(self):
        tuned = self.numbers['figure 4']['figure_4_tuned']
        zetas = {
            task: next(r for r in rows if r['method'] == 'dps')['settings'][
                'zeta'
            ]
            for task, rows in tuned.items()
        }
        own = invjax.dps().zeta
        self.assertEqual(
            zetas,
            {
                'gaussian_deblur': own,
                'box_inpainting': 0.25,
                'random_inpainting': own,
            },
        )


class WordsTest(absltest.TestCase):
    def test_the_best_of_each_task_is_bold(self):
        rows = [invjax.sdedit(tau=300), invjax.dps(zeta=0.3)]
        scores = {
            'a': [
                {'psnr': 20.0, 'lpips_alex': 0.1},
                {'psnr': 21.0, 'lpips_alex': 0.2},
            ],
            'b': [
                {'psnr': 30.0, 'lpips_alex': 0.3},
                {'psnr': np.nan, 'lpips_alex': np.nan},
            ],
        }
        labels, texts = paper.words(dict.fromkeys(scores, rows), scores)
        self.assertEqual(labels[0], 'SDEdit\ntau 300')
        self.assertStartsWith(labels[1], 'DPS\nzeta 0.3\nby residual')
        first, second = texts
        self.assertEqual(
            first,
            [
                r'20.00 dB / $\mathbf{0.100}$',
                r'$\mathbf{30.00}$ dB / $\mathbf{0.300}$',
            ],
        )
        self.assertEqual(
            second, [r'$\mathbf{21.00}$ dB / 0.200', 'nan dB / nan']
        )

    def test_settings_that_differ_stand_below_the_pictures(self):
        scores = {task: [{'psnr': 20.0, 'lpips_alex': 0.1}] for task in 'ab'}
        labels, texts = paper.words(
            {
                'a': [invjax.score_ald(gamma_0=1, gamma_T=2)],
                'b': [invjax.score_ald(gamma_0=3, gamma_T=4)],
            },
            scores,
        )
        self.assertEqual(labels, ['ScoreALD'])
        self.assertEndsWith(texts[0][0], '\n[1, 2]')
        self.assertEndsWith(texts[0][1], '\n[3, 4]')


if __name__ == '__main__':
    absltest.main()
