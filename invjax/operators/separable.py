"""Operators that act on rows and columns apart: blurs and downsamplings.

    y[:, :, c] = R x[:, :, c] C^T,   R (h, H), C (w, W)

The edges' treatment is in the matrices, so that the transpose is the true
adjoint, and they cost next to nothing beside a network. With R = U_R S_R V_R^T
and C likewise, the singular values of the whole are all products of theirs.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import BaseOperator
from invjax.types import Spectrum


class Factor(flax.struct.PyTreeNode):
    """One of the two matrices, and what is derived from it on the host.

    Attributes:
        matrix: (h, H), h at most H.
        pinv: (H, h), its pseudo-inverse; singular values under a thousandth of
            the largest count as zero, since float32 cannot carry their inverse.
        left: (h, h), U.
        right: (H, H), V, orthonormal.
        singular: (H,), zero from the h-th on.
    """

    matrix: jax.Array
    pinv: jax.Array
    left: jax.Array
    right: jax.Array
    singular: jax.Array

    @classmethod
    def from_matrix(cls, matrix: np.ndarray) -> 'Factor':
        """Decompose a matrix in float64."""
        left, singular, right = np.linalg.svd(matrix)
        parts = {
            'matrix': matrix,
            'pinv': np.linalg.pinv(matrix, rcond=1e-3),
            'left': left,
            'right': right.T,
            'singular': np.pad(singular, (0, len(right) - len(singular))),
        }
        return cls(
            **{n: jax.device_put(np.float32(v)) for n, v in parts.items()}
        )


class Separable(BaseOperator):
    """A linear operator of one matrix along columns and one along rows.

    Attributes:
        rows: R, of the first axis.
        columns: C, of the second.
        parameters: () each, by name. They only say what the matrices are; as
            leaves, so that another width is no other program.
        kind: a name for records.
        num_channels: C.
    """

    rows: Factor
    columns: Factor
    parameters: dict[str, jax.Array]
    kind: str = flax.struct.field(pytree_node=False)
    num_channels: int = flax.struct.field(pytree_node=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width = (
            factor.matrix.shape[-1] for factor in (self.rows, self.columns)
        )
        return height, width, self.num_channels

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        """(h, w, C)."""
        height, width = (
            factor.matrix.shape[-2] for factor in (self.rows, self.columns)
        )
        return height, width, self.num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (h, w, C)."""
        self.check_image(x)
        return _apply(self.rows.matrix, self.columns.matrix, x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (h, w, C) back to (H, W, C) by A^T."""
        self.check_measurement(y)
        return _apply(self.rows.matrix.T, self.columns.matrix.T, y)

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (h, w, C) to the least-norm image that measures to it."""
        self.check_measurement(y)
        return _apply(self.rows.pinv, self.columns.pinv, y)

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are (H, W, C)."""
        rows, columns = self.rows, self.columns

        def of_y(y):
            coefficients = _apply(rows.left.T, columns.left.T, y)
            missing = [
                (0, len(factor.right) - len(factor.left))
                for factor in (rows, columns)
            ]
            return jnp.pad(coefficients, (*missing, (0, 0)))

        return Spectrum(
            of_x=lambda x: _apply(rows.right.T, columns.right.T, x),
            to_x=lambda c: _apply(rows.right, columns.right, c),
            of_y=of_y,
            singular=jnp.outer(rows.singular, columns.singular)[..., None],
        )

    def describe(self) -> dict:
        """Its kind and parameters as plain data."""
        values = {n: np.asarray(v).item() for n, v in self.parameters.items()}
        return {'kind': self.kind, **values}


def _apply(rows, columns, x):
    return jnp.einsum(
        'ih,hwc,jw->ijc', rows, x, columns, precision=jax.lax.Precision.HIGHEST
    )
