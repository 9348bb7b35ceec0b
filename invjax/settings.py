"""Values that a sweep can go over: frozen, checked, and pytrees.

A class that inherits from `Settings` is a frozen dataclass. What its fields are
is said by their defaults:

    class Guidance(Settings):
        zeta: Number = not_negative(1.0)                   # a leaf of the pytree
        normalise: str = choice('residual', 'gradient')    # static
        particles: int = size(8)                           # static

Numbers are leaves: they may be traced, and another value compiles nothing anew.
Choices of a name, switches and sizes are static: they are part of what is
compiled, and so is the class itself, so that a class that is defined anew under
the same name is another program.

Ranges stand in the defaults and not in the annotations, which
`from __future__ import annotations` turns into text.
"""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, Self, dataclass_transform

import jax
import numpy as np

from invjax import docstrings

Number = jax.typing.ArrayLike
_KIND = 'kind'


class Range(NamedTuple):
    """The values that a number may take; NaN is never one of them.

    Attributes:
        words: what a value must be, for a sentence, with `{last_t}` in it where
            that counts.
        contains: (values, last_t) -> bool of the values' shape, with last_t the
            prior's largest timestep, infinite as long as it is not known.
    """

    words: str
    contains: Callable[[np.ndarray, float], np.ndarray]


class _Choice(NamedTuple):
    names: tuple[str, ...]


class _Size(NamedTuple):
    """A whole number of 1 or more that sets a shape, so never traced."""


class _Switch(NamedTuple):
    """True or False."""


class _Arrays(NamedTuple):
    """A pytree of arrays, which nothing checks."""


def _number(default: float, words: str, contains) -> Any:
    return dataclasses.field(
        default=default, metadata={_KIND: Range(words, contains)}
    )


def not_negative(default: float) -> Any:
    """A number of 0 or more, finite."""
    return _number(
        default,
        '0 or more and finite',
        lambda v, _: (v >= 0) & np.isfinite(v),
    )


def positive(default: float) -> Any:
    """A number above 0, finite."""
    return _number(
        default, 'above 0 and finite', lambda v, _: (v > 0) & np.isfinite(v)
    )


def positive_or_infinite(default: float) -> Any:
    """A number above 0; infinity is a limit that makes sense."""
    return _number(default, 'above 0', lambda v, _: v > 0)


def fraction(default: float) -> Any:
    """A number from 0 to 1."""
    return _number(default, 'from 0 to 1', lambda v, _: (v >= 0) & (v <= 1))


def decay(default: float) -> Any:
    """A number from 0 to below 1."""
    return _number(
        default, 'from 0 to below 1', lambda v, _: (v >= 0) & (v < 1)
    )


def count(default: int) -> Any:
    """A whole number of 1 or more; it may be traced, unlike `size`."""
    return _number(
        default,
        'a whole number of 1 or more',
        lambda v, _: (v >= 1) & np.isfinite(v) & (v == np.round(v)),
    )


def timestep(default: float) -> Any:
    """A timestep of training, from 0 to the prior's last."""
    return _number(
        default,
        'from 0 to {last_t}',
        lambda v, last_t: (v >= 0) & (v <= last_t) & np.isfinite(v),
    )


def choice(*names: str) -> Any:
    """One of some names; the first is the default."""
    return dataclasses.field(default=names[0], metadata={_KIND: _Choice(names)})


def switch(default: bool) -> Any:
    """True or False."""
    return dataclasses.field(default=default, metadata={_KIND: _Switch()})


def size(default: int) -> Any:
    """A whole number of 1 or more that sets a shape."""
    return dataclasses.field(default=default, metadata={_KIND: _Size()})


def arrays() -> Any:
    """A pytree of arrays, such as fitted coefficients: leaves, not checked."""
    return dataclasses.field(default=None, metadata={_KIND: _Arrays()})


def _fields(settings: Any) -> tuple[dataclasses.Field, ...]:
    """Of a class or a value; only `__init_subclass__` makes them dataclasses."""
    return dataclasses.fields(settings)


def _kind(field: dataclasses.Field) -> Any:
    """What a field is: by its specification, or by its default."""
    if _KIND in field.metadata:
        return field.metadata[_KIND]
    if isinstance(field.default, Settings):
        return type(field.default)
    if isinstance(field.default, bool):
        return _Switch()
    if isinstance(field.default, numbers.Real):
        return Range('a number', lambda v, _: ~np.isnan(v))
    raise TypeError(
        f'the field {field.name!r} needs a default that is a number, True or '
        'False, or one of the specifications of invjax.settings, such as '
        "not_negative(1.0) or choice('a', 'b')."
    )


