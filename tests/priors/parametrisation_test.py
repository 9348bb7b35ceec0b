"""A Gaussian whose every network is known, asked in every parametrisation."""

import json

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import problem, schedule
from invjax.methods import METHODS
from invjax.operators.downsample import super_resolution
from invjax.priors import gaussian, parametrisation
from invjax.priors.denoiser import Denoiser
from invjax.priors.parametrisation import PARAMETRISATIONS, Parametrisation

SHAPE = (4, 4, 2)
_RNG = np.random.default_rng(0)
MEAN = _RNG.uniform(-0.5, 0.5, SHAPE).astype(np.float32)
# Independent pixels, of deviations from 0.03 to 0.9.
VARIANCE = (0.03 * 30 ** _RNG.random(SHAPE)).astype(np.float32) ** 2
LINEAR = schedule.Betas()
SIGMAS = schedule.Sigmas()
FLOW = schedule.FlowTimes()


def denoised(z, sigma, mean=MEAN, variance=VARIANCE):
    """E[x_0 | x_0 + sigma n = z], by Bayes for each pixel."""
    return mean + variance / (variance + sigma**2) * (z - mean)


def _table(levels):
    """Signal and noise, sqrt(alpha_bar) and sqrt(1 - alpha_bar), by row."""
    alpha_bar = levels.alpha_bar
    return jnp.asarray(np.sqrt(alpha_bar)), jnp.asarray(np.sqrt(1 - alpha_bar))


def vp_noise(x, t):
    signal, noise = (column[t.astype(int)] for column in _table(LINEAR))
    # The noise of the pixel's share of both variances; no subtraction that
    # would lose digits.
    total = signal**2 * VARIANCE + noise**2
    return noise * (x - signal * MEAN) / total


def vp_clean(x, t):
    signal, noise = (column[t.astype(int)] for column in _table(LINEAR))
    return denoised(x / signal, noise / signal)


def vp_v(x, t):
    signal, noise = (column[t.astype(int)] for column in _table(LINEAR))
    return signal * vp_noise(x, t) - noise * vp_clean(x, t)


def ve_score(x, sigma):
    return (MEAN - x) / (VARIANCE + sigma**2)


def ve_scaled_score(x, log_half_sigma):
    sigma = 2 * jnp.exp(log_half_sigma)
    return sigma * ve_score(x, sigma)


def unit_range_score(x, sigma):
    # Of images (x_0 + 1) / 2.
    return ((MEAN + 1) / 2 - x) / (VARIANCE / 4 + sigma**2)


def unit_range_clean(x, sigma):
    return denoised(x, sigma, (MEAN + 1) / 2, VARIANCE / 4)


def edm_network(x, quarter_log_sigma):
    # D = c_skip x + c_out F(c_in x, c_noise), Karras et al. (2022), table 1.
    sigma = jnp.exp(4 * quarter_log_sigma)
    total = sigma**2 + 0.5**2
    z = x * jnp.sqrt(total)
    # D - c_skip z, without the difference of two that are nearly the same
    # where there is little noise.
    pull = sigma**2 / total * z - sigma**2 / (VARIANCE + sigma**2) * (z - MEAN)
    return pull / (sigma * 0.5 / jnp.sqrt(total))


def edm_vp_network(x, time):
    # The SDE's noise level at a time from 0 to 1, told times 999.
    time = time / 999
    alpha_bar = jnp.exp(-(19.9 * time**2 / 2 + 0.1 * time))
    noise_var = -jnp.expm1(-(19.9 * time**2 / 2 + 0.1 * time))
    total = alpha_bar * VARIANCE + noise_var
    return jnp.sqrt(noise_var) * (x - jnp.sqrt(alpha_bar) * MEAN) / total


def flow_velocity(x, s):
    # n - x_0 given (1 - s) x_0 + s n.
    total = (1 - s) ** 2 * VARIANCE + s**2
    deviation = x - (1 - s) * MEAN
    return (s - (1 - s) * VARIANCE) / total * deviation - MEAN


def data_velocity(x, time):
    return -flow_velocity(x, 1 - time)


def flow_score(x, s):
    return ((1 - s) * MEAN - x) / ((1 - s) ** 2 * VARIANCE + s**2)


