"""The Student-t prior and its Gibbs sampler against quadrature and draws."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from scipy import special, stats

from invjax import schedule
from invjax.priors import gaussian, student_t

_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
_SHAPE = (2, 2, 1)
_MEAN = np.array([0.1, -0.2, 0.3, 0.0]).reshape(_SHAPE)
_VARIANCES = np.array([0.5, 0.2, 0.05, 0.01])
_DEGREES = 5.0
_TIMES = (0, 200, 600, 999)


def _basis(size=4):
    normal = np.random.default_rng(0).normal(size=(size, size))
    return np.linalg.qr(normal)[0]


def _prior(degrees=_DEGREES):
    return student_t.StudentTPrior.from_basis(
        _MEAN, _basis(), _VARIANCES, degrees, _ALPHA_BAR
    )


def _density(c, degrees, variance):
    """Of a coefficient, by the textbook's Student-t."""
    scale = np.sqrt(variance * (degrees - 2) / degrees)
    log_constant = special.gammaln((degrees + 1) / 2)
    log_constant -= special.gammaln(degrees / 2)
    constant = np.exp(log_constant) / np.sqrt(degrees * np.pi) / scale
    power = -(degrees + 1) / 2
    return constant * (1 + (c / scale) ** 2 / degrees) ** power


def _integrals(c_t, alpha_bar, degrees, variance):
    """int c^k p(c) N(c_t; sqrt(alpha_bar) c, 1 - alpha_bar) dc for k = 0, 1.

    By the trapezoidal rule on points that are dense where the prior and where
    the likelihood have their peaks.
    """
    spread = np.sinh(np.linspace(-16, 16, 40001))
    width = np.sqrt((1 - alpha_bar) / alpha_bar)
    c = np.union1d(
        np.sqrt(variance) * spread, c_t / np.sqrt(alpha_bar) + width * spread
    )
    value = _density(c, degrees, variance) * stats.norm.pdf(
        c_t, np.sqrt(alpha_bar) * c, np.sqrt(1 - alpha_bar)
    )
    return np.trapezoid(value, c), np.trapezoid(c * value, c)


class DenoiserTest(parameterized.TestCase):
    @parameterized.product(t=_TIMES, degrees=(2.5, 5.0, 100.0))
    def test_the_noise_and_the_density_are_those_of_quadrature(
        self, t, degrees
    ):
        alpha_bar = _ALPHA_BAR[t]
        deviations = np.sqrt(alpha_bar * _VARIANCES + 1 - alpha_bar)
        # Near and far; beyond, one in a million, lambda is cut off.
        c_t = deviations * np.array([0.3, -1.0, 2.5, 4.5])
        shift = np.sqrt(alpha_bar) * _MEAN
        x_t = jnp.asarray(shift + (_basis() @ c_t).reshape(_SHAPE), jnp.float32)
        integrals = [
            _integrals(c, alpha_bar, degrees, variance)
            for variance, c in zip(_VARIANCES, c_t, strict=True)
        ]
        evidence = [of_one for of_one, _ in integrals]
        means = [moment / of_one for of_one, moment in integrals]
        x0_hat = np.sqrt(alpha_bar) * np.array(means)
        eps = (c_t - x0_hat) / np.sqrt(1 - alpha_bar)
        prior = _prior(degrees)
        # The first times subtract numbers that agree to four digits.
        np.testing.assert_allclose(
            _basis().T @ np.asarray(prior(x_t, t).eps).ravel(),
            eps,
            atol=2e-3 if t == 0 else 2e-4,
        )
        self.assertAlmostEqual(
            float(prior.log_density(x_t, t)),
            np.sum(np.log(evidence)),
            delta=2e-3,
        )

    @parameterized.parameters(*_TIMES)
    def test_the_noise_is_the_gradient_of_the_density(self, t):
        prior = _prior()
        x_t = jax.random.normal(jax.random.key(0), _SHAPE)
        score = jax.grad(prior.log_density)(x_t, t)
        expected = -np.sqrt(1 - _ALPHA_BAR[t]) * score
        np.testing.assert_allclose(
            prior(x_t, t).eps, expected, rtol=1e-3, atol=1e-5
        )

    def test_what_it_predicts_is_the_mean_of_what_was_added(self):
        # E[(n - eps(x_t)) g(x_t)] = 0 for any g, over drawn images and noise.
        prior, num_images, t = _prior(), 8000, 300
        key_x, key_noise = jax.random.split(jax.random.key(0))
        x_0 = jax.vmap(prior.sample)(jax.random.split(key_x, num_images))
        noise = jax.random.normal(key_noise, x_0.shape)
        alpha_bar = _ALPHA_BAR[t]
        x_t = np.sqrt(alpha_bar) * x_0 + np.sqrt(1 - alpha_bar) * noise
        eps = jax.vmap(lambda x: prior(x, t).eps)(x_t)
        for g in (jnp.ones_like, jnp.sign, lambda x: jnp.tanh(3 * x)):
            products = np.asarray((noise - eps) * g(x_t - _MEAN))
            error = products.std(axis=0) / np.sqrt(num_images)
            np.testing.assert_array_less(
                abs(products.mean(axis=0)), 4.5 * error
            )

    def test_coefficients_of_samples_are_student_t(self):
        keys = jax.random.split(jax.random.key(1), 4000)
        samples = np.asarray(jax.vmap(_prior().sample)(keys), np.float64)
        coefficients = (samples - _MEAN).reshape(-1, 4) @ _basis()
        for of_one, variance in zip(coefficients.T, _VARIANCES, strict=True):
            scale = np.sqrt(variance * 3 / 5)
            p = stats.kstest(
                of_one, stats.t(5, scale=scale).cdf, method='asymp'
            ).pvalue
            self.assertGreater(p, 1e-3)
            # A Gaussian of the same variance is told from it.
            p = stats.kstest(
                of_one, stats.norm(0, variance**0.5).cdf, method='asymp'
            ).pvalue
            self.assertLess(p, 1e-3)


