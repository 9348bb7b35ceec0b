"""Conditioners: a contract that each one keeps, and what is special about some."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import (
    batch,
    operators,
    problem,
    sampler,
    schedule,
    validation,
)
from invjax import settings as settings_module
from invjax.diffusion import Transition
from invjax.methods import METHODS, able_methods, method_class
from invjax.operators.mask import Mask
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (4, 4, 2)
PRIOR = gaussian.GaussianPrior.isotropic(np.full(SHAPE, 0.2), 0.1, ALPHA_BAR)
STEPS = schedule.reverse_steps(ALPHA_BAR, 12)
KEY = jax.random.key(0)
# Every method at its defaults, and the other choices of name that it has.
SETTINGS = [
    *((method, {}) for method in METHODS),
    ('dps', {'normalise': 'gradient'}),
    ('score_ald', {'equation': '10'}),
    ('tmpd', {'moment': 'learned'}),
    ('ddnm', {'noise_model': 'plain'}),
    ('ddnm', {'travel': 3}),
    ('daps', {'draw': 'langevin'}),
    ('pnp_admm', {'levels': 'fixed'}),
]
# Whose step is not the transition's, so that without a measurement they are
# samplers of their own.
_OWN_STEPS = [name for name, cls in METHODS.items() if cls.has_own_step]
INFINITY = float('inf')
# What runs a few times takes longer to optimise than to run.
_QUICK = {'xla_backend_optimization_level': 0}


def make_problem(operator=None, noise_std=0.1):
    if operator is None:
        operator = operators.make_operator('box_inpainting', KEY, SHAPE)
    x_0 = PRIOR.sample(jax.random.key(1))
    return problem.measure(jax.random.key(2), x_0, operator, noise_std)


def make(name, **settings):
    """A method by its name, with flat settings."""
    return METHODS[name].of(settings)


def exact_guidance(posterior, transition):
    return validation.ExactGuidance(posterior, transition=transition)


@functools.partial(jax.jit, compiler_options=_QUICK)
def _sample(method, measured, steps):
    return sampler.sample(KEY, steps, measured, PRIOR, method)


@functools.partial(jax.jit, compiler_options=_QUICK)
def _take_step(method, measured, x_t, step):
    x_s, _, info = method.update(KEY, x_t, (), step, measured, PRIOR)
    return x_s, info


def as_arrays(method):
    """Its numbers as arrays, so that one program serves all of them."""
    return jax.tree.map(np.float32, method)


def sample(name, measured, steps=STEPS, **settings):
    return _sample(as_arrays(make(name, **settings)), measured.bare(), steps)


def take_step(name, x_t, measured, row, **settings):
    """One update at a row of STEPS: x_s and Info."""
    step = schedule.Steps(*(field[row] for field in STEPS))
    method = as_arrays(make(name, **settings))
    return _take_step(method, measured.bare(), x_t, step)


def sample_eagerly(method, **settings):
    """A sample of three steps and their guidance, operation by operation.

    Two compiled programs may fuse multiplications and additions differently.
    """
    measured = make_problem()
    tested = make(method, **settings)
    steps = schedule.reverse_steps(ALPHA_BAR, 3)
    x, state = tested.start(KEY, measured, steps)
    guidance = []
    for row, key in enumerate(jax.random.split(KEY, 3)):
        step = schedule.Steps(*(field[row] for field in steps))
        x, state, info = tested.update(key, x, state, step, measured, PRIOR)
        guidance.append(info.guidance)
    return x, guidance


class ContractTest(parameterized.TestCase):
    @parameterized.parameters(*SETTINGS)
    def test_a_noiseless_problem_gives_finite_results(self, method, settings):
        identity = Mask(jnp.ones((*SHAPE[:2], 1)), SHAPE[-1])
        measured = make_problem(identity, noise_std=0.0)
        x_0, info = sample(method, measured, **settings)
        for values in (x_0, *info):
            self.assertTrue(np.all(np.isfinite(values)))

    @parameterized.parameters(*SETTINGS)
    def test_a_fully_masked_problem_gives_finite_results(
        self, method, settings
    ):
        nothing = Mask(jnp.zeros((*SHAPE[:2], 1)), SHAPE[-1])
        for noise_std in (0.0, 0.1):
            x_0, info = sample(
                method, make_problem(nothing, noise_std), **settings
            )
            for values in (x_0, *info):
                self.assertTrue(np.all(np.isfinite(values)))
            np.testing.assert_array_equal(info.residual, 0)

    @parameterized.parameters(
        *(pair for pair in SETTINGS if pair[0] not in _OWN_STEPS)
    )
    def test_where_nothing_is_measured_it_is_unconditional(
        self, method, settings
    ):
        nothing = problem.nothing_measured(SHAPE)
        expected, _ = sample('unconditional', nothing)
        x_0, info = sample(method, nothing, **settings)
        np.testing.assert_allclose(x_0, expected, atol=1e-6)
        np.testing.assert_array_equal(info.guidance, 0)

    @parameterized.parameters(
        *(pair for pair in SETTINGS if pair[0] in _OWN_STEPS)
    )
    def test_where_nothing_is_measured_the_measurement_changes_nothing(
        self, method, settings
    ):
        _, info = sample(method, problem.nothing_measured(SHAPE), **settings)
        np.testing.assert_allclose(info.guidance, 0, atol=1e-5)

    @parameterized.parameters(
        ('dps', {'zeta': 0.0}),
        ('pigdm', {'strength': 0.0}),
        ('tmpd', {'strength': 0.0}),
        ('dmps', {'strength': 0.0}),
        ('dps', {'zeta': 0.0, 'normalise': 'gradient'}),
        ('score_ald', {'gamma_0': INFINITY, 'gamma_T': INFINITY}),
        (
            'score_ald',
            {'gamma_0': INFINITY, 'gamma_T': INFINITY, 'equation': '10'},
        ),
    )
    def test_at_strength_zero_it_is_unconditional(self, method, settings):
        expected, _ = sample_eagerly('unconditional')
        x_0, guidance = sample_eagerly(method, **settings)
        np.testing.assert_array_equal(x_0, expected)
        np.testing.assert_array_equal(guidance, 0)

    @parameterized.parameters(*METHODS)
    def test_a_misspelt_hyperparameter_is_named_in_a_sentence(self, method):
        with self.assertRaisesRegex(
            ValueError, f"{method} has no hyperparameter 'zetta'; it has"
        ):
            make(method, zetta=1.0)

    @parameterized.parameters(*METHODS)
    def test_every_method_takes_the_choices_of_a_transition(self, method):
        make(method, transition='ddim', eta=0.5, clip=False, variance='beta')
        with self.assertRaisesRegex(ValueError, 'one of ddpm, ddim'):
            make(method, transition='euler')

    def test_an_unknown_method_is_refused_with_the_names_there_are(self):
        with self.assertRaisesRegex(
            ValueError, "method must be one of .*dps.*, got 'dsp'"
        ):
            method_class('dsp')

    @parameterized.parameters(
        ('dps', 'normalise', 'norm'),
        ('score_ald', 'equation', '12'),
        ('tmpd', 'moment', 'third'),
        ('ddnm', 'noise_model', 'minus'),
        ('daps', 'draw', 'straws'),
        ('hqs', 'levels', 'rising'),
    )
    def test_an_unknown_choice_is_refused(self, method, name, value):
        with self.assertRaisesRegex(
            ValueError, f"{name} must be one of .*got '{value}'"
        ):
            make(method, **{name: value})

    @parameterized.parameters(*METHODS)
    def test_settings_and_of_are_inverse(self, name):
        method = METHODS[name]()
        self.assertEqual(type(method).of(method.settings()), method)
        self.assertEqual(method.describe()['method'], name)

    @parameterized.parameters(*METHODS)
    def test_every_field_says_what_it_means(self, name):
        for field, meaning in METHODS[name].meanings().items():
            self.assertNotEmpty(meaning, field)


class RangesTest(parameterized.TestCase):
    @parameterized.parameters(
        ('sdedit', 'tau', [0, 0.5, 400, 999], [-1, -1e-3, 999.5, 1000]),
        ('score_ald', 'gamma_0', [1e-3, 15, INFINITY], [0, -1, -INFINITY]),
        ('score_ald', 'gamma_T', [1e-3, 15, INFINITY], [0, -1]),
        ('dps', 'zeta', [0, 1, 1e6], [-0.1, INFINITY]),
        ('pigdm', 'spread', [1e-3, 1], [0, -1, INFINITY]),
        ('diffpir', 'mix', [0, 0.5, 1], [-0.1, 1.1]),
        ('repaint', 'resamplings', [1, 4.0], [0, 2.5, INFINITY]),
    )
    def test_ends_are_in_and_what_lies_beyond_is_named(
        self, method, name, good, bad
    ):
        METHODS[method](**{name: np.array(good)}).check(1000)
        for value in [*bad, np.nan]:
            for values in (value, np.array([*good, value])):
                with self.assertRaisesRegex(
                    ValueError, f'^{name} of {method} must be .*, got .*{value}'
                ):
                    METHODS[method](**{name: values}).check(1000)

    def test_a_timestep_is_held_against_the_prior_where_that_is_known(self):
        for tau in (250, np.array([0, 250])):
            method = METHODS['sdedit'](tau)
            with self.assertRaisesRegex(ValueError, 'from 0 to 249, got 250'):
                method.check(250)
        with self.assertRaisesRegex(ValueError, 'from 0 to T - 1, got -1'):
            METHODS['sdedit'](-1)

    def test_defaults_are_in_range_and_no_number_may_be_nan(self):
        for name, cls in METHODS.items():
            cls().check(1000)
            for field in cls.hyperparameters():
                if settings_module.is_number(cls.kinds[field]):
                    with self.assertRaisesRegex(
                        ValueError, f'{field} of {name}'
                    ):
                        cls(**{field: np.nan})

    def test_a_traced_value_passes(self):
        @jax.jit
        def run(zeta):
            return METHODS['dps'](zeta).zeta

        self.assertEqual(run(-1.0), -1.0)


class DpsTest(parameterized.TestCase):
    @parameterized.parameters(0.25, 1.0, 3.0)
    def test_gradient_normalisation_makes_steps_of_length_zeta(self, zeta):
        # Unclipped, since a clipped estimate has no gradient where it lies on
        # its bounds; there the correction is rightly zero.
        _, info = sample(
            'dps', make_problem(), zeta=zeta, normalise='gradient', clip=False
        )
        np.testing.assert_allclose(info.guidance, zeta, rtol=1e-5)

    @parameterized.parameters('residual', 'gradient')
    def test_a_small_correction_brings_the_estimate_nearer(self, normalise):
        measured = make_problem()
        x_t = jax.random.normal(KEY, SHAPE)
        settings = {'normalise': normalise, 'clip': False}
        row = 8
        free, _ = take_step('dps', x_t, measured, row, zeta=0.0, **settings)
        led, _ = take_step('dps', x_t, measured, row, zeta=0.1, **settings)
        _, info = take_step('dps', x_t, measured, row, **settings)
        _, after = take_step('dps', x_t + led - free, measured, row, **settings)
        self.assertLess(after.residual, info.residual)

    def test_the_correction_is_the_gradient_through_the_prior(self):
        # For a prior N(mu, v I) and a mask M, x0_hat is affine in x_t with
        # slope s = sqrt(a) v / (a v + 1 - a), so grad ||r|| is -s M r / ||r||
        # and has length s: ||M r|| = ||r||, as r lies on the mask.
        measured = make_problem()
        row = 8
        a = float(STEPS.alpha_bar_t[row])
        slope = np.sqrt(a) * 0.1 / (a * 0.1 + 1 - a)
        x_t = jax.random.normal(KEY, SHAPE)
        for zeta in (0.5, 2.0):
            _, info = take_step(
                'dps', x_t, measured, row, zeta=zeta, clip=False
            )
            np.testing.assert_allclose(info.guidance, zeta * slope, rtol=1e-4)

    def test_values_of_no_weight_count_as_not_measured(self):
        x_t = jax.random.normal(KEY, SHAPE)
        mask = jnp.asarray(jnp.arange(4)[:, None, None] < 2, jnp.float32)
        mask = jnp.broadcast_to(mask, (4, 4, 1))
        whole = make_problem(Mask(jnp.ones((4, 4, 1)), 2))
        weighted = whole.replace(weights=jnp.broadcast_to(mask, SHAPE))
        part = whole.replace(y=mask * whole.y, operator=Mask(mask, 2))
        np.testing.assert_allclose(
            take_step('dps', x_t, weighted, 6)[0],
            take_step('dps', x_t, part, 6)[0],
            atol=1e-6,
        )

    def test_weights_restore_more_than_taking_all_values_as_equally_sure(self):
        operator = Mask(jnp.ones((4, 4, 1)), 2)
        worse = 0
        for seed in range(8):
            x_0 = PRIOR.sample(jax.random.key(seed))
            measured = problem.measure(
                jax.random.key(100 + seed),
                x_0,
                operator,
                0.02,
                'salt_pepper',
                share=0.2,
            )
            alike = measured.replace(weights=jnp.ones(SHAPE))
            error, of_alike = (
                np.linalg.norm(sample('dps', m)[0] - x_0)
                for m in (measured, alike)
            )
            worse += error > of_alike
        self.assertEqual(worse, 0)


class ScoreAldTest(parameterized.TestCase):
    @parameterized.parameters(
        # Row 0 is t = T, row -1 is t = 0. sigma = 3 throughout.
        ('11', 4.0, 4.0, 0, 1 / 8),
        ('11', 4.0, 4.0, 5, 1 / 8),
        ('11', 4.0, 4.0, -1, 1 / 8),
        ('10', 4.0, 4.0, 0, 1 / 25),  # 3^2 + 4^2
        ('10', 4.0, 4.0, -1, 1 / 25),
        ('11', 2.0, 5.0, -1, 1 / 4),
        ('11', 2.0, 5.0, 0, 1 / 10),
        ('10', 4.0, 1.0, -1, 1 / 25),
        ('10', 4.0, 1.0, 0, 1 / 10),
        # An infinite end leaves the other end as it is.
        ('11', 2.0, INFINITY, -1, 1 / 4),
        ('11', 2.0, INFINITY, 5, 0),
        ('11', INFINITY, 5.0, 0, 1 / 10),
        ('10', INFINITY, 1.0, 5, 0),
    )
    def test_weights_are_those_worked_by_hand(
        self, equation, gamma_0, gamma_T, row, weight
    ):
        # A is the identity, so the gradient of the squared distance is
        # 2 (x_t - y).
        measured = make_problem(
            Mask(jnp.ones((*SHAPE[:2], 1)), SHAPE[-1]), noise_std=3.0
        )
        x_t = jax.random.normal(KEY, SHAPE)
        guided, info = take_step(
            'score_ald',
            x_t,
            measured,
            row,
            gamma_0=gamma_0,
            gamma_T=gamma_T,
            equation=equation,
        )
        free, _ = take_step('unconditional', x_t, measured, row)
        expected = weight * 2 * (measured.y - x_t)
        np.testing.assert_allclose(guided - free, expected, atol=1e-5)
        np.testing.assert_allclose(
            info.guidance, np.linalg.norm(expected), rtol=1e-5
        )


class GuidanceTest(parameterized.TestCase):
    """Methods that are exact where their assumption on the prior holds."""

    def exact_and(self, method, variance, task):
        shape = (8, 8, 1)
        prior = gaussian.GaussianPrior.isotropic(
            np.full(shape, 0.2), variance, ALPHA_BAR
        )
        operator = operators.make_operator(task, KEY, shape)
        measured = problem.measure(KEY, prior.sample(KEY), operator, 0.3)
        posterior = gaussian.gaussian_posterior(
            prior,
            gaussian.dense_matrix(operator.forward, shape),
            measured.y,
            0.3,
        )
        as_prior = gaussian.GaussianPrior.from_covariance(
            posterior.mean, posterior.covariance, ALPHA_BAR
        )
        transition = Transition(variance='posterior', clip=False)
        exact = exact_guidance(as_prior, transition)
        tested = make(method, variance='posterior', clip=False)
        x_t = jax.random.normal(KEY, shape)
        for row in (0, 4, 8, 10):
            step = schedule.Steps(*(field[row] for field in STEPS))
            yield [
                jax.jit(value.update)(KEY, x_t, (), step, measured, prior)[0]
                for value in (exact, tested)
            ]

    @parameterized.parameters(
        'box_inpainting', 'motion_deblur', 'super_resolution'
    )
    def test_pigdm_is_exact_for_a_prior_of_unit_variance(self, task):
        for expected, found in self.exact_and('pigdm', 1.0, task):
            np.testing.assert_allclose(found, expected, atol=2e-3)

    @parameterized.product(
        task=['box_inpainting', 'motion_deblur'], variance=[0.1, 1.0]
    )
    def test_tmpd_is_exact_for_an_isotropic_prior(self, task, variance):
        for expected, found in self.exact_and('tmpd', variance, task):
            np.testing.assert_allclose(found, expected, atol=2e-3)

    def test_pigdm_is_not_exact_for_another_variance(self):
        differences = [
            np.abs(found - expected).max()
            for expected, found in self.exact_and(
                'pigdm', 0.1, 'box_inpainting'
            )
        ]
        self.assertGreater(max(differences), 0.02)


class ConsistencyTest(parameterized.TestCase):
    @parameterized.product(
        method_and_settings=[
            ('mcg', {}),
            ('ddnm', {}),
            ('ddnm', {'noise_model': 'plain'}),
            ('ddnm', {'travel': 3}),
            ('ddrm', {}),
            ('diffpir', {}),
            ('daps', {}),
        ],
        task=['random_inpainting', 'super_resolution'],
    )
    def test_a_noiseless_measurement_is_met(self, method_and_settings, task):
        method, settings = method_and_settings
        operator = operators.make_operator(task, KEY, SHAPE)
        measured = make_problem(operator, noise_std=0.0)
        x_0, _ = sample(method, measured, clip=False, **settings)
        np.testing.assert_allclose(operator.forward(x_0), measured.y, atol=2e-3)

    def test_repaint_keeps_what_was_measured(self):
        measured = make_problem()
        x_0, _ = sample('repaint', measured)
        np.testing.assert_allclose(
            measured.operator.forward(x_0), measured.y, atol=1e-6
        )

    def test_reddiff_comes_to_explain_the_measurement(self):
        measured = make_problem(noise_std=0.0)
        steps = schedule.reverse_steps(ALPHA_BAR, 200)
        measured = measured.replace(
            y=0.5 * measured.operator.forward(jnp.ones(SHAPE))
        )
        x_0, _ = sample('reddiff', measured, steps, weight=0.01)
        np.testing.assert_allclose(
            measured.operator.forward(x_0), measured.y, atol=0.05
        )


class DapsTest(parameterized.TestCase):
    @parameterized.parameters(
        ('exact', {}, 5.0),
        # Steps of a finite size widen the distribution somewhat.
        ('langevin', {'langevin_steps': 200.0, 'langevin_size': 0.1}, 12.0),
    )
    def test_it_samples_the_posterior_of_a_unit_prior(
        self, draw, numbers, num_errors
    ):
        # There its variance is the true one, and each level's draw exact.
        prior = gaussian.GaussianPrior.isotropic(
            np.full(SHAPE, 0.2), 1.0, ALPHA_BAR
        )
        identity = Mask(jnp.ones((*SHAPE[:2], 1)), SHAPE[-1])
        measured = make_problem(identity, noise_std=0.5)
        method_value = make('daps', clip=False, draw=draw, **numbers)
        keys = jax.random.split(KEY, 1000)
        draw_all = jax.jit(
            jax.vmap(
                lambda key: sampler.sample(
                    key, STEPS, measured, prior, method_value
                )[0]
            )
        )
        x = np.asarray(draw_all(keys))
        variance = 1 / (1 + 1 / 0.5**2)
        mean = variance * (0.2 + measured.y / 0.5**2)
        np.testing.assert_allclose(
            x.mean(axis=0), mean, atol=num_errors * np.sqrt(variance / 1000)
        )
        np.testing.assert_allclose(
            x.var(axis=0) / variance, 1, atol=num_errors * np.sqrt(2 / 1000)
        )


class TdsTest(parameterized.TestCase):
    def errors(self, particles):
        """Of the mean and the variance, under a prior where twisting errs."""
        # A thin prior: its Tweedie variance is far below 1 - alpha_bar.
        prior = gaussian.GaussianPrior.isotropic(
            np.full((2, 2, 1), 0.2), 0.1, ALPHA_BAR
        )
        identity = Mask(jnp.ones((2, 2, 1)), 1)
        measured = problem.measure(KEY, jnp.full((2, 2, 1), 0.8), identity, 0.3)
        steps = schedule.reverse_steps(ALPHA_BAR, 60)
        method_value = make(
            'tds', particles=particles, clip=False, variance='posterior'
        )

        @jax.jit
        @jax.vmap
        def draw(key):
            return sampler.sample(key, steps, measured, prior, method_value)[0]

        x = np.asarray(draw(jax.random.split(KEY, 1500)))
        # What 60 steps make of the prior is Gaussian too, and it is that
        # distribution's posterior which weighted particles come to.
        as_posterior = gaussian.Posterior(
            np.full((2, 2, 1), 0.2), np.sqrt(0.1) * np.eye(4)
        )
        of_steps = validation.after_steps(as_posterior, steps)
        prior_variance = of_steps.covariance[0, 0]
        variance = 1 / (1 / prior_variance + 1 / 0.3**2)
        mean = variance * (of_steps.mean / prior_variance + measured.y / 0.3**2)
        return (
            np.abs(x.mean(axis=0) - mean).mean() / np.sqrt(variance),
            np.abs(x.var(axis=0) / variance - 1).mean(),
        )

    def test_its_error_falls_with_the_particles(self):
        one, many = self.errors(1), self.errors(32)
        self.assertGreater(one[0], 0.3)
        self.assertGreater(one[1], 0.2)
        # Four standard errors of 1500 samples, and what is left with 32.
        self.assertLess(many[0], 4 / np.sqrt(1500) + 0.05)
        self.assertLess(many[1], 4 * np.sqrt(2 / 1500))

    def test_particles_are_no_number_that_lanes_may_differ_in(self):
        methods = [METHODS['tds'](particles=n) for n in (3, 4)]
        with self.assertRaisesRegex(ValueError, 'differ in numbers alone'):
            batch.make_lanes(KEY, [make_problem()], methods)
        with self.assertRaisesRegex(ValueError, 'whole number of 1 or more'):
            METHODS['tds'](particles=2.5)

    def test_a_sweep_hands_over_one_image_a_lane(self):
        methods = [METHODS['tds'](particles=3)]
        lanes = batch.make_lanes(KEY, [make_problem()], methods, 2)
        result = batch.run_lanes(lanes, PRIOR, 5)
        self.assertEqual(result.x.shape, (2, *SHAPE))


class CheckOperatorTest(absltest.TestCase):
    def test_a_method_refuses_an_operator_that_it_cannot_do(self):
        operator = operators.make_operator('super_resolution', KEY, SHAPE)
        with self.assertRaisesRegex(
            ValueError, 'repaint needs a mask, which Separable is not'
        ):
            METHODS['repaint']().check_operator(operator)
        METHODS['ddrm']().check_operator(operator)
        self.assertIn('ddrm', able_methods(operator))
        self.assertNotIn('repaint', able_methods(operator))

        nonlinear = operators.make_operator('high_dynamic_range', KEY, SHAPE)
        with self.assertRaisesRegex(ValueError, 'daps needs a linear operator'):
            METHODS['daps']().check_operator(nonlinear)
        METHODS['daps'](draw='langevin').check_operator(nonlinear)


@jax.jit
def start_sdedit(tau, keys, measured):
    """Where sdedit starts, a row a key."""
    method = METHODS['sdedit'](tau)
    return jax.vmap(lambda key: method.start(key, measured, STEPS)[0])(keys)


class SdeditTest(parameterized.TestCase):
    @parameterized.parameters(0, 200, 500, 999)
    def test_it_starts_at_the_diffused_measurement(self, tau):
        measured = make_problem()
        number = 4000
        keys = jax.random.split(KEY, number)
        x = start_sdedit(tau, keys, measured)
        # The largest kept timestep that is not above tau.
        kept = np.asarray(STEPS.t)
        a = ALPHA_BAR[kept[kept <= tau].max()]
        # Four to five standard errors, as 32 values are compared.
        np.testing.assert_allclose(
            x.mean(axis=0),
            np.sqrt(a) * measured.y,
            atol=5 * np.sqrt((1 - a) / number),
        )
        np.testing.assert_allclose(
            x.var(axis=0), 1 - a, rtol=5 * np.sqrt(2 / number)
        )

    def test_steps_above_tau_leave_the_image_as_it_is(self):
        measured = make_problem()
        x_t = jax.random.normal(KEY, SHAPE)
        for row, t in enumerate(np.asarray(STEPS.t)):
            x_s, _ = take_step('sdedit', x_t, measured, row, tau=400)
            waited = np.array_equal(x_s, x_t)
            self.assertEqual(waited, t > 400)

    def test_at_tau_zero_it_gives_the_clean_estimate_of_the_measurement(self):
        # One step from t = 0, where noise has std 0.01 and so Tweedie's mean
        # under N(0.2, 0.1 I) is x_0 but for some 0.01 (four std: 0.04).
        measured = make_problem(Mask(jnp.ones((*SHAPE[:2], 1)), SHAPE[-1]))
        x_0, _ = sample('sdedit', measured, tau=0)
        np.testing.assert_allclose(x_0, np.clip(measured.y, -1, 1), atol=0.05)


if __name__ == '__main__':
    absltest.main()
