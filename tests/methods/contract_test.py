"""What every method promises; a new one is tested at once."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, sampler
from invjax.methods import METHODS, able_methods, method_class
from invjax.methods.base import Method
from invjax.operators.mask import Mask
from invjax.settings import choices, is_number, is_size
from tests.methods import dense

SHAPE = (4, 4, 1)
PRIOR = dense.prior_of(SHAPE)
STEPS = dense.STEPS
# Every method at its defaults, and at the other choices of name that it has.
SETTINGS = [
    (name, setting)
    for name, cls in METHODS.items()
    for setting in (
        {},
        *(
            {field: other}
            for field, kind in cls.kinds.items()
            for other in choices(kind)[1:]
        ),
    )
]
REPEATED = [('ddnm', {'travel': 3}), ('repaint', {'resamplings': 3})]
OWN_STEPS = [name for name, cls in METHODS.items() if cls.has_own_step]
INFINITY = float('inf')
# Of these another value than half of the default is tried, and where.
_OTHERS = {
    ('ddnm', 'travel'): ({}, 2),
    ('score_ald', 'gamma_0'): ({}, 3.0),
    ('score_ald', 'gamma_T'): ({}, 3.0),
    ('c_pigdm', 'mix'): ({}, 0.5),
    ('mmps', 'mix'): ({}, 0.5),
    ('mmps', 'iterations'): ({}, 2),
    ('mmps', 'products'): ({'noising': 'sample'}, 2),
    ('daps', 'flow_steps'): ({}, 3),
    ('daps', 'langevin_steps'): ({'draw': 'langevin'}, 3),
    ('daps', 'langevin_size'): ({'draw': 'langevin'}, 0.1),
    ('daps', 'draw'): ({}, 'langevin'),
    ('ald', 'langevin_steps'): ({}, 2),
    ('dps', 'retained'): ({'projection': 'state'}, 0.3),
    ('dps', 'learning_rate'): ({'moments': 'adam'}, 0.1),
    ('dps', 'beta_1'): ({'moments': 'adam'}, 0.1),
    ('dps', 'beta_2'): ({'moments': 'adam'}, 0.1),
    ('sitcom', 'delta'): ({}, 100.0),
    # Without noise the ball is a point, whatever the name of its radius.
    ('fast_dips', 'epsilon'): ({'radius': 'fixed'}, 2.0),
    ('fast_dips', 'rounds'): ({}, 1),
    # On a mask one step is exact, unless the longest step ends it first.
    ('fast_dips', 'inner_steps'): ({'rho': 0.1}, 1),
    # Where the discrepancy does not stop it.
    ('sitcom', 'inner_steps'): ({'delta': 0.0}, 3),
    ('dip', 'iterations'): ({'discrepancy': 0.0}, 3),
}


def measured_by(operator=None, noise_std=0.1):
    """All methods can do masks, and other masks compile nothing anew."""
    if operator is None:
        operator = operators.make_operator('box_inpainting', dense.KEY, SHAPE)
    x_0 = PRIOR.sample(jax.random.key(1))
    return problem.measure(
        jax.random.key(2), x_0, operator, jnp.float32(noise_std)
    )


def mask_of(value):
    return Mask(jnp.full((4, 4, 1), value, jnp.float32), 1)


def value_of(name, setting, **transition):
    own, clip = dict(setting), {'clip': False}
    return METHODS[name].of({**own, **clip, **transition})


def sample(name, measured, setting=(), prior=PRIOR, **transition):
    method = value_of(name, dict(setting), **transition)
    return dense.sample(method, measured, prior, STEPS)


@functools.partial(
    jax.jit,
    compiler_options={**dense.QUICK, 'xla_cpu_use_fusion_emitters': True},
)
def _sample_fused(method, measured, prior):
    return sampler.sample(dense.KEY, STEPS, measured, prior, method)


class ContractTest(parameterized.TestCase):
    @parameterized.parameters(*SETTINGS, *REPEATED)
    def test_a_noiseless_problem_gives_finite_results(self, name, setting):
        measured = measured_by(mask_of(1.0), 0.0)
        x_0, info = sample(name, measured, setting)
        for values in (x_0, *info):
            self.assertTrue(np.all(np.isfinite(values)))

    @parameterized.parameters(*SETTINGS)
    def test_a_fully_masked_problem_gives_finite_results(self, name, setting):
        for noise_std in (0.0, 0.1):
            measured = measured_by(mask_of(0.0), noise_std)
            x_0, info = sample(name, measured, setting)
            for values in (x_0, *info):
                self.assertTrue(np.all(np.isfinite(values)))
            np.testing.assert_array_equal(info.residual, 0)

    @parameterized.parameters(
        *(pair for pair in SETTINGS if pair[0] not in OWN_STEPS)
    )
    def test_where_nothing_is_measured_it_is_unconditional(self, name, setting):
        nothing = problem.nothing_measured(SHAPE)
        nothing = nothing.replace(noise_std=jnp.float32(0))
        expected, _ = sample('unconditional', nothing)
        # Guidance is a difference of two terms. It is 0 to the last bit where
        # loops are fused as for a user; XLA's older emitters, which tests have
        # elsewhere, round one of the two in another way.
        method = dense.as_numbers(value_of(name, dict(setting)))
        x_0, info = _sample_fused(method, nothing, PRIOR)
        np.testing.assert_allclose(x_0, expected, atol=1e-5)
        np.testing.assert_array_equal(info.guidance, 0)

    @parameterized.parameters(
        *(pair for pair in SETTINGS if pair[0] in OWN_STEPS)
    )
    def test_where_nothing_is_measured_the_measurement_changes_nothing(
        self, name, setting
    ):
        _, info = sample(name, problem.nothing_measured(SHAPE), setting)
        np.testing.assert_allclose(info.guidance, 0, atol=1e-5)

    @parameterized.parameters(
        ('dps', {'zeta': 0.0}),
        ('pigdm', {'strength': 0.0}),
        ('tmpd', {'strength': 0.0}),
        ('dmps', {'strength': 0.0}),
        ('dps', {'zeta': 0.0, 'normalise': 'gradient'}),
        ('dps', {'learning_rate': 0.0, 'moments': 'adam'}),
        ('score_ald', {'gamma_0': INFINITY, 'gamma_T': INFINITY}),
        (
            'score_ald',
            {'gamma_0': INFINITY, 'gamma_T': INFINITY, 'equation': '10'},
        ),
    )
    def test_at_strength_zero_it_is_unconditional(self, name, setting):
        measured = measured_by()
        expected, _ = sample('unconditional', measured)
        x_0, info = sample(name, measured, setting)
        np.testing.assert_allclose(x_0, expected, atol=1e-5)
        # The length of a difference of two that are rounded on their own.
        np.testing.assert_allclose(info.guidance, 0, atol=1e-6)

    @parameterized.parameters(
        ('mcg', {}),
        ('ddnm', {}),
        ('ddnm', {'noise_model': 'plain'}),
        ('ddnm', {'travel': 3}),
        ('ddrm', {}),
        ('diffpir', {}),
        ('daps', {}),
        ('wiener', {}),
        ('repaint', {}),
    )
    def test_a_noiseless_measurement_is_met(self, name, setting):
        for kind in ('random_inpainting', 'super_resolution'):
            operator = dense.operator_of(kind)
            if isinstance(operator, METHODS[name].needs):
                measured = measured_by(operator, 0.0)
                x_0, _ = sample(name, measured, setting)
                np.testing.assert_allclose(
                    operator.forward(x_0), measured.y, atol=2e-3
                )


class InfoTest(parameterized.TestCase):
    """On the last step the prior's own end is its estimate, without noise."""

    @parameterized.parameters(
        *(
            name
            for name in METHODS
            # Their state is no x_t, or there are many of them: see their tests.
            if name
            not in (
                'ald',
                'reddiff',
                'tds',
                'admm_tv',
                'hqs',
                'pnp_admm',
                'dip',
            )
        )
    )
    def test_it_is_what_the_step_did(self, name):
        case = dense.case_of('random_inpainting', 0.1)
        x_t = 1.5 * dense.points(1)[0]
        estimate = case.estimate(case.at(5).a)
        free = estimate.matrix @ x_t + estimate.offset
        x_0 = np.clip(free, -1, 1)
        setting = {'sdedit': {'tau': 0}, 'repaint': {'resamplings': 1}}
        x_s, _, info = dense.update(
            value_of(name, setting.get(name, {}), clip=True), case, 5, x_t
        )
        for found, vector in (
            (info.residual, case.y - case.matrix @ x_0),
            (info.prior_step, x_0 - x_t),
        ):
            np.testing.assert_allclose(found, np.linalg.norm(vector), rtol=1e-3)
        if name != 'mcg':  # The sum of two lengths.
            np.testing.assert_allclose(
                info.guidance,
                np.linalg.norm(np.ravel(x_s) - x_0),
                rtol=2e-3,
                atol=2e-4,
            )
        self.assertBetween(info.clipped, 0.05, 0.95)
        self.assertAlmostEqual(info.clipped, np.mean(np.abs(x_0) >= 1))


