"""Data consistency against dense algebra, by every path."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.scipy.sparse.linalg import cg

from invjax import consistency, operators, problem, types
from invjax.operators import blur
from invjax.priors import gaussian

_SHAPE = (8, 8, 3)
_LINEAR = [
    task
    for task in operators.OPERATORS
    if isinstance(
        operators.make_operator(task, jax.random.key(0), _SHAPE),
        types.LinearOperator,
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
        self.image_shape = operator.image_shape
        self.measurement_shape = operator.measurement_shape
        self.forward = operator.forward
        self.adjoint = operator.adjoint
        self.guess = operator.adjoint
        self.support = operator.support
        self.describe = operator.describe


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

    def test_what_hardly_passes_is_left_as_it_is(self):
        # A wide blur: three quarters of its singular values are under a
        # thousandth of the largest, down to where float32 has nothing left.
        operator = operators.make_operator(
            'gaussian_deblur',
            jax.random.key(0),
            _SHAPE,
            blur_size=15,
            blur_std=1.6,
        )
        kernel = blur.gaussian_kernel(15, 1.6)
        u, s, vt = np.linalg.svd(blur.blur_matrix(kernel, 8))
        values = np.outer(s, s)[..., None]
        kept = values >= 1e-3 * values.max()
        self.assertBetween(kept.mean(), 0.1, 0.6)
        y = np.random.default_rng(5).normal(size=_SHAPE)
        measured = problem.from_measurement(y, operator, 0.0)
        found = consistency.project(measured, jnp.zeros(_SHAPE))
        coefficients = np.einsum('ih,hwc,jw->ijc', vt, found, vt)
        expected = np.einsum('hi,hwc,wj->ijc', u, y, u) / values
        difference = coefficients - np.where(kept, expected, 0)
        # Seven digits of what is kept are all that there is.
        atol = 1e-5 * np.abs(coefficients).max()
        self.assertLess(atol, 0.02)
        np.testing.assert_allclose(difference, 0, atol=atol)


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


class ConjugateGradientsTest(parameterized.TestCase):
    def system(self, size=12, condition=30.0):
        """M with the given condition number, and b."""
        rng = np.random.default_rng(2)
        basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
        values = np.geomspace(1, condition, size)
        return (basis * values) @ basis.T, rng.normal(size=size)

    def solve(self, matrix, b, **kwargs):
        dense = jnp.asarray(matrix, jnp.float32)
        return consistency.conjugate_gradients(
            lambda v: jnp.dot(dense, v, precision='highest'),
            jnp.asarray(b, jnp.float32),
            **kwargs,
        )

    def test_it_solves_the_system_and_says_how_well(self):
        matrix, b = self.system()
        found = self.solve(matrix, b)
        v = np.asarray(found.x, np.float64)
        np.testing.assert_allclose(v, np.linalg.solve(matrix, b), atol=1e-4)
        self.assertLess(found.relative_residual, 2e-5)
        # In exact arithmetic as many steps as there are values, and hardly
        # more in this one.
        self.assertBetween(int(found.num_steps), 8, 14)
        self.assertEqual(found.num_steps.dtype, jnp.int32)

    @parameterized.parameters(0, 1, 3, 6)
    def test_a_solution_that_was_cut_short_is_known(self, max_steps):
        matrix, b = self.system()
        found = self.solve(matrix, b, max_steps=max_steps)
        self.assertEqual(found.num_steps, max_steps)
        left = b - matrix @ np.asarray(found.x, np.float64)
        expected = np.linalg.norm(left) / np.linalg.norm(b)
        np.testing.assert_allclose(found.relative_residual, expected, rtol=1e-3)
        self.assertGreater(expected, 1e-3)

    def test_what_float32_cannot_solve_is_not_taken_for_solved(self):
        # The residual that the iteration updates comes down to 1e-5, or it would
        # go on; what v leaves is a hundred times as much and more.
        matrix, b = self.system(size=40, condition=1e5)
        found = self.solve(matrix, b, max_steps=2000)
        self.assertLess(found.num_steps, 2000)
        left = b - matrix @ np.asarray(found.x, np.float64)
        expected = np.linalg.norm(left) / np.linalg.norm(b)
        self.assertGreater(expected, 1e-3)
        np.testing.assert_allclose(found.relative_residual, expected, rtol=0.2)

    @parameterized.parameters(1, 4, 100)
    def test_the_iteration_is_that_of_jax(self, max_steps):
        matrix, b = self.system()
        dense, b = jnp.asarray(matrix, jnp.float32), jnp.asarray(b, jnp.float32)
        for scale in (1.0, 1e-6, 1e6):
            expected, _ = cg(
                lambda v: dense @ v, scale * b, tol=1e-5, maxiter=max_steps
            )
            found = consistency.conjugate_gradients(
                lambda v: dense @ v, scale * b, max_steps
            )
            np.testing.assert_array_equal(found.x, expected)

    def test_zero_is_solved_at_once_and_without_nan(self):
        matrix, _ = self.system()
        found = self.solve(matrix, np.zeros(12))
        np.testing.assert_array_equal(found.x, 0)
        self.assertEqual(found.relative_residual, 0)
        self.assertEqual(found.num_steps, 0)

    def test_a_failure_is_infinite_and_not_nan(self):
        for matrix in (np.full((12, 12), np.nan), np.zeros((12, 12))):
            found = self.solve(matrix, np.ones(12))
            self.assertEqual(found.relative_residual, np.inf)

    def test_each_lane_has_its_own_end(self):
        matrix, b = self.system()
        scales = jnp.array([0.0, 1.0, 2.0])
        eye = jnp.eye(12)
        dense = jnp.asarray(matrix, jnp.float32)
        b = jnp.asarray(b, jnp.float32)

        def solve(scale):
            # Lanes of condition 1 and above: some need a step, some many.
            system = eye + scale * dense
            return consistency.conjugate_gradients(lambda v: system @ v, b)

        together = jax.jit(jax.vmap(solve))(scales)
        self.assertEqual(together.num_steps[0], 1)
        self.assertGreater(together.num_steps[2], 5)
        for i, scale in enumerate(scales):
            alone = solve(scale)
            np.testing.assert_allclose(together.x[i], alone.x, rtol=1e-4)
            self.assertEqual(together.num_steps[i], alone.num_steps)
        self.assertLess(together.relative_residual.max(), 2e-5)

    def test_derivatives_are_those_of_the_solution(self):
        matrix, b = self.system()
        weights = np.random.default_rng(3).normal(size=12)

        def value(b, shift):
            dense = jnp.asarray(matrix, jnp.float32)
            found = consistency.conjugate_gradients(
                lambda v: jnp.dot(dense, v, precision='highest') + shift * v, b
            )
            return weights @ found.x

        b32 = jnp.asarray(b, jnp.float32)
        by_b, by_shift = jax.grad(value, (0, 1))(b32, 0.0)
        np.testing.assert_allclose(
            by_b, np.linalg.solve(matrix, weights), atol=1e-4
        )
        # d M^{-1} b / d shift = -M^{-1} M^{-1} b.
        twice = np.linalg.solve(matrix, np.linalg.solve(matrix, b))
        np.testing.assert_allclose(by_shift, -weights @ twice, rtol=1e-3)


class SolvedTest(parameterized.TestCase):
    """Each result is known with how well its system was solved."""

    def cases(self, measured):
        x, key = _estimate(), jax.random.key(4)
        residual = measured.residual(x)
        return {
            'correction': (measured, residual, 0.5),
            'nearest': (measured, x, 0.5),
            'project': (measured, x),
            'draw': (key, measured, x, 0.5),
            'squared_distance': (measured, residual, jnp.asarray(0.5), 0.09),
        }

    @parameterized.parameters(False, True)
    def test_results_alone_are_the_same(self, plain):
        measured, _ = _measured('super_resolution', 0.3, plain)
        for name, arguments in self.cases(measured).items():
            function = getattr(consistency, name)
            twin = getattr(consistency, f'solve_{name}')
            self.assertEqual(
                inspect.signature(function).parameters.keys(),
                inspect.signature(twin).parameters.keys(),
            )
            solved = twin(*arguments)
            np.testing.assert_array_equal(function(*arguments), solved.x)
            # A closed form takes no steps; conjugate gradients take some.
            self.assertEqual(solved.num_steps > 0, plain, name)
            self.assertLess(solved.relative_residual, 2e-5)
            if not plain:
                self.assertEqual(solved.relative_residual, 0)

    def test_a_mask_is_a_closed_form_for_any_variance_by_value(self):
        measured, _ = _measured('box_inpainting', 0.3)
        variance = jnp.full(_SHAPE, 0.5)
        solved = consistency.solve_nearest(measured, _estimate(), variance)
        self.assertEqual(solved.num_steps, 0)

    def test_too_few_steps_are_seen_in_the_result(self):
        measured, matrix = _measured('motion_deblur', 0.05, plain=True)
        x = _estimate()
        residual = np.ravel(measured.residual(x))
        gram = 0.5 * matrix @ matrix.T + 0.05**2 * np.eye(len(matrix))
        for max_steps in (2, 5):
            for solved in (
                consistency.solve_nearest(
                    measured, x, 0.5, max_steps=max_steps
                ),
                consistency.solve_correction(
                    measured, measured.residual(x), 0.5, None, max_steps
                ),
            ):
                self.assertEqual(solved.num_steps, max_steps)
                self.assertGreater(solved.relative_residual, 1e-2)
        # It is that of the system, by dense algebra in Krylov's space: the
        # solution after one step is b |b|^2 / b^T M b.
        solved = consistency.solve_nearest(measured, x, 0.5, max_steps=1)
        step = residual * (residual @ residual) / (residual @ gram @ residual)
        expected = np.linalg.norm(residual - gram @ step)
        np.testing.assert_allclose(
            solved.relative_residual,
            expected / np.linalg.norm(residual),
            rtol=1e-4,
        )


class LinearisedTest(parameterized.TestCase):
    """The tangent, by differences of the operator itself."""

    @parameterized.parameters(
        'high_dynamic_range', 'jpeg', 'nonlinear_deblur', 'phase_retrieval'
    )
    def test_it_is_a_linear_operator_and_keeps_the_residual(self, task):
        shape = (16, 16, 3)
        keys = jax.random.split(jax.random.key(0), 4)
        operator = operators.make_operator(task, keys[0], shape)
        x, z = (
            0.5 * jax.random.normal(key, shape) for key in (keys[1], keys[2])
        )
        measured = problem.measure(keys[3], x, operator, 0.1)
        linear = consistency.linearised(measured, z)
        self.assertIsInstance(linear.operator, types.LinearOperator)
        self.assertIs(consistency.linearised(linear, x), linear)
        np.testing.assert_allclose(
            linear.residual(z), measured.residual(z), atol=1e-4
        )
        # <A' u, v> = <u, A'^T v>
        v = jax.random.normal(keys[3], measured.y.shape)
        np.testing.assert_allclose(
            jnp.vdot(linear.operator.forward(x), v),
            jnp.vdot(x, linear.operator.adjoint(v)),
            rtol=1e-3,
            atol=1e-3,
        )
        if task in ('nonlinear_deblur', 'phase_retrieval'):
            # The others have corners, where differences are no derivative.
            size = 1e-2
            step = operator.forward(z + size * x) - operator.forward(
                z - size * x
            )
            found = linear.operator.forward(x)
            np.testing.assert_allclose(
                found, step / (2 * size), atol=0.02 * jnp.abs(found).max()
            )

    def test_the_nearest_image_to_a_bent_line_is_solved_on_its_tangent(self):
        operator = operators.Function.of(lambda x: jnp.sin(2 * x), _SHAPE)
        x = 0.3 * _estimate()
        measured = problem.measure(
            jax.random.key(1), x, operator, jnp.float32(0.1)
        )
        z = jnp.zeros(_SHAPE)
        found = consistency.nearest(consistency.linearised(measured, z), z, 1.0)
        # At 0 the tangent of sin(2 x) is 2 x.
        expected = 2 * measured.y / (4 + 0.1**2)
        np.testing.assert_allclose(found, expected, atol=1e-4)

    def test_an_operator_with_a_rule_of_its_own_for_the_way_back_will_do(self):
        @jax.custom_vjp
        def rounded(x):
            return jnp.round(4 * x) / 4

        rounded.defvjp(lambda x: (rounded(x), None), lambda _, y: (y,))
        operator = operators.Function.of(rounded, _SHAPE)
        x = _estimate()
        measured = problem.measure(
            jax.random.key(1), x, operator, jnp.float32(0.1)
        )
        linear = consistency.linearised(measured, x)
        np.testing.assert_allclose(linear.operator.forward(x), x, atol=1e-6)

    def test_what_is_linear_stays(self):
        measured, _ = _measured('motion_deblur', 0.1)
        self.assertIs(consistency.linearised(measured, _estimate()), measured)


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
