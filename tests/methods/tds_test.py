"""TDS: proposals, weights and resampling, each against its own definition."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from invjax import batch, problem, schedule, validation
from invjax.diffusion import Transition
from invjax.methods.tds import TDS
from invjax.operators.mask import Mask
from invjax.priors import gaussian
from tests.methods import dense

_SETTINGS = ({'spread': 0.5}, {'spread': 1.6})
# What stands for no noise; see the module.
_LEAST_NOISE_VAR = 1e-6


def unclipped(**settings):
    return TDS(**settings, transition=Transition(clip=False))


def twist(case, row, x, spread):
    """log p~(y | x_t), of particles (K, D), from the density's definition."""
    level = case.at(row)
    estimate = case.estimate(level.a)
    x_0 = x @ estimate.matrix.T + estimate.offset
    noise_var = max(case.noise_std**2, _LEAST_NOISE_VAR)
    covariance = spread**2 * (1 - level.a) * case.matrix @ case.matrix.T
    covariance += noise_var * np.eye(len(case.y))
    return scipy.stats.multivariate_normal(case.y, covariance).logpdf(
        x_0 @ case.matrix.T
    )


def proposal(case, row, spread) -> dense.Affine:
    """m + v grad log p~, with v the variance of the ancestral step."""
    level = case.at(row)
    free = dense.prior_step(case, row)
    variance = spread**2 * (1 - level.a)
    noise_var = max(case.noise_std**2, _LEAST_NOISE_VAR)
    gain = case.gain(variance, noise_var)
    score = (
        case.jacobian(level.a) @ gain @ case.residual(case.estimate(level.a))
    )
    return free + level.posterior_variance * score


@functools.partial(jax.jit, compiler_options=dense.QUICK)
def _update(method, key, x_t, log_weights, step, measured, prior):
    return method.update(key, x_t, log_weights, step, measured, prior)


