"""FAST-DIPS: its rounds in NumPy, and the minimum that they lead to."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from invjax import operators, problem
from invjax.diffusion import Transition
from invjax.methods.fast_dips import FastDIPS
from tests.methods import dense


def unclipped(**settings):
    return FastDIPS(**settings, transition=Transition(clip=False))


def corrected(case, row, x_t, rho, rounds, inner_steps, epsilon):
    """z after rounds of ADMM on a linear operator, float64."""
    level = case.at(row)
    gamma = (1 - level.a) / level.a
    estimate = case.estimate(level.a)
    anchor = estimate.matrix @ x_t.astype(np.float64) + estimate.offset
    # F is quadratic: its curvature, and where along -g its slope is 0.
    hessian = np.eye(len(anchor)) / gamma + rho * case.matrix.T @ case.matrix
    z, v, u = anchor, case.matrix @ anchor, np.zeros(len(case.y))
    for _ in range(rounds):
        target = anchor / gamma + rho * case.matrix.T @ (v - u)
        for _ in range(inner_steps):
            g = hessian @ z - target
            if np.any(g):
                z = z - min(g @ g / (g @ hessian @ g), 1.0) * g
        away = case.matrix @ z + u - case.y
        length = np.linalg.norm(away)
        v = case.y + away * min(1, epsilon / length)
        u = case.matrix @ z + u - v
    return z


def radius_of(case, settings):
    if settings.get('radius') == 'fixed':
        return settings['epsilon']
    # A mask's zero rows measure nothing.
    return case.noise_std * np.sqrt(np.any(case.matrix, axis=1).sum())


class StepTest(parameterized.TestCase):
    @parameterized.product(
        settings=[
            {'rho': 8.0, 'rounds': 3, 'inner_steps': 2},
            {
                'rho': 30.0,
                'rounds': 2,
                'inner_steps': 4,
                'radius': 'fixed',
                'epsilon': 0.4,
            },
        ],
        noise_std=[0.0, 0.3],
        kind=['dense', 'gaussian_deblur', 'random_inpainting'],
    )
    def test_it_takes_rounds_of_admm_and_noises_again(
        self, settings, noise_std, kind
    ):
        case = dense.case_of(kind, noise_std)
        numbers = {n: settings[n] for n in ('rho', 'rounds', 'inner_steps')} | {
            'epsilon': radius_of(case, settings)
        }
        method = unclipped(**settings)
        for row, x_t in zip(dense.ROWS, dense.points(), strict=True):
            level = case.at(row)
            # Another run of the same key, without a measurement, has the noise.
            x_s, _, info = dense.update(method, case, row, x_t)
            noise = np.ravel(jax.random.normal(dense.KEY, (4, 4, 1)))
            z = corrected(case, row, x_t, **numbers)
            expected = np.sqrt(level.b) * z + np.sqrt(1 - level.b) * noise
            np.testing.assert_allclose(np.ravel(x_s), expected, atol=2e-3)
            estimate = case.estimate(level.a)
            anchor = estimate.matrix @ x_t + estimate.offset
            np.testing.assert_allclose(
                info.guidance,
                np.sqrt(level.b) * np.linalg.norm(z - anchor),
                atol=2e-3,
            )

    def test_both_estimates_are_clipped(self):
        case = dense.case_of('random_inpainting', 0.1)
        far = case.problem.replace(y=4 * case.problem.y)
        x_s, _, _ = dense.update(
            FastDIPS(rho=1e4), case._replace(problem=far), 5, dense.points(1)[0]
        )
        self.assertEqual(np.abs(x_s).max(), 1)


class LimitTest(parameterized.TestCase):
    @parameterized.parameters('dense', 'gaussian_deblur')
    def test_many_rounds_find_the_nearest_image_within_the_noise(self, kind):
        case = dense.case_of(kind, 0.1)
        row, x_t = 3, dense.points(1)[0]
        epsilon = radius_of(case, {})
        anchor = case.estimate(case.at(row).a)
        anchor = anchor.matrix @ x_t + anchor.offset
        self.assertGreater(
            np.linalg.norm(case.matrix @ anchor - case.y), 2 * epsilon
        )

        # By Lagrange: z = (I + mu A^T A)^-1 (anchor + mu A^T y), with the mu
        # for which the residual is epsilon.
        def nearest(log_mu):
            mu = np.exp(log_mu)
            return np.linalg.solve(
                np.eye(16) + mu * case.matrix.T @ case.matrix,
                anchor + mu * case.matrix.T @ case.y,
            )

        log_mu = scipy.optimize.brentq(
            lambda v: (
                np.linalg.norm(case.matrix @ nearest(v) - case.y) - epsilon
            ),
            -10,
            15,
        )
        method = unclipped(rho=100.0, rounds=300, inner_steps=10)
        x_s, _, _ = dense.update(method, case, row, x_t)
        noise = np.ravel(jax.random.normal(dense.KEY, (4, 4, 1)))
        level = case.at(row)
        z = (np.ravel(x_s) - np.sqrt(1 - level.b) * noise) / np.sqrt(level.b)
        np.testing.assert_allclose(z, nearest(log_mu), atol=2e-3)

    def test_an_estimate_within_the_noise_stays(self):
        case = dense.case_of('dense')
        method = unclipped(radius='fixed', epsilon=100.0)
        _, _, info = dense.update(method, case, 3, dense.points(1)[0])
        self.assertLess(info.guidance, 1e-5)

    def test_a_function_that_is_not_linear_is_met(self):
        operator = operators.Function.of(jnp.tanh, (4, 4, 1))
        prior = dense.prior_of((4, 4, 1))
        measured = problem.measure(
            jax.random.key(2), prior.sample(jax.random.key(1)), operator, 0.0
        )
        method = unclipped(rho=1e5, inner_steps=10)
        x_0, _ = dense.sample(method, measured, prior, dense.STEPS)
        np.testing.assert_allclose(operator.forward(x_0), measured.y, atol=0.02)

    def test_a_step_that_climbs_is_halved(self):
        # 1 - exp(-20 z) is nearly flat at z = 0.3 and far from linear below it:
        # the step of the linear model goes past -1, where F is enormous.
        operator = operators.Function.of(
            lambda x: 1 - jnp.exp(-20 * x), (1, 1, 1)
        )
        z = jnp.full((1, 1, 1), 0.3)

        def value(z):
            return 0.5 * 200 * float(operator.forward(z)[0, 0, 0] + 1) ** 2

        moved = FastDIPS(inner_steps=1)._descend(
            z, z, -jnp.ones((1, 1, 1)), 1e4, operator.forward
        )
        self.assertLess(float(moved[0, 0, 0]), 0.3)
        self.assertLess(value(moved), value(z))
        slope = 20 * np.exp(-6)
        g = 200 * slope * (2 - np.exp(-6))
        whole = z - min(1, g**2 / (g**2 / 1e4 + 200 * (slope * g) ** 2)) * g
        self.assertGreater(value(whole), value(z))


if __name__ == '__main__':
    absltest.main()