NETWORKS = {
    'noise': (vp_noise, 'noise', LINEAR),
    'clean': (vp_clean, 'clean', LINEAR),
    'v': (vp_v, 'v', LINEAR),
    'score': (ve_score, 'score', SIGMAS),
    'denoiser': (denoised, 'denoiser', SIGMAS),
    'denoiser_on_our_levels': (denoised, 'denoiser', LINEAR),
    'edm': (edm_network, 'edm', SIGMAS),
    'flow': (flow_velocity, 'flow', FLOW),
    'data_flow': (data_velocity, 'data_flow', FLOW),
    'flow_score': (flow_score, Parametrisation('score', 'flow', 'flow'), FLOW),
    'unit_range_score': (
        unit_range_score,
        Parametrisation('score', 've', 'sigma', data_range=(0.0, 1.0)),
        schedule.Sigmas(0.02, 300.0, 500, rho=None),
    ),
    'unit_range_clean': (
        unit_range_clean,
        Parametrisation('x_0', 've', 'sigma', data_range=(0.0, 1.0)),
        SIGMAS,
    ),
    'edm_ve': (
        ve_scaled_score,
        Parametrisation('scaled_score', 've', 'log_half_sigma'),
        schedule.Sigmas(0.02, 100.0, rho=None),
    ),
    'edm_vp': (
        edm_vp_network,
        Parametrisation('eps', 'vp', 'vp', time_scale=999.0),
        LINEAR,
    ),
}


def gaussian_prior(alpha_bar):
    covariance = np.diag(np.float64(VARIANCE).ravel())
    return gaussian.GaussianPrior.from_covariance(MEAN, covariance, alpha_bar)


class GaussianTest(parameterized.TestCase):
    @parameterized.product(name=list(NETWORKS), double=[True, False])
    def test_every_parametrisation_gives_the_same_clean_image(
        self, name, double
    ):
        function, how, levels = NETWORKS[name]
        prior = Denoiser.of(function, SHAPE, how, levels)
        alpha_bar = levels.alpha_bar
        rng = np.random.default_rng(1)
        x_0 = MEAN + np.sqrt(VARIANCE) * rng.standard_normal(
            (len(alpha_bar), *SHAPE)
        )
        signal, noise = (
            np.sqrt(column)[:, None, None, None]
            for column in (alpha_bar, 1 - alpha_bar)
        )
        x_t = np.float32(signal * x_0 + noise * rng.standard_normal(x_0.shape))
        x_t = np.float64(x_t)
        with jax.enable_x64(double):
            rows = np.arange(len(alpha_bar))
            eps = jax.jit(jax.vmap(prior))(jnp.asarray(x_t), rows).eps
        # Tweedie's formula in NumPy's float64, to see the error of eps alone.
        found = (x_t - noise * np.float64(eps)) / signal
        expected = denoised(x_t / signal, noise / signal)
        allowed = 1e-5
        if not double:
            # The noise has about one unit in a pixel, rounded to 2**-24 some
            # ten times; in x0_hat that is as much times sigma.
            allowed = 1e-5 * np.maximum(1, noise / signal / 10)
        self.assertLess(np.max(np.abs(found - expected) / allowed), 1)

    @parameterized.parameters(*NETWORKS)
    def test_a_dps_step_is_that_of_the_closed_form(self, name):
        function, how, levels = NETWORKS[name]
        prior = Denoiser.of(function, SHAPE, how, levels)
        steps = schedule.reverse_steps(prior.alpha_bar, 10)
        step = jax.tree.map(lambda column: column[5], steps)
        key = jax.random.key(0)
        x_t = jax.random.normal(jax.random.key(1), SHAPE)
        measured = problem.Problem(
            y=jnp.full((2, 2, 2), 0.3),
            operator=super_resolution(key, SHAPE, factor=2),
            noise_std=jnp.float32(0.05),
        )
        update = METHODS['dps'](zeta=0.5).update
        x_s, _, info = update(key, x_t, (), step, measured, prior)
        expected, _, expected_info = update(
            key, x_t, (), step, measured, gaussian_prior(prior.alpha_bar)
        )
        np.testing.assert_allclose(x_s, expected, atol=1e-5)
        np.testing.assert_allclose(
            info.residual, expected_info.residual, rtol=1e-5
        )


class DescriptionTest(parameterized.TestCase):
    @parameterized.parameters(
        *PARAMETRISATIONS.values(),
        Parametrisation('score', 've', 'sigma', data_range=(0.0, 1.0)),
    )
    def test_it_is_plain_data_and_has_an_inverse(self, given):
        text = json.dumps(parametrisation.describe(given))
        again = parametrisation.from_description(json.loads(text))
        self.assertEqual(again, given)
        self.assertEqual(hash(again), hash(given))

    @parameterized.parameters(
        ({'output': 'noise'}, 'output .* one of eps, .*noise'),
        ({'coordinates': 'xyz'}, 'coordinates .* one of vp, '),
        ({'time': 'late'}, 'time .* one of timestep, '),
        ({'data_range': (1.0, -1.0)}, 'data_range must be'),
        ({'sigma_data': 0.0}, 'sigma_data must be above 0'),
    )
    def test_what_does_not_exist_is_refused_with_the_choices(
        self, fields, message
    ):
        with self.assertRaisesRegex(ValueError, message):
            Parametrisation(**fields)


if __name__ == '__main__':
    absltest.main()
