"""The sampler against posteriors in closed form, and bugs planted on purpose.

A mutation test shows that a check can fail: each plants one bug and asks that
the check which passes without it finds it.
"""

from unittest import mock

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, sampler, schedule, validation
from invjax.diffusion import Transition
from invjax.methods.dps import DPS
from invjax.priors import gaussian, mixture

_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_SHAPE = (8, 8, 1)
_NOISE_STD = 0.2
_NUM_SAMPLES = 2000
_POSTERIOR_VARIANCE = Transition(variance='posterior', clip=False)
# 128 normal numbers stay within 5 standard deviations but once in 10,000 runs.
_LIMIT = 5.0
# The default blur, in proportion to 8 pixels, would be none.
_TASK_PARAMETERS = {'gaussian_deblur': {'blur_size': 5, 'blur_std': 1.0}}


def _distances():
    rows, columns = np.divmod(np.arange(64), 8)
    offsets = np.stack([np.subtract.outer(v, v) for v in (rows, columns)])
    return np.sqrt((offsets**2).sum(axis=0))


def _gaussian_prior(level=0.1):
    """Smooth images: covariance that falls with the distance of two pixels."""
    covariance = 0.3**2 * (np.exp(-_distances() / 2) + 0.02 * np.eye(64))
    return gaussian.GaussianPrior.from_covariance(
        np.full(_SHAPE, level), covariance, _ALPHA_BAR
    )


def _measure(task, prior, noise_std=_NOISE_STD):
    key_x, key_operator, key_noise = jax.random.split(jax.random.key(1), 3)
    operator = operators.make_operator(
        task, key_operator, _SHAPE, **_TASK_PARAMETERS.get(task, {})
    )
    measured = problem.measure(
        key_noise, prior.sample(key_x), operator, noise_std
    )
    matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
    return measured, matrix


_EXACT = validation.ExactGuidance(transition=_POSTERIOR_VARIANCE)
_WITH_VARIANCE_OF_BETA = validation.ExactGuidance(
    transition=_POSTERIOR_VARIANCE.replace(variance='beta')
)


class ExactGuidanceTest(parameterized.TestCase):
    def deviation(self, task='gaussian_deblur', method=_EXACT, mutate=None):
        """Standard errors between the shipped scan and the known recursion."""
        prior = _gaussian_prior()
        measured, matrix = _measure(task, prior)
        posterior = gaussian.gaussian_posterior(
            prior, matrix, measured.y, _NOISE_STD
        )
        as_prior = gaussian.GaussianPrior.from_covariance(
            posterior.mean, posterior.covariance, _ALPHA_BAR
        )
        steps = schedule.reverse_steps(_ALPHA_BAR, 30)
        expected = validation.after_steps(posterior, steps)
        samples = validation.draw(
            jax.random.key(0),
            method,
            steps if mutate is None else mutate(steps),
            measured,
            prior,
            _NUM_SAMPLES,
            as_prior,
        )
        return validation.largest_deviation(samples, expected)

    @parameterized.parameters(
        'gaussian_deblur', 'box_inpainting', 'super_resolution', 'denoising'
    )
    def test_the_scan_has_the_moments_that_its_steps_must_have(self, task):
        self.assertLess(self.deviation(task), _LIMIT)

    def test_a_factor_of_two_in_beta_is_found(self):
        found = self.deviation(
            mutate=lambda steps: steps._replace(beta=2 * steps.beta)
        )
        self.assertGreater(found, 2 * _LIMIT)

    def test_a_wrong_variance_is_found(self):
        found = self.deviation(method=_WITH_VARIANCE_OF_BETA)
        self.assertGreater(found, 2 * _LIMIT)

    def test_steps_one_timestep_off_are_found(self):
        found = self.deviation(
            mutate=lambda steps: steps._replace(t=jnp.roll(steps.t, 1))
        )
        self.assertGreater(found, 2 * _LIMIT)

    def test_the_known_moments_reach_the_posterior_with_more_steps(self):
        prior = _gaussian_prior()
        measured, matrix = _measure('gaussian_deblur', prior)
        posterior = gaussian.gaussian_posterior(
            prior, matrix, measured.y, _NOISE_STD
        )
        size = np.linalg.norm(posterior.covariance)
        errors = []
        for num_steps in (10, 30, 100, 300, 1000):
            steps = schedule.reverse_steps(_ALPHA_BAR, num_steps)
            found = validation.after_steps(posterior, steps).covariance
            errors.append(np.linalg.norm(found - posterior.covariance) / size)
        self.assertTrue(np.all(np.diff(errors) < 0), errors)
        self.assertLess(errors[-1], 0.05)


