"""Operators one after the other, against their matrices and against NumPy."""

import json

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import consistency, operators, problem, types
from invjax.operators.base import Composition, LinearComposition
from invjax.priors import gaussian

_SHAPE = (12, 8, 3)
_LINEAR = [
    'gaussian_deblur',
    'motion_deblur',
    'super_resolution',
    'box_inpainting',
    'random_inpainting',
    'denoising',
    'colorization',
    'compressed_sensing',
]
_settings = hypothesis.settings(
    max_examples=6, deadline=None, derandomize=True, database=None
)


def _make(task, shape=_SHAPE, seed=0, **parameters):
    if task == 'super_resolution':
        parameters = {'factor': 2, **parameters}
    return operators.make_operator(
        task, jax.random.key(seed), shape, **parameters
    )


def _chain(tasks):
    """Operators of the tasks, each for what the one before gives."""
    chain, shape = [], _SHAPE
    for seed, task in enumerate(tasks):
        chain.append(_make(task, shape, seed))
        shape = chain[-1].measurement_shape
    return chain


def _normal(seed, shape=_SHAPE):
    return jax.random.normal(jax.random.key(seed), shape)


class MeanOfRows:
    """An operator of a user's own, which inherits nothing."""

    def __init__(self, shape):
        self.image_shape = shape
        self.measurement_shape = (1, *shape[1:])

    def forward(self, x):
        return x.mean(axis=0, keepdims=True)

    def guess(self, y):
        return jnp.broadcast_to(y, self.image_shape)

    def support(self):
        return jnp.ones(())

    def describe(self):
        return {'kind': 'MeanOfRows'}


class ColumnsSummed(MeanOfRows):
    def __init__(self, shape):
        self.image_shape = shape
        self.measurement_shape = (shape[0], 1, shape[2])

    def forward(self, x):
        return x.sum(axis=1, keepdims=True)

    def adjoint(self, y):
        return jnp.broadcast_to(y, self.image_shape)


