"""The form of a linear operator that makes its inverse problems elementwise.

    A = U diag(s) V^*

with V unitary and the columns of U orthonormal where s > 0. Coefficients of x
and of y have one shape, and where y has fewer numbers than x the rest are zero.
They are complex for a convolution, whose basis is the Fourier one.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


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

    def told(self) -> jax.Array:
        """Where y tells of x, in the shape of `singular`: 3 % of the largest.

        Methods that divide y by s would carry the noise of smaller ones far out
        of range, step by step the same. The bound is that of the authors' code
        of DDRM and DDNM for blurs.
        """
        return self.singular > 3e-2 * jnp.max(self.singular)
