"""Gaussian priors and posteriors against dense algebra done another way."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import diffusion, schedule
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas(1000))
SHAPE = (4, 4, 2)
SIZE = 32
TIMES = (0, 1, 50, 300, 999)
EPS_TOLERANCE = 2e-6  # Some ten roundings of a float32 number of size 1.


def random_mean(seed=0):
    return np.random.default_rng(seed).uniform(-0.5, 0.5, SHAPE)


def random_covariance(seed=1, least=1e-3):
    """A covariance with eigenvalues from `least` to 1, in random directions."""
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    return (vectors * np.geomspace(least, 1, SIZE)) @ vectors.T


def smooth_kernel():
    """The periodic kernel exp(-distance^2 / 2), its channels of two sizes."""
    offsets = np.minimum(np.arange(4), 4 - np.arange(4))
    square = offsets[:, None] ** 2 + offsets**2
    # On a torus this short the bell is not quite a covariance; a little white
    # noise makes it one.
    kernel = np.exp(-square / 2) + 0.2 * (square == 0)
    return kernel[:, :, None] * np.array([0.3, 0.1])


def circulant_covariance(kernel):
    """The covariance of a kernel, entry by entry from its definition."""
    height, width, channels = kernel.shape
    covariance = np.zeros(2 * kernel.shape)
    for i, j, k, l in np.ndindex(height, width, height, width):  # noqa: E741
        for c in range(channels):
            covariance[i, j, c, k, l, c] = kernel[
                (i - k) % height, (j - l) % width, c
            ]
    return covariance.reshape(kernel.size, kernel.size)


def dense_prior():
    return gaussian.GaussianPrior.from_covariance(
        random_mean(), random_covariance(), ALPHA_BAR
    )


def stationary_prior():
    return gaussian.StationaryGaussianPrior.from_kernel(
        random_mean(), smooth_kernel(), ALPHA_BAR
    )


LOW_RANK_VALUES = np.array([1.0, 0.5, 0.3, 0.2, 0.1])


def low_rank_vectors():
    rng = np.random.default_rng(3)
    return np.linalg.qr(rng.normal(size=(SIZE, 5)))[0]


def low_rank_prior():
    return gaussian.GaussianPrior.from_eigenvectors(
        random_mean(), low_rank_vectors(), LOW_RANK_VALUES, ALPHA_BAR, 0.01
    )


def low_rank_covariance():
    vectors = low_rank_vectors()
    return (
        0.01 * np.eye(SIZE) + (vectors * (LOW_RANK_VALUES - 0.01)) @ vectors.T
    )


def isotropic_prior():
    return gaussian.GaussianPrior.isotropic(random_mean(), 0.2, ALPHA_BAR)


def isotropic_covariance():
    return 0.2 * np.eye(SIZE)


def stationary_covariance():
    return circulant_covariance(smooth_kernel())


PRIORS = {
    'dense': (dense_prior, random_covariance),
    'low_rank': (low_rank_prior, low_rank_covariance),
    'isotropic': (isotropic_prior, isotropic_covariance),
    'stationary': (stationary_prior, stationary_covariance),
}
each_prior = parameterized.named_parameters(
    (name, make_prior) for name, (make_prior, _) in PRIORS.items()
)
each_prior_and_covariance = parameterized.named_parameters(
    (name, *makers) for name, makers in PRIORS.items()
)


@jax.jit
def draw(prior, key):
    return prior.sample(key)


@jax.jit
def predict(prior, x_t, t):
    return prior(x_t, t).eps, prior.log_density(x_t, t)


@jax.jit
def normal_log_density_and_score(x, mean, covariance):
    return jax.value_and_grad(jax.scipy.stats.multivariate_normal.logpdf)(
        x, mean, covariance
    )


def noisy_image(prior, t, seed=4):
    """A draw of x_t, as a sampler meets it."""
    x_0 = np.asarray(draw(prior, jax.random.key(seed)))
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    return np.float32(
        np.sqrt(ALPHA_BAR[t]) * x_0 + np.sqrt(1 - ALPHA_BAR[t]) * noise
    )


def conditional(mean, covariance, matrix, value, noise_covariance):
    """Mean and covariance of x given value = matrix x + noise: Kalman's form."""
    cross = covariance @ matrix.T
    gain = cross @ np.linalg.inv(matrix @ cross + noise_covariance)
    return mean + gain @ (value - matrix @ mean), covariance - gain @ cross.T