# The specifications are no `field_specifiers`: those have their default by its
# name, and what is not among them counts as a default itself.
@dataclass_transform(frozen_default=True, field_specifiers=(dataclasses.field,))
class Settings:
    """See the module. Subclasses are frozen dataclasses and pytrees.

    Raises:
        ValueError: on construction, for a value out of its range.
    """

    name: ClassVar[str] = 'settings'
    kinds: ClassVar[Mapping[str, Any]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if 'name' not in cls.__dict__:
            cls.name = cls.__name__.lower()
        dataclasses.dataclass(frozen=True, repr=False)(cls)
        cls.kinds = {f.name: _kind(f) for f in _fields(cls)}
        leaves = [n for n, k in cls.kinds.items() if _is_leaf(k)]
        static = [n for n in cls.kinds if n not in leaves]

        def flatten_with_keys(value):
            keyed = [
                (jax.tree_util.GetAttrKey(n), getattr(value, n)) for n in leaves
            ]
            return keyed, tuple(getattr(value, n) for n in static)

        def unflatten(static_values, leaf_values):
            # Past the checks: within JAX leaves need not be numbers.
            value = object.__new__(cls)
            for names, values in (
                (static, static_values),
                (leaves, leaf_values),
            ):
                for n, v in zip(names, values, strict=True):
                    object.__setattr__(value, n, v)
            return value

        jax.tree_util.register_pytree_with_keys(
            cls, flatten_with_keys, unflatten
        )

    def __post_init__(self):
        self.check()

    def __repr__(self):
        default = {f.name: f.default for f in _fields(self)}
        given = ', '.join(
            f'{n}={v!r}'
            for n in self.kinds
            for v in [getattr(self, n)]
            if not is_same(v, default[n])
        )
        return f'{type(self).__name__}({given})'

    def check(self, num_train_steps: int | None = None) -> None:
        """Refuse values that are out of their range.

        What is traced has no value yet, and passes.

        Args:
            num_train_steps: T of the prior, for numbers that are timesteps;
                None as long as it is not known.

        Raises:
            ValueError: names the value, and what it must be.
        """
        last_t = math.inf if num_train_steps is None else num_train_steps - 1
        for name, kind in self.kinds.items():
            value = getattr(self, name)
            wrong = _what_is_wrong(value, kind, last_t)
            if wrong is not None:
                raise ValueError(f'{name} of {self.name} must be {wrong}.')
            if isinstance(value, Settings):
                value.check(num_train_steps)

    def replace(self, **changes) -> Self:
        """The same with other values of some fields, checked."""
        return dataclasses.replace(self, **changes)  # type: ignore

    @classmethod
    def meanings(cls) -> dict[str, str]:
        """What each field means, by the `Attributes:` of the docstrings."""
        found: dict[str, str] = {}
        for owner in reversed(cls.__mro__):
            found |= docstrings.entries(owner.__doc__, 'Attributes')
        return {name: found.get(name, '') for name in cls.kinds}

    @classmethod
    def range_of(cls, name: str) -> str:
        """What a field must be, in words."""
        return _words(cls.kinds[name])


def _is_leaf(kind) -> bool:
    return isinstance(kind, Range | _Arrays | type)


def is_number(kind) -> bool:
    """Whether a field of this kind is a number that a sweep may go over."""
    return isinstance(kind, Range)


def is_size(kind) -> bool:
    """Whether a field of this kind is a whole number that sets a shape."""
    return isinstance(kind, _Size)


def is_switch(kind) -> bool:
    """Whether a field of this kind is True or False."""
    return isinstance(kind, _Switch)


def choices(kind) -> tuple[str, ...]:
    """The names that a field of this kind may have; none if it is no choice."""
    return kind.names if isinstance(kind, _Choice) else ()


def _words(kind, last_t: float = math.inf) -> str:
    if isinstance(kind, Range):
        return kind.words.format(
            last_t='T - 1' if math.isinf(last_t) else int(last_t)
        )
    if isinstance(kind, _Choice):
        return f'one of {", ".join(kind.names)}'
    if isinstance(kind, _Size):
        return 'a whole number of 1 or more'
    if isinstance(kind, _Arrays):
        return 'arrays'
    return 'True or False' if isinstance(kind, _Switch) else kind.__name__


def _what_is_wrong(value, kind, last_t) -> str | None:
    """What a value must be and is not, with what it is; None if it is right."""
    if isinstance(kind, _Arrays):
        return None
    must_be = _words(kind, last_t)
    if isinstance(kind, type):
        right = isinstance(value, kind)
    elif isinstance(kind, _Choice):
        right = isinstance(value, str) and value in kind.names
    elif isinstance(kind, _Switch):
        right = isinstance(value, bool | np.bool_)
    elif isinstance(kind, _Size):
        right = (
            isinstance(value, numbers.Integral)
            and not isinstance(value, bool)
            and int(value) >= 1
        )
        if isinstance(value, jax.core.Tracer):
            return f'{must_be} that is not traced, since it sets a shape'
    elif isinstance(value, jax.core.Tracer):
        return None
    else:
        try:
            values = np.asarray(value, np.float64).ravel()
        except (TypeError, ValueError):
            return f'a number, {must_be}, got {value!r}'
        bad = values[~kind.contains(values, last_t)]
        return f'{must_be}, got {bad[0]:g}' if bad.size else None
    return None if right else f'{must_be}, got {value!r}'


def is_same(value, default) -> bool:
    """Whether a setting is at its default; what is traced is not."""
    try:
        return bool(np.all(value == default))
    except (TypeError, ValueError, jax.errors.JAXTypeError):
        return False