class CompositionTest(parameterized.TestCase):
    @_settings
    @hypothesis.given(
        tasks=st.lists(st.sampled_from(_LINEAR), min_size=2, max_size=3)
    )
    def test_that_of_linear_ones_is_the_product_of_their_matrices(self, tasks):
        chain = _chain(tasks)
        composed = chain[0] >> chain[1]
        for operator in chain[2:]:
            composed = composed >> operator
        self.assertIsInstance(composed, LinearComposition)
        operators.check_operator(composed)
        product = np.eye(np.prod(_SHAPE))
        for operator in chain:
            product = (
                gaussian.dense_matrix(operator.forward, operator.image_shape)
                @ product
            )
        x = _normal(1)
        y = composed.forward(x)
        self.assertEqual(y.shape, chain[-1].measurement_shape)
        self.assertEqual(composed.measurement_shape, y.shape)
        self.assertEqual(composed.image_shape, _SHAPE)
        np.testing.assert_allclose(
            np.ravel(y), product @ np.ravel(x), atol=2e-5
        )
        z = _normal(2, y.shape)
        np.testing.assert_allclose(
            np.ravel(composed.adjoint(z)), product.T @ np.ravel(z), atol=2e-5
        )

    def test_the_first_comes_first(self):
        # The smallest case worked by hand: a mask before and after a mean of
        # blocks is not the same.
        mask = _make('random_inpainting', (2, 2, 1), drop_fraction=0.5)
        mean = _make('super_resolution', (2, 2, 1), filter='average')
        x = np.arange(1.0, 5).reshape(2, 2, 1)
        kept = np.sum(np.asarray(mask.mask) * x)
        found = (mask >> mean).forward(jnp.asarray(x))
        np.testing.assert_allclose(found.ravel(), [kept / 4], rtol=1e-5)

    def test_with_a_nonlinear_part_it_has_no_adjoint(self):
        first, last = _make('gaussian_deblur'), _make('high_dynamic_range')
        x = _normal(3)
        for one, other in ((first, last), (last, first)):
            composed = one >> other
            self.assertIsInstance(composed, types.Operator)
            self.assertNotIsInstance(composed, types.LinearOperator)
            operators.check_operator(composed)
            np.testing.assert_array_equal(
                composed.forward(x), other.forward(one.forward(x))
            )

    def test_its_guess_is_that_of_its_parts_from_the_last_on(self):
        blur, small = _make('gaussian_deblur'), _make('super_resolution')
        y = _normal(4, (6, 4, 3))
        np.testing.assert_array_equal(
            (blur >> small).guess(y), blur.guess(small.guess(y))
        )
        # It claims to be no pseudo-inverse.
        self.assertNotIsInstance(blur >> small, types.SpectralOperator)
        self.assertFalse(hasattr(blur >> small, 'pinv'))

    def test_brackets_do_not_matter(self):
        a, b, c = _chain(['motion_deblur', 'random_inpainting', 'colorization'])
        left, right = (a >> b) >> c, a >> (b >> c)
        self.assertLen(left.parts, 3)
        self.assertEqual(jax.tree.structure(left), jax.tree.structure(right))
        jax.tree.map(np.testing.assert_array_equal, left, right)

    def test_its_description_is_those_of_its_parts_as_plain_data(self):
        blur, small = _make('gaussian_deblur'), _make('super_resolution')
        description = (blur >> small).describe()
        self.assertEqual(
            description,
            {
                'kind': 'Composition',
                'parts': [blur.describe(), small.describe()],
            },
        )
        self.assertEqual(json.loads(json.dumps(description)), description)

    def test_data_are_where_the_last_one_has_them(self):
        mask, blur = _make('box_inpainting'), _make('gaussian_deblur')
        measured = problem.measure(
            jax.random.key(5), _normal(6), blur >> mask, 0.3
        )
        missing = np.broadcast_to(mask.mask == 0, _SHAPE)
        np.testing.assert_array_equal(measured.y[missing], 0)
        self.assertEqual(measured.num_measured(), (~missing).sum())
        # A mask in the first place is seen through the blur: all is measured,
        # the hole too, and there the residual at the truth is noise as well.
        x = _normal(7)
        measured = problem.measure(jax.random.key(8), x, mask >> blur, 0.3)
        self.assertEqual(measured.num_measured(), np.prod(_SHAPE))
        np.testing.assert_allclose(
            measured.residual_norm(x),
            measured.expected_residual_norm(),
            rtol=4 / np.sqrt(2 * np.prod(_SHAPE)),
        )

    def test_it_goes_through_compiled_and_stacked_code(self):
        def make(seed):
            mask = _make('random_inpainting', seed=seed)
            return _make('gaussian_deblur') >> mask

        both = [make(seed) for seed in (0, 1)]
        x = _normal(9)
        count = 0

        @jax.jit
        def forward(operator, x):
            nonlocal count
            count += 1
            return operator.forward(x)

        alone = [forward(operator, x) for operator in both]
        self.assertEqual(count, 1)  # Another mask is no other program.
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *both)
        self.assertEqual(stacked.image_shape, _SHAPE)
        together = jax.vmap(forward, (0, None))(stacked, x)
        np.testing.assert_allclose(together, jnp.stack(alone), atol=1e-6)

    @parameterized.parameters(0.1, 1.0)
    def test_inner_problems_are_those_of_its_matrix(self, noise_std):
        operator = _make('motion_deblur', blur_size=3) >> _make(
            'random_inpainting', drop_fraction=0.4
        )
        measured = problem.measure(
            jax.random.key(10), _normal(11), operator, noise_std
        )
        matrix = gaussian.dense_matrix(operator.forward, _SHAPE)
        gram = 0.5 * matrix @ matrix.T + noise_std**2 * np.eye(len(matrix))
        x = np.asarray(_normal(12))
        residual = np.ravel(measured.y) - matrix @ x.ravel()
        expected = 0.5 * matrix.T @ np.linalg.solve(gram, residual)
        solved = consistency.solve_nearest(measured, x, 0.5)
        np.testing.assert_allclose(np.ravel(solved.x - x), expected, atol=1e-4)
        self.assertLess(solved.relative_residual, 2e-5)


