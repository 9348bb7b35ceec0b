"""The methods for few steps, against algebra on priors that are known."""

import jax
import numpy as np
import scipy.fft
import scipy.integrate
from absl.testing import absltest, parameterized

from invjax import (
    operators,
    problem,
    schedule,
    validation,
)
from invjax.diffusion import Transition
from invjax.methods import METHODS
from invjax.methods.wiener import image_variances
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
STEPS = schedule.reverse_steps(ALPHA_BAR, 6)
KEY = jax.random.key(0)
NOISE_STD = 0.1
# What runs a few times takes longer to optimise than to run.
QUICK = {'xla_backend_optimization_level': 0}


def make(name, **settings):
    """A method by its name, with flat settings."""
    return METHODS[name].of(settings)


def exact_guidance(posterior, transition):
    return validation.ExactGuidance(posterior, transition=transition)


def assumed_prior(shape):
    """The Gaussian prior that has the covariance which `wiener` assumes."""
    units = np.eye(np.prod(shape)).reshape(-1, *shape)
    vectors = scipy.fft.idctn(units, axes=(1, 2, 3), norm='ortho')
    vectors = vectors.reshape(len(units), -1).T
    return gaussian.GaussianPrior.from_eigenvectors(
        np.full(shape, 0.2), vectors, image_variances(shape).ravel(), ALPHA_BAR
    )


def wiener_unclipped(mix):
    return make('wiener', mix=mix, clip=False)


def problem_and_posterior(prior, task):
    shape = prior.mean.shape
    operator = operators.make_operator(task, KEY, shape)
    measured = problem.measure(KEY, prior.sample(KEY), operator, NOISE_STD)
    matrix = gaussian.dense_matrix(operator.forward, shape)
    posterior = gaussian.gaussian_posterior(
        prior, matrix, measured.y, NOISE_STD
    )
    return measured, posterior


def moments(posterior, steps, mix):
    """Mean and covariance after all steps from N(0, I), in float64.

    With z = E[x_0 | x_t, y] a step is affine in x_t, and in the eigenbasis of
    the posterior each coordinate's distance d_t from sqrt(alpha_bar_t) mu and
    its variance v_t go on as

        d_s = c d_t,   v_s = c^2 v_t + mix (1 - alpha_bar_s),
        c = sqrt(alpha_bar_s) g + kept (1 - sqrt(alpha_bar_t) g),
        kept^2 = (1 - mix) (1 - alpha_bar_s) / (1 - alpha_bar_t),

    where g = sqrt(alpha_bar_t) lambda / (alpha_bar_t lambda + 1 - alpha_bar_t).
    """
    eigenvalues, vectors = np.linalg.eigh(posterior.covariance)
    mean = vectors.T @ posterior.mean.ravel()
    signals = ALPHA_BAR[np.asarray(steps.t)]
    distance, variance = -np.sqrt(signals[0]) * mean, np.ones_like(mean)
    for a_t, a_s in zip(signals, np.append(signals[1:], 1.0), strict=True):
        gain = np.sqrt(a_t) * eigenvalues / (a_t * eigenvalues + 1 - a_t)
        kept = np.sqrt((1 - mix) * (1 - a_s) / (1 - a_t))
        factor = np.sqrt(a_s) * gain + kept * (1 - np.sqrt(a_t) * gain)
        distance = factor * distance
        variance = factor**2 * variance + mix * (1 - a_s)
    return validation.Moments(
        (vectors @ (mean + distance)).reshape(posterior.mean.shape),
        (vectors * variance) @ vectors.T,
    )


