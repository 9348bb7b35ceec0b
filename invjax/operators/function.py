"""Any differentiable function as an operator, the user's own among them."""

from collections.abc import Callable
from typing import Self

import flax.struct
import jax
import jax.core
import jax.numpy as jnp

from invjax.operators.base import BaseOperator
from invjax.operators.bounds import check_image_shape, check_size


class Function(BaseOperator):
    """A function of an image, linear or not.

        operator = Function.of(lambda x: jnp.tanh(3 * x), image_shape)

    Methods that only need a differentiable forward map can use it: `dps`,
    `mmps`, `score_ald`, `reddiff`, `daps --draw=langevin`, `sdedit`.

    Attributes:
        function: (x, *arguments) -> y, by JAX. It is part of the compiled
            program: another function compiles anew.
        arguments: arrays that it takes, such as a kernel; they do not.
        image_shape: (H, W, C).
        output_shape: of y.
    """

    function: Callable = flax.struct.field(pytree_node=False)
    arguments: tuple
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    output_shape: tuple[int, ...] = flax.struct.field(pytree_node=False)

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of what the function gives."""
        return self.output_shape

    @classmethod
    def of(
        cls, function: Callable, image_shape: tuple[int, int, int], *arguments
    ) -> Self:
        """Make it.

        Args:
            function: (x, *arguments) -> y, (H, W, C) to real numbers of any
                shape.
            image_shape: (H, W, C).
            *arguments: arrays.

        Raises:
            ValueError: if the function does not take the shape, or does not
                give one array of real numbers.
        """
        image_shape = check_image_shape(image_shape)
        blank = jax.ShapeDtypeStruct(image_shape, jnp.float32)
        try:
            y = jax.eval_shape(function, blank, *arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f'the function must take an image of shape {image_shape}: '
                f'{error}'
            ) from error
        if not jnp.issubdtype(getattr(y, 'dtype', bool), jnp.floating):
            raise ValueError(
                f'the function must give one array of real numbers, got {y}.'
            )
        check_size('a measurement', y.shape)
        return cls(function, arguments, image_shape, y.shape)

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement."""
        self.check_image(x)
        return self.function(x, *self.arguments)

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): grey, since nothing is known."""
        self.check_measurement(y)
        return jnp.zeros(self.image_shape)

    def support(self) -> jax.Array:
        """Where a measurement carries data: everywhere, ()."""
        return jnp.ones(())

    def describe(self) -> dict:
        """Its kind and the function's name as plain data."""
        name = getattr(self.function, '__name__', 'function')
        return {'kind': type(self).__name__, 'function': name}


class Linear(Function):
    """A linear function; its adjoint is derived.

    Methods for linear operators can use it too, by conjugate gradients.
    """

    @classmethod
    def of(
        cls, function: Callable, image_shape: tuple[int, int, int], *arguments
    ) -> Self:
        """Make it; as for `Function.of`, and refuse what is not linear.

        A ValueError is raised where no adjoint can be derived, which needs each
        operation to be linear, and where zeros do not give zeros.
        """
        operator = super().of(function, image_shape, *arguments)
        y = jax.ShapeDtypeStruct(operator.measurement_shape, jnp.float32)
        try:
            jax.eval_shape(operator.adjoint, y)
        except (AssertionError, NotImplementedError, TypeError) as error:
            raise ValueError(
                'the function must be linear in the image, operation by '
                f'operation, or no adjoint can be derived: {error}'
            ) from error
        zero = operator.forward(jnp.zeros(operator.image_shape))
        # Where the arguments are traced there is no value to look at yet.
        if not isinstance(zero, jax.core.Tracer) and jnp.any(zero != 0):
            raise ValueError(
                'the function must be linear, but does not map zeros to zeros.'
            )
        return operator

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map y back to (H, W, C) by A^T."""
        self.check_measurement(y)
        blank = jax.ShapeDtypeStruct(self.image_shape, jnp.float32)
        (x,) = jax.linear_transpose(self.forward, blank)(y)
        return x

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): A^T y."""
        return self.adjoint(y)
