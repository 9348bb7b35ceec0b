"""ADMM, half-quadratic splitting and the untrained prior: do they end where
their definitions say?"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from invjax import (
    operators,
    problem,
    restoration,
    sampler,
    schedule,
)
from invjax.methods import METHODS
from invjax.priors import gaussian

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
KEY = jax.random.key(0)
SHAPE = (4, 4, 2)
# Of the iterations that do not read it, one a row.
STEPS = schedule.reverse_steps(ALPHA_BAR, 1000)
_QUICK = {'xla_backend_optimization_level': 0}


def make(name, **settings):
    """A method by its name, with flat settings."""
    return METHODS[name].of(settings)


@functools.partial(jax.jit, compiler_options=_QUICK)
def _sample(method, measured, steps, prior):
    return sampler.sample(KEY, steps, measured, prior, method)


def sample(name, measured, prior=None, steps=STEPS, **settings):
    method = jax.tree.map(np.float32, make(name, **settings))
    return _sample(method, measured, steps, prior)


def make_problem(task, noise_std=0.1, **parameters):
    """A bright square on a dark ground, measured."""
    x_0 = jnp.full(SHAPE, -0.5).at[1:3, 1:4].set(0.5)
    operator = operators.make_operator(task, KEY, SHAPE, **parameters)
    return problem.measure(jax.random.key(1), x_0, operator, noise_std)


def dense_differences():
    """D, (2 H W C, H W C), from its definition, row by row."""
    height, width, channels = SHAPE
    number = np.arange(height * width * channels).reshape(SHAPE)
    matrix = np.zeros((2, *SHAPE, number.size))
    for i, j, c in np.ndindex(*SHAPE):
        for way, (m, n) in enumerate([(i + 1, j), (i, j + 1)]):
            if m < height and n < width:
                matrix[way, i, j, c, number[m, n, c]] = 1
                matrix[way, i, j, c, number[i, j, c]] = -1
    return matrix.reshape(-1, number.size)


def lengths(d):
    """Of each pixel's differences, over directions and channels: (1, ...)."""
    d = d.reshape(2, *SHAPE)
    return np.sqrt((d**2).sum(axis=(0, 3), keepdims=True))


class AdmmTvTest(parameterized.TestCase):
    @parameterized.product(weight=[2.0, 20.0], rho=[30.0, 100.0])
    def test_denoising_comes_to_a_certified_minimum(self, weight, rho):
        # In units of sigma^2 the problem is ||y - x||^2 / 2 + w TV(x), and by
        # duality any p with lengths of at most 1 bounds its minimum from below,
        #     ||y||^2 / 2 - ||y - w D^T p||^2 / 2,
        # which projected gradients raise (Chambolle, 2004).
        noise_std = 0.1
        measured = make_problem('denoising', noise_std)
        found, _ = sample('admm_tv', measured, weight=weight, rho=rho)
        x, y = (np.ravel(v).astype(np.float64) for v in (found, measured.y))
        differences, w = dense_differences(), weight * noise_std**2
        p = np.zeros(len(differences))
        for _ in range(5000):
            p = p + differences @ (y - w * differences.T @ p) / (8 * w)
            p = (p.reshape(2, *SHAPE) / np.maximum(lengths(p), 1)).ravel()
        bound = (y @ y - np.sum((y - w * differences.T @ p) ** 2)) / 2
        reached = np.sum((y - x) ** 2) / 2 + w * lengths(differences @ x).sum()
        self.assertGreater(w * lengths(differences @ x).sum(), 0.01)
        self.assertGreater(reached, bound - 1e-5)
        self.assertLess(reached, bound * (1 + 1e-4))

    @parameterized.parameters(
        ('super_resolution', {'factor': 2}), ('box_inpainting', {})
    )
    def test_other_tasks_come_to_the_minimum_of_another_solver(
        self, task, parameters
    ):
        noise_std, weight = 0.1, 5.0
        measured = make_problem(task, noise_std, **parameters)
        matrix = gaussian.dense_matrix(measured.operator.forward, SHAPE)
        differences = dense_differences()
        y = np.ravel(measured.y).astype(np.float64)

        def objective(x, rounded=0.0):
            """And its gradient; with corners rounded it has one everywhere."""
            error, d = matrix @ x - y, differences @ x
            length = np.sqrt(lengths(d) ** 2 + rounded**2)
            value = error @ error / (2 * noise_std**2) + weight * length.sum()
            shares = (d.reshape(2, *SHAPE) / length).ravel() if rounded else d
            by_tv = weight * differences.T @ shares
            return value, matrix.T @ error / noise_std**2 + by_tv

        x = np.zeros(len(matrix.T))
        for rounded in (1e-1, 1e-2, 1e-3, 1e-4):
            x = scipy.optimize.minimize(
                objective,
                x,
                (rounded,),
                'L-BFGS-B',
                jac=True,
                options={'maxiter': 5000, 'maxfun': 10000, 'ftol': 1e-14},
            ).x
        found, _ = sample('admm_tv', measured, weight=weight)
        reached, _ = objective(np.ravel(found).astype(np.float64))
        expected, _ = objective(x)
        # Rounding by 1e-4 costs 16 pixels 5 * 1e-4 each at most.
        np.testing.assert_allclose(reached, expected, rtol=1e-3, atol=0.01)

    def test_without_a_weight_it_is_least_squares(self):
        for task in ('denoising', 'gaussian_deblur'):
            parameters = {}
            if task == 'gaussian_deblur':
                parameters = {'blur_size': 3, 'blur_std': 0.5}
            measured = make_problem(task, **parameters)
            matrix = gaussian.dense_matrix(measured.operator.forward, SHAPE)
            expected = np.linalg.solve(matrix, np.ravel(measured.y))
            found, info = sample('admm_tv', measured, weight=0.0, rho=10.0)
            np.testing.assert_allclose(np.ravel(found), expected, atol=1e-3)
            np.testing.assert_allclose(info.residual[-1], 0, atol=1e-3)

    def test_a_large_weight_leaves_one_colour(self):
        # The flat image nearest to y: a mean for each channel.
        measured = make_problem('denoising')
        found, _ = sample('admm_tv', measured, weight=1000.0, rho=1000.0)
        expected = np.broadcast_to(measured.y.mean(axis=(0, 1)), SHAPE)
        np.testing.assert_allclose(found, expected, atol=1e-3)


