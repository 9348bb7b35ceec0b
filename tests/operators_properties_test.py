"""Linear operators of any shape and setting against the matrix that they are.

Each example makes an operator, writes its maps down as dense matrices, one unit
vector after the other, and holds these against definitions, in float64.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import operators

# The same examples at each run.
_settings = hypothesis.settings(
    max_examples=8, deadline=None, derandomize=True, database=None
)
_SIDES = st.integers(1, 6)
_CHANNELS = st.integers(1, 4)


@st.composite
def _any_shape(draw, least=1):
    height, width = draw(_SIDES), draw(_SIDES)
    return max(height, least), max(width, least), draw(_CHANNELS)


@st.composite
def _gaussian_deblur(draw):
    shape = draw(_any_shape())
    side = min(shape[:2])
    size = 2 * draw(st.integers(0, side - 1)) + 1
    # Widths that let all waves through by 1 % and more in each direction.
    return shape, {'blur_size': size, 'blur_std': draw(st.floats(0.05, 0.8))}


@st.composite
def _motion_deblur(draw):
    shape = draw(_any_shape(least=3))
    size = 2 * draw(st.integers(1, (min(shape[:2]) - 1) // 2)) + 1
    return shape, {'blur_size': size, 'intensity': draw(st.floats(0, 1))}


@st.composite
def _super_resolution(draw):
    factor = draw(st.integers(2, 4))
    height, width = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    shape = factor * height, factor * width, draw(st.integers(1, 2))
    filters = st.sampled_from(['bicubic', 'average'])
    return shape, {'factor': factor, 'filter': draw(filters)}


@st.composite
def _box_inpainting(draw):
    shape = draw(_any_shape(least=2))
    side = min(shape[:2])
    size = draw(st.integers(1, side - 1))
    margin = draw(st.integers(0, (side - size) // 2))
    return shape, {'box_size': size, 'box_margin': margin}


@st.composite
def _random_inpainting(draw):
    shape = draw(_any_shape())
    pixels = shape[0] * shape[1]
    return shape, {'drop_fraction': draw(st.integers(0, pixels - 1)) / pixels}


@st.composite
def _compressed_sensing(draw):
    # Of few shapes, since its transform is slow to compile.
    shape = draw(st.sampled_from([(1, 4, 2), (5, 3, 4), (4, 6, 1)]))
    size = int(np.prod(shape))
    return shape, {'keep_fraction': draw(st.integers(1, size)) / size}


@st.composite
def _no_parameters(draw):
    return draw(_any_shape()), {}


_CASES = {
    'gaussian_deblur': _gaussian_deblur(),
    'motion_deblur': _motion_deblur(),
    'super_resolution': _super_resolution(),
    'box_inpainting': _box_inpainting(),
    'random_inpainting': _random_inpainting(),
    'denoising': _no_parameters(),
    'colorization': _no_parameters(),
    'compressed_sensing': _compressed_sensing(),
}
# The smallest images that each one takes, with its defaults.
_SMALLEST = {
    'gaussian_deblur': (1, 1, 1),
    'motion_deblur': (3, 3, 1),
    'super_resolution': (4, 4, 1),
    'box_inpainting': (2, 2, 1),
    'random_inpainting': (2, 1, 1),
    'denoising': (1, 1, 1),
    'colorization': (1, 1, 1),
    'compressed_sensing': (1, 2, 1),
}


def _dense(function, shape):
    """The matrix of a linear map on arrays of a shape, rows flat."""
    units = jnp.eye(int(np.prod(shape))).reshape(-1, *shape)
    return jax.vmap(function)(units).reshape(len(units), -1).T


@jax.jit
def _matrices(operator):
    """All maps of a spectral operator as matrices."""
    x_shape, y_shape = operator.image_shape, operator.measurement_shape
    spectrum = operator.spectrum()
    coefficients = jax.eval_shape(spectrum.of_x, jnp.zeros(x_shape))
    real = functools.partial(_dense, shape=coefficients.shape)
    return {
        'A': _dense(operator.forward, x_shape),
        'A^T': _dense(operator.adjoint, y_shape),
        'A^+': _dense(operator.pinv, y_shape),
        'guess': _dense(operator.guess, y_shape),
        'V^*': _dense(spectrum.of_x, x_shape),
        'Re V': real(spectrum.to_x),
        'U^*': _dense(spectrum.of_y, y_shape),
        's': jnp.broadcast_to(spectrum.singular, coefficients.shape).ravel(),
    }


def _operator(task, case, seed):
    shape, parameters = case
    key = jax.random.key(seed)
    return operators.make_operator(task, key, shape, **parameters)


def _close(found, expected, atol, what):
    np.testing.assert_allclose(found, expected, atol=atol, err_msg=what)


@parameterized.parameters(*_CASES)
class SpectralOperatorTest(parameterized.TestCase):
    def test_all_its_maps_are_those_of_one_matrix(self, task):
        @_settings
        @hypothesis.example(case=(_SMALLEST[task], {}), seed=0)
        @hypothesis.given(case=_CASES[task], seed=st.integers(0, 99))
        def check(case, seed):
            operator = _operator(task, case, seed)
            operators.check_operator(operator)
            self.assertEqual(operator.image_shape, case[0])
            dense = {
                name: np.asarray(
                    m, complex if np.iscomplexobj(m) else np.float64
                )
                for name, m in _matrices(operator).items()
            }
            self.check_products(operator, dense['A'])
            _close(dense['A^T'], dense['A'].T, 1e-5, 'A^T is the transpose')
            self.check_pseudo_inverse(dense['A'], dense['A^+'])
            _close(dense['guess'], dense['A^+'], 0, 'a guess is A^+')
            self.check_decomposition(dense)

        check()

    def check_products(self, operator, matrix):
        """A x is the matrix times x, so it is linear, and no constant more."""
        rng = np.random.default_rng(0)
        x = 3 * rng.normal(size=operator.image_shape)
        y = operator.forward(jnp.asarray(x, jnp.float32))
        _close(np.ravel(y), matrix @ x.ravel(), 2e-5, 'A x')

    def check_pseudo_inverse(self, matrix, inverse):
        """Penrose (1955): four equations that A^+ alone satisfies."""
        # Singular values under a thousandth of the largest are cut.
        atol = 2e-3 * np.linalg.norm(matrix, 2)
        _close(matrix @ inverse @ matrix, matrix, atol, 'A A^+ A = A')
        atol = 2e-3 * np.linalg.norm(inverse, 2)
        _close(inverse @ matrix @ inverse, inverse, atol, 'A^+ A A^+ = A^+')
        for name, product in (
            ('A A^+', matrix @ inverse),
            ('A^+ A', inverse @ matrix),
        ):
            _close(product, product.T, 2e-4, f'{name} is symmetric')

    def check_decomposition(self, dense):
        """A = U diag(s) V^*, V unitary, U's columns orthonormal where s > 0."""
        v_star, s, u_star = dense['V^*'], dense['s'], dense['U^*']
        identity = np.eye(v_star.shape[1])
        _close(v_star.conj().T @ v_star, identity, 1e-5, 'V is unitary')
        # `to_x` takes coefficients of real images back, and the real part of
        # others: so V is its matrix, but for that.
        _close(dense['Re V'], v_star.conj().T.real, 1e-5, 'V is the inverse')
        matrix = dense['A']
        self.assertTrue(np.all(s >= 0))
        _close(u_star @ matrix, s[:, None] * v_star, 1e-5, 'U^* A = s V^*')
        back = v_star.conj().T @ (s[:, None] * u_star)
        _close(back, matrix.T, 1e-5, 'V s U^* = A^T')
        # Where s is zero U^* gives zero, else its rows are orthonormal.
        told = s > 1e-5 * s.max()
        gram = u_star[told] @ u_star[told].conj().T
        _close(gram, np.eye(told.sum()), 1e-4, 'U is orthonormal')
        # The values are those of an algorithm that knows the matrix alone.
        expected = np.linalg.svd(matrix, compute_uv=False)
        found = np.sort(s)[::-1]
        size = min(len(found), len(expected))
        _close(found[:size], expected[:size], 1e-5, 'singular values')
        _close(found[size:], 0, 1e-5, 'no further singular values')


if __name__ == '__main__':
    absltest.main()
