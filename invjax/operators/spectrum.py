"""The form of a linear operator that makes its inverse problems elementwise.

    A = U diag(s) V^*

with V unitary and the columns of U orthonormal where s > 0. Coefficients of x
and of y have one shape, and where y has fewer numbers than x the rest are zero.
They are complex for a convolution, whose basis is the Fourier one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax


class Spectrum(NamedTuple):
    """A singular value decomposition, by its maps.

    Attributes:
        of_x: V^*, (H, W, C) -> coefficients.
        to_x: V, coefficients -> (H, W, C), real.
        of_y: U^*, y -> coefficients, zero where s is.
        singular: s >= 0, broadcasts to the coefficients.
    """

    of_x: Callable[[jax.Array], jax.Array]
    to_x: Callable[[jax.Array], jax.Array]
    of_y: Callable[[jax.Array], jax.Array]
    singular: jax.Array
