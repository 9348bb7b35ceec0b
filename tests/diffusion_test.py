"""One diffusion step against the reference, dense algebra and other readings."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import diffusion, schedule
from invjax.priors import gaussian

_GOLDENS = np.load(
    pathlib.Path(__file__).parent / 'goldens' / 'diffusion_math.npz'
)
ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (3, 2, 2)
SIZE = 12


def step_at(t, num_steps=None):
    """The row that begins at the t-th kept timestep from below."""
    steps = schedule.reverse_steps(ALPHA_BAR, num_steps)
    return schedule.Steps(*(field[len(steps.t) - 1 - t] for field in steps))


def channels_last(name):
    return jnp.asarray(np.moveaxis(_GOLDENS[name], 1, -1))


def draws(seed, number):
    rng = np.random.default_rng(seed)
    return [
        jnp.asarray(rng.normal(size=SHAPE), jnp.float32) for _ in range(number)
    ]


class ReferenceTest(parameterized.TestCase):
    @parameterized.parameters(0, 1, 250, 999)
    def test_the_learned_range_step_is_the_references(self, t):
        step = step_at(t)
        self.assertEqual(step.t, t)
        eps, v = jnp.split(channels_last('pmv_model_output'), 2, axis=-1)
        prediction = diffusion.Prediction(eps, (v + 1) / 2)
        x_t = channels_last('pmv_x')
        x0_hat = diffusion.ANCESTRAL.estimate(x_t, prediction, step)
        log_variance = diffusion.step_log_variance(prediction, step, 'learned')
        for name, value in (
            ('pred_xstart', x0_hat),
            ('mean', diffusion.posterior_mean(x_t, x0_hat, step)),
            ('log_variance', log_variance),
            ('variance', jnp.exp(log_variance)),
        ):
            with self.subTest(name):
                np.testing.assert_allclose(
                    value,
                    channels_last(f'pmv_t{t}_{name}'),
                    atol=1e-5,
                    rtol=1e-5,
                )


class ForwardProcessTest(parameterized.TestCase):
    def test_single_steps_compose_to_the_closed_form(self):
        # Both are linear in x_0 and in standard normal noise, so they agree in
        # distribution if the coefficient of x_0 is the same and the squared
        # coefficients of the noises add up to the same.
        betas = schedule.linear_betas(50)
        alpha_bar = schedule.alpha_bars(betas)[-1]

        def compose(x_0, noises):
            def body(x, row):
                return diffusion.diffuse_once(x, *row), None

            rows = (jnp.asarray(betas, jnp.float32), noises)
            return jax.lax.scan(body, x_0, rows)[0]

        zeros = jnp.zeros(50)
        signal = compose(1.0, zeros)
        noise = jax.grad(compose, argnums=1)(0.0, zeros)
        np.testing.assert_allclose(
            signal, diffusion.diffuse(1.0, alpha_bar, 0.0), rtol=1e-5
        )
        np.testing.assert_allclose(
            jnp.sum(noise**2),
            diffusion.diffuse(0.0, alpha_bar, 1.0) ** 2,
            rtol=1e-5,
        )

    @parameterized.parameters(0, 300, 999)
    def test_eps_and_score_are_each_others_inverse(self, t):
        (eps,) = draws(0, 1)
        alpha_bar_t = ALPHA_BAR[t]
        score = diffusion.score_from_eps(eps, alpha_bar_t)
        np.testing.assert_allclose(
            diffusion.eps_from_score(score, alpha_bar_t), eps, rtol=1e-6
        )
        back = diffusion.eps_from_score(eps, alpha_bar_t)
        np.testing.assert_allclose(
            diffusion.score_from_eps(back, alpha_bar_t), eps, rtol=1e-6
        )

    def test_the_score_of_pure_noise_is_minus_x(self):
        # x_t ~ N(0, I) has score -x_t, and at alpha_bar = 0 its eps is x_t.
        (x_t,) = draws(1, 1)
        np.testing.assert_array_equal(diffusion.score_from_eps(x_t, 0.0), -x_t)

    @parameterized.parameters(0, 300, 999)
    def test_tweedie_undoes_diffuse_given_its_noise(self, t):
        x_0, noise = draws(2, 2)
        x_t = diffusion.diffuse(x_0, ALPHA_BAR[t], noise)
        # At the noisiest step x_0 is a 160th of x_t.
        np.testing.assert_allclose(
            diffusion.tweedie(x_t, noise, ALPHA_BAR[t]), x_0, atol=2e-4
        )


class TweedieTest(parameterized.TestCase):
    @parameterized.parameters(1, 50, 300, 700, 999)
    def test_it_is_the_conditional_mean_under_a_gaussian_prior(self, t):
        # Dense float64 algebra: (x_0, x_t) is jointly normal with
        # Cov(x_0, x_t) = sqrt(a) Sigma and Cov(x_t) = a Sigma + (1 - a) I.
        rng = np.random.default_rng(3)
        vectors, _ = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))
        covariance = (vectors * np.geomspace(0.05, 1, SIZE)) @ vectors.T
        mean = rng.uniform(-0.5, 0.5, SHAPE)
        prior = gaussian.GaussianPrior.from_covariance(
            mean, covariance, ALPHA_BAR
        )
        x_t = rng.normal(size=SHAPE)
        a = ALPHA_BAR[t]
        gain = np.sqrt(a) * np.linalg.solve(
            a * covariance + (1 - a) * np.eye(SIZE), covariance
        )
        expected = mean.ravel() + gain.T @ (x_t - np.sqrt(a) * mean).ravel()
        x_t = jnp.asarray(x_t, jnp.float32)
        x0_hat = diffusion.tweedie(x_t, prior(x_t, t).eps, a)
        # Rounding of x_t - sqrt(1 - a) eps is enlarged by 1 / sqrt(a).
        np.testing.assert_allclose(
            x0_hat.ravel(), expected, atol=2e-6 / np.sqrt(a)
        )


class StepTest(parameterized.TestCase):
    @parameterized.product(
        row=(0, 1, 10, 49), seed=(0, 1), num_steps=(50, 1000)
    )
    def test_ddim_at_eta_1_is_ancestral_with_posterior_variance(
        self, row, seed, num_steps
    ):
        x_t, x0_hat, eps, noise = draws(seed, 4)
        step = step_at(row, num_steps)
        np.testing.assert_allclose(
            diffusion.ddim_step(x_t, x0_hat, step, noise, eta=1.0),
            diffusion.ancestral_step(
                x_t,
                x0_hat,
                diffusion.Prediction(eps),
                step,
                noise,
                'posterior',
            ),
            atol=2e-6,
        )

    @parameterized.parameters(0, 10, 49)
    def test_ddim_at_eta_0_ignores_the_noise(self, row):
        x_t, x0_hat, noise_1, noise_2 = draws(4, 4)
        step = step_at(row, 50)
        np.testing.assert_array_equal(
            diffusion.ddim_step(x_t, x0_hat, step, noise_1),
            diffusion.ddim_step(x_t, x0_hat, step, noise_2),
        )

    def test_ddim_at_eta_0_moves_along_the_noise_it_was_told(self):
        # With the true x_0, the step from x_t = diffuse(x_0, noise) is
        # diffuse(x_0, noise) at the lower level, with the same noise.
        x_0, noise, other = draws(5, 3)
        step = step_at(30, 50)
        x_t = diffusion.diffuse(x_0, step.alpha_bar_t, noise)
        np.testing.assert_allclose(
            diffusion.ddim_step(x_t, x_0, step, other),
            diffusion.diffuse(x_0, step.alpha_bar_s, noise),
            atol=2e-6,
        )

    @parameterized.product(
        transition=(
            *(diffusion.Transition('ddpm', v) for v in diffusion.VARIANCES),
            *(diffusion.Transition('ddim', eta=eta) for eta in (0.0, 0.5, 1.0)),
        ),
        num_steps=(1, 50, 1000),
    )
    def test_the_last_step_is_the_estimate_without_noise(
        self, transition, num_steps
    ):
        x_t, x0_hat, eps, noise = draws(6, 4)
        prediction = diffusion.Prediction(eps, jnp.full(SHAPE, 0.5))
        step = step_at(0, num_steps)
        np.testing.assert_allclose(
            transition(x_t, x0_hat, prediction, step, noise), x0_hat, rtol=2e-6
        )

    def test_the_variance_fraction_goes_from_posterior_to_beta(self):
        step = step_at(20, 50)
        x_t, x0_hat, eps, noise = draws(7, 4)

        def take(fraction, variance):
            prediction = diffusion.Prediction(eps, fraction)
            return diffusion.ancestral_step(
                x_t, x0_hat, prediction, step, noise, variance
            )

        for fraction, variance in ((0.0, 'posterior'), (1.0, 'beta')):
            np.testing.assert_allclose(
                take(jnp.full(SHAPE, fraction), 'learned'),
                take(None, variance),
                rtol=1e-6,
            )
        # A prior that learns no variance has the posterior's.
        np.testing.assert_array_equal(
            take(None, 'learned'), take(None, 'posterior')
        )

    def test_estimates_are_clipped_only_where_that_is_asked_for(self):
        x_t = jnp.full(SHAPE, 5.0)
        prediction = diffusion.Prediction(jnp.zeros(SHAPE))
        step = step_at(0)
        clipped = diffusion.Transition().estimate(x_t, prediction, step)
        free = diffusion.Transition(clip=False).estimate(x_t, prediction, step)
        np.testing.assert_array_equal(clipped, jnp.ones(SHAPE))
        np.testing.assert_allclose(free, x_t, rtol=1e-4)

    def test_an_unknown_kind_or_variance_is_refused(self):
        with self.assertRaisesRegex(ValueError, "one of ddpm, ddim, got 'ode'"):
            diffusion.Transition('ode')
        with self.assertRaisesRegex(ValueError, "learned.*got 'large'"):
            diffusion.Transition(variance='large')


if __name__ == '__main__':
    absltest.main()
