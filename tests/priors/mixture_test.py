"""Mixture priors and posteriors against dense algebra and sums over grids."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import diffusion, schedule
from invjax.priors import gaussian, mixture

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas(1000))
SHAPE = (4, 4, 1)
SIZE = 16
WEIGHTS = np.array([0.2, 0.5, 0.3])
TIMES = (0, 1, 50, 300, 999)
EPS_TOLERANCE = 2e-6  # Some ten roundings of a float32 number of size 1.


def random_means():
    means = np.random.default_rng(0).uniform(-0.5, 0.5, (3, *SHAPE))
    return np.float32(means)


def random_covariance(seed):
    rng = np.random.default_rng(seed)
    vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
    return (vectors * np.geomspace(1e-3, 1, SIZE)) @ vectors.T


def dense_covariances():
    return np.stack([random_covariance(seed) for seed in range(3)])


def dense_mixture():
    return mixture.MixturePrior.from_covariances(
        WEIGHTS, random_means(), dense_covariances(), ALPHA_BAR
    )


VARIANCES = np.array([0.0, 0.01, 0.2])


def isotropic_mixture():
    return mixture.MixturePrior.isotropic(
        WEIGHTS, random_means(), VARIANCES, ALPHA_BAR
    )


def isotropic_covariances():
    return VARIANCES[:, None, None] * np.eye(SIZE)


STATIONARY_VARIANCES = np.array([0.01, 0.1, 0.4])


def neighbour_kernel():
    """1 at the pixel, 0.2 at its neighbours: eigenvalues from 0.2 to 1.8."""
    kernel = np.zeros((4, 4))
    kernel[0, 0] = 1
    kernel[[0, 0, 1, 3], [1, 3, 0, 0]] = 0.2
    return kernel


def stationary_mixture():
    return mixture.MixturePrior.from_components(
        WEIGHTS,
        [
            gaussian.StationaryGaussianPrior.from_kernel(
                mean, variance * neighbour_kernel(), ALPHA_BAR
            )
            for mean, variance in zip(
                random_means(), STATIONARY_VARIANCES, strict=True
            )
        ],
    )


def stationary_covariances():
    # Row (i, j) of a circulant matrix is the kernel, rolled to (i, j).
    rows = [
        np.roll(neighbour_kernel(), place, axis=(0, 1)).ravel()
        for place in np.ndindex(4, 4)
    ]
    return STATIONARY_VARIANCES[:, None, None] * np.stack(rows)


PRIORS = {
    'dense': (dense_mixture, dense_covariances),
    'isotropic': (isotropic_mixture, isotropic_covariances),
    'stationary': (stationary_mixture, stationary_covariances),
}
each_prior = parameterized.named_parameters(
    (name, make_prior) for name, (make_prior, _) in PRIORS.items()
)
each_prior_and_covariances = parameterized.named_parameters(
    (name, *makers) for name, makers in PRIORS.items()
)


@jax.jit
def draw(prior, key):
    return prior.sample(key)


@jax.jit
def predict(prior, x_t, t):
    return prior(x_t, t).eps, prior.log_density(x_t, t)


def noisy_image(prior, t, seed=0):
    """A draw of x_t, as a sampler meets it."""
    x_0 = np.asarray(draw(prior, jax.random.key(seed)))
    noise = np.random.default_rng(seed).normal(size=SHAPE)
    return np.float32(
        np.sqrt(ALPHA_BAR[t]) * x_0 + np.sqrt(1 - ALPHA_BAR[t]) * noise
    )


@jax.jit
def mixture_log_density_and_score(x, means, covariances):
    def log_density(x):
        log_densities = jax.vmap(
            jax.scipy.stats.multivariate_normal.logpdf, in_axes=(None, 0, 0)
        )(x, means, covariances)
        return jax.nn.logsumexp(log_densities, b=WEIGHTS)

    return jax.value_and_grad(log_density)(x)


def two_pixel_mixture():
    """Three components of one 1 x 2 image, overlapping on purpose."""
    means = np.array([[-0.6, 0.2], [0.5, 0.4], [0.1, -0.7]])
    covariances = np.array(
        [
            [[0.10, 0.05], [0.05, 0.10]],
            [[0.05, 0.00], [0.00, 0.20]],
            [[0.15, -0.1], [-0.1, 0.15]],
        ]
    )
    prior = mixture.MixturePrior.from_covariances(
        WEIGHTS, means.reshape(3, 1, 2, 1), covariances, ALPHA_BAR
    )
    return prior, means, covariances


def two_pixel_grid(means, covariances):
    """Points (N, 2) on a grid, and the prior's density there (N,)."""
    axis = np.linspace(-4, 4, 801)
    grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1).reshape(-1, 2)
    density = np.zeros(len(grid))
    for weight, mean, covariance in zip(
        WEIGHTS, means, covariances, strict=True
    ):
        deviation = grid - mean
        energy = np.sum(
            deviation @ np.linalg.inv(covariance) * deviation, axis=-1
        )
        height = weight / np.sqrt(np.linalg.det(covariance))
        density += height * np.exp(-energy / 2)
    return grid, density