class ImageVariancesTest(absltest.TestCase):
    def test_a_frequency_has_the_same_power_at_every_size(self):
        # An orthonormal coefficient grows with the root of the pixels' number.
        small, large = (
            image_variances((side, side, 3)) / side**2 for side in (32, 64)
        )
        np.testing.assert_allclose(large[:32, :32], small, rtol=1e-12)

    def test_pixels_vary_as_much_as_those_of_faces(self):
        # 3,000 faces of 64 x 64, less their mean, have 0.68, 0.044 and 0.0067
        # in the three channels of the basis; a power law of three numbers is
        # not nearer than a fifth.
        totals = image_variances((64, 64, 3)).sum(axis=(0, 1)) / 64**2
        np.testing.assert_allclose(totals, [0.68, 0.044, 0.0067], rtol=0.2)

    def test_other_channels_than_three_have_variances_too(self):
        three = image_variances((4, 6, 3))
        for number in (1, 2, 5):
            found = image_variances((4, 6, number))
            self.assertEqual(found.shape, (4, 6, number))
            shared = min(number, 3)
            np.testing.assert_allclose(
                found[..., :shared] / number, three[..., :shared] / 3
            )
            self.assertGreater(found.min(), 0)


class ExactnessTest(parameterized.TestCase):
    @parameterized.parameters(
        'gaussian_deblur', 'box_inpainting', 'super_resolution', 'colorization'
    )
    def test_a_step_is_exact_for_the_prior_that_it_assumes(self, task):
        prior = assumed_prior((8, 8, 3))
        measured, posterior = problem_and_posterior(prior, task)
        exact = exact_guidance(
            gaussian.GaussianPrior.from_covariance(
                posterior.mean, posterior.covariance, ALPHA_BAR
            ),
            Transition(kind='ddim', clip=False),
        )
        tested = make('wiener', mix=0.0, clip=False)
        update, update_exactly = (
            jax.jit(
                lambda x_t, step, update=method.update: update(
                    KEY, x_t, (), step, measured, prior
                )[0],
                compiler_options=QUICK,
            )
            for method in (tested, exact)
        )
        x_t = jax.random.normal(KEY, prior.mean.shape)
        for row in range(len(STEPS.t)):
            step = schedule.Steps(*(field[row] for field in STEPS))
            # Conjugate gradients end after 30 steps, near but not at the mean.
            np.testing.assert_allclose(
                update(x_t, step), update_exactly(x_t, step), atol=0.01
            )

    @parameterized.parameters(0.0, 0.5, 1.0)
    def test_samples_have_the_moments_that_algebra_gives(self, mix):
        prior = assumed_prior((4, 4, 1))
        measured, posterior = problem_and_posterior(prior, 'random_inpainting')
        samples = validation.draw(
            KEY,
            wiener_unclipped,
            (mix,),
            STEPS,
            measured,
            prior,
            2000,
        )
        # 16 means and 16 variances.
        self.assertLess(
            validation.largest_deviation(
                samples, moments(posterior, STEPS, mix)
            ),
            4,
        )

    def test_without_fresh_noise_many_steps_sample_the_posterior(self):
        # By algebra alone: the test above says that samples keep to it.
        prior = assumed_prior((4, 4, 1))
        _, posterior = problem_and_posterior(prior, 'random_inpainting')
        errors = [
            np.abs(
                moments(
                    posterior, schedule.reverse_steps(ALPHA_BAR, number), 0.0
                ).covariance
                - posterior.covariance
            ).max()
            for number in (100, 1000)
        ]
        self.assertLess(errors[1], 0.2 * errors[0])
        self.assertLess(errors[1], 0.01 * posterior.covariance.max())

    def test_another_spread_is_not_exact(self):
        prior = assumed_prior((8, 8, 1))
        measured, _ = problem_and_posterior(prior, 'box_inpainting')
        step = schedule.Steps(*(field[1] for field in STEPS))
        x_t = jax.random.normal(KEY, prior.mean.shape)
        one, half = (
            make('wiener', spread=spread).update(
                KEY, x_t, (), step, measured, prior
            )[0]
            for spread in (1.0, 0.5)
        )
        self.assertGreater(np.abs(one - half).max(), 0.02)


