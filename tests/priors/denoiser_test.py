"""A function of one's own as a prior: what is asked of it, and what comes out."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.priors.denoiser import Denoiser

SHAPE = (3, 5, 2)


def says_its_time(x, time):
    return jnp.zeros_like(x) + time


class FunctionTest(parameterized.TestCase):
    @parameterized.parameters(
        # Row 249 of each default table. The network's answer is its time:
        # betas have t; EDM's levels a sigma; a flow i / 1000 from 1 on.
        ('noise', lambda t, sigma: t),
        ('score', lambda t, sigma: -sigma * sigma),
        ('data_flow', lambda t, sigma: -(1 - 0.25) / (1 + sigma)),
    )
    def test_it_is_told_the_time_of_its_parametrisation(self, how, eps):
        prior = Denoiser.of(says_its_time, SHAPE, how)
        alpha_bar = prior.alpha_bar[249]
        sigma = np.sqrt((1 - alpha_bar) / alpha_bar)
        out = prior(jnp.zeros(SHAPE), 249).eps
        np.testing.assert_allclose(
            out, np.full(SHAPE, eps(249, sigma)), rtol=1e-5
        )

    def test_a_row_that_is_no_integer_is_rounded(self):
        prior = Denoiser.of(says_its_time, SHAPE, 'noise')
        np.testing.assert_array_equal(
            prior(jnp.zeros(SHAPE), 6.7).eps, np.full(SHAPE, 7.0)
        )

    def test_twice_the_channels_are_the_noise_and_its_variance(self):
        def network(x, time):
            return jnp.concatenate([x + 1, jnp.full_like(x, 0.5)], axis=-1)

        prediction = Denoiser.of(network, SHAPE, 'noise')(jnp.zeros(SHAPE), 3)
        np.testing.assert_array_equal(prediction.eps, np.ones(SHAPE))
        # From -1 to 1 for the network, from 0 to 1 for us.
        np.testing.assert_array_equal(
            prediction.log_variance_fraction, np.full(SHAPE, 0.75)
        )

    def test_parameters_are_leaves_and_do_not_compile_anew(self):
        traces = []

        def network(params, x, time):
            traces.append(x)
            return params['gain'] * x

        prior = Denoiser.of(
            network, SHAPE, 'noise', params={'gain': jnp.float32(2)}
        )
        traces.clear()
        ask = jax.jit(lambda prior, x: prior(x, 0).eps)
        x = jnp.ones(SHAPE)
        np.testing.assert_array_equal(ask(prior, x), 2 * np.ones(SHAPE))
        other = prior.replace(params={'gain': jnp.float32(5)})
        np.testing.assert_array_equal(ask(other, x), 5 * np.ones(SHAPE))
        self.assertLen(traces, 1)

    def test_it_says_what_it_is_a_prior_of(self):
        levels = schedule.Sigmas(0.1, 10, 20)
        prior = Denoiser.of(says_its_time, SHAPE, 'denoiser', levels)
        self.assertEqual(prior.image_shape, SHAPE)
        np.testing.assert_array_equal(prior.alpha_bar, levels.alpha_bar)
        self.assertIs(prior.prepare(), prior)

    @parameterized.parameters(
        (says_its_time, 'epsilon', 'one of noise, clean, .*epsilon'),
        (lambda x, t: x[1:], 'noise', r'\(3, 5, 2\).*got \(2, 5, 2\)'),
        (lambda x, t: (x, t), 'noise', 'got tuple'),
    )
    def test_what_is_no_prior_is_refused(self, function, how, message):
        with self.assertRaisesRegex(ValueError, message):
            Denoiser.of(function, SHAPE, how)

    def test_a_shape_without_channels_is_refused(self):
        with self.assertRaisesRegex(ValueError, r'\(H, W, C\), got \(3, 5\)'):
            Denoiser.of(says_its_time, (3, 5), 'noise')


if __name__ == '__main__':
    absltest.main()