class MixturePriorTest(parameterized.TestCase):
    @each_prior_and_covariances
    def test_eps_is_the_scaled_gradient_of_the_log_density(
        self, make_prior, make_covariances
    ):
        prior, covariances = make_prior(), make_covariances()
        means = np.float64(random_means()).reshape(3, SIZE)
        for t in TIMES:
            for seed in range(3):
                x_t = noisy_image(prior, t, seed)
                with jax.enable_x64(True):
                    expected_log_density, score = mixture_log_density_and_score(
                        np.float64(x_t).ravel(),
                        np.sqrt(ALPHA_BAR[t]) * means,
                        ALPHA_BAR[t] * covariances
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

    def test_tweedie_with_its_eps_is_the_mean_over_a_grid(self):
        prior, means, covariances = two_pixel_mixture()
        grid, density = two_pixel_grid(means, covariances)
        for t in (100, 300, 600):
            for x_t in ([0.3, 0.2], [-0.5, -0.5], [1.5, 0.0]):
                alpha_bar_t = ALPHA_BAR[t]
                deviation = np.array(x_t) - np.sqrt(alpha_bar_t) * grid
                energy = np.sum(deviation**2, -1) / (1 - alpha_bar_t)
                weights = density * np.exp(-energy / 2)
                image = jnp.array(x_t).reshape(1, 2, 1)
                eps, _ = predict(prior, image, t)
                x0_hat = diffusion.tweedie(image, eps, alpha_bar_t)
                np.testing.assert_allclose(
                    x0_hat.ravel(), weights @ grid / weights.sum(), atol=1e-5
                )

    def test_one_component_is_the_gaussian(self):
        mean, covariance = random_means()[0], random_covariance(0)
        one = gaussian.GaussianPrior.from_covariance(
            mean, covariance, ALPHA_BAR
        )
        mixed = mixture.MixturePrior.from_components([2.0], [one])
        for t in TIMES:
            x_t = noisy_image(one, t)
            eps, log_density = predict(mixed, x_t, t)
            one_eps, one_log_density = predict(one, x_t, t)
            np.testing.assert_allclose(eps, one_eps, atol=EPS_TOLERANCE)
            np.testing.assert_allclose(log_density, one_log_density, rtol=1e-5)

    def test_its_schedule_keeps_its_digits_for_the_steps(self):
        steps = schedule.reverse_steps(dense_mixture().alpha_bar, 100)
        expected = schedule.reverse_steps(ALPHA_BAR, 100)
        jax.tree.map(np.testing.assert_array_equal, steps, expected)

    def test_equal_components_are_as_one(self):
        one = gaussian.GaussianPrior.isotropic(
            random_means()[0], 0.1, ALPHA_BAR
        )
        mixed = mixture.MixturePrior.from_components(WEIGHTS, 3 * [one])
        x_t = noisy_image(one, 40)
        np.testing.assert_allclose(
            predict(mixed, x_t, 40)[0],
            predict(one, x_t, 40)[0],
            atol=EPS_TOLERANCE,
        )

    def test_a_component_of_weight_zero_does_not_count(self):
        means = random_means()
        three = mixture.MixturePrior.isotropic(
            [0.4, 0.6, 0.0], means, [0.1, 0.2, 0.3], ALPHA_BAR
        )
        two = mixture.MixturePrior.isotropic(
            [0.4, 0.6], means[:2], [0.1, 0.2], ALPHA_BAR
        )
        x_t = jnp.float32(means[2])
        np.testing.assert_allclose(
            predict(three, x_t, 40)[0],
            predict(two, x_t, 40)[0],
            atol=EPS_TOLERANCE,
        )

    @each_prior
    def test_far_from_every_mode_eps_and_its_gradient_are_finite(
        self, make_prior
    ):
        prior = make_prior()
        x_t = 30 * jax.random.normal(jax.random.key(0), SHAPE)
        jacobian = jax.jit(jax.jacrev(lambda x, t: prior(x, t).eps))
        for t in TIMES:
            self.assertTrue(np.all(np.isfinite(predict(prior, x_t, t)[0])))
            self.assertTrue(np.all(np.isfinite(jacobian(x_t, t))))

    def test_far_to_one_side_only_the_nearest_mode_counts(self):
        # exp(-distance^2 / (2 * 1e-4)) underflows in float32 for both modes.
        means = np.stack([np.full(SHAPE, -0.5), np.full(SHAPE, 0.5)])
        prior = mixture.MixturePrior.isotropic(
            [0.5, 0.5], means, [0.0, 0.0], ALPHA_BAR
        )
        nearest = gaussian.GaussianPrior.isotropic(means[1], 0.0, ALPHA_BAR)
        x_t = jnp.full(SHAPE, 3.0)
        np.testing.assert_allclose(
            predict(prior, x_t, 0)[0], predict(nearest, x_t, 0)[0], rtol=1e-5
        )

    @each_prior_and_covariances
    def test_samples_have_the_mean_and_covariance(
        self, make_prior, make_covariances
    ):
        prior, covariances = make_prior(), make_covariances()
        num_samples = 2000
        samples = np.float64(
            [draw(prior, jax.random.key(seed)) for seed in range(num_samples)]
        )
        samples = samples.reshape(num_samples, SIZE)
        means = np.float64(random_means()).reshape(3, SIZE)
        second = np.tensordot(
            WEIGHTS, covariances + means[:, :, None] * means[:, None, :], 1
        )
        products = samples[:, :, None] * samples[:, None, :]
        # 16 and 256 numbers stay within 5 standard errors.
        for found, expected in (
            (samples, WEIGHTS @ means),
            (products, second),
        ):
            error = found.std(0) / np.sqrt(num_samples)
            self.assertLess(np.max(np.abs(found.mean(0) - expected) / error), 5)

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

    def test_wrong_mixtures_are_refused_in_a_sentence(self):
        one = gaussian.GaussianPrior.isotropic(
            random_means()[0], 0.1, ALPHA_BAR
        )
        other = gaussian.GaussianPrior.from_covariance(
            random_means()[0], random_covariance(0), ALPHA_BAR
        )
        late = gaussian.GaussianPrior.isotropic(
            random_means()[0], 0.1, ALPHA_BAR**2
        )
        make = mixture.MixturePrior.from_components
        with self.assertRaisesRegex(ValueError, 'weights must be 2 numbers'):
            make([1.0], [one, one])
        with self.assertRaisesRegex(ValueError, 'not negative'):
            make([1.5, -0.5], [one, one])
        with self.assertRaisesRegex(ValueError, 'one class and shape'):
            make([0.5, 0.5], [one, other])
        with self.assertRaisesRegex(ValueError, 'the same alpha_bar'):
            make([0.5, 0.5], [one, late])


class MixturePosteriorTest(parameterized.TestCase):
    def test_two_pixels_agree_with_a_sum_over_a_grid(self):
        prior, means, covariances = two_pixel_mixture()
        grid, density = two_pixel_grid(means, covariances)
        matrix = np.array([[1.0, -0.5]])
        for y, noise_std in ((0.7, 0.2), (-0.4, 0.5), (2.0, 0.1)):
            weights = density * np.exp(
                -(((y - grid @ matrix[0]) / noise_std) ** 2) / 2
            )
            weights /= weights.sum()
            mean = weights @ grid
            centred = grid - mean
            posterior = mixture.mixture_posterior(prior, matrix, y, noise_std)
            np.testing.assert_allclose(posterior.mean.ravel(), mean, atol=1e-6)
            np.testing.assert_allclose(
                posterior.covariance, (centred.T * weights) @ centred, atol=1e-6
            )

    def test_one_component_is_the_gaussian_posterior(self):
        one = gaussian.GaussianPrior.from_covariance(
            random_means()[0], random_covariance(0), ALPHA_BAR
        )
        prior = mixture.MixturePrior.from_components([1.0], [one])
        matrix = np.random.default_rng(0).normal(size=(5, SIZE))
        y = np.arange(5.0)
        found = mixture.mixture_posterior(prior, matrix, y, 0.1)
        expected = gaussian.gaussian_posterior(one, matrix, y, 0.1)
        np.testing.assert_array_equal(found.weights, [1.0])
        np.testing.assert_allclose(found.mean, expected.mean)
        np.testing.assert_allclose(found.covariance, expected.covariance)

    @each_prior
    def test_measuring_twice_is_conditioning_twice(self, make_prior):
        prior = make_prior()
        rng = np.random.default_rng(1)
        first, second = rng.normal(size=(2, 5, SIZE)) / 4
        y_first, y_second = rng.normal(size=(2, 5)) / 4
        once = mixture.mixture_posterior(prior, first, y_first, 0.3)
        twice = mixture.mixture_posterior(
            mixture.MixturePrior.from_covariances(
                once.weights, once.means, once.covariances, ALPHA_BAR
            ),
            second,
            y_second,
            0.3,
        )
        together = mixture.mixture_posterior(
            prior,
            np.concatenate([first, second]),
            np.concatenate([y_first, y_second]),
            0.3,
        )
        # The prior made between the two keeps float32 arrays.
        np.testing.assert_allclose(twice.weights, together.weights, atol=1e-5)
        np.testing.assert_allclose(twice.means, together.means, atol=1e-5)
        np.testing.assert_allclose(
            twice.covariances, together.covariances, atol=1e-6
        )

    def test_samples_have_the_posterior_mean_and_covariance(self):
        prior, _, _ = two_pixel_mixture()
        posterior = mixture.mixture_posterior(
            prior, np.array([[1.0, -0.5]]), 0.1, 0.5
        )
        num_samples = 20_000
        samples = posterior.sample(np.random.default_rng(0), num_samples)
        self.assertEqual(samples.shape, (num_samples, 1, 2, 1))
        centred = samples.reshape(num_samples, 2) - posterior.mean.ravel()
        products = centred[:, :, None] * centred[:, None, :]
        for found, expected in (
            (centred, np.zeros(2)),
            (products, posterior.covariance),
        ):
            error = found.std(0) / np.sqrt(num_samples)
            self.assertLess(np.max(np.abs(found.mean(0) - expected) / error), 4)

    def test_its_likelihood_score_is_the_gradient_over_a_grid(self):
        # log p(y | x_t), up to a constant, is the log of the mean of p(y | x_0)
        # over p(x_0 | x_t): a sum over the grid, differentiated numerically.
        prior, means, covariances = two_pixel_mixture()
        grid, density = two_pixel_grid(means, covariances)
        matrix, y, noise_std, t = np.array([[1.0, -0.5]]), 0.7, 0.2, 300
        seen = np.exp(-(((y - grid @ matrix[0]) / noise_std) ** 2) / 2)

        def log_likelihood(x_t):
            deviation = x_t - np.sqrt(ALPHA_BAR[t]) * grid
            energy = np.sum(deviation**2, -1) / (1 - ALPHA_BAR[t])
            weights = density * np.exp(-energy / 2)
            return np.log(np.sum(weights * seen) / np.sum(weights))

        posterior = mixture.mixture_posterior(prior, matrix, y, noise_std)
        posterior = mixture.MixturePrior.from_covariances(
            posterior.weights,
            posterior.means,
            posterior.covariances,
            ALPHA_BAR,
        )
        score_at = jax.jit(gaussian.likelihood_score)
        for x_t in ([0.3, 0.2], [-0.5, -0.5]):
            score = score_at(
                prior, posterior, jnp.array(x_t).reshape(1, 2, 1), t
            )
            small_steps = 1e-4 * np.eye(2)
            expected = [
                (log_likelihood(x_t + step) - log_likelihood(x_t - step)) / 2e-4
                for step in small_steps
            ]
            np.testing.assert_allclose(score.ravel(), expected, atol=1e-4)

    def test_wrong_problems_are_refused_in_a_sentence(self):
        prior = isotropic_mixture()
        matrix = np.eye(SIZE)
        posterior = mixture.mixture_posterior
        with self.assertRaisesRegex(ValueError, 'noise_std above 0'):
            posterior(prior, matrix, np.zeros(SIZE), 0.0)
        with self.assertRaisesRegex(ValueError, r'\(M, D\) with D = 16'):
            posterior(prior, matrix[:, :3], np.zeros(SIZE), 0.1)
        with self.assertRaisesRegex(ValueError, 'y must have 16 numbers'):
            posterior(prior, matrix, np.zeros(3), 0.1)


if __name__ == '__main__':
    absltest.main()