class OperatorsOfOnesOwnTest(parameterized.TestCase):
    def test_they_compose_without_inheriting_anything(self):
        blur = _make('gaussian_deblur')
        x = np.asarray(_normal(13), np.float64)
        own = MeanOfRows(_SHAPE)
        after = blur >> own
        np.testing.assert_allclose(
            after.forward(x),
            np.asarray(blur.forward(x)).mean(axis=0, keepdims=True),
            atol=1e-6,
        )
        before = own >> _make('random_inpainting', (1, 8, 3))
        self.assertEqual(before.parts[0], own)
        # Two of one's own have no `>>`; a function does it.
        both = operators.compose(own, ColumnsSummed((1, 8, 3)))
        np.testing.assert_allclose(
            np.ravel(both.forward(x)), x.mean(axis=0).sum(axis=0), rtol=1e-4
        )
        self.assertIs(type(both), Composition)
        summed = ColumnsSummed(_SHAPE)
        self.assertIsInstance(blur >> summed, LinearComposition)

    def test_shapes_that_do_not_meet_are_refused(self):
        with self.assertRaisesRegex(
            ValueError,
            r'Downsampling, bicubic >> GaussianBlur: the first gives '
            r'\(6, 4, 3\), but the second takes images of shape \(12, 8, 3\)',
        ):
            _make('super_resolution') >> _make('gaussian_deblur')

    def test_what_is_no_operator_is_refused_with_what_it_lacks(self):
        for make in (
            lambda: _make('denoising') >> jnp.tanh,
            lambda: (lambda x: x) >> _make('denoising'),
        ):
            with self.assertRaisesRegex(
                ValueError,
                'is no operator: it has no image_shape, measurement_shape, '
                'forward, guess, support, describe; Function.of',
            ):
                make()

        class Blind(MeanOfRows):
            support = property()

        with self.assertRaisesRegex(
            ValueError, 'Blind is no operator: it has no support; '
        ):
            operators.check_operator(Blind(_SHAPE))

    @parameterized.parameters(
        ('forward', lambda x: x, r'forward must give real .* \(1, 8, 3\)'),
        ('forward', lambda x: x[:1] > 0, 'forward must give real numbers'),
        ('forward', lambda x: (x[:1],), 'forward must give real numbers'),
        ('forward', lambda x: x @ x, r'forward does not take \(12, 8, 3\)'),
        ('guess', lambda y: y, r'guess must give real .* \(12, 8, 3\)'),
        ('adjoint', lambda y: y, r'adjoint must give real .* \(12, 8, 3\)'),
        ('support', lambda: jnp.ones((12, 8, 3)), 'the support of MeanOfRows'),
        ('support', lambda: jnp.ones((2, 8, 3)), 'support .* got .2, 8, 3'),
    )
    def test_maps_to_other_shapes_than_declared_are_refused(
        self, member, function, sentence
    ):
        operator = MeanOfRows(_SHAPE)
        operators.check_operator(operator)
        setattr(operator, member, function)
        with self.assertRaisesRegex(ValueError, sentence):
            operators.check_operator(operator)

    def test_a_pseudo_inverse_of_another_shape_is_refused(self):
        operator = ColumnsSummed(_SHAPE)
        operator.spectrum = lambda: None
        operator.pinv = lambda y: y
        with self.assertRaisesRegex(ValueError, 'pinv must give real numbers'):
            operators.check_operator(operator)


if __name__ == '__main__':
    absltest.main()
