"""SITCOM: its Adam in NumPy, where it stops, and where it leads."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators, problem, schedule
from invjax.diffusion import Transition
from invjax.methods.sitcom import SITCOM
from invjax.operators.mask import Mask
from invjax.priors import gaussian
from tests.methods import dense

KEY = jax.random.key(0)
SHAPE = (4, 4, 1)
VARIANCE = 0.1
PRIOR = gaussian.GaussianPrior.isotropic(
    np.full(SHAPE, 0.2), VARIANCE, dense.ALPHA_BAR
)
STEPS = schedule.reverse_steps(dense.ALPHA_BAR, 12)


def unclipped(**settings):
    return SITCOM(**settings, transition=Transition(clip=False))


def optimised(case, row, x_t, inner_steps, learning_rate, lam):
    """The estimate after K steps of Adam on the network's input, float64."""
    estimate = case.estimate(case.at(row).a)
    v = x_t.astype(np.float64)
    first = second = 0.0
    for count in range(1, inner_steps + 1):
        residual = case.y - case.matrix @ (
            estimate.matrix @ v + estimate.offset
        )
        gradient = -2 * estimate.matrix.T @ case.matrix.T @ residual
        gradient += 2 * lam * (v - x_t)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        step = first / (1 - 0.9**count)
        step /= np.sqrt(second / (1 - 0.999**count)) + 1e-8
        v = v - learning_rate * step
    return estimate.matrix @ v + estimate.offset


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[
            {'inner_steps': 4, 'learning_rate': 0.1, 'lam': 0.6},
            {'inner_steps': 9, 'learning_rate': 0.03, 'lam': 0.0},
        ],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur'],
    )
    def test_it_takes_steps_of_adam_and_noises_again(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        method = unclipped(**settings, delta=0.0)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            level = case.at(row)
            clean = optimised(case, row, x_t, **settings)
            drawn = jax.vmap(
                lambda key, row=row, x_t=x_t: dense.update(
                    method, case, row, x_t, key
                )[0]
            )(jax.random.split(KEY, 2048))
            dense.assert_moments(
                drawn,
                np.sqrt(level.b) * clean,
                (1 - level.b) * np.eye(16),
                2e-3,
            )

    def test_info_tells_the_prior_from_the_measurement(self):
        case = dense.case_of('dense')
        settings = {'inner_steps': 4, 'learning_rate': 0.1, 'lam': 0.6}
        x_t = dense.points(1)[0]
        _, _, info = dense.update(
            unclipped(**settings, delta=0.0), case, 5, x_t
        )
        plain = optimised(case, 5, x_t, **settings | {'inner_steps': 0})
        clean = optimised(case, 5, x_t, **settings)
        for found, length in (
            (info.residual, case.y - case.matrix @ plain),
            (info.prior_step, plain - x_t),
            (info.guidance, clean - plain),
        ):
            np.testing.assert_allclose(found, np.linalg.norm(length), rtol=1e-3)

    def test_a_clip_is_one_of_the_estimate(self):
        case = dense.case_of('dense')
        x_t = 3 * dense.points(1)[0]
        x_s, _, _ = dense.update(SITCOM(delta=1e6), case, 5, x_t)
        clean = optimised(case, 5, x_t, 0, 0.1, 0.0)
        self.assertGreater(np.abs(clean).max(), 1.2)
        np.testing.assert_allclose(
            np.ravel(x_s), np.clip(clean, -1, 1), atol=1e-3
        )


class StopTest(parameterized.TestCase):
    @parameterized.parameters(('dense', 1.1), ('random_inpainting', 0.8))
    def test_it_stops_at_the_first_estimate_within_the_noise(self, kind, delta):
        # m counts what was measured, not what was not.
        case = dense.case_of(kind, 0.1)
        number = {'dense': 10, 'random_inpainting': case.matrix.sum()}[kind]
        bound = delta * 0.1 * np.sqrt(number)
        x_t = dense.points(1)[0]
        settings = {'learning_rate': 0.1, 'lam': 0.0}
        # On the last row x_s is the estimate itself.
        norms = [
            np.linalg.norm(
                case.y - case.matrix @ optimised(case, 5, x_t, k, **settings)
            )
            for k in range(60)
        ]
        first = int(np.argmax(np.array(norms) <= bound))
        self.assertBetween(first, 2, 58)
        x_s, _, _ = dense.update(
            unclipped(inner_steps=1000, delta=delta, **settings), case, 5, x_t
        )
        np.testing.assert_allclose(
            np.ravel(x_s), optimised(case, 5, x_t, first, **settings), atol=2e-3
        )

    def test_an_estimate_within_the_noise_is_kept_as_it_is(self):
        case = dense.case_of('dense', 0.1)
        x_t = dense.points(1)[0]
        x_s, _, info = dense.update(unclipped(delta=1e6), case, 3, x_t)
        few, _, _ = dense.update(
            unclipped(inner_steps=1, delta=0.0, learning_rate=0.1), case, 3, x_t
        )
        self.assertEqual(info.guidance, 0)
        self.assertGreater(np.abs(few - x_s).max(), 1e-3)

    def test_a_lane_that_is_done_waits_for_the_others(self):
        lanes = 3
        x_t = jax.random.normal(KEY, (lanes, *SHAPE))
        problems = [
            dense.case_of('gaussian_deblur', noise).problem
            for noise in (0.02, 0.1, 0.4)
        ]
        case = dense.case_of('gaussian_deblur', 0.1)
        methods = [
            dense.as_numbers(
                unclipped(inner_steps=n, learning_rate=0.05, lam=0.1, delta=1.0)
            )
            for n in (30, 5, 30)
        ]

        def stacked(trees):
            return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

        together = jax.jit(
            jax.vmap(
                lambda method, measured, x_t: method.update(
                    KEY, x_t, (), case.row(2), measured, case.prior
                )[0]
            ),
            compiler_options=dense.QUICK,
        )(stacked(methods), stacked(problems), x_t)
        for lane in range(lanes):
            alone, _, _ = dense.update(
                methods[lane],
                case._replace(problem=problems[lane]),
                2,
                x_t[lane],
            )
            np.testing.assert_allclose(together[lane], alone, atol=1e-5)


class LimitTest(parameterized.TestCase):
    @parameterized.product(lam=[0.0, 0.5], row=[6, 9])
    def test_it_comes_to_the_minimum_that_algebra_gives(self, lam, row):
        # Under N(mu, v I) the estimate is s v_t + b with the slope
        # s = sqrt(a) v / (a v + 1 - a), so that the minimum of
        # ||y - s v_t - b||^2 + lam ||x_t - v_t||^2 moves by s / (s^2 + lam)
        # with y, and its estimate by s times as much.
        step = schedule.Steps(*(field[row] for field in STEPS))
        a = float(step.alpha_bar_t)
        slope = np.sqrt(a) * VARIANCE / (a * VARIANCE + 1 - a)
        share = slope**2 / (slope**2 + lam)
        measured = problem.measure(
            KEY, PRIOR.sample(KEY), Mask(jnp.ones((4, 4, 1)), 1), 0.1
        )
        case = dense.case_of('dense')._replace(prior=PRIOR, steps=STEPS)
        change = jax.random.uniform(KEY, SHAPE)
        x_t = dense.points(1)[0]
        method = unclipped(
            inner_steps=2000, learning_rate=0.1, lam=lam, delta=0.0
        )
        # Both have the same noise.
        before, after = (
            dense.update(
                method,
                case._replace(problem=measured.replace(y=y)),
                row,
                x_t,
            )[0]
            for y in (measured.y, measured.y + change)
        )
        expected = np.sqrt(step.alpha_bar_s) * share * change
        np.testing.assert_allclose(after - before, expected, atol=2e-3)

    def test_a_function_that_is_not_linear_is_met(self):
        operator = operators.Function.of(jnp.tanh, SHAPE)
        measured = problem.measure(
            jax.random.key(2), PRIOR.sample(jax.random.key(1)), operator, 0.0
        )
        method = unclipped(inner_steps=100, learning_rate=0.05, lam=0.0)
        x_0, _ = dense.sample(method, measured, PRIOR, STEPS)
        np.testing.assert_allclose(operator.forward(x_0), measured.y, atol=0.02)


if __name__ == '__main__':
    absltest.main()
