"""`sweep` as Python users call it: what it restores, scores, keeps and refuses."""

import pathlib
import tempfile

import flax.struct
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import metrics, schedule
from invjax.priors import gaussian
from invjax.study import cells
from invjax.study.plan import Brought, Data

_SHAPE = (12, 12, 3)
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_PRIOR = gaussian.GaussianPrior.isotropic(np.zeros(_SHAPE), 0.2, _ALPHA_BAR)
_TRUTHS = np.random.default_rng(0).uniform(-1, 1, (3, *_SHAPE))
_STEPS = 5
_ZETAS = (0.5, 2.0)


@flax.struct.dataclass
class Furthest:
    """A distance in the place of LPIPS."""

    variant: str = flax.struct.field(pytree_node=False, default='furthest')

    def __call__(self, x, reference):
        return jnp.max(jnp.abs(jnp.clip(x, -1, 1) - reference))


class SweepTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.found = invjax.sweep(
            _TRUTHS,
            _PRIOR,
            'dps',
            {'zeta': _ZETAS, 'noise_std': (0.1, 0.4)},
            _STEPS,
            task='box_inpainting',
            task_parameters={'box_size': 4},
            first_image=7,
            seed=3,
        )

    def test_there_is_a_row_for_each_setting_and_noise(self):
        self.assertEqual(
            [row.setting.line() for row in self.found.rows()],
            [
                'measurement noise_std 0.1',
                'measurement noise_std 0.4',
                *(
                    f'dps zeta {zeta:g}, noise_std {noise_std}'
                    for noise_std in (0.1, 0.4)
                    for zeta in _ZETAS
                ),
            ],
        )

    def test_the_measurement_is_scored_by_its_own_truth(self):
        measured, _, *_ = self.found.rows()
        psnrs = [
            metrics.psnr(problem.y, problem.truth)
            for problem in self.problems()
        ]
        expected = metrics.mean_and_standard_error(psnrs)
        np.testing.assert_allclose(measured.scores['psnr'], expected, rtol=1e-4)

    def problems(self):
        return [
            invjax.measure(
                truth,
                'box_inpainting',
                noise_std=0.1,
                seed=3,
                image=7 + i,
                box_size=4,
            )
            for i, truth in enumerate(_TRUTHS)
        ]

    def test_problems_that_were_measured_before_give_the_same(self):
        again = invjax.sweep(
            self.problems(),
            _PRIOR,
            [invjax.dps(zeta=zeta) for zeta in _ZETAS],
            num_steps=_STEPS,
            first_image=7,
            seed=3,
        )
        by_line = {
            row.setting.line(): row.scores['psnr'] for row in self.found.rows()
        }
        for row in again.rows()[1:]:
            np.testing.assert_allclose(
                row.scores['psnr'],
                by_line[f'{row.setting.line()}, noise_std 0.1'],
                rtol=1e-4,
            )

    def test_a_cell_is_what_restore_gives(self):
        found = invjax.sweep(
            _TRUTHS[:1], _PRIOR, invjax.dps(zeta=2.0), None, _STEPS,
            task='denoising', num_samples=2,
        )  # fmt: skip
        restored = invjax.restore(
            invjax.measure(_TRUTHS[0], 'denoising'),
            _PRIOR,
            invjax.dps(zeta=2.0),
            _STEPS,
            num_samples=2,
        )
        ((_, picture),) = list(found.pictures(0).items())[1:]
        # A picture has 256 levels.
        np.testing.assert_allclose(
            picture, np.clip(restored.image, -1, 1), atol=1.1 / 255
        )
        psnrs = [score['psnr'] for score in restored.scores()]
        _, row = found.rows()
        self.assertAlmostEqual(
            float(row.scores['psnr'].mean), np.mean(psnrs), places=3
        )

    def test_it_prints_its_table_and_shows_pictures(self):
        text, page = repr(self.found), self.found._repr_html_()
        self.assertIn('dps zeta 2, noise_std 0.4', text)
        self.assertEqual(text.count('\n'), 5)
        self.assertEqual(page.count('<tr>'), 7)
        # Two measurements and four restorations of the first image.
        self.assertEqual(page.count('<img '), 6)
        for image in range(7, 10):
            self.assertLen(self.found.pictures(image), 6)

    def test_one_image_is_printed_without_a_standard_error(self):
        found = invjax.sweep(
            _TRUTHS[:1], _PRIOR, 'wiener', None, 1, task='denoising'
        )
        self.assertNotIn('+-', repr(found))
        self.assertNotIn('nan', repr(found))
        self.assertNotIn('+-', found._repr_html_())

    def test_without_a_truth_there_is_chi_square_alone(self):
        problem = self.problems()[0].replace(truth=None)
        found = invjax.sweep(problem, _PRIOR, 'ddnm', num_steps=_STEPS)
        self.assertEqual([*found.rows()[1].scores], ['chi_square'])

    def test_each_restoration_is_as_far_from_its_own_truth_as_it_is_said_to_be(
        self,
    ):
        problems = self.problems()
        problems[1] = problems[1].replace(truth=None)
        # Four cells in batches of three, of which the second is filled up.
        found = invjax.sweep(
            [*problems, problems[0]],
            _PRIOR,
            'wiener',
            num_steps=_STEPS,
            first_image=7,
            distances=[Furthest()],
            max_lanes=3,
        )
        restored = {
            cell['protocol']['image']: cell['scores']
            for cell in found.cells
            if cell['protocol']['method'] == 'wiener'
        }
        self.assertNotIn('lpips_furthest', restored[8])
        for image, truth in ((7, 0), (9, 2), (10, 0)):
            _, picture = found.pictures(image).values()
            # A picture has 256 levels.
            self.assertAlmostEqual(
                restored[image]['lpips_furthest'],
                np.abs(np.clip(picture, -1, 1) - _TRUTHS[truth]).max(),
                delta=1.5 / 255,
            )

    def test_a_folder_keeps_cells_and_a_larger_sweep_adds_to_them(self):
        with tempfile.TemporaryDirectory() as folder:
            arguments = {
                'num_steps': _STEPS,
                'task': 'denoising',
                'folder': pathlib.Path(folder) / 'new',
            }
            counts = [
                invjax.sweep(
                    _TRUTHS[:number],
                    _PRIOR,
                    'dps',
                    {'zeta': zetas},
                    **arguments,
                ).num_computed
                for number, zetas in (
                    (2, [1.0]),
                    (2, [1.0]),
                    (2, [1, 2]),
                    (3, [1, 2]),
                )
            ]
            self.assertEqual(counts, [2, 0, 2, 2])
            self.assertLen(cells.read(arguments['folder']), 3 * 2 + 3)

    def test_a_restoration_that_is_not_finite_is_kept_as_such(self):
        found = invjax.sweep(
            _TRUTHS[:1], _PRIOR, 'dps', {'zeta': [1e38]}, _STEPS,
            task='denoising',
        )  # fmt: skip
        (cell,) = [c for c in found.cells if c['protocol']['method'] == 'dps']
        self.assertIsNone(cell['scores']['psnr'])
        self.assertIn('psnr -', repr(found))


