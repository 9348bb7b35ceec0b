"""DAPS: its flow, its two ways to draw, and the noise on top, by algebra."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem
from invjax.diffusion import Transition
from invjax.methods.daps import DAPS
from invjax.operators.mask import Mask
from invjax.priors import gaussian
from tests.methods import dense

_EXACT = (
    {'spread': 0.6, 'flow_steps': 1},
    {'spread': 1.3, 'flow_steps': 3},
)
_LANGEVIN = (
    {'spread': 0.6, 'langevin_steps': 3, 'langevin_size': 0.5},
    {'spread': 1.3, 'langevin_steps': 4, 'langevin_size': 0.2},
)


def unclipped(**settings):
    return DAPS(**settings, transition=Transition(clip=False))


def flow(case, level, flow_steps):
    """DDIM from t to 0 over timesteps that are spread evenly."""
    times = np.round(level.t * np.arange(flow_steps, -1, -1) / flow_steps)
    x = case.x_t
    for t, s in zip(times[:-1].astype(int), times[1:].astype(int), strict=True):
        a, b = dense.ALPHA_BAR[t], dense.ALPHA_BAR[s]
        step = dense.ddim(case.estimate(a), case.x_t, dense.Level(int(t), a, b))
        x0_hat = case.estimate(a).of(x)
        x = step.of(x)
    return x0_hat


def drawn_exactly(case, row, spread=1.0, flow_steps=1):
    """The posterior of x_0 ~ N(x0_hat, r^2 I) by information form, and noise."""
    level = case.at(row)
    x0_hat = flow(case, level, flow_steps)
    variance = spread**2 * (1 - level.a)
    if case.noise_std == 0:
        inverse = np.linalg.pinv(case.matrix)
        mean = x0_hat + inverse @ case.residual(x0_hat)
        covariance = variance * (np.eye(16) - inverse @ case.matrix)
    else:
        precision = np.eye(16) / variance
        precision += case.matrix.T @ case.matrix / case.noise_std**2
        covariance = np.linalg.inv(precision)
        by_data = case.matrix.T @ case.y / case.noise_std**2
        mean = covariance @ ((1 / variance) * x0_hat + by_data)
    if level.b == 1:
        return mean
    return dense.diffused(mean.noised(covariance), level.b)


def drawn_by_langevin(
    case, row, spread=1.0, flow_steps=1, langevin_steps=20, langevin_size=0.3
):
    level = case.at(row)
    x0_hat = flow(case, level, flow_steps)
    variance = spread**2 * (1 - level.a)
    noise_var = max(case.noise_std**2, 1e-3 * variance)
    eta = langevin_size / (1 / variance + 1 / noise_var)
    hessian = np.eye(16) / variance + case.matrix.T @ case.matrix / noise_var
    shrink = np.eye(16) - eta * hessian
    # x = P x0_hat + q + noise, step by step.
    of_estimate, offset = np.eye(16), np.zeros(16)
    covariance = np.zeros((16, 16))
    heat = 0 if level.b == 1 else 1
    for _ in range(langevin_steps):
        of_estimate = shrink @ of_estimate + eta / variance * np.eye(16)
        offset = shrink @ offset + eta / noise_var * case.matrix.T @ case.y
        covariance = shrink @ covariance @ shrink.T
        covariance += heat * 2 * eta * np.eye(16)
    x_0 = (of_estimate @ x0_hat + offset).noised(covariance)
    return dense.diffused(x_0, level.b)


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=_EXACT, noise_std=[0.0, 0.3], kind=['dense', 'gaussian_deblur']
    )
    def test_it_draws_from_the_normal_posterior_and_noises_again(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(**settings),
                case,
                row,
                drawn_exactly(case, row, **settings),
                1e-3,
            )

    @parameterized.product(
        settings=_LANGEVIN,
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_langevin_dynamics_go_towards_it_step_by_step(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        for row in dense.ROWS:
            dense.assert_step(
                unclipped(draw='langevin', **settings),
                case,
                row,
                drawn_by_langevin(case, row, **settings),
                1e-3,
            )

    def test_the_whole_process_has_the_moments_of_its_steps(self):
        case = dense.case_of('gaussian_deblur')
        steps = [drawn_exactly(case, row, 0.6, 3) for row in range(6)]
        method = unclipped(spread=0.6, flow_steps=3)
        dense.assert_samples(method, case, steps)

    def test_a_clip_is_one_of_the_end_of_the_flow(self):
        case = dense.case_of('gaussian_deblur')
        x_t = 3 * dense.points(1)[0]
        x0_hat = flow(case, case.at(5), 1)
        x0_hat = x0_hat.matrix @ x_t + x0_hat.offset
        self.assertGreater(np.abs(x0_hat).max(), 1.2)
        clipped = np.clip(x0_hat, -1, 1)
        variance = 1 - case.at(5).a
        gain = variance * case.gain(variance)
        x_s, _, info = dense.update(DAPS(), case, 5, x_t)
        np.testing.assert_allclose(
            np.ravel(x_s),
            clipped + gain @ (case.y - case.matrix @ clipped),
            atol=1e-4,
        )
        self.assertAlmostEqual(info.clipped, np.mean(np.abs(x0_hat) >= 1))


class LimitTest(absltest.TestCase):
    def test_it_samples_the_posterior_of_a_unit_prior(self):
        # There its variance is the true one, and each level's draw exact.
        shape = (4, 4, 2)
        prior = gaussian.GaussianPrior.isotropic(
            np.full(shape, 0.2), 1.0, dense.ALPHA_BAR
        )
        identity = Mask(jnp.ones((4, 4, 1)), 2)
        measured = problem.measure(
            jax.random.key(2), prior.sample(jax.random.key(1)), identity, 0.5
        )
        method = dense.as_numbers(unclipped())
        x = dense.draw(dense.KEY, method, dense.STEPS, measured, prior, 1000)
        variance = 1 / (1 + 1 / 0.5**2)
        mean = variance * (0.2 + np.ravel(measured.y) / 0.5**2)
        dense.assert_moments(x, mean, variance * np.eye(32), 5e-3)


class _Signed(operators.Function):
    """|x|: what is measured of x is measured of -x."""

    def guesses(self, key, y):
        del key
        return jnp.stack([-y, y])


class GuessTest(parameterized.TestCase):
    """The start from what the operator guesses."""

    SHAPE = (4, 4, 1)

    def case(self, sign):
        """A measurement of |x|, and a prior that knows the sign of x."""
        prior = gaussian.GaussianPrior.isotropic(
            np.full(self.SHAPE, sign * 0.6), 0.02, dense.ALPHA_BAR
        )
        x = prior.sample(jax.random.key(1))
        operator = _Signed.of(jnp.abs, self.SHAPE)
        return x, prior, problem.measure(dense.KEY, x, operator, 0.01)

    def method(self):
        return DAPS(init='guess', draw='langevin')

    def test_of_several_guesses_the_one_that_the_prior_knows_goes_on(self):
        for sign in (1, -1):
            x, prior, measured = self.case(sign)
            found, _ = dense.sample(self.method(), measured, prior, dense.STEPS)
            self.assertLess(np.abs(found - x).max(), 0.2)

    def test_until_half_of_the_power_is_signal_it_is_a_noised_guess(self):
        # Of t = 999, 799, 599, 400, 200, 0 the last two have more signal than
        # noise, and one row alone tells guesses apart: before it the first one
        # is as good as any.
        _, prior, measured = self.case(1)
        method, steps = dense.as_numbers(self.method()), dense.STEPS
        x, state = method.start(dense.KEY, measured, steps)
        for i, row_step in enumerate(zip(*steps, strict=True)):
            step = type(steps)(*row_step)
            if step.alpha_bar_t >= 0.5:
                break
            x, state, info = method.update(
                jax.random.key(i), x, state, step, measured, prior
            )
            is_told = step.alpha_bar_s > 0.2
            self.assertEqual(np.ptp(state.errors) > 0, is_told)
            guess = measured.y if is_told else -measured.y
            np.testing.assert_allclose(
                info.residual,
                np.linalg.norm(measured.residual(guess)),
                rtol=1e-5,
            )
            noise = x - np.sqrt(step.alpha_bar_s) * guess
            noise = noise / np.sqrt(step.noise_var_s)
            np.testing.assert_allclose(
                noise, jax.random.normal(jax.random.key(i), x.shape), atol=1e-4
            )
        self.assertEqual(i, 4)
        self.assertLess(state.errors[1], state.errors[0])

    def test_steps_that_tell_no_guesses_apart_are_left_out(self):
        # Of t = 999, 799, 599, 400, 200, 0 that of 400 is the first to end at
        # more than 0.2 of signal.
        self.assertEqual(self.method().first_t(dense.STEPS), 400)
        self.assertIsNone(DAPS().first_t(dense.STEPS))

    def test_where_there_is_one_guess_it_begins_there(self):
        # Without noise, all pixels seen: nothing is left to find.
        measured = problem.measure(
            dense.KEY,
            dense.prior_of(self.SHAPE).sample(dense.KEY),
            Mask(jnp.ones((4, 4, 1)), 1),
            0.1,
        )
        x, state = self.method().start(dense.KEY, measured, dense.STEPS)
        np.testing.assert_array_equal(state.x, measured.y[None])
        level = dense.STEPS.alpha_bar_t[4]
        noise = (x - np.sqrt(level) * measured.y) / np.sqrt(1 - level)
        self.assertBetween(np.std(noise), 0.6, 1.4)


class OperatorTest(absltest.TestCase):
    def test_langevin_dynamics_need_no_more_than_a_derivative(self):
        operator = operators.Function.of(jnp.tanh, (4, 4, 1))
        with self.assertRaisesRegex(ValueError, 'daps needs a linear operator'):
            DAPS().check_operator(operator)
        DAPS(draw='langevin').check_operator(operator)


if __name__ == '__main__':
    absltest.main()