class SolverTest(parameterized.TestCase):
    """How well conjugate gradients solved what a step asked of them."""

    @parameterized.parameters(
        'dmps',
        'pigdm',
        'tmpd',
        'mmps',
        'diffpir',
        'daps',
        'mcg',
        'hqs',
        'pnp_admm',
        'tds',
        'wiener',
        'admm_tv',
    )
    def test_info_has_what_was_left_of_the_linear_system(self, name):
        def largest(kind, setting=()):
            measured = measured_by(dense.operator_of(kind), 0.3)
            _, info = sample(name, measured, setting)
            return np.max(info.solver_residual)

        found = largest('dense')
        # Well conditioned: to the tolerance, and not to zero by chance.
        self.assertBetween(found, 1e-9, 5e-5)
        if name not in ('wiener', 'tmpd', 'admm_tv'):
            # Those have a variance for each pixel, or one of its own.
            self.assertEqual(largest('gaussian_deblur'), 0)

    def test_it_is_none_where_nothing_is_solved(self):
        for name in ('dps', 'ddrm', 'ddnm', 'sdedit'):
            measured = measured_by(dense.operator_of('gaussian_deblur'), 0.3)
            _, info = sample(name, measured)
            np.testing.assert_array_equal(info.solver_residual, 0)
        measured = measured_by(dense.operator_of('dense'), 0.3)
        _, info = sample('daps', measured, {'draw': 'langevin'})
        np.testing.assert_array_equal(info.solver_residual, 0)

    def test_what_is_not_solved_shows(self):
        # Of little noise, nothing but a thousandth of the variance is left to
        # make the system regular, and its smaller half is far below that.
        rng = np.random.default_rng(0)
        left, _ = np.linalg.qr(rng.normal(size=(16, 16)))
        right, _ = np.linalg.qr(rng.normal(size=(16, 16)))
        weights = (left * np.geomspace(1, 1e-3, 16)) @ right
        operator = operators.Linear.of(
            lambda x, weights: weights @ x.ravel(),
            SHAPE,
            jnp.asarray(weights, jnp.float32),
        )
        _, info = sample('diffpir', measured_by(operator, 0.0))
        self.assertGreater(np.max(info.solver_residual), 1e-4)


