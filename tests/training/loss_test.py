"""The loss against what it is by definition, in float64 and by other ways."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from absl.testing import absltest, parameterized

from invjax import diffusion, schedule
from invjax.diffusion import Prediction
from invjax.training import loss

_T = 1000
_ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas(_T))
_STEPS = schedule.reverse_steps(_ALPHA_BAR)


def _normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def _image(seed=0, side=32, channels=2):
    return np.tanh(_normal(seed, side, side, channels)).astype(np.float32)


def _loss(predict, t, x_0, noise, **terms):
    return loss.image_loss(predict, x_0, t, noise, _STEPS, loss.Terms(**terms))


class ImageLossTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 250, 999)
    def test_the_network_sees_the_diffused_image_at_its_timestep(self, t):
        x_0, noise = _image(), _normal(1, 32, 32, 2)
        seen = []

        def predict(x_t, t):
            seen.append((x_t, t))
            return Prediction(jnp.zeros_like(x_t))

        found = _loss(predict, t, x_0, noise)
        ((x_t, at),) = seen
        expected = np.sqrt(_ALPHA_BAR[t]) * x_0
        expected = expected + np.sqrt(1 - _ALPHA_BAR[t]) * noise
        np.testing.assert_allclose(x_t, expected, atol=1e-5)
        self.assertEqual(at, t)
        # Who says nothing has the noise for an error.
        np.testing.assert_allclose(found.total, np.square(noise).mean(), 1e-5)

    def test_it_vanishes_for_who_knows_the_noise(self):
        x_0, noise = _image(), _normal(1, 32, 32, 2)

        def predict(x_t, t):
            return Prediction(jnp.asarray(noise))

        for weighting in ('simple', 'min_snr'):
            found = _loss(
                predict, 700, x_0, noise, weighting=weighting, pooled_weight=1.0
            )
            self.assertEqual(found.total, 0)

    @parameterized.parameters((20, False), (600, True))
    def test_min_snr_weighs_small_noise_less(self, t, is_level):
        x_0, noise = _image(), _normal(1, 32, 32, 2)
        snr = _ALPHA_BAR[t] / (1 - _ALPHA_BAR[t])
        self.assertEqual(snr <= 5, is_level)
        found = _loss(
            lambda x_t, t: Prediction(jnp.zeros_like(x_t)),
            t,
            x_0,
            noise,
            weighting='min_snr',
            min_snr=5.0,
        )
        # The error of the noise is snr times that of x_0, for which no timestep
        # weighs more than 5.
        weight = found.total / found.error * snr
        np.testing.assert_allclose(weight, min(snr, 5), rtol=1e-3)

    def test_the_bound_teaches_the_variance_alone(self):
        x_0, noise = _image(), _normal(1, 32, 32, 2)
        eps, fraction = _normal(2, 32, 32, 2), np.float32(0.3)

        def total(eps, fraction, variance_weight):
            def predict(x_t, t):
                return Prediction(eps, jnp.full_like(eps, fraction))

            return _loss(
                predict, 300, x_0, noise, variance_weight=variance_weight
            ).total

        of_eps, of_fraction = jax.grad(total, (0, 1))(eps, fraction, 1.0)
        plain, nothing = jax.grad(total, (0, 1))(eps, fraction, 0.0)
        np.testing.assert_array_equal(of_eps, plain)
        self.assertNotEqual(of_fraction, 0)
        self.assertEqual(nothing, 0)

    def test_weights_are_of_the_sum_over_timesteps(self):
        x_0, noise = _image(), _normal(1, 32, 32, 2)

        def predict(x_t, t):
            zeros = jnp.zeros_like(x_t)
            return Prediction(zeros, zeros + 0.5)

        found = _loss(
            predict, 900, x_0, noise, variance_weight=0.002, pooled_weight=0.1
        )
        expected = found.error + 0.002 * _T * found.bound + 0.1 * found.pooled
        np.testing.assert_allclose(found.total, expected, rtol=1e-6)
        self.assertGreater(found.pooled, 0)
        early = _loss(predict, 499, x_0, noise, pooled_weight=0.1)
        self.assertEqual(early.pooled, 0)


class VariationalBoundTest(parameterized.TestCase):
    @parameterized.product(t=[1, 40, 500, 999], fraction=[0.0, 0.4, 1.0])
    def test_it_is_the_divergence_of_two_gaussians(self, t, fraction):
        x_0, eps, noise = _image(), _normal(2, 32, 32, 2), _normal(1, 32, 32, 2)
        step = jax.tree.map(lambda field: field[_T - 1 - t], _STEPS)
        x_t = diffusion.diffuse(x_0, step.alpha_bar_t, noise)
        prediction = Prediction(jnp.asarray(eps), jnp.full_like(eps, fraction))
        found = loss.variational_bound(x_0, x_t, prediction, step)

        # Ho et al., eq. 7, and Nichol and Dhariwal, eq. 15, in float64.
        beta = 1 - _ALPHA_BAR[t] / _ALPHA_BAR[t - 1]
        before, now = 1 - _ALPHA_BAR[t - 1], 1 - _ALPHA_BAR[t]
        x_t, x_0 = np.float64(x_t), np.float64(x_0)
        x0_hat = (x_t - np.sqrt(now) * eps) / np.sqrt(_ALPHA_BAR[t])

        def mean(x_0):
            return (
                np.sqrt(_ALPHA_BAR[t - 1]) * beta * x_0
                + np.sqrt(1 - beta) * before * x_t
            ) / now

        variance = beta * before / now
        learned = beta**fraction * variance ** (1 - fraction)
        divergence = (
            np.log(learned / variance) / 2
            + (variance + (mean(x_0) - mean(x0_hat)) ** 2) / (2 * learned)
            - 1 / 2
        )
        np.testing.assert_allclose(
            found, divergence.mean() / np.log(2), rtol=2e-3
        )

    def test_the_true_step_has_none(self):
        x_0, noise = _image(), _normal(1, 32, 32, 2)
        step = jax.tree.map(lambda field: field[_T - 1 - 600], _STEPS)
        x_t = diffusion.diffuse(x_0, step.alpha_bar_t, noise)
        prediction = Prediction(jnp.asarray(noise), jnp.zeros_like(noise))
        found = loss.variational_bound(x_0, x_t, prediction, step)
        self.assertLess(abs(found), 1e-5)

    def test_the_last_step_is_a_distribution_of_8_bits(self):
        values = np.linspace(-1, 1, 256, dtype=np.float32)
        mean, log_variance = jnp.float32(0.98), jnp.log(jnp.float32(0.03**2))
        found = np.exp(loss._log_probability(values, mean, log_variance))
        self.assertAlmostEqual(found.sum(), 1, delta=1e-4)
        edges = np.linspace(-1 - 1 / 255, 1 + 1 / 255, 257)
        edges[[0, -1]] = -np.inf, np.inf
        mass = np.diff(scipy.stats.norm.cdf(edges, 0.98, 0.03))
        np.testing.assert_allclose(found, mass, atol=1e-5)


class PooledErrorTest(parameterized.TestCase):
    @parameterized.parameters((32, 64), (48, 20), (8, 8), (32, 8), (8, 32))
    def test_it_is_one_for_white_noise(self, height, width):
        noise = _normal(0, 2000, height, width, 1)
        found = jax.vmap(loss.pooled_error)(noise)
        # Chi-square of one degree of freedom in the worst case.
        self.assertAlmostEqual(found.mean(), 1, delta=4 * np.sqrt(2 / 2000))

    def test_it_sees_a_wrong_colour_and_no_wrong_detail(self):
        board = np.indices((32, 32)).sum(0) % 2 * 2.0 - 1
        self.assertLess(loss.pooled_error(board[..., None]), 1e-10)
        flat = np.full((32, 32, 1), 0.1, np.float32)
        expected = 0.1**2 * (32**2 + 16**2) / 2
        np.testing.assert_allclose(loss.pooled_error(flat), expected, rtol=1e-5)


if __name__ == '__main__':
    absltest.main()
