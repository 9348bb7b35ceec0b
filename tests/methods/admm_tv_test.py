"""ADMM with total variation: its iterations, and the minimum that they reach."""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from absl.testing import absltest, parameterized

from invjax import operators, problem, schedule
from invjax.methods.admm_tv import ADMMTV
from invjax.priors import gaussian
from tests.methods import dense

KEY = jax.random.key(0)
SHAPE = (4, 4, 2)
# Of an iteration a row.
STEPS = schedule.reverse_steps(dense.ALPHA_BAR, 1000)


def make_problem(task, noise_std=0.1, **parameters):
    """A bright square on a dark ground, measured."""
    x_0 = jnp.full(SHAPE, -0.5).at[1:3, 1:4].set(0.5)
    operator = operators.make_operator(task, KEY, SHAPE, **parameters)
    return problem.measure(jax.random.key(1), x_0, operator, noise_std)


def restored(measured, steps=STEPS, **settings):
    return dense.sample(ADMMTV(**settings), measured, None, steps)


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


class IterationTest(parameterized.TestCase):
    @parameterized.product(
        settings=[{'weight': 2.0, 'rho': 30.0}, {'weight': 12.0, 'rho': 7.0}],
        case=[
            ('denoising', 0.0),
            ('denoising', 0.1),
            ('super_resolution', 0.03),
            ('super_resolution', 0.1),
        ],
    )
    def test_it_is_admm_of_the_splitting(self, settings, case):
        task, noise_std = case
        weight, rho = settings['weight'], settings['rho']
        parameters = {'factor': 2} if task == 'super_resolution' else {}
        measured = make_problem(task, noise_std, **parameters)
        matrix = gaussian.dense_matrix(measured.operator.forward, SHAPE)
        y = np.ravel(measured.y).astype(np.float64)
        differences = dense_differences()
        # What stands for no noise; see the module.
        noise_var = max(noise_std**2, 1e-6)
        x = np.clip(np.linalg.pinv(matrix, 1e-3) @ y, -1, 1)
        z = u = np.zeros(len(differences))
        normal = matrix.T @ matrix / noise_var
        normal += rho * differences.T @ differences
        for _ in range(4):
            before = x
            right = matrix.T @ y / noise_var + rho * differences.T @ (z - u)
            x = np.linalg.solve(normal, right)
            d = (differences @ x + u).reshape(2, *SHAPE)
            length = np.maximum(lengths(d), 1e-12)
            z = (np.maximum(1 - weight / rho / length, 0) * d).ravel()
            u = u + differences @ x - z
        found, info = restored(
            measured, schedule.reverse_steps(dense.ALPHA_BAR, 4), **settings
        )
        np.testing.assert_allclose(np.ravel(found), x, atol=1e-3)
        pull = matrix.T @ (y - matrix @ x)
        for value, length in (
            (info.prior_step, x - before),
            (info.guidance, pull),
            (info.residual, y - matrix @ x),
        ):
            np.testing.assert_allclose(
                value[-1], np.linalg.norm(length), atol=3e-3
            )


class LimitTest(parameterized.TestCase):
    @parameterized.product(weight=[2.0, 20.0], rho=[30.0, 100.0])
    def test_denoising_comes_to_a_certified_minimum(self, weight, rho):
        # In units of sigma^2 the problem is ||y - x||^2 / 2 + w TV(x), and by
        # duality any p with lengths of at most 1 bounds its minimum from below,
        #     ||y||^2 / 2 - ||y - w D^T p||^2 / 2,
        # which projected gradients raise (Chambolle, 2004).
        noise_std = 0.1
        measured = make_problem('denoising', noise_std)
        found, _ = restored(measured, weight=weight, rho=rho)
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
        found, _ = restored(measured, weight=weight)
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
            found, info = restored(measured, weight=0.0, rho=10.0)
            np.testing.assert_allclose(np.ravel(found), expected, atol=1e-3)
            np.testing.assert_allclose(info.residual[-1], 0, atol=1e-3)

    def test_a_large_weight_leaves_one_colour(self):
        # The flat image nearest to y: a mean for each channel.
        measured = make_problem('denoising')
        found, _ = restored(measured, weight=1000.0, rho=1000.0)
        expected = np.broadcast_to(measured.y.mean(axis=(0, 1)), SHAPE)
        np.testing.assert_allclose(found, expected, atol=1e-3)


if __name__ == '__main__':
    absltest.main()
