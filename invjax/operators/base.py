"""What operators share: declared shapes, and composition.

camera = blur >> downsampling        first the blur, then the downsampling
"""

import flax.struct
import jax
import jax.numpy as jnp

from invjax.types import LinearOperator, Operator

# The most numbers of an image or a measurement: their indices are 32-bit.
MOST_NUMBERS = 2**31 - 1


class Composable:
    """An operator that can be followed by another: `first >> second`."""

    def __rshift__(self, second):
        """Apply `self`, then `second`; linear if both are.

        Raises:
            ValueError: if the second does not take what the first measures.
        """
        return compose(self, second)


class Composition(Composable, flax.struct.PyTreeNode):
    """y = second(first(x)).

    A measurement carries data where that of the second does. Noise is that of
    the last measurement; between the two there is none.

    Attributes:
        first, second: the operators.
    """

    first: Operator
    second: Operator

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the first measures."""
        return self.first.image_shape

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of what the second gives."""
        return self.second.measurement_shape

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement."""
        return self.second.forward(self.first.forward(x))

    def guess(self, y: jax.Array) -> jax.Array:
        """An image, (H, W, C): the first's guess of the second's."""
        return self.first.guess(self.second.guess(y))

    def support(self) -> jax.Array:
        """Where a measurement carries data: that of the second."""
        return self.second.support()

    def describe(self) -> dict:
        """Both as plain data, in the order in which they act."""
        return {
            'kind': 'Composition',
            'first': self.first.describe(),
            'second': self.second.describe(),
        }


class LinearComposition(Composition):
    """y = B A x, by two linear operators."""

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map y back to (H, W, C) by A^T B^T."""
        return self.first.adjoint(self.second.adjoint(y))


def compose(first, second) -> Composition:
    """`first >> second`; see `Composable`."""
    if first.measurement_shape != second.image_shape:
        raise ValueError(
            f'{type(second).__name__} takes images of {second.image_shape}, but '
            f'{type(first).__name__} gives {first.measurement_shape}.'
        )
    both_linear = isinstance(first, LinearOperator) and isinstance(
        second, LinearOperator
    )
    return (LinearComposition if both_linear else Composition)(first, second)


def shape_of_measurement(operator) -> tuple[int, ...]:
    """Shape of what `forward` gives, without running it."""
    blank = jax.ShapeDtypeStruct(operator.image_shape, jnp.float32)
    return jax.eval_shape(operator.forward, blank).shape