def random_problem(prior, noise_std, num_rows=10, seed=5):
    """A random matrix and a measurement by it of a draw from the prior."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(num_rows, SIZE)) / np.sqrt(SIZE)
    x_0 = np.float64(draw(prior, jax.random.key(seed)))
    noise = rng.normal(size=num_rows)
    return matrix, matrix @ x_0.ravel() + noise_std * noise


class GaussianPriorTest(parameterized.TestCase):
    @each_prior_and_covariance
    def test_tweedie_with_its_eps_is_the_conditional_mean(
        self, make_prior, make_covariance
    ):
        prior, covariance = make_prior(), make_covariance()
        for t in TIMES:
            x_t = noisy_image(prior, t)
            eps, _ = predict(prior, x_t, t)
            x0_hat = diffusion.tweedie(x_t, eps, ALPHA_BAR[t])
            mean, _ = conditional(
                np.float64(prior.mean).ravel(),
                covariance,
                np.sqrt(ALPHA_BAR[t]) * np.eye(SIZE),
                np.float64(x_t).ravel(),
                (1 - ALPHA_BAR[t]) * np.eye(SIZE),
            )
            # At t = T - 1 Tweedie's formula itself divides float32 rounding
            # errors by sqrt(alpha_bar_t) = 0.006.
            np.testing.assert_allclose(
                x0_hat.ravel(), mean, atol=2e-6 / np.sqrt(ALPHA_BAR[t])
            )

    @each_prior_and_covariance
    def test_eps_is_the_scaled_gradient_of_the_log_density(
        self, make_prior, make_covariance
    ):
        prior, covariance = make_prior(), make_covariance()
        for t in TIMES:
            x_t = noisy_image(prior, t)
            with jax.enable_x64(True):
                expected_log_density, score = normal_log_density_and_score(
                    np.float64(x_t).ravel(),
                    np.sqrt(ALPHA_BAR[t]) * np.float64(prior.mean).ravel(),
                    ALPHA_BAR[t] * covariance
                    + (1 - ALPHA_BAR[t]) * np.eye(SIZE),
                )
            eps, log_density = predict(prior, x_t, t)
            np.testing.assert_allclose(
                eps.ravel(),
                diffusion.eps_from_score(np.asarray(score), ALPHA_BAR[t]),
                atol=EPS_TOLERANCE,
            )
            np.testing.assert_allclose(
                log_density, expected_log_density, atol=2e-5
            )

    def test_narrow_directions_keep_their_digits_beside_wide_ones(self):
        covariance = random_covariance(least=1e-6)
        prior = gaussian.GaussianPrior.from_covariance(
            random_mean(), covariance, ALPHA_BAR
        )
        # At t = 0 rounding, 1e-7 of the widest, is divided by a std of 0.01.
        for t in TIMES:
            x_t = noisy_image(prior, t)
            eps = np.sqrt(1 - ALPHA_BAR[t]) * np.linalg.solve(
                ALPHA_BAR[t] * covariance + (1 - ALPHA_BAR[t]) * np.eye(SIZE),
                np.ravel(x_t - np.sqrt(ALPHA_BAR[t]) * np.float64(prior.mean)),
            )
            np.testing.assert_allclose(
                predict(prior, x_t, t)[0].ravel(), eps, atol=1e-5
            )

    def test_the_stationary_prior_is_the_dense_one_of_its_circulant(self):
        stationary = stationary_prior()
        covariance = stationary_covariance()
        dense = gaussian.GaussianPrior.from_covariance(
            stationary.mean, covariance, ALPHA_BAR
        )
        for t in TIMES:
            x_t = noisy_image(dense, t)
            eps, log_density = predict(stationary, x_t, t)
            dense_eps, dense_log_density = predict(dense, x_t, t)
            np.testing.assert_allclose(eps, dense_eps, atol=EPS_TOLERANCE)
            np.testing.assert_allclose(
                log_density, dense_log_density, atol=2e-5
            )

    @each_prior_and_covariance
    def test_its_covariance_is_the_one_it_was_made_from(
        self, make_prior, make_covariance
    ):
        np.testing.assert_allclose(
            make_prior().covariance(), make_covariance(), atol=2e-7
        )

    @parameterized.parameters(dense_prior, stationary_prior)
    def test_its_schedule_keeps_its_digits_for_the_steps(self, make_prior):
        steps = schedule.reverse_steps(make_prior().alpha_bar, 100)
        expected = schedule.reverse_steps(ALPHA_BAR, 100)
        jax.tree.map(np.testing.assert_array_equal, steps, expected)

    def test_one_kernel_serves_all_channels(self):
        kernel = smooth_kernel()[:, :, 0]
        one = gaussian.StationaryGaussianPrior.from_kernel(
            random_mean(), kernel, ALPHA_BAR
        )
        each = gaussian.StationaryGaussianPrior.from_kernel(
            random_mean(), np.stack([kernel, kernel], -1), ALPHA_BAR
        )
        np.testing.assert_array_equal(one.spectrum, each.spectrum)

    @each_prior
    def test_samples_have_the_mean_and_covariance(self, make_prior):
        prior = make_prior()
        num_samples = 2000
        samples = np.float64(
            [draw(prior, jax.random.key(seed)) for seed in range(num_samples)]
        )
        samples = samples.reshape(num_samples, SIZE)
        covariance = prior.covariance()
        # Entry (i, j) of a sample covariance has variance
        # (S_ii S_jj + S_ij^2) / n. The 1024 entries stay within 5 errors.
        variances = np.diag(covariance)
        error = np.sqrt(
            (np.outer(variances, variances) + covariance**2) / num_samples
        )
        self.assertLess(
            np.max(np.abs(np.cov(samples.T) - covariance) / error), 5
        )
        deviation = samples.mean(0) - np.float64(prior.mean).ravel()
        self.assertLess(
            np.max(np.abs(deviation) / np.sqrt(variances / num_samples)), 5
        )

    @each_prior
    def test_a_batch_of_images_and_times_is_each_of_them_alone(
        self, make_prior
    ):
        prior = make_prior()
        times = np.array([0, 500, 999])
        images = np.stack([noisy_image(prior, t) for t in times])
        batch_eps, _ = jax.vmap(predict, (None, 0, 0))(prior, images, times)
        for eps, x_t, t in zip(batch_eps, images, times, strict=True):
            np.testing.assert_allclose(
                eps, predict(prior, x_t, t)[0], atol=EPS_TOLERANCE
            )

    def test_a_new_covariance_does_not_retrace(self):
        num_traces = 0

        @jax.jit
        def counted_eps(prior, x_t, t):
            nonlocal num_traces
            num_traces += 1
            return prior(x_t, t).eps

        for seed in (1, 2):
            prior = gaussian.GaussianPrior.from_covariance(
                random_mean(), random_covariance(seed), ALPHA_BAR
            )
            counted_eps(prior, noisy_image(prior, 10), 10)
        self.assertEqual(num_traces, 1)

    def test_a_float_timestep_is_the_integer_it_stands_for(self):
        prior = stationary_prior()
        x_t = noisy_image(prior, 17)
        np.testing.assert_array_equal(
            predict(prior, x_t, 17.0)[0], predict(prior, x_t, 17)[0]
        )

    def test_a_singular_prior_gives_back_its_mean(self):
        # All noise, no image: eps = (x_t - sqrt(alpha_bar) mu) / std.
        prior = gaussian.GaussianPrior.from_covariance(
            random_mean(), np.zeros((SIZE, SIZE)), ALPHA_BAR
        )
        for t in TIMES:
            x_t = noisy_image(prior, t)
            eps, _ = predict(prior, x_t, t)
            x0_hat = diffusion.tweedie(x_t, eps, ALPHA_BAR[t])
            np.testing.assert_allclose(
                x0_hat, prior.mean, atol=2e-6 / np.sqrt(ALPHA_BAR[t])
            )

    def test_wrong_covariances_are_refused_in_a_sentence(self):
        mean, good = random_mean(), random_covariance()
        make = gaussian.GaussianPrior.from_covariance
        with self.assertRaisesRegex(ValueError, r'\(D, D\) with D = 32'):
            make(mean, good[:5, :5], ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, 'symmetric'):
            make(mean, np.triu(good), ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, 'no negative eigenvalues'):
            make(mean, good - 0.1 * np.eye(SIZE), ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, r'mean must be \(H, W, C\)'):
            make(mean.ravel(), good, ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, 'alpha_bar must be'):
            make(mean, good, np.linspace(1, 0, 10))

    def test_wrong_eigenvectors_are_refused_in_a_sentence(self):
        make = gaussian.GaussianPrior.from_eigenvectors
        identity = np.eye(SIZE)
        with self.assertRaisesRegex(ValueError, 'orthonormal'):
            make(random_mean(), 2 * identity, np.ones(SIZE), ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, r'must be \(D, R\)'):
            make(random_mean(), identity, np.ones(3), ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, 'not be negative'):
            make(random_mean(), identity, -np.ones(SIZE), ALPHA_BAR)

    def test_wrong_kernels_are_refused_in_a_sentence(self):
        make = gaussian.StationaryGaussianPrior.from_kernel
        negative = np.zeros((4, 4))
        # Its lowest eigenvalue is 1 - 4 * 0.4 < 0.
        negative[0, 0] = 1
        negative[[0, 0, 1, 3], [1, 3, 0, 0]] = 0.4
        with self.assertRaisesRegex(ValueError, 'no negative eigenvalues'):
            make(random_mean(), negative, ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, 'must be even'):
            make(random_mean(), np.roll(negative, 1, 0), ALPHA_BAR)
        with self.assertRaisesRegex(ValueError, r'got \(5, 5\)'):
            make(random_mean(), np.eye(5), ALPHA_BAR)


class GaussianPosteriorTest(parameterized.TestCase):
    @each_prior
    def test_it_satisfies_the_information_form(self, make_prior):
        # Precisions add: posterior precision = Sigma^-1 + A^T A / noise_std^2.
        prior = make_prior()
        for noise_std in (0.01, 0.3):
            matrix, y = random_problem(prior, noise_std)
            posterior = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
            prior_precision = np.linalg.inv(prior.covariance())
            covariance = np.linalg.inv(
                prior_precision + matrix.T @ matrix / noise_std**2
            )
            mean = covariance @ (
                prior_precision @ np.float64(prior.mean).ravel()
                + matrix.T @ y / noise_std**2
            )
            # The prior's float32 eigenvectors square to its covariance only
            # within float32 rounding.
            np.testing.assert_allclose(
                posterior.covariance, covariance, atol=1e-6
            )
            np.testing.assert_allclose(posterior.mean.ravel(), mean, atol=1e-4)

    @each_prior
    def test_it_satisfies_kalmans_form(self, make_prior):
        prior = make_prior()
        for num_rows, noise_std in ((10, 0.05), (40, 0.05), (10, 0.0)):
            matrix, y = random_problem(prior, noise_std, num_rows)
            posterior = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
            mean, covariance = conditional(
                np.float64(prior.mean).ravel(),
                prior.covariance(),
                matrix,
                y,
                noise_std**2 * np.eye(num_rows),
            )
            np.testing.assert_allclose(posterior.mean.ravel(), mean, atol=1e-4)
            np.testing.assert_allclose(
                posterior.covariance, covariance, atol=1e-6
            )

    def test_two_pixels_agree_with_a_sum_over_a_grid(self):
        covariance = np.array([[0.3, 0.2], [0.2, 0.4]])
        prior = gaussian.GaussianPrior.from_covariance(
            np.full((1, 2, 1), 0.1), covariance, ALPHA_BAR
        )
        matrix, y, noise_std = np.array([[1.0, -0.5]]), 0.7, 0.2
        posterior = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
        axis = np.linspace(-5, 5, 501)
        grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1)
        grid = grid.reshape(-1, 2)
        deviation = grid - 0.1
        energy = np.sum(deviation @ np.linalg.inv(covariance) * deviation, -1)
        energy += ((y - grid @ matrix[0]) / noise_std) ** 2
        weights = np.exp(-energy / 2)
        weights /= weights.sum()
        mean = weights @ grid
        centred = grid - mean
        np.testing.assert_allclose(posterior.mean.ravel(), mean, atol=1e-6)
        np.testing.assert_allclose(
            posterior.covariance, (centred.T * weights) @ centred, atol=1e-6
        )

    def test_without_noise_every_sample_measures_to_y(self):
        prior = stationary_prior()
        matrix, y = random_problem(prior, 0.0)
        # A repeated row leaves A Sigma A^T singular.
        matrix, y = np.append(matrix, matrix[:1], 0), np.append(y, y[0])
        posterior = gaussian.gaussian_posterior(prior, matrix, y, 0.0)
        samples = posterior.sample(np.random.default_rng(0), 20)
        np.testing.assert_allclose(
            samples.reshape(20, SIZE) @ matrix.T, np.tile(y, (20, 1)), atol=1e-9
        )
        self.assertEqual(np.linalg.matrix_rank(posterior.covariance), SIZE - 10)

    def test_a_measurement_of_nothing_leaves_the_prior(self):
        prior = dense_prior()
        for noise_std in (0.0, 0.1):
            posterior = gaussian.gaussian_posterior(
                prior, np.zeros((3, SIZE)), np.ones(3), noise_std
            )
            np.testing.assert_allclose(posterior.mean, prior.mean, atol=1e-9)
            np.testing.assert_allclose(
                posterior.covariance, prior.covariance(), atol=1e-6
            )

    def test_samples_have_the_posterior_mean_and_covariance(self):
        prior = dense_prior()
        matrix, y = random_problem(prior, 0.05)
        posterior = gaussian.gaussian_posterior(prior, matrix, y, 0.05)
        num_samples = 20_000
        samples = posterior.sample(np.random.default_rng(1), num_samples)
        self.assertEqual(samples.shape, (num_samples, *SHAPE))
        samples = samples.reshape(num_samples, SIZE)
        covariance = posterior.covariance
        variances = np.diag(covariance)
        error = np.sqrt(
            (np.outer(variances, variances) + covariance**2) / num_samples
        )
        self.assertLess(
            np.max(np.abs(np.cov(samples.T) - covariance) / error), 5
        )
        deviation = samples.mean(0) - posterior.mean.ravel()
        self.assertLess(
            np.max(np.abs(deviation) / np.sqrt(variances / num_samples)), 5
        )

    def test_wrong_problems_are_refused_in_a_sentence(self):
        prior = dense_prior()
        matrix, y = random_problem(prior, 0.1)
        posterior = gaussian.gaussian_posterior
        with self.assertRaisesRegex(ValueError, 'not be negative, got -1'):
            posterior(prior, matrix, y, -1)
        with self.assertRaisesRegex(ValueError, r'\(M, D\) with D = 32'):
            posterior(prior, matrix.T, y, 0.1)
        with self.assertRaisesRegex(ValueError, 'y must have 10 numbers'):
            posterior(prior, matrix, y[:3], 0.1)


@jax.jit
def measurement_score(x_t, y, matrix, mean, slope, covariance):
    """grad_{x_t} log N(y; matrix (mean + slope x_t), covariance)."""

    def log_density(x_t):
        return jax.scipy.stats.multivariate_normal.logpdf(
            y, matrix @ (mean + slope @ x_t), covariance
        )

    return jax.grad(log_density)(x_t)


def direct_likelihood_score(x_t, y, prior, matrix, noise_std, t):
    """The score by the mean x0_hat and covariance C_t of x_0 given x_t."""
    alpha_bar_t, noise_var_t = ALPHA_BAR[t], 1 - ALPHA_BAR[t]
    covariance = prior.covariance()
    mean = np.float64(prior.mean).ravel()
    inverse = np.linalg.inv(
        alpha_bar_t * covariance + noise_var_t * np.eye(SIZE)
    )
    slope = np.sqrt(alpha_bar_t) * covariance @ inverse
    c_t = noise_var_t * covariance @ inverse
    with jax.enable_x64(True):
        score = measurement_score(
            np.float64(x_t).ravel(),
            y,
            matrix,
            mean - slope @ (np.sqrt(alpha_bar_t) * mean),
            slope,
            matrix @ c_t @ matrix.T + noise_std**2 * np.eye(len(matrix)),
        )
    return np.asarray(score)


class GaussianLikelihoodTest(parameterized.TestCase):
    @each_prior
    def test_its_score_is_the_gradient_of_the_log_likelihood(self, make_prior):
        prior = make_prior()
        for noise_std in (0.01, 0.1):
            matrix, y = random_problem(prior, noise_std)
            likelihood = gaussian.GaussianLikelihood.from_matrix(
                prior, matrix, noise_std
            )
            score = jax.jit(likelihood.score)
            for t in TIMES:
                x_t = noisy_image(prior, t)
                expected = direct_likelihood_score(
                    x_t, y, prior, matrix, noise_std, t
                )
                # In units of eps, where the prior's own score is about 1.
                std = np.sqrt(1 - ALPHA_BAR[t])
                np.testing.assert_allclose(
                    std * score(x_t, t, jnp.float32(y)).ravel(),
                    std * expected,
                    atol=1e-4,
                    rtol=1e-4,
                )

    @each_prior
    def test_what_is_given_y_is_the_posterior(self, make_prior):
        prior = make_prior()
        for noise_std in (0.0, 0.1):
            matrix, y = random_problem(prior, noise_std)
            given = gaussian.GaussianLikelihood.from_matrix(
                prior, matrix, noise_std
            ).given(jnp.float32(y))
            posterior = gaussian.gaussian_posterior(prior, matrix, y, noise_std)
            np.testing.assert_allclose(given.mean, posterior.mean, atol=1e-5)
            np.testing.assert_allclose(
                given.covariance(), posterior.covariance, atol=1e-6
            )

    def test_it_maps_over_measurements(self):
        prior = dense_prior()
        matrix, y = random_problem(prior, 0.1)
        likelihood = gaussian.GaussianLikelihood.from_matrix(prior, matrix, 0.1)
        x_t = noisy_image(prior, 100)
        measurements = jnp.stack([jnp.float32(y), jnp.zeros(len(y))])
        score = jax.jit(likelihood.score)
        scores = jax.vmap(score, (None, None, 0))(x_t, 100, measurements)
        for found, measurement in zip(scores, measurements, strict=True):
            np.testing.assert_allclose(
                found, score(x_t, 100, measurement), atol=1e-3
            )


class DenseMatrixTest(absltest.TestCase):
    def test_it_maps_images_as_the_operator_does(self):
        def row_means(x):
            return jnp.roll(x, 1, axis=0).mean(axis=1)

        matrix = gaussian.dense_matrix(row_means, SHAPE)
        self.assertEqual(matrix.shape, (8, SIZE))
        self.assertEqual(matrix.dtype, np.float64)
        x = random_mean()
        np.testing.assert_allclose(
            matrix @ x.ravel(), np.roll(x, 1, 0).mean(1).ravel(), atol=1e-7
        )

    def test_an_operator_that_is_not_linear_is_refused(self):
        for forward in (jnp.abs, lambda x: x + 1, lambda x: x / jnp.sum(x * 0)):
            with self.assertRaisesRegex(ValueError, 'must be linear'):
                gaussian.dense_matrix(forward, SHAPE)


if __name__ == '__main__':
    absltest.main()