class GibbsTest(parameterized.TestCase):
    @parameterized.parameters(0.1, 1.0, 5.0)
    def test_one_coefficient_has_the_posterior_of_quadrature(self, y):
        # Prior deviation 0.5; the last y is ten deviations out, where heavy
        # tails leave it and a Gaussian prior would not.
        noise_std, slope = 0.5, 0.8
        prior = student_t.StudentTPrior.from_basis(
            np.full((1, 1, 1), 0.2),
            np.eye(1),
            np.array([0.25]),
            5.0,
            _ALPHA_BAR,
        )
        grid = np.linspace(-15, 15, 30001)
        weights = _density(grid - 0.2, 5.0, 0.25)
        weights *= stats.norm.pdf(y, slope * grid, noise_std)
        weights /= weights.sum()
        mean = weights @ grid
        deviation = np.sqrt(weights @ (grid - mean) ** 2)
        drawn = student_t.gibbs(
            np.random.default_rng(0),
            prior,
            np.array([[slope]]),
            np.full((4000, 1), y),
            noise_std,
            num_draws=2,
        ).ravel()
        error = deviation / np.sqrt(len(drawn))
        self.assertLess(abs(drawn.mean() - mean), 4 * error)
        for level in (0.01, 0.1, 0.5, 0.9, 0.99):
            quantile = grid[np.searchsorted(np.cumsum(weights), level)]
            share = np.mean(drawn < quantile)
            error = np.sqrt(level * (1 - level) / len(drawn))
            self.assertLess(abs(share - level), 4 * error, level)

    def test_two_coefficients_that_one_number_ties_have_that_of_a_grid(self):
        prior = student_t.StudentTPrior.from_basis(
            np.array([0.1, -0.1]).reshape(1, 2, 1),
            np.array([[0.8, -0.6], [0.6, 0.8]]),
            np.array([1.0, 0.04]),
            3.0,
            _ALPHA_BAR,
        )
        matrix, y, noise_std = np.array([[1.0, 2.0]]), 1.5, 0.2
        axis = np.linspace(-8, 8, 1601)
        x = np.stack(np.meshgrid(axis, axis, indexing='ij'), axis=-1)
        c = (x - [0.1, -0.1]) @ np.array([[0.8, -0.6], [0.6, 0.8]])
        weights = _density(c[..., 0], 3.0, 1.0) * _density(c[..., 1], 3.0, 0.04)
        weights *= stats.norm.pdf(y, x @ matrix[0], noise_std)
        weights /= weights.sum()
        drawn = student_t.gibbs(
            np.random.default_rng(0),
            prior,
            matrix,
            np.full((4000, 1), y),
            noise_std,
            num_draws=2,
        ).reshape(-1, 2)
        for values, of_grid in (
            (drawn[:, 0], x[..., 0]),
            (drawn[:, 1], x[..., 1]),
            (np.tanh(drawn.prod(axis=1)), np.tanh(x.prod(axis=-1))),
        ):
            error = values.std() / np.sqrt(len(values))
            expected = np.sum(weights * of_grid)
            self.assertLess(abs(values.mean() - expected), 4 * error)

    def test_with_many_degrees_of_freedom_it_is_the_gaussian_posterior(self):
        rng = np.random.default_rng(1)
        matrix, noise_std = rng.normal(size=(3, 4)), 0.3
        y = rng.normal(size=3)
        like = gaussian.GaussianPrior.from_eigenvectors(
            _MEAN, _basis(), _VARIANCES, _ALPHA_BAR
        )
        expected = gaussian.gaussian_posterior(like, matrix, y, noise_std)
        found = student_t.GibbsPosterior(_prior(1000.0), matrix, y, noise_std)
        size = np.sqrt(np.diag(expected.covariance)).reshape(_SHAPE)
        # 10,000 draws; their variance has a standard error of 1.4 %.
        np.testing.assert_array_less(
            abs(found.mean - expected.mean) / size, 0.04
        )
        np.testing.assert_allclose(
            found.covariance,
            expected.covariance,
            atol=0.06 * size.max() ** 2,
        )

    def test_each_chain_has_its_own_measurement_and_forgets_its_start(self):
        # Nothing of the second image's last coefficient is measured.
        matrix = np.diag([1.0, 1.0, 1.0, 0.0]) @ _basis().T
        ys = np.repeat([[0.5, 0.0, 0.1, 0.0], [-0.5, 0.0, 0.1, 0.0]], 500, 0)
        ys = ys + matrix @ _MEAN.ravel()
        drawn = student_t.gibbs(
            np.random.default_rng(0), _prior(), matrix, ys, 0.1, num_draws=4
        )
        self.assertEqual(drawn.shape, (1000, 4, *_SHAPE))
        c = (drawn - _MEAN).reshape(1000, 4, 4) @ _basis()
        self.assertGreater(c[:500, :, 0].min(), 0)
        self.assertLess(c[500:, :, 0].max(), 0)
        # Successive sizes of what is not measured, whose chain is slowest.
        sizes = np.log(abs(c[..., 3]))
        found = np.corrcoef(sizes[:, :-1].ravel(), sizes[:, 1:].ravel())[0, 1]
        self.assertLess(abs(found), 4 / np.sqrt(3000))

    def test_samples_are_some_of_the_draws(self):
        posterior = student_t.GibbsPosterior(
            _prior(), np.eye(4), _MEAN + 0.1, 0.1
        )
        self.assertIs(posterior.draws, posterior.draws)
        samples = posterior.sample(np.random.default_rng(0), 300)
        known = {x.tobytes() for x in posterior.draws}
        found = {x.tobytes() for x in samples}
        self.assertContainsSubset(found, known)
        # 300 of 10,000 with replacement: about 5 pairs are the same.
        self.assertGreater(len(found), 280)