class SettingsMatterTest(parameterized.TestCase):
    @parameterized.parameters(
        *(
            (name, field)
            for name, cls in METHODS.items()
            for field in cls.hyperparameters()
        )
    )
    def test_another_value_gives_another_image(self, name, field):
        cls = METHODS[name]
        default, kind = cls.hyperparameters()[field], cls.kinds[field]
        beside, other = _OTHERS.get((name, field), ({}, None))
        if other is None:
            others = choices(kind)[1:]
            if not others:
                halved = default / 2
                others = [int(halved) if is_size(kind) else halved]
            (other, *_) = others
        self.assertTrue(is_number(kind) or is_size(kind) or choices(kind))
        prior = PRIOR
        if field == 'moment':
            prior = dense.LearnedVariance.of(PRIOR, 0.5)
        measured = measured_by()
        images = [
            sample(name, measured, {**beside, field: value}, prior)[0]
            for value in (default, other)
        ]
        self.assertGreater(np.abs(images[0] - images[1]).max(), 1e-4)

    @parameterized.parameters(
        *((name, {}) for name in METHODS if name != 'ddnm'),
        ('ddnm', {'noise_model': 'plain'}),
        ('mmps', {'noising': 'transition'}),
        ('mmps', {'noising': 'sample'}),
    )
    def test_of_the_transition_it_reads_what_it_says(self, name, own):
        # Two transitions give one program if what differs is not read.
        cls = METHODS[name]
        case = dense.case_of('random_inpainting', 0.1)
        prior = dense.LearnedVariance.of(case.prior, 0.5)
        x_t, state = cls.of(own).start(dense.KEY, case.problem, case.steps)

        def program(**settings):
            method = cls.of({**own, **settings})

            traced = jax.make_jaxpr(method.update)(
                dense.KEY, x_t, state, case.row(3), case.problem, prior
            )
            # But for the addresses of functions.
            return re.sub('0x[0-9a-f]+', '', str(traced))

        programs = {
            'transition': (program(), program(transition='ddim')),
            'variance': (program(), program(variance='beta')),
            'eta': (
                program(transition='ddim', eta=0.5),
                program(transition='ddim'),
            ),
            'clip': (program(), program(clip=False)),
        }
        read = cls.of(own).read_of_transition()
        for field, (one, other) in programs.items():
            self.assertEqual(one != other, field in read, field)

    def test_ddnm_plus_reads_it_for_what_it_reports_alone(self):
        measured = measured_by()
        x, info = sample('ddnm', measured)
        other, seen = sample('ddnm', measured, transition='ddim')
        np.testing.assert_array_equal(other, x)
        self.assertGreater(np.abs(seen.guidance - info.guidance).max(), 1e-4)
        self.assertEqual(METHODS['ddnm']().read_of_transition(), ('clip',))

    def test_what_is_not_read_of_the_transition_is_refused(self):
        for name, given, words in (
            (
                'diffpir',
                {'variance': 'beta'},
                'variance is not read by diffpir',
            ),
            ('dip', {'clip': False}, 'set, nothing'),
            ('tds', {'eta': 0.5}, 'set, variance, clip'),
            ('dps', {'eta': 0.5}, 'eta of dps is read with transition=ddim'),
            ('mmps', {'noising': 'sample', 'transition': 'ddim'}, 'set, clip'),
            (
                'dps',
                {'transition': 'ddim', 'variance': 'beta'},
                'variance of dps is read with transition=ddpm alone',
            ),
        ):
            with self.assertRaisesRegex(ValueError, words):
                METHODS[name].of(given).check_read(given)
        for name, given in (
            ('diffpir', {'clip': False, 'variance': 'learned'}),
            ('dps', {'eta': 0.5, 'transition': 'ddim'}),
            ('mmps', {'noising': 'transition', 'variance': 'beta'}),
        ):
            METHODS[name].of(given).check_read(given)


