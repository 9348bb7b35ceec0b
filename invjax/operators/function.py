"""Any differentiable function as an operator, the user's own among them."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import Composable, shape_of_measurement


class Function(Composable, flax.struct.PyTreeNode):
    """A function of an image, linear or not.

        operator = Function.of(lambda x: jnp.tanh(3 * x), image_shape)

    Methods that only need a differentiable forward map can use it: `dps`,
    `score_ald`, `reddiff`, `daps --draw=langevin`, `sdedit`.

    Attributes:
        function: (x, *arguments) -> y, by JAX. It is part of the compiled
            program: another function compiles anew.
        arguments: arrays that it takes, such as a kernel; they do not.
        blank: (H, W, C) zeros, for the shape.
    """

    function: Callable = flax.struct.field(pytree_node=False)
    arguments: tuple
    blank: jax.Array

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        return np.shape(self.blank)[-3:]

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of y."""
        return shape_of_measurement(self)

    @classmethod
    def of(
        cls, function: Callable, image_shape: tuple[int, int, int], *arguments
    ) -> 'Function':
        """Make it; raises ValueError if the function does not take the shape.

        Args:
            function: (x, *arguments) -> y, (H, W, C) to any shape.
            image_shape: (H, W, C).
            *arguments: arrays.
        """
        blank = jnp.zeros(image_shape)
        try:
            jax.eval_shape(function, blank, *arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'the function must take an image of shape {image_shape}: '
                f'{error}'
            ) from None
        return cls(function, arguments, blank)

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement."""
        return self.function(x, *self.arguments)

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): grey, since nothing is known."""
        del y
        return self.blank

    def support(self) -> jax.Array:
        """Where a measurement carries data: everywhere, ()."""
        return jnp.ones(())

    def describe(self) -> dict:
        """Its kind and the function's name as plain data."""
        name = getattr(self.function, '__name__', 'function')
        return {'kind': 'Function', 'function': name}


class Linear(Function):
    """A linear function; its adjoint is derived.

    Methods for linear operators can use it too, by conjugate gradients.
    """

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map y back to (H, W, C) by A^T."""
        (x,) = jax.linear_transpose(self.forward, self.blank)(y)
        return x

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): A^T y."""
        return self.adjoint(y)
