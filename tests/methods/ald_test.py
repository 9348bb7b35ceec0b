"""Annealed Langevin dynamics: its steps by algebra, and where they lead."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, schedule, validation
from invjax.diffusion import Transition
from invjax.methods.ald import ALD
from invjax.operators.mask import Mask
from invjax.priors import gaussian
from tests.methods import dense

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
VARIANCE = 0.1
PRIOR = gaussian.GaussianPrior.isotropic(
    np.full(SHAPE, 0.2), VARIANCE, dense.ALPHA_BAR
)


def unclipped(**settings):
    return ALD(**settings, transition=Transition(clip=False))


def level_variance(case, row):
    """Song and Ermon's geometric sequence, taken at the nearest timestep."""
    variances = (1 - dense.ALPHA_BAR) / dense.ALPHA_BAR
    time = case.at(row).t / 999
    wanted = variances[-1] ** time * variances[0] ** (1 - time)
    return variances[np.argmin(np.abs(np.log(variances / wanted)))]


def expected(case, row, langevin_steps, langevin_size, gamma):
    """x <- x + eta (score + A^T (y - A x) / (sigma^2 + gamma^2 sigma_t^2)) +
    sqrt(2 eta) z, with the score of N(mu, Sigma + sigma_t^2 I)."""
    variance = level_variance(case, row)
    likelihood = case.noise_std**2 + gamma**2 * variance
    eta = langevin_size / (1 / variance + 1 / likelihood)
    x = case.x_t
    smoothed = np.linalg.inv(case.covariance + variance * np.eye(16))
    for i in range(langevin_steps):
        score = smoothed @ (case.mean - x)
        if row == 5 and i == langevin_steps - 1:
            # Tweedie's estimate.
            return x + variance * score
        pull = (1 / likelihood) * (case.matrix.T @ case.residual(x))
        # One chain: the noise that x has goes through the step with it.
        step = np.eye(16) - eta * smoothed
        step -= eta / likelihood * case.matrix.T @ case.matrix
        offset = eta * (smoothed @ case.mean)
        offset += eta / likelihood * case.matrix.T @ case.y
        moved = dense.Affine(step, offset, 2 * eta * np.eye(16))
        check = x + eta * score + eta * pull
        x = moved.of(x)
        np.testing.assert_allclose(x.offset, check.offset, atol=1e-9)
    return x


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[
            {'langevin_steps': 2, 'langevin_size': 0.3, 'gamma': 0.7},
            {'langevin_steps': 3, 'langevin_size': 0.9, 'gamma': 1.8},
        ],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_takes_steps_of_langevin_dynamics(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(**settings),
                case,
                row,
                expected(case, row, **settings),
            )

    def test_it_starts_at_pure_noise_of_the_first_level(self):
        # Of the last two levels, whose alpha_bar differ. The frame is that of
        # clean images, where x_t is divided by the root of it.
        case = dense.case_of('dense')
        steps = schedule.Steps(*(field[4:] for field in case.steps))
        drawn = jax.vmap(lambda key: ALD().start(key, case.problem, steps)[0])(
            jax.random.split(KEY, 20_000)
        )
        variance = 1 / dense.ALPHA_BAR[int(steps.t[0])]
        dense.assert_moments(drawn, np.zeros(16), variance * np.eye(16))

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        settings = {'langevin_steps': 3, 'langevin_size': 0.9, 'gamma': 1.8}
        steps = [expected(case, row, **settings) for row in range(6)]
        # Pure noise of the first level, in the frame of clean images.
        std = 1 / np.sqrt(dense.ALPHA_BAR[-1])
        start = dense.Affine(
            np.zeros((16, 1)), np.zeros(16), std**2 * np.eye(16)
        )
        dense.assert_samples(unclipped(**settings), case, steps, start)

    def test_a_clip_is_one_of_the_estimate_that_the_score_is_made_of(self):
        # One step at the last row gives the estimate, so the clipped one.
        case = dense.case_of('gaussian_deblur')
        x = 2 * dense.points(1)[0]
        clipped, free = (
            dense.update(
                ALD(langevin_steps=1, transition=Transition(clip=clip)),
                case,
                5,
                x,
            )[0]
            for clip in (True, False)
        )
        self.assertGreater(np.abs(free).max(), 1.2)
        np.testing.assert_allclose(clipped, np.clip(free, -1, 1), atol=1e-6)

    def test_info_is_in_terms_of_x_t(self):
        case = dense.case_of('gaussian_deblur')
        x = dense.points(1)[0]
        row = 3
        variance = level_variance(case, row)
        method = unclipped(langevin_steps=1, langevin_size=0.3)
        moved, _, info = dense.update(method, case, row, x)
        x_0 = x + variance * np.linalg.solve(
            case.covariance + variance * np.eye(16), case.mean - x
        )
        residual = case.y - case.matrix @ x
        likelihood = case.noise_std**2 + variance
        eta = 0.3 / (1 / variance + 1 / likelihood)
        pull = eta / likelihood * case.matrix.T @ residual
        signal = 1 / np.sqrt(1 + variance)
        for found, length in (
            (info.residual, case.y - case.matrix @ x_0),
            (info.guidance, signal * pull),
            (info.prior_step, signal * (np.ravel(moved) - pull - x)),
        ):
            np.testing.assert_allclose(found, np.linalg.norm(length), rtol=1e-3)


def correlated_prior():
    """Neighbours that resemble each other, of variances from 0.02 to 1."""
    places = np.stack(np.meshgrid(range(4), range(4)), -1).reshape(16, 2)
    distances = ((places[:, None] - places[None]) ** 2).sum(-1)
    covariance = 0.3 * np.exp(-distances / 4) + 0.02 * np.eye(16)
    return gaussian.GaussianPrior.from_covariance(
        np.full(SHAPE, 0.2), covariance, dense.ALPHA_BAR
    )


def drawn(num_levels, measured, prior, **settings):
    steps = schedule.reverse_steps(dense.ALPHA_BAR, num_levels)
    method = dense.as_numbers(unclipped(**settings))
    return np.asarray(dense.draw(KEY, method, steps, measured, prior, 1000))


class LimitTest(parameterized.TestCase):
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
        whole = Mask(jnp.ones((4, 4, 1)), 1)
        measured = problem.measure(KEY, PRIOR.sample(KEY), whole, 0.0)
        steps = schedule.reverse_steps(dense.ALPHA_BAR, 12)

        @functools.partial(jax.jit, compiler_options=dense.QUICK)
        def move(size):
            method = unclipped(langevin_steps=300, langevin_size=size)
            x, state = method.start(KEY, measured, steps)
            first = schedule.Steps(*(field[0] for field in steps))
            moved, *_ = method.update(KEY, x, state, first, measured, PRIOR)
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
        measured = problem.measure(
            jax.random.key(2), PRIOR.sample(jax.random.key(1)), operator, 0.05
        )
        x = drawn(50, measured, PRIOR)
        residual = measured.y - jax.vmap(operator.forward)(x)
        # Where all is measured well, a sample is off by the noise once more.
        self.assertBetween(np.sqrt(np.mean(residual**2)), 0.03, 0.07)


if __name__ == '__main__':
    absltest.main()