class OperatorTest(parameterized.TestCase):
    def test_a_method_that_cannot_do_an_operator_says_what_it_needs(self):
        separable = dense.operator_of('super_resolution')
        with self.assertRaisesRegex(
            ValueError, 'repaint needs a mask, which Separable is not'
        ):
            METHODS['repaint']().check_operator(separable)
        METHODS['ddrm']().check_operator(separable)
        with self.assertRaisesRegex(
            ValueError, 'ddrm needs a linear operator with a spectrum, which'
        ):
            METHODS['ddrm']().check_operator(dense.operator_of('dense'))
        with self.assertRaisesRegex(ValueError, 'dps needs any operator'):
            METHODS['dps']().check_operator(object())

    @parameterized.parameters(*METHODS)
    def test_what_it_needs_is_what_it_uses(self, name):
        # At its defaults a method runs on the least that it asks for, traced
        # and not run.
        needs = METHODS[name].needs
        kinds = {
            'Operator': operators.Function.of(jnp.tanh, SHAPE),
            'LinearOperator': dense.operator_of('dense'),
            'SpectralOperator': dense.operator_of('gaussian_deblur'),
            'MaskOperator': mask_of(1.0),
        }
        operator = kinds[needs.__name__]
        method = METHODS[name]()
        method.check_operator(operator)
        measured = problem.measure(
            dense.KEY, jnp.zeros(SHAPE), operator, jnp.float32(0.1)
        )
        x, _ = jax.eval_shape(
            lambda key: dense.sampler.sample(
                key, STEPS, measured, PRIOR, method
            ),
            dense.KEY,
        )
        self.assertEqual(x.shape, SHAPE)

    def test_the_able_are_those_that_an_operator_is_enough_for(self):
        self.assertEqual(able_methods(mask_of(1.0)), list(METHODS))
        dense_only = able_methods(dense.operator_of('dense'))
        self.assertNotIn('ddrm', dense_only)
        self.assertNotIn('repaint', dense_only)
        self.assertIn('diffpir', dense_only)
        nonlinear = able_methods(operators.Function.of(jnp.tanh, SHAPE))
        self.assertNotIn('diffpir', nonlinear)
        self.assertIn('dps', nonlinear)


class RegistryTest(parameterized.TestCase):
    @parameterized.parameters(*METHODS)
    def test_a_class_says_who_it_is(self, name):
        cls = method_class(name)
        self.assertEqual(cls.name, name)
        self.assertTrue(issubclass(cls, Method))
        self.assertGreaterEqual(cls.version, 1)
        # A line for lists, and a meaning for each setting.
        self.assertTrue(cls.__doc__.strip())
        for field, text in cls.meanings().items():
            self.assertTrue(text, field)

    def test_an_unknown_method_is_refused_with_the_names_there_are(self):
        with self.assertRaisesRegex(
            ValueError, "method must be one of .*dps.*, got 'dsp'"
        ):
            method_class('dsp')

    @parameterized.parameters(*METHODS)
    def test_grids_and_settings_to_try_are_settings(self, name):
        cls = METHODS[name]
        for field, values in cls.tuning_grid.items():
            for value in values:
                cls.of({field: value}).check(1000)
        for setting in cls.validation_settings:
            cls.of(setting).check(1000)


if __name__ == '__main__':
    absltest.main()