class MistakesTest(parameterized.TestCase):
    @parameterized.parameters(
        ({'degrees': 2.0}, 'degrees must be from 2.1 to 1000, got 2.0'),
        ({'degrees': np.inf}, 'degrees must be from 2.1 to 1000, got inf'),
        ({'variances': np.array([1, 1, 1, 0.0])}, '4 numbers above 0.*0.0'),
        ({'variances': np.ones(3)}, r'4 numbers above 0.*\(3,\)'),
        ({'basis': np.ones((4, 4))}, 'orthonormal'),
        ({'alpha_bar': np.array([1.0])}, 'between 0 and 1'),
        ({'mean': np.zeros(4)}, r'mean must be \(H, W, C\)'),
    )
    def test_a_prior_that_is_none_is_refused(self, changes, words):
        right = {
            'mean': _MEAN,
            'basis': _basis(),
            'variances': _VARIANCES,
            'degrees': 5.0,
            'alpha_bar': _ALPHA_BAR,
        }
        with self.assertRaisesRegex(ValueError, words):
            student_t.StudentTPrior.from_basis(**{**right, **changes})

    @parameterized.parameters(
        (np.zeros((2, 4)), 0.0, 'noise_std above 0.*got 0.0'),
        (np.zeros(4), 0.1, r'y must be \(N, 4\).*\(4,\)'),
        (np.zeros((2, 3)), 0.1, r'y must be \(N, 4\).*\(2, 3\)'),
    )
    def test_what_cannot_be_sampled_is_refused(self, y, noise_std, words):
        with self.assertRaisesRegex(ValueError, words):
            student_t.gibbs(
                np.random.default_rng(0), _prior(), np.eye(4), y, noise_std, 1
            )


if __name__ == '__main__':
    absltest.main()
