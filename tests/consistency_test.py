"""Data consistency against dense algebra, by every path."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import consistency, operators, problem
from invjax.priors import gaussian

_SHAPE = (8, 8, 3)
_LINEAR = [
    task
    for task in operators.OPERATORS
    if hasattr(
        operators.make_operator(task, jax.random.key(0), _SHAPE), 'adjoint'
    )
]
_PARAMETERS = {
    'gaussian_deblur': {'blur_size': 5, 'blur_std': 0.8},
    'motion_deblur': {'blur_size': 5},
    'super_resolution': {'factor': 2},
}


class _OnlyForwardAndAdjoint:
    """An operator without its cheaper forms."""

    def __init__(self, operator):
        self.forward = operator.forward
        self.adjoint = operator.adjoint
        self.support = operator.support


jax.tree_util.register_static(_OnlyForwardAndAdjoint)


def _measured(task, noise_std, plain=False):
    keys = jax.random.split(jax.random.key(0), 3)
    operator = operators.make_operator(
        task, keys[0], _SHAPE, **_PARAMETERS.get(task, {})
    )
    x = jax.random.normal(keys[1], _SHAPE)
    measured = problem.measure(keys[2], x, operator, noise_std)
    matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
    if plain:
        measured = measured.replace(operator=_OnlyForwardAndAdjoint(operator))
    return measured, matrix


def _expected_nearest(matrix, y, x, variance, noise_std):
    """The minimiser by its normal equations, float64."""
    variances = np.broadcast_to(variance, x.shape).ravel().astype(np.float64)
    normal = matrix.T @ matrix / noise_std**2 + np.diag(1 / variances)
    right = matrix.T @ np.ravel(y) / noise_std**2 + np.ravel(x) / variances
    return np.linalg.solve(normal, right).reshape(x.shape)


def _estimate():
    return np.asarray(jax.random.normal(jax.random.key(7), _SHAPE))


class NearestTest(parameterized.TestCase):
    @parameterized.parameters(
        *((task, False) for task in _LINEAR),
        ('motion_deblur', True),
        ('super_resolution', True),
    )
    def test_it_is_the_minimiser(self, task, plain):
        measured, matrix = _measured(task, 0.1, plain)
        x = _estimate()
        for variance in (0.01, 1.0):
            found = consistency.nearest(measured, x, variance)
            expected = _expected_nearest(matrix, measured.y, x, variance, 0.1)
            np.testing.assert_allclose(found, expected, atol=2e-3)

    @parameterized.parameters(
        'box_inpainting', 'gaussian_deblur', 'super_resolution'
    )
    def test_a_variance_for_each_value_is_respected(self, task):
        measured, matrix = _measured(task, 0.1)
        x = _estimate()
        variance = np.random.default_rng(0).uniform(0.01, 1, _SHAPE)
        found = consistency.nearest(measured, x, jnp.asarray(variance))
        expected = _expected_nearest(matrix, measured.y, x, variance, 0.1)
        np.testing.assert_allclose(found, expected, atol=2e-3)


class CovarianceTest(parameterized.TestCase):
    """A function x -> Sigma x in place of a variance."""

    def covariance(self):
        root = np.random.default_rng(1).standard_normal((192, 192)) / 14
        dense = jnp.asarray(root @ root.T + 0.1 * np.eye(192), jnp.float32)
        return dense, lambda x: jnp.dot(
            dense, x.ravel(), precision='highest'
        ).reshape(x.shape)

    @parameterized.parameters(*_LINEAR)
    def test_it_is_the_minimiser(self, task):
        measured, matrix = _measured(task, 0.1)
        dense, covariance = self.covariance()
        x = _estimate()
        dense = np.asarray(dense, np.float64)
        gram = matrix @ dense @ matrix.T + 0.1**2 * np.eye(len(matrix))
        flat = np.ravel(measured.residual(x)).astype(np.float64)
        expected = dense @ matrix.T @ np.linalg.solve(gram, flat)
        found = consistency.nearest(measured, x, covariance)
        np.testing.assert_allclose(np.ravel(found - x), expected, atol=2e-3)

    def test_without_noise_it_explains_the_measurement(self):
        measured, _ = _measured('super_resolution', 0.0)
        _, covariance = self.covariance()
        found = consistency.nearest(measured, _estimate(), covariance)
        np.testing.assert_allclose(
            measured.operator.forward(found), measured.y, atol=2e-3
        )

    def test_where_nothing_is_measured_the_estimate_stays(self):
        nothing = problem.nothing_measured(_SHAPE)
        _, covariance = self.covariance()
        found = consistency.nearest(nothing, _estimate(), covariance)
        np.testing.assert_array_equal(found, _estimate())


class ProjectTest(parameterized.TestCase):
    @parameterized.parameters(*_LINEAR)
    def test_it_explains_the_measurement_and_changes_nothing_else(self, task):
        measured, matrix = _measured(task, 0.0)
        x = _estimate()
        found = consistency.project(measured, x)
        np.testing.assert_allclose(
            measured.operator.forward(found), measured.y, atol=2e-3
        )
        # What was added lies in the row space, so it is the least change.
        added = np.ravel(found - x)
        # Rounding leaves singular values where there are none.
        rows = np.linalg.pinv(matrix, rcond=1e-6) @ matrix
        np.testing.assert_allclose(rows @ added, added, atol=2e-3)


class SquaredDistanceTest(parameterized.TestCase):
    @parameterized.product(
        task=['random_inpainting', 'motion_deblur', 'super_resolution'],
        plain=[False, True],
    )
    def test_it_is_the_quadratic_form(self, task, plain):
        measured, matrix = _measured(task, 0.3, plain)
        x = _estimate()
        residual = measured.residual(x)
        found = consistency.squared_distance(
            measured, residual, jnp.asarray(0.5), 0.3**2
        )
        gram = 0.5 * matrix @ matrix.T + 0.3**2 * np.eye(len(matrix))
        flat = np.ravel(residual)
        np.testing.assert_allclose(
            found, flat @ np.linalg.solve(gram, flat), rtol=1e-3
        )


class DrawTest(parameterized.TestCase):
    @parameterized.parameters('random_inpainting', 'motion_deblur')
    def test_samples_have_the_posterior_s_mean_and_variance(self, task):
        measured, matrix = _measured(task, 0.3)
        x = _estimate()
        keys = jax.random.split(jax.random.key(3), 4000)
        draw = jax.jit(
            jax.vmap(lambda key: consistency.draw(key, measured, x, 0.5))
        )
        samples = np.asarray(draw(keys)).reshape(4000, -1)
        mean = _expected_nearest(matrix, measured.y, x, 0.5, 0.3).ravel()
        covariance = np.linalg.inv(
            matrix.T @ matrix / 0.3**2 + np.eye(len(mean)) / 0.5
        )
        std = np.sqrt(np.diag(covariance))
        # 192 values, five standard errors each.
        np.testing.assert_array_less(
            np.abs(samples.mean(axis=0) - mean), 5 * std / np.sqrt(4000)
        )
        ratio = samples.var(axis=0) / std**2
        np.testing.assert_allclose(ratio, 1, atol=5 * np.sqrt(2 / 4000))


class NothingMeasuredTest(absltest.TestCase):
    def test_the_estimate_stays_with_and_without_noise(self):
        nothing = problem.nothing_measured(_SHAPE)
        x = _estimate()
        for noise_std in (0.0, 0.1):
            measured = nothing.replace(noise_std=jnp.asarray(noise_std))
            np.testing.assert_array_equal(
                consistency.nearest(measured, x, 0.5), x
            )
            np.testing.assert_array_equal(consistency.project(measured, x), x)


if __name__ == '__main__':
    absltest.main()