class RefusalTest(parameterized.TestCase):
    @parameterized.named_parameters(
        ('shape', {'images': [np.zeros((4, 4, 3))]}, r'images must be \(12, 1'),
        ('range', {'images': 2 * _TRUTHS + 1}, r'floats in \[-1, 1\], got'),
        ('nan', {'images': np.nan * _TRUTHS}, r'floats in \[-1, 1\], got'),
        ('type', {'images': np.zeros((1, *_SHAPE), int)}, 'got int64'),
        ('none', {'images': []}, 'at least one image'),
        ('no task', {'task': None}, 'task must be one of'),
        ('task', {'task': 'nothing'}, "got 'nothing'"),
        ('setting', {'zetta': 3.0}, "no hyperparameter 'zetta'"),
        ('grid', {'grid': {'zeta': [1.0, -1.0]}}, 'zeta of dps must be 0 or'),
        ('samples', {'num_samples': 0}, 'num_samples must be'),
        ('hold out', {'hold_out': 1.0}, 'hold_out must be'),
        ('seed', {'seed': -1}, 'seed must be'),
        ('operator', {'task': 'jpeg', 'method': 'ddrm'}, 'ddrm needs'),
        ('noise', {'noise_parameters': {'peak': 3}}, "no parameter 'peak'"),
        ('parameter', {'task_parameters': {'factor': 2}}, "'factor'"),
        ('steps', {'num_steps': 1001}, 'num_steps'),
        ('timestep', {'method': 'sdedit', 'tau': 1000}, 'tau of sdedit'),
        (
            'problems',
            {
                'images': [invjax.measure(np.zeros((4, 4, 3)), 'denoising')],
                'task': None,
            },
            'problems must be of images',
        ),
        (
            'pictures and problems',
            {'images': [invjax.measure(_TRUTHS[0], 'denoising'), _TRUTHS[1]]},
            'all pictures or all problems, got 1 and 1',
        ),
        (
            'both',
            {'method': [invjax.dps()], 'grid': {'zeta': [1]}},
            'a grid or settings cannot be given with several methods',
        ),
        (
            'choices',
            {'method': [invjax.dps(), invjax.dps(normalise='gradient')]},
            'must differ in numbers alone',
        ),
        ('no method', {'method': []}, 'at least one method'),
    )
    def test_mistakes_are_refused_before_any_work(self, changed, sentence):
        asked = {
            'images': _TRUTHS,
            'prior': _PRIOR,
            'method': 'dps',
            'task': 'denoising',
            'num_steps': 3,
            **changed,
        }
        with self.assertRaisesRegex(ValueError, sentence):
            invjax.sweep(**asked)

    def test_problems_that_cannot_share_a_sweep_are_refused(self):
        problems = [
            invjax.measure(_TRUTHS[0], task)
            for task in ('denoising', 'gaussian_deblur')
        ]
        with self.assertRaisesRegex(ValueError, 'one kind of operator'):
            invjax.sweep(problems, _PRIOR, 'dps')
        with self.assertRaisesRegex(ValueError, 'problems have theirs'):
            invjax.sweep(problems[:1], _PRIOR, 'dps', task='denoising')