def update(method, case, row, particles, log_weights, key=dense.KEY):
    x_s, log_weights, info = _update(
        method.replace(spread=jnp.float32(method.spread)),
        key,
        jnp.asarray(particles, jnp.float32).reshape(-1, 4, 4, 1),
        jnp.asarray(log_weights, jnp.float32),
        case.row(row),
        case.problem,
        case.prior,
    )
    return np.asarray(x_s, np.float64).reshape(-1, 16), log_weights, info


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=_SETTINGS,
        noise_std=[0.1, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_particles_are_proposed_by_guidance_and_weighted_for_it(
        self, settings, noise_std, kind
    ):
        # All particles are at one place, so that resampling moves none.
        case = dense.case_of(kind, noise_std)
        number = 4096
        method = unclipped(particles=number, **settings)
        for row, x_t in zip(dense.ROWS[:-1], dense.points(2), strict=True):
            x_s, log_weights, _ = update(
                method, case, row, np.tile(x_t, (number, 1)), np.zeros(number)
            )
            expected = proposal(case, row, **settings)
            mean = expected.matrix @ x_t + expected.offset
            dense.assert_moments(x_s, mean, expected.covariance, 2e-3)
            # w = p(x_s | x_t) / (q(x_s | x_t) p~(y | x_t)); the last factor of
            # the weight, p~(y | x_s), is known at the next step only.
            free = dense.prior_step(case, row)
            prior, proposed = (
                scipy.stats.multivariate_normal(
                    step.matrix @ x_t + step.offset, step.covariance
                ).logpdf(x_s)
                for step in (free, expected)
            )
            wanted = prior - proposed - twist(case, row, x_t, **settings)
            # Densities are known up to a factor that all particles share.
            found = np.asarray(log_weights, np.float64)
            wanted, found = wanted - wanted.mean(), found - found.mean()
            np.testing.assert_allclose(
                found, wanted, atol=2e-3 * np.abs(wanted).max() + 1e-3
            )

    @parameterized.parameters(*_SETTINGS)
    def test_particles_are_resampled_by_their_weights(self, spread):
        # On the last step there is no noise: each particle goes to the estimate
        # of the one that it descends from.
        case = dense.case_of('dense')
        number = 4
        method = unclipped(particles=number, spread=spread)
        x_t = 0.3 * dense.points(number)
        log_weights = np.array([0.3, -1.0, 0.5, 0.0])
        log_shares = log_weights + twist(case, 5, x_t, spread)
        shares = np.exp(log_shares - log_shares.max())
        shares /= shares.sum()
        self.assertGreater(np.sort(shares)[-2], 0.05)
        estimate = case.estimate(case.at(5).a)
        ends = x_t @ estimate.matrix.T + estimate.offset
        counts = []
        for key in jax.random.split(dense.KEY, 400):
            x_s, kept, _ = update(method, case, 5, x_t, log_weights, key)
            distances = np.linalg.norm(x_s[:, None] - ends, axis=-1)
            self.assertLess(distances.min(axis=1).max(), 1e-3)
            chosen = distances.argmin(axis=1)
            counts.append(np.bincount(chosen, minlength=number))
            # What p~ promised is taken back, until it is known exactly.
            promised = twist(case, 5, x_t, spread)[chosen]
            np.testing.assert_allclose(
                kept - kept[0], promised[0] - promised, atol=2e-2
            )
        # Systematic resampling: as often as the share says, but for one.
        self.assertLess(np.abs(counts - number * shares).max(), 1)
        deviation = np.std(counts, axis=0) / np.sqrt(len(counts))
        np.testing.assert_array_less(
            np.abs(np.mean(counts, axis=0) - number * shares),
            5 * deviation + 1e-3,
        )

    def test_the_one_that_is_returned_is_drawn_by_the_exact_weights(self):
        log_weights = np.array([0.0, 0.7, -0.5, 0.2])
        for noise_std in (0.0, 0.3):
            case = dense.case_of('dense', noise_std)
            x_0 = case.y @ np.linalg.pinv(case.matrix).T
            scale = max(noise_std, 1e-3)
            x = x_0 + 0.8 * scale * dense.points(4)
            residual = case.y - x @ case.matrix.T
            log_shares = log_weights - (residual**2).sum(1) / (2 * scale**2)
            shares = np.exp(log_shares - log_shares.max())
            shares /= shares.sum()
            method = unclipped(particles=4)
            images = jnp.asarray(x, jnp.float32).reshape(4, 4, 4, 1)
            drawn = jax.vmap(
                lambda key, method=method, images=images, case=case: (
                    method.finish(
                        key, images, jnp.float32(log_weights), case.problem
                    )
                )
            )(jax.random.split(dense.KEY, 4000))
            chosen = np.linalg.norm(
                np.ravel(drawn).reshape(-1, 1, 16) - x, axis=-1
            ).argmin(axis=1)
            found = np.bincount(chosen, minlength=4) / 4000
            np.testing.assert_array_less(
                np.abs(found - shares),
                5 * np.sqrt(shares * (1 - shares) / 4000) + 5e-3,
            )

    def test_a_clip_is_one_of_the_estimate(self):
        case = dense.case_of('dense')
        x_t = 3 * dense.points(1)
        x_s, _, info = update(TDS(particles=1), case, 5, x_t, np.zeros(1))
        estimate = case.estimate(case.at(5).a)
        x_0 = estimate.matrix @ x_t[0] + estimate.offset
        self.assertGreater(np.abs(x_0).max(), 1.2)
        np.testing.assert_allclose(x_s[0], np.clip(x_0, -1, 1), atol=1e-4)
        np.testing.assert_allclose(
            info.residual,
            np.linalg.norm(case.y - case.matrix @ np.clip(x_0, -1, 1)),
            rtol=1e-4,
        )

    def test_it_starts_with_pure_noise_and_equal_weights(self):
        case = dense.case_of('dense')
        x, log_weights = TDS(particles=5000).start(
            dense.KEY, case.problem, case.steps
        )
        dense.assert_moments(x, np.zeros(16), np.eye(16))
        np.testing.assert_array_equal(log_weights, np.zeros(5000))


@functools.partial(jax.jit, compiler_options=dense.QUICK)
def _many(method, keys, steps, measured, prior):
    return jax.vmap(
        lambda key: dense.sampler.sample(key, steps, measured, prior, method)[0]
    )(keys)


class LimitTest(absltest.TestCase):
    def errors(self, particles):
        """Of the mean and the variance, under a prior where twisting errs."""
        # A thin prior: its Tweedie variance is far below 1 - alpha_bar.
        shape = (2, 2, 1)
        prior = gaussian.GaussianPrior.isotropic(
            np.full(shape, 0.2), 0.1, dense.ALPHA_BAR
        )
        identity = Mask(jnp.ones(shape), 1)
        measured = problem.measure(
            dense.KEY, jnp.full(shape, 0.8), identity, 0.3
        )
        steps = schedule.reverse_steps(dense.ALPHA_BAR, 60)
        method = TDS(
            particles=particles,
            transition=Transition(clip=False, variance='posterior'),
        )
        keys = jax.random.split(dense.KEY, 1500)
        x = np.asarray(_many(method, keys, steps, measured, prior))
        # What 60 steps make of the prior is Gaussian too, and it is that
        # distribution's posterior which weighted particles come to.
        as_posterior = gaussian.Posterior(
            np.full(shape, 0.2), np.sqrt(0.1) * np.eye(4)
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


class LanesTest(absltest.TestCase):
    def test_particles_are_no_number_that_lanes_may_differ_in(self):
        with self.assertRaisesRegex(ValueError, 'must differ in numbers alone'):
            batch.stack_methods([TDS(particles=4), TDS(particles=5)])
        with self.assertRaisesRegex(ValueError, 'whole number of 1 or more'):
            TDS(particles=2.5)

    def test_a_sweep_hands_over_one_image_a_lane(self):
        case = dense.case_of('dense')
        lanes = batch.make_lanes(
            dense.KEY, [case.problem], [TDS(particles=3)], num_samples=2
        )
        result = batch.run_lanes(lanes, case.prior, 5)
        self.assertEqual(result.x.shape, (2, 4, 4, 1))


if __name__ == '__main__':
    absltest.main()