class ConjugateTest(parameterized.TestCase):
    """`c_pigdm` against its flow, integrated numerically by dense algebra."""

    @parameterized.product(
        task=(
            'gaussian_deblur',
            'box_inpainting',
            'super_resolution',
            'colorization',
        ),
        noise_std=(0.0, 0.3),
    )
    def test_a_step_follows_the_flow(self, task, noise_std):
        shape = (8, 8, 3)
        prior = assumed_prior(shape)
        operator = operators.make_operator(task, KEY, shape)
        measured = problem.measure(KEY, prior.sample(KEY), operator, noise_std)
        left, singular, right = np.linalg.svd(
            gaussian.dense_matrix(operator.forward, shape), full_matrices=False
        )
        # As `Spectrum.significant` leaves them out.
        singular[singular < 0.03 * singular[0]] = 0
        matrix = (left * singular) @ right
        update = jax.jit(
            lambda x_t, step: make('c_pigdm', strength=3.0, clip=False).update(
                KEY, x_t, (), step, measured, prior
            )[0],
            compiler_options=QUICK,
        )
        x_t = jax.random.normal(KEY, shape)
        for row in (1, 3, 5):
            step = schedule.Steps(*(field[row] for field in STEPS))
            expected = follow_flow(
                np.float64(x_t), step, prior, matrix, measured, 3.0
            )
            np.testing.assert_allclose(
                update(x_t, step), expected, rtol=1e-4, atol=3e-4
            )

    def test_at_strength_zero_it_is_the_prior_alone_by_ddim(self):
        prior = assumed_prior((8, 8, 1))
        measured, _ = problem_and_posterior(prior, 'box_inpainting')
        x_t = jax.random.normal(KEY, prior.mean.shape)
        for clip in (True, False):
            alone, guided = (
                make(name, clip=clip, **settings)
                for name, settings in (
                    ('unconditional', {'transition': 'ddim'}),
                    ('c_pigdm', {'strength': 0.0}),
                )
            )
            for row in range(len(STEPS.t)):
                step = schedule.Steps(*(field[row] for field in STEPS))
                x_s, expected = (
                    method.update(KEY, x_t, (), step, measured, prior)[0]
                    for method in (guided, alone)
                )
                np.testing.assert_allclose(x_s, expected, atol=1e-5)


def follow_flow(x_t, step, prior, matrix, measured, strength):
    """x_s by Runge and Kutta: eps and its pass back are held over the step."""
    a_t, a_s = float(step.alpha_bar_t), float(step.alpha_bar_s)
    sigma_t, sigma_s = (
        np.sqrt(float(v) / a)
        for v, a in ((step.noise_var_t, a_t), (step.noise_var_s, a_s))
    )
    mean = prior.mean.ravel()
    covariance = prior.covariance()
    u = x_t.ravel() / np.sqrt(a_t)
    # x_0 | u is normal: E[x_0 | u] = mean + wiener (u - mean).
    slope = covariance @ np.linalg.inv(
        covariance + sigma_t**2 * np.eye(len(mean))
    )
    x0_hat = mean + slope @ (u - mean)
    eps = (u - x0_hat) / sigma_t
    eps_slope = (np.eye(len(mean)) - slope) / sigma_t
    y = np.float64(measured.y).ravel()
    noise_var = float(measured.noise_std) ** 2

    def pull(sigma, x_0):
        """r^2 A^T (r^2 A A^T + noise_std^2 I)^+ (y - A x_0)."""
        r_squared = sigma**2 / (1 + sigma**2)
        inner = r_squared * matrix @ matrix.T + noise_var * np.eye(len(y))
        inverse = np.linalg.pinv(inner, rcond=1e-6, hermitian=True)
        return r_squared * matrix.T @ (inverse @ (y - matrix @ x_0))

    j = eps_slope.T @ pull(sigma_t, x0_hat)

    def velocity(sigma, u):
        weight = strength * sigma / (1 + sigma**2)
        return eps - weight * pull(sigma, u - sigma * eps) + weight * sigma * j

    end = max(sigma_s, 1e-6)
    solved = scipy.integrate.solve_ivp(
        velocity, (sigma_t, end), u, rtol=1e-7, atol=1e-9
    )
    return (np.sqrt(a_s) * solved.y[:, -1]).reshape(x_t.shape)


if __name__ == '__main__':
    absltest.main()