class BroughtNamesTest(absltest.TestCase):
    def names(self, problem):
        plan = Brought(
            problem.task,
            (invjax.ddnm(),),
            noise_stds=(0.0,),
            measured=[problem],
        )
        measured, restored = plan.protocols(
            Data(_PRIOR, [problem.truth]), [problem]
        )
        return {cells.cell_id(cell) for cell in [*measured, *restored]}

    def test_another_measurement_mask_or_noise_is_another_cell(self):
        whole = invjax.measure(_TRUTHS[0], 'denoising')
        names = self.names(whole)
        self.assertLen(names, 2)
        self.assertEqual(names, self.names(whole))
        mask = whole.operator.mask.at[0, 0].set(0)
        moved = whole.operator.mask.at[0, 1].set(0)
        found = [
            names,
            self.names(whole.replace(y=whole.y + 0.01)),
            self.names(whole.replace(noise_std=whole.noise_std * 2)),
            self.names(whole.replace(weights=whole.weights * 2)),
            self.names(
                whole.replace(operator=whole.operator.replace(mask=mask))
            ),
            self.names(
                whole.replace(operator=whole.operator.replace(mask=moved))
            ),
        ]
        self.assertLen(set().union(*found), 2 * len(found))


if __name__ == '__main__':
    absltest.main()
