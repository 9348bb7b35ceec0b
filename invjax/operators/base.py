"""What the operators here share: shapes that are checked, and `>>`.

    blur >> downsample       first the blur, then the downsampling

is an operator as well, linear where both are. An operator of one's own need not
inherit from here: the members that `invjax.types.Operator` lists are enough,
and `check_operator` says which are missing.
"""

import flax.struct
import jax
import jax.numpy as jnp

from invjax.types import LinearOperator, Operator, SpectralOperator

_MEMBERS = (
    'image_shape',
    'measurement_shape',
    'forward',
    'guess',
    'support',
    'describe',
)


class BaseOperator(flax.struct.PyTreeNode):
    """An operator that measures as many numbers as the image has, all of them.

    What differs is said by the classes that inherit; `image_shape`, `forward`
    and `describe` are theirs in any case, and `guess` where there is no `pinv`.
    """

    @property
    def measurement_shape(self: Operator) -> tuple[int, ...]:
        """Shape of a measurement: that of the image."""
        return self.image_shape

    def support(self) -> jax.Array:
        """Where a measurement carries data: everywhere, (1, 1, 1)."""
        return jnp.ones((1, 1, 1))

    def guess(self: SpectralOperator, y: jax.Array) -> jax.Array:
        """An image, (H, W, C), to show y by: the pseudo-inverse."""
        return self.pinv(y)

    def check_image(self: Operator, x: jax.Array) -> None:
        """Refuse, with a ValueError, what has not the shape of an image."""
        _check_shape(self, 'an image', x, self.image_shape)

    def check_measurement(self: Operator, y: jax.Array) -> None:
        """Refuse, with a ValueError, what has not the shape of y."""
        _check_shape(self, 'a measurement', y, self.measurement_shape)

    def __rshift__(self: Operator, then: Operator) -> 'Composition':
        """This one first, then the other one."""
        return compose(self, then)

    def __rrshift__(self: Operator, first: Operator) -> 'Composition':
        """The other one, of any class, first."""
        return compose(first, self)


class Composition(BaseOperator):
    """Operators one after the other: y = A_n(... A_2(A_1(x))).

    A measurement carries data where that of the last operator does. What an
    earlier one does not measure is zero, and the later ones take that zero as
    they take any value: after `mask >> blur` the blurred edge of the hole is
    measured, and so is its middle, where y is noise alone. That is the model
    y = A x + n as it stands, with rows of zeros in A, so residuals and their
    expectation are right. For a picture whose missing pixels are not measured
    at all the mask belongs in the last place: `blur >> mask`.

    Attributes:
        parts: two operators or more, in the order in which they are applied.
    """

    parts: tuple[Operator, ...]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of what the first one measures."""
        return self.parts[0].image_shape

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of what the last one gives."""
        return self.parts[-1].measurement_shape

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement."""
        for part in self.parts:
            x = part.forward(x)
        return x

    def guess(self, y: jax.Array) -> jax.Array:
        """An image, (H, W, C): the operators' own guesses, the last one first.

        No pseudo-inverse, even where all of theirs are: (B A)^+ is A^+ B^+ in
        special cases only.
        """
        for part in reversed(self.parts):
            y = part.guess(y)
        return y

    def support(self) -> jax.Array:
        """Where a measurement carries data: where the last one's does."""
        return self.parts[-1].support()

    def describe(self) -> dict:
        """Its parts' descriptions, in order, as plain data."""
        parts = [part.describe() for part in self.parts]
        return {'kind': 'Composition', 'parts': parts}


class LinearComposition(Composition):
    """Linear operators one after the other.

    It has no spectrum, so inner problems are solved by conjugate gradients.
    """

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map y back to (H, W, C) by A^T = A_1^T ... A_n^T."""
        for part in reversed(self.parts):
            assert isinstance(part, LinearOperator)  # As `compose` saw to it.
            y = part.adjoint(y)
        return y


def compose(first: Operator, then: Operator) -> Composition:
    """`first >> then`: the operator x -> then(first(x)).

    Args:
        first: of any class that keeps the protocol.
        then: one that takes images of the shape that `first` gives.

    Returns:
        A LinearComposition if both are linear, else a Composition.

    Raises:
        ValueError: if one of them is no operator or their shapes do not meet.
    """
    for operator in (first, then):
        check_operator(operator)
    if tuple(first.measurement_shape) != tuple(then.image_shape):
        raise ValueError(
            f'{_name(first)} >> {_name(then)}: the first gives '
            f'{tuple(first.measurement_shape)}, but the second takes images of '
            f'shape {tuple(then.image_shape)}.'
        )
    parts = (*_parts(first), *_parts(then))
    if all(isinstance(part, LinearOperator) for part in parts):
        return LinearComposition(parts)
    return Composition(parts)


def check_operator(operator: Operator) -> None:
    """Refuse what is no operator, or maps to other shapes than it declares.

    Its maps are traced, not run.

    Raises:
        ValueError: that says which member is missing or which shape is wrong.
    """
    name = _name(operator)
    if not isinstance(operator, Operator):
        missing = [m for m in _MEMBERS if not hasattr(operator, m)]
        raise ValueError(
            f'{name} is no operator: it has no {", ".join(missing)}; '
            'Function.of and Linear.of make one of a function.'
        )
    x = jax.ShapeDtypeStruct(tuple(operator.image_shape), jnp.float32)
    y = jax.ShapeDtypeStruct(tuple(operator.measurement_shape), jnp.float32)
    _check_map(operator, 'forward', x, y)
    _check_map(operator, 'guess', y, x)
    if isinstance(operator, LinearOperator):
        _check_map(operator, 'adjoint', y, x)
    if isinstance(operator, SpectralOperator):
        _check_map(operator, 'pinv', y, x)
    support = jax.eval_shape(operator.support).shape
    try:
        fits = jnp.broadcast_shapes(support, y.shape) == y.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f'the support of {name} must broadcast to {y.shape}, the shape of '
            f'its measurement, got {support}.'
        )


def _check_map(operator, member, given, expected) -> None:
    """Trace one of its maps and compare the result with what it should be."""
    name = f'{_name(operator)}.{member}'
    try:
        found = jax.eval_shape(getattr(operator, member), given)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{name} does not take {given.shape}, the shape that the operator '
            f'declares: {error}'
        ) from error
    shape, dtype = getattr(found, 'shape', None), getattr(found, 'dtype', bool)
    if shape != expected.shape or not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f'{name} must give real numbers of shape {expected.shape}, as the '
            f'operator declares, got {found}.'
        )


def _check_shape(operator, what, value, expected) -> None:
    shape = jnp.shape(value)
    if shape != tuple(expected):
        raise ValueError(
            f'{what} for {_name(operator)} must have shape {tuple(expected)}, '
            f'got {shape}.'
        )


def _name(operator) -> str:
    """As sentences call it: by its kind where it has one, else by its class."""
    kind = getattr(operator, 'kind', None)
    return kind if isinstance(kind, str) else type(operator).__name__


def _parts(operator) -> tuple[Operator, ...]:
    return operator.parts if isinstance(operator, Composition) else (operator,)