class PlugAndPlayTest(parameterized.TestCase):
    @parameterized.product(
        task=['box_inpainting', 'super_resolution'], lam=[0.5, 2.0]
    )
    def test_fixed_levels_come_to_the_modes_of_gaussian_posteriors(
        self, task, lam
    ):
        # A prior with correlations, so that no basis makes all matrices
        # diagonal.
        noise_std, tau = 0.2, 200
        factor = np.random.default_rng(0).normal(size=(32, 32)) / 32**0.5
        covariance = 0.1 * (factor @ factor.T + 0.2 * np.eye(32))
        mean = np.full(SHAPE, 0.1)
        parameters = {'factor': 2} if task == 'super_resolution' else {}
        measured = make_problem(task, noise_std, **parameters)
        matrix = gaussian.dense_matrix(measured.operator.forward, SHAPE)
        prior = gaussian.GaussianPrior.from_covariance(
            mean, covariance, ALPHA_BAR
        )
        level_var = (1 - ALPHA_BAR[tau]) / ALPHA_BAR[tau]
        smoothed = covariance + level_var * np.eye(32)

        def mode(covariance):
            """Under lam / 2 ||x - mean||^2 by the inverse covariance."""
            weighted = gaussian.GaussianPrior.from_covariance(
                mean, covariance / lam, ALPHA_BAR
            )
            return gaussian.gaussian_posterior(
                weighted, matrix, measured.y, noise_std
            ).mean

        def denoised(x):
            gain = covariance @ np.linalg.inv(smoothed)
            return mean + (gain @ np.ravel(x - mean)).reshape(SHAPE)

        expected = {
            'pnp_admm': mode(covariance),
            'hqs': denoised(mode(smoothed)),
        }
        self.assertGreater(
            np.abs(expected['hqs'] - expected['pnp_admm']).max(), 0.02
        )
        for method, image in expected.items():
            found, info = sample(
                method,
                measured,
                prior,
                STEPS,
                tau=tau,
                lam=lam,
                levels='fixed',
                clip=False,
            )
            np.testing.assert_allclose(found, image, atol=2e-3)
            if method == 'pnp_admm':
                np.testing.assert_allclose(info.prior_step[-1], 0, atol=1e-3)

    def test_rows_above_tau_leave_the_image_and_the_dual_as_they_are(self):
        measured = make_problem('box_inpainting')
        prior = gaussian.GaussianPrior.isotropic(
            np.full(SHAPE, 0.2), 0.1, ALPHA_BAR
        )
        steps = schedule.reverse_steps(ALPHA_BAR, 20)
        below = schedule.Steps(*(field[steps.t <= 400] for field in steps))
        for method in ('hqs', 'pnp_admm'):
            found, expected = (
                sample(method, measured, prior, rows, tau=400.0)[0]
                for rows in (steps, below)
            )
            np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_a_sweep_leaves_out_rows_above_tau_only_where_levels_fall(self):
        measured = make_problem('box_inpainting')
        prior = gaussian.GaussianPrior.isotropic(
            np.full(SHAPE, 0.2), 0.1, ALPHA_BAR
        )
        for levels, num_left_out in (('falling', 4), ('fixed', 0)):
            method = make('hqs', tau=0.0, levels=levels)
            result = restoration.restore(measured, prior, method, 5, seed=KEY)
            left_out = np.isnan(result.info.residual).sum()
            self.assertEqual(left_out, num_left_out)


