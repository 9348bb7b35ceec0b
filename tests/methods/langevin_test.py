"""What is special about `sitcom` and `ald`: inner loops around the network."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import (
    operators,
    problem,
    sampler,
    schedule,
    validation,
)
from invjax.methods import METHODS
from invjax.operators.mask import Mask
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (4, 4, 1)
KEY = jax.random.key(0)
VARIANCE = 0.1
PRIOR = gaussian.GaussianPrior.isotropic(
    np.full(SHAPE, 0.2), VARIANCE, ALPHA_BAR
)
STEPS = schedule.reverse_steps(ALPHA_BAR, 12)
# What runs a few times takes longer to optimise than to run.
_QUICK = {'xla_backend_optimization_level': 0}


def make(name, **settings):
    """A method by its name, with flat settings."""
    return METHODS[name].of(settings)


def step_of(row):
    return schedule.Steps(*(field[row] for field in STEPS))


def make_problem(noise_std=0.1, operator=None):
    operator = operator or Mask(jnp.ones((*SHAPE[:2], 1)), SHAPE[-1])
    x_0 = PRIOR.sample(jax.random.key(1))
    return problem.measure(jax.random.key(2), x_0, operator, noise_std)


def optimise(numbers, measured, x_t, step):
    """One step of sitcom: x_s and Info."""
    tested = make('sitcom', clip=False, **numbers)
    x_s, _, info = tested.update(KEY, x_t, (), step, measured, PRIOR)
    return x_s, info


_optimise = jax.jit(optimise, compiler_options=_QUICK)


def optimised(measured, x_t, row, **numbers):
    numbers = {
        'inner_steps': 20,
        'learning_rate': 0.1,
        'lam': 0.0,
        'delta': 0.0,
        **numbers,
    }
    # A number is a number to the compiler, whichever of Python's it is.
    numbers = {name: jnp.float32(value) for name, value in numbers.items()}
    return _optimise(numbers, measured, x_t, step_of(row))


class SitcomTest(parameterized.TestCase):
    def test_it_stops_at_the_first_estimate_within_the_noise(self):
        measured = make_problem()
        x_t = jax.random.normal(KEY, SHAPE)
        bound = 1.1 * 0.1 * np.sqrt(16)
        # On the last row x_s is the estimate itself.
        estimates = [
            optimised(measured, x_t, -1, inner_steps=k)[0] for k in range(1, 41)
        ]
        norms = np.array(
            [np.linalg.norm(measured.y - estimate) for estimate in estimates]
        )
        first = np.argmax(norms <= bound)
        self.assertBetween(first, 2, 39)
        stopped, _ = optimised(measured, x_t, -1, inner_steps=1000, delta=1.1)
        np.testing.assert_array_equal(stopped, estimates[first])

    def test_an_estimate_within_the_noise_is_kept_as_it_is(self):
        measured = make_problem()
        x_t = jax.random.normal(KEY, SHAPE)
        x_s, info = optimised(measured, x_t, 9, delta=1e6)
        few, _ = optimised(measured, x_t, 9, inner_steps=1)
        self.assertEqual(info.guidance, 0)
        self.assertGreater(np.abs(few - x_s).max(), 1e-3)

    def test_a_lane_that_is_done_waits_for_the_others(self):
        lanes = 3
        x_t = jax.random.normal(KEY, (lanes, *SHAPE))
        measured = [make_problem(noise) for noise in (0.02, 0.1, 0.4)]
        numbers = {
            'inner_steps': jnp.array([30.0, 5.0, 30.0]),
            'learning_rate': jnp.full(lanes, 0.05),
            'lam': jnp.full(lanes, 0.1),
            'delta': jnp.full(lanes, 1.0),
        }
        together, _ = jax.jit(
            jax.vmap(optimise, (0, 0, 0, None)), compiler_options=_QUICK
        )(
            numbers,
            jax.tree.map(lambda *leaves: jnp.stack(leaves), *measured),
            x_t,
            step_of(6),
        )
        for lane in range(lanes):
            alone, _ = optimised(
                measured[lane],
                x_t[lane],
                6,
                **{name: values[lane] for name, values in numbers.items()},
            )
            np.testing.assert_allclose(together[lane], alone, atol=1e-5)

    @parameterized.product(lam=[0.0, 0.5], row=[6, 9])
    def test_it_comes_to_the_minimum_that_algebra_gives(self, lam, row):
        # Under N(mu, v I) the estimate is s v_t + b with the slope
        # s = sqrt(a) v / (a v + 1 - a), so that the minimum of
        # ||y - s v_t - b||^2 + lam ||x_t - v_t||^2 moves by s / (s^2 + lam)
        # with y, and its estimate by s times as much.
        a = float(STEPS.alpha_bar_t[row])
        slope = np.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a)
        share = slope**2 / (slope**2 + lam)
        measured = make_problem()
        change = jax.random.uniform(KEY, SHAPE)
        x_t = jax.random.normal(KEY, SHAPE)
        # Both have the same noise.
        before, after = (
            optimised(
                measured.replace(y=y), x_t, row, lam=lam, inner_steps=2000
            )[0]
            for y in (measured.y, measured.y + change)
        )
        expected = np.sqrt(STEPS.alpha_bar_s[row]) * share * change
        np.testing.assert_allclose(after - before, expected, atol=2e-3)

    def test_a_function_that_is_not_linear_is_met(self):
        operator = operators.Function.of(jnp.tanh, SHAPE)
        measured = make_problem(0.0, operator)
        tested = make(
            'sitcom', clip=False, inner_steps=100, learning_rate=0.05, lam=0.0
        )
        x_0, _ = jax.jit(
            lambda key: sampler.sample(key, STEPS, measured, PRIOR, tested)
        )(KEY)
        np.testing.assert_allclose(operator.forward(x_0), measured.y, atol=0.02)


def correlated_prior():
    """A prior with neighbours that resemble each other, 0.02 to 1 in variance."""
    places = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(16, 2)
    distances = ((places[:, None] - places[None]) ** 2).sum(-1)
    covariance = 0.3 * np.exp(-distances / 4) + 0.02 * np.eye(16)
    return gaussian.GaussianPrior.from_covariance(
        np.full(SHAPE, 0.2), covariance, ALPHA_BAR
    )


@functools.partial(jax.jit, static_argnames='num_samples')
def draw(numbers, steps, measured, prior, num_samples=1000):
    tested = make('ald', clip=False, **numbers)
    return jax.vmap(
        lambda key: sampler.sample(key, steps, measured, prior, tested)[0]
    )(jax.random.split(KEY, num_samples))


def drawn(num_levels, measured, prior, **numbers):
    numbers = {
        'langevin_steps': 5,
        'langevin_size': 0.6,
        'gamma': 1.0,
        **numbers,
    }
    numbers = {name: jnp.float32(value) for name, value in numbers.items()}
    steps = schedule.reverse_steps(ALPHA_BAR, num_levels)
    return np.asarray(draw(numbers, steps, measured, prior))


class AldTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        self.prior = correlated_prior()
        operator = operators.make_operator('gaussian_deblur', KEY, SHAPE)
        self.measured = problem.measure(
            jax.random.key(2),
            self.prior.sample(jax.random.key(1)),
            operator,
            0.2,
        )
        self.posterior = gaussian.gaussian_posterior(
            self.prior,
            gaussian.dense_matrix(operator.forward, SHAPE),
            self.measured.y,
            0.2,
        )

    def errors(self, samples, posterior):
        rng = np.random.default_rng(0)
        return validation.errors(samples, posterior, rng, num_bootstraps=0)[0]

    def test_its_error_falls_with_the_inner_steps_to_that_of_exact_samples(
        self,
    ):
        found = [
            self.errors(
                drawn(50, self.measured, self.prior, langevin_steps=n),
                self.posterior,
            )
            for n in (1, 2, 5, 20)
        ]
        for more, fewer in zip(found[1:], found, strict=False):
            self.assertLess(more.covariance, fewer.covariance)
            self.assertLess(more.sliced, fewer.sliced)
        exact = self.errors(
            self.posterior.sample(np.random.default_rng(1), 1000),
            self.posterior,
        )
        # What is left is that of a thousand samples, and some 2 % of spread,
        # which steps of a finite size add.
        self.assertLess(found[-1].mean, exact.mean + 0.02)
        self.assertLess(found[-1].covariance, 1.2 * exact.covariance)
        self.assertLess(abs(found[-1].spread - 1), 0.03)

    def test_where_nothing_is_measured_it_samples_the_prior(self):
        prior = gaussian.Posterior(
            np.asarray(self.prior.mean, np.float64),
            self.prior.dense(np.sqrt),
        )
        nothing = problem.nothing_measured(SHAPE)
        found = self.errors(
            drawn(100, nothing, self.prior, langevin_steps=20), prior
        )
        exact = self.errors(prior.sample(np.random.default_rng(1), 1000), prior)
        self.assertLess(found.mean, exact.mean + 0.02)
        self.assertLess(found.covariance, 1.2 * exact.covariance)
        self.assertLess(abs(found.spread - 1), 0.04)

    def test_steps_below_the_limit_are_stable_and_above_it_are_not(self):
        # At the largest noise level the prior's curvature is 1 / sigma_t^2, and
        # a noiseless measurement of all values has the same: each Langevin step
        # multiplies a deviation by 1 - langevin_size.
        measured = make_problem(noise_std=0.0)

        @functools.partial(jax.jit, compiler_options=_QUICK)
        def move(size):
            tested = make(
                'ald', langevin_steps=300, langevin_size=size, clip=False
            )
            x, state = tested.start(KEY, measured, STEPS)
            moved, *_ = tested.update(
                KEY, x, state, step_of(0), measured, PRIOR
            )
            return jnp.std(moved) / jnp.std(x)

        # Noise of variance 2 eta = size sigma_t^2 a step comes to
        # size / (1 - (1 - size)^2) = 10 of sigma_t^2.
        self.assertBetween(move(1.9), np.sqrt(10) / 2, np.sqrt(10) * 2)
        self.assertGreater(move(2.1), 1e6)

    def test_a_measurement_of_infinite_gamma_has_no_weight(self):
        nothing = self.measured.replace(y=jnp.zeros_like(self.measured.y))
        free = drawn(20, nothing, self.prior, gamma=np.inf)
        led = drawn(20, self.measured, self.prior, gamma=np.inf)
        np.testing.assert_allclose(led, free, atol=1e-5)

    def test_a_function_that_is_not_linear_is_explained(self):
        operator = operators.Function.of(jnp.tanh, SHAPE)
        measured = make_problem(0.05, operator)
        x = drawn(50, measured, PRIOR)
        residual = measured.y - jax.vmap(operator.forward)(x)
        # Where all is measured well, a sample is off by the noise once more.
        self.assertBetween(np.sqrt(np.mean(residual**2)), 0.03, 0.07)

    def test_the_last_step_gives_the_clean_estimate(self):
        # Under N(mu, v I), at t = 0.
        a = ALPHA_BAR[0]
        gain = np.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a)
        x_t = jax.random.normal(KEY, SHAPE)
        tested = make('ald', langevin_steps=1, clip=False)
        x = x_t / np.sqrt(a)
        x_0, _, _ = tested.update(
            KEY, x, (), step_of(-1), make_problem(), PRIOR
        )
        np.testing.assert_allclose(
            x_0, 0.2 + gain * (x_t - np.sqrt(a) * 0.2), atol=1e-4
        )


if __name__ == '__main__':
    absltest.main()
