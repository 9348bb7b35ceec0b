"""Network evaluations, against counts that are worked by hand."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import evaluations, operators, problem, schedule
from invjax.methods import METHODS
from invjax.methods.daps import DAPS
from invjax.methods.sitcom import SITCOM
from invjax.methods.tmpd import TMPD
from invjax.priors import gaussian
from invjax.types import Prediction

_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_SHAPE = (4, 4, 2)
_PRIOR = gaussian.GaussianPrior.isotropic(np.zeros(_SHAPE), 0.1, _ALPHA_BAR)
_OPERATOR = operators.make_operator(
    'box_inpainting', jax.random.key(0), _SHAPE, box_size=2, box_margin=0
)
_PROBLEM = problem.measure(jax.random.key(1), jnp.zeros(_SHAPE), _OPERATOR)


class LearningPrior:
    """A prior that learns its variance, and must not be run."""

    alpha_bar = _ALPHA_BAR
    image_shape = _SHAPE

    def __call__(self, x_t, t):
        if not isinstance(x_t, jax.core.Tracer):
            raise AssertionError('The prior ran.')
        return Prediction(x_t, x_t)


class CountTest(parameterized.TestCase):
    @parameterized.parameters(
        # One pass a step, and one back for the gradient of the residual.
        ('unconditional', 12, {}, (12, 0)),
        ('dps', 12, {'zeta': 0.5}, (12, 12)),
        # A long run is cut into stretches; the last one's filling is not run.
        ('dps', 5, {'zeta': 0.5}, (5, 5)),
        # Of t = 999, 666, 333, 0 the last two are not above tau; of 999 and 0
        # the last.
        ('sdedit', 4, {'tau': 400}, (2, 0)),
        ('sdedit', 2, {'tau': 400}, (1, 0)),
        # Each level takes 3 steps of the flow.
        ('daps', 4, {'flow_steps': 3}, (12, 0)),
        ('daps', 4, {'flow_steps': 1}, (4, 0)),
        # Of t = 999, 666, 333, 0 the last alone has more signal than noise, and
        # of one guess there is none to choose.
        ('daps', 4, {'init': 'guess'}, (1, 0)),
        # 3 particles, each with its gradient.
        ('tds', 4, {'particles': 3}, (12, 12)),
        # Each step is taken 5 times, or twice.
        ('repaint', 4, {'resamplings': 5}, (20, 0)),
        ('ddnm', 4, {'travel': 2}, (8, 0)),
        ('ddnm', 4, {}, (4, 0)),
        # Five Langevin steps a level, each with its own score.
        ('ald', 4, {'langevin_steps': 5}, (20, 0)),
        # Without a network at all.
        ('admm_tv', 4, {}, (0, 0)),
        ('dip', 2, {}, (0, 0)),
        # One pass a step and none back.
        *(
            (name, 4, {}, (4, 0))
            for name in ('score_ald', 'dmps', 'ddrm', 'diffpir', 'reddiff')
        ),
        ('wiener', 4, {}, (4, 0)),
        # Levels that fall from tau = 400: of t = 999, 666, 333, 0 the last two.
        ('hqs', 4, {}, (2, 0)),
        ('pnp_admm', 4, {'levels': 'fixed'}, (4, 0)),
        # One pass and one back.
        *(
            (name, 4, {}, (4, 4))
            for name in ('mcg', 'pigdm', 'mmps', 'c_pigdm')
        ),
        ('mmps', 4, {'iterations': 3}, (4, 12)),
        # A draw of C takes the products, and one is moved as a mean is.
        (
            'mmps',
            4,
            {'noising': 'sample', 'products': 2, 'iterations': 3},
            (4, 20),
        ),
        # A stop that is never met: 3 steps of Adam and the estimate after them.
        ('sitcom', 4, {'inner_steps': 3, 'delta': 0}, (16, 16)),
        # J^T is applied once for the variance and once for the score, where
        # the prior has not learned its variance.
        ('tmpd', 4, {'moment': 'learned'}, (4, 8)),
    )
    def test_it_is_what_the_algorithm_says(
        self, method, num_steps, settings, expected
    ):
        found = evaluations.count(
            _PROBLEM, _PRIOR, METHODS[method].of(settings), num_steps
        )
        self.assertEqual(found, expected)

    def test_each_of_several_guesses_is_one_where_they_are_told_apart(self):
        operator = operators.make_operator(
            'phase_retrieval', jax.random.key(0), _SHAPE, oversampling=4
        )
        measured = problem.measure(
            jax.random.key(1), jnp.zeros(_SHAPE), operator
        )
        # At t = 666 and 333, which end at more than 0.2 of signal: four guesses
        # each; and one pass at 0.
        found = evaluations.count(
            measured, _PRIOR, DAPS(init='guess', draw='langevin'), 4
        )
        self.assertEqual(found, (9, 0))

    def test_a_learned_variance_is_that_of_the_prior(self):
        found = evaluations.count(
            _PROBLEM, LearningPrior(), TMPD(moment='learned'), 4
        )
        self.assertEqual(found, (4, 4))

    def test_what_stops_by_value_is_counted_on_the_prior_itself(self):
        # A prior that knows the truth explains the measurement at each step's
        # first pass, which a stand-in would not.
        sure = gaussian.GaussianPrior.isotropic(
            np.zeros(_SHAPE), 1e-6, _ALPHA_BAR
        )
        self.assertTrue(SITCOM.stops_by_value)
        found = evaluations.count(_PROBLEM, sure, SITCOM(delta=2.0), 4)
        self.assertEqual(found, (4, 4))
        # Where nothing was measured, residual and bound are 0: it is met at once.
        found = evaluations.count(
            problem.nothing_measured(_SHAPE), _PRIOR, SITCOM(), 4
        )
        self.assertEqual(found, (4, 4))
        # Others need not run it, which costs as much as a restoration.
        for name, cls in METHODS.items():
            self.assertEqual(cls.stops_by_value, name == 'sitcom')


if __name__ == '__main__':
    absltest.main()