@flax.struct.dataclass
class _NormOverTheBatch(problem.Problem):
    """A bug: the residual's norm is that of all lanes together."""

    def weighted_residual_norm(self, x):
        squares = jnp.sum(jnp.square(self.residual(x)))
        return jnp.sqrt(jax.lax.psum(squares, 'lanes'))


class BatchTest(absltest.TestCase):
    def difference(self, measured):
        """Between a lane of three and the same lane alone."""
        prior = _gaussian_prior()
        steps = schedule.reverse_steps(_ALPHA_BAR, 10)
        method = DPS(0.5, transition=Transition(clip=False))

        def one(key):
            return sampler.sample(key, steps, measured, prior, method)[0]

        draw = jax.jit(jax.vmap(one, axis_name='lanes'))
        keys = jax.random.split(jax.random.key(0), 3)
        return float(jnp.max(jnp.abs(draw(keys)[:1] - draw(keys[:1]))))

    def test_a_norm_over_the_batch_is_found(self):
        measured, _ = _measure('gaussian_deblur', _gaussian_prior())
        self.assertLess(self.difference(measured), 1e-5)
        mutant = _NormOverTheBatch(
            measured.y, measured.operator, measured.noise_std
        )
        self.assertGreater(self.difference(mutant), 1e-2)


class ErrorsTest(parameterized.TestCase):
    def posterior(self):
        prior = mixture.MixturePrior.from_components(
            np.array([0.5, 0.5]), [_gaussian_prior(-0.4), _gaussian_prior(0.4)]
        )
        measured, matrix = _measure('random_inpainting', prior, 1.0)
        return mixture.mixture_posterior(prior, matrix, measured.y, 1.0)

    def test_exact_samples_have_small_errors_and_others_their_own(self):
        posterior = self.posterior()
        rng = np.random.default_rng(0)
        samples = posterior.sample(rng, 4000)
        exact, standard_errors = validation.errors(samples, posterior, rng)
        # m and S of n samples: 1 / sqrt(n), and some times that over 64 x 64.
        self.assertLess(exact.mean, 5 / np.sqrt(4000))
        self.assertLess(exact.covariance, 0.15)
        self.assertLess(exact.sliced, 0.1)
        self.assertAlmostEqual(exact.spread, 1, delta=0.05)
        self.assertAlmostEqual(exact.tails, 1, delta=0.02)
        self.assertTrue(np.all(np.array(standard_errors) > 0))

        deviations = samples - posterior.mean
        narrow, _ = validation.errors(
            posterior.mean + 0.5 * deviations, posterior, rng
        )
        # Half as wide: a quarter of the covariance is left.
        self.assertAlmostEqual(narrow.spread, 0.5 * exact.spread)
        self.assertAlmostEqual(narrow.covariance, 0.75, delta=0.05)
        self.assertAlmostEqual(narrow.tails, 0.5, delta=0.01)
        size = np.sqrt(np.trace(posterior.covariance) / 64)
        shifted, _ = validation.errors(samples + 3 * size, posterior, rng)
        self.assertAlmostEqual(shifted.mean, 3, delta=0.1)
        self.assertGreater(shifted.sliced, 10 * exact.sliced)

    def test_tails_tell_heavy_ones_from_a_gaussian_of_the_same_moments(self):
        # Student-t with 3 degrees of freedom has the variance 3, and its 1 %
        # quantile is 4.541 (tables); a Gaussian of that variance has 2.326
        # sqrt(3) = 4.029.
        rng = np.random.default_rng(0)
        posterior = mock.Mock(mean=np.zeros((1, 4, 1)), covariance=np.eye(4))
        posterior.sample.return_value = rng.standard_t(3, (20000, 1, 4, 1))
        samples = np.sqrt(3) * rng.normal(size=(20000, 1, 4, 1))
        found, _ = validation.errors(samples, posterior, rng, num_bootstraps=0)
        self.assertAlmostEqual(found.tails, 4.029 / 4.541, delta=0.02)

    def test_the_sliced_distance_of_a_shift_is_its_length(self):
        # Two pixels of unit variance: along directions of unit length that
        # are even over the circle, a shift by (c, c) is one by c on average.
        samples = np.random.default_rng(0).normal(size=(500, 1, 2, 1))
        posterior = mock.Mock(mean=np.zeros((1, 2, 1)), covariance=np.eye(2))
        posterior.sample.return_value = samples
        found, _ = validation.errors(
            samples + 3, posterior, np.random.default_rng(1), num_bootstraps=0
        )
        # Of 128 squares, (cos + sin)^2, whose variance is a half.
        self.assertAlmostEqual(
            (found.sliced / 3) ** 2, 1, delta=4 * np.sqrt(0.5 / 128)
        )


if __name__ == '__main__':
    absltest.main()