class DipTest(parameterized.TestCase):
    shape = (8, 8, 1)

    def measured(self, noise_std):
        """A shaded image, from black to white."""
        rows, columns = np.meshgrid(*[np.linspace(-0.4, 0.4, 8)] * 2)
        x_0 = jnp.asarray(rows + columns, jnp.float32)[..., None]
        operator = operators.make_operator('denoising', KEY, self.shape)
        return x_0, problem.measure(KEY, x_0, operator, noise_std)

    def test_it_stops_at_the_discrepancy_and_then_stays(self):
        steps = schedule.reverse_steps(ALPHA_BAR, 60)
        for discrepancy in (1.0, 1.5):
            _, measured = self.measured(0.2)
            limit = discrepancy * 0.2 * 8  # 64 values
            _, info = sample(
                'dip',
                measured,
                steps=steps,
                iterations=3,
                discrepancy=discrepancy,
            )
            last = np.argmax(np.asarray(info.residual) <= limit)
            self.assertGreater(last, 0)
            np.testing.assert_array_equal(info.prior_step[last + 1 :], 0)
            self.assertTrue(np.all(info.prior_step[: last + 1] > 0))
            # One of Adam's iterations moves the average by little.
            self.assertGreater(info.residual[-1], 0.95 * limit)
            np.testing.assert_array_equal(
                info.residual[last:], info.residual[-1]
            )

    def test_where_it_stops_it_is_nearer_to_the_truth_than_what_it_fitted(self):
        x_0, measured = self.measured(0.2)
        steps = schedule.reverse_steps(ALPHA_BAR, 60)
        stopped, at_stop = sample('dip', measured, steps=steps)
        went_on, info = sample('dip', measured, steps=steps, discrepancy=0.0)
        self.assertLess(info.residual[-1], 0.5 * at_stop.residual[-1])
        errors = [
            np.linalg.norm(x - x_0) for x in (stopped, went_on, measured.y)
        ]
        self.assertLess(errors[0], 0.8 * errors[1])
        self.assertLess(errors[0], 0.8 * errors[2])

    def test_the_residual_falls_on_average(self):
        _, measured = self.measured(0.0)
        steps = schedule.reverse_steps(ALPHA_BAR, 60)
        _, info = sample('dip', measured, steps=steps)
        means = np.asarray(info.residual).reshape(6, 10).mean(axis=1)
        np.testing.assert_array_less(means[1:], means[:-1])

    @parameterized.parameters(
        ((4, 4, 2), 1),
        ((8, 8, 1), 2),
        ((64, 64, 3), 3),
        ((6, 10, 3), 1),
        ((8, 12, 3), 2),
        ((5, 7, 3), 0),
        ((1, 1, 1), 0),
    )
    def test_it_takes_any_shape_and_halves_it_as_often_as_it_can(
        self, shape, num_halvings
    ):
        operator = operators.make_operator('denoising', KEY, shape)
        measured = problem.measure(KEY, jnp.zeros(shape), operator)
        tested = make('dip')
        x, state = jax.eval_shape(
            lambda key: tested.start(key, measured, STEPS), KEY
        )
        self.assertEqual(x.shape, shape)
        names = [n for n in state.weights['params'] if n.startswith('_Block')]
        self.assertLen(names, 2 * num_halvings + 1)

    def test_any_differentiable_operator_will_do(self):
        x_0, _ = self.measured(0.0)
        operator = operators.Function.of(lambda x: jnp.tanh(2 * x), self.shape)
        measured = problem.measure(KEY, x_0, operator, 0.1)
        steps = schedule.reverse_steps(ALPHA_BAR, 60)
        found, info = sample('dip', measured, steps=steps)
        self.assertLessEqual(info.residual[-1], 0.1 * 8)
        self.assertLess(np.abs(found - x_0).mean(), 0.15)


if __name__ == '__main__':
    absltest.main()
