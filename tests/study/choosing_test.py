"""`tune`: the setting that each criterion names, and none that was not asked."""

import flax.struct
import numpy as np
from absl.testing import absltest, parameterized

import invjax
from invjax import schedule, tuning
from invjax.priors import gaussian
from invjax.priors.card import Card
from invjax.study import choosing

_SHAPE = (12, 12, 1)
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_TRUTH = np.float32(
    0.6 * np.sin(np.arange(12) / 2)[:, None, None] * np.ones(_SHAPE)
)


@flax.struct.dataclass
class _Carded:
    """A prior of smooth images, with a card that has tuned defaults."""

    prior: gaussian.StationaryGaussianPrior
    card: Card = flax.struct.field(pytree_node=False)

    @property
    def alpha_bar(self):
        return self.prior.alpha_bar

    @property
    def image_shape(self):
        return self.prior.image_shape

    def __call__(self, x_t, t):
        return self.prior(x_t, t)


def _prior(*entries):
    distances = np.abs(np.arange(12)[:, None] - np.arange(12))
    of_rows = np.exp(-((distances / 3.0) ** 2)) + 1e-3 * np.eye(12)
    # Rows are equal along columns, up to a little noise.
    whole = 0.2 * np.kron(of_rows, 0.99 * np.ones((12, 12)) + 0.01 * np.eye(12))
    prior = gaussian.GaussianPrior.from_covariance(
        np.zeros(_SHAPE), whole, _ALPHA_BAR
    )
    card = Card(
        {'name': 'smooth', 'sha256': '0', 'num_train_steps': 1000}, entries
    )
    return _Carded(prior, card)


def _tuned(method, task, **settings):
    return {'method': method, 'tasks': [task], 'settings': settings}


class TuneTest(parameterized.TestCase):
    def test_the_discrepancy_takes_the_residual_nearest_to_the_noise(self):
        measured = invjax.measure(_TRUTH, 'denoising', noise_std=0.1)
        found = invjax.tune(
            measured,
            _prior(),
            'dps',
            {'zeta': [0.0, 2.0]},
            20,
            by='discrepancy',
        )
        # Without guidance a restoration has nothing to do with the data.
        self.assertEqual(found.setting, {'zeta': 2.0})
        self.assertEqual(found.method, invjax.dps(zeta=2.0))
        for row, x in zip(found.rows, found.samples, strict=True):
            self.assertAlmostEqual(
                row['chi_square'],
                float(tuning.chi_square(x, measured)),
                places=4,
            )
        off, near = (abs(np.log(row['chi_square'])) for row in found.rows)
        self.assertLess(near, off)
        self.assertIn('* zeta 2 ', repr(found))
        self.assertIn('  zeta 0 ', repr(found))
        self.assertEqual(found._repr_html_().count('<img '), 2)

    def test_held_out_pixels_are_foretold_by_the_guided_one(self):
        found = invjax.tune(
            invjax.measure(_TRUTH, 'random_inpainting', noise_std=0.1),
            _prior(),
            'dps',
            {'zeta': [0.0, 2.0]},
            20,
            by='held_out',
        )
        self.assertEqual(found.setting, {'zeta': 2.0})
        self.assertLess(found.rows[1]['held_out'], found.rows[0]['held_out'])

    def test_a_value_that_was_not_asked_for_is_never_chosen(self):
        prior = _prior(_tuned('dps', 'denoising', zeta=2.5))
        measured = invjax.measure(_TRUTH, 'denoising')
        found = invjax.tune(measured, prior, 'dps', {'zeta': [1.0, 2.0]}, 3)
        self.assertEqual([r['setting']['zeta'] for r in found.rows], [1, 2])
        self.assertEqual(found.by, 'discrepancy')
        with self.assertRaisesRegex(
            ValueError, "needs {'zeta': 2.5} in the gr"
        ):
            invjax.tune(
                measured, prior, 'dps', {'zeta': [1.0]}, 3, by='default'
            )

    @parameterized.named_parameters(
        ('as the defaults were found', {}, 'default'),
        ('other steps', {'num_steps': 9}, 'discrepancy'),
        ('other noise', {'noise_std': 0.2}, 'discrepancy'),
        ('another operator', {'box_size': 3}, 'discrepancy'),
    )
    def test_the_default_is_trusted_where_it_was_found(self, changed, by):
        changed = dict(changed)
        num_steps = changed.pop('num_steps', 100)
        measured = invjax.measure(_TRUTH, 'box_inpainting', **changed)
        prior = _prior(_tuned('sdedit', 'box_inpainting', tau=77.0))
        found = invjax.tune(measured, prior, 'sdedit', num_steps=num_steps)
        self.assertEqual(found.by, by)
        # Nobody asked for values: the tuned one joins the method's own.
        taus = [row['setting']['tau'] for row in found.rows]
        self.assertEqual(taus, [*invjax.sdedit.tuning_grid['tau'], 77.0])
        if by == 'default':
            self.assertEqual(found.setting, {'tau': 77.0})

    def test_choices_that_a_prior_has_by_default_hold_here_too(self):
        # daps needs them for an operator that is not linear.
        prior = _prior(_tuned('daps', 'phase_retrieval', draw='langevin'))
        measured = invjax.measure(_TRUTH, 'phase_retrieval')
        grid = {'langevin_size': [0.1, 0.3]}
        found = invjax.tune(measured, prior, 'daps', grid, 3)
        self.assertEqual(found.method.draw, 'langevin')
        swept = invjax.sweep(
            [_TRUTH], prior, 'daps', grid, 3, task='phase_retrieval'
        )
        settings = swept.cells[1]['protocol']['settings']
        self.assertEqual(settings['draw'], 'langevin')

    @parameterized.named_parameters(
        ('criterion', {'by': 'nothing'}, 'by must be one of auto, default'),
        ('noise', {'noise_std': 0.0}, 'noise_std must be above 0'),
        (
            'mask',
            {'task': 'jpeg3', 'by': 'held_out'},
            'a measurement by a mask',
        ),
        (
            'grid',
            {'method': 'unconditional'},
            'unconditional has nothing to tu',
        ),
        ('name', {'grid': {'tau': [1.0]}}, "dps has no hyperparameter 'tau'"),
        ('value', {'grid': {'zeta': [-1.0]}}, 'zeta of dps must be 0 or more'),
        ('setting', {'zetta': 1.0}, "dps has no hyperparameter 'zetta'"),
    )
    def test_mistakes_are_refused_before_any_work(self, changed, sentence):
        changed = dict(changed)
        task = 'gaussian_deblur' if changed.pop('task', None) else 'denoising'
        noise_std = changed.pop('noise_std', 0.05)
        measured = invjax.measure(_TRUTH, task, noise_std=noise_std)
        with self.assertRaisesRegex(ValueError, sentence):
            invjax.tune(
                measured,
                _prior(),
                **{'method': 'dps', 'num_steps': 3, **changed},
            )

    def test_nothing_finite_is_said(self):
        measured = invjax.measure(_TRUTH, 'denoising')
        with self.assertRaisesRegex(ValueError, 'no setting gave a finite'):
            invjax.tune(
                measured, _prior(), 'dps', {'zeta': [1e38]}, 3, clip=False
            )

    def test_what_was_never_tuned_has_no_default_to_trust(self):
        # The number of steps and the noise at which defaults were found.
        measured = invjax.measure(_TRUTH, 'box_inpainting')
        for has_default, by in ((True, 'default'), (False, 'discrepancy')):
            self.assertEqual(
                choosing._least_loss(measured, 100, has_default), by
            )


if __name__ == '__main__':
    absltest.main()
