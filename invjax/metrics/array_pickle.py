"""Reads a pickle of named NumPy arrays, without trusting it.

A pickle can call whatever it can import, so this one may import nothing: the
names that arrays need become calls of functions of ours, which take notes, and
any other name stops the reading. A note becomes an array after it has been
checked against the bytes that are there.
"""

import io
import math
import os
import pathlib
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

_KINDS = ('f2', 'f4', 'f8')
_MOST_DEPTH = 8


class UnsafePickleError(ValueError):
    """The pickle asks for a name that arrays do not need."""


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Read nested dicts of floating-point arrays.

    Args:
        path: a pickle, of a dict of strings to arrays or to such dicts.

    Returns:
        The arrays, read-only, by their names joined with dots. What is no array
        is left out.

    Raises:
        UnsafePickleError: the pickle asks for another name. Nothing of it was
            executed.
        ValueError: the pickle is damaged, or holds something else.
    """
    path = pathlib.Path(path)
    try:
        content = _Unpickler(io.BytesIO(path.read_bytes())).load()
        return dict(_flat(content))
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f'{path} asks for {str(error)[:100]!r}, which arrays do not need, '
            'so nothing was loaded.'
        ) from None
    except OSError:
        raise
    # Damaged bytes can raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{path} is damaged or no pickle of arrays '
            f'({type(error).__name__}); get the file again.'
        ) from error


class _Name(NamedTuple):
    """A name that the pickle asks for; a tuple, which has nothing to set."""

    call: Callable[..., Any]

    def __call__(self, *args):
        return self.call(*args)


class _Kind:
    """Note of a dtype."""

    def __init__(self, kind, *_):
        if kind not in _KINDS:
            raise TypeError('an array has floating-point numbers')
        self.dtype = np.dtype(f'<{kind}')

    def __setstate__(self, state):
        _, order, *_ = state
        if order != '<':
            raise TypeError('numbers are little-endian')


class _Array:
    """Note of an array."""

    def __init__(self, *_):
        self.array = None

    def __setstate__(self, state):
        _, shape, kind, is_fortran, data = state
        if not (
            isinstance(kind, _Kind)
            and isinstance(data, bytes)
            and all(type(n) is int and n >= 0 for n in shape)
            and math.prod(shape) * kind.dtype.itemsize == len(data)
        ):
            raise TypeError('an array is a shape, a dtype and its bytes')
        self.array = np.frombuffer(data, kind.dtype).reshape(
            shape, order='F' if is_fortran else 'C'
        )


_NAMES = {
    # Called with the third and the shape of an empty array, and then told all.
    'numpy.core.multiarray._reconstruct': _Name(_Array),
    'numpy._core.multiarray._reconstruct': _Name(_Array),
    'numpy.ndarray': _Name(_Array),
    'numpy.dtype': _Name(_Kind),
}


# The Python unpickler, since one opcode makes the C one fill 64 GiB: a memo
# index of 2**32 - 1.
class _Unpickler(pickle._Unpickler):
    def find_class(self, module, name):
        full_name = f'{module}.{name}'
        if full_name not in _NAMES:
            raise UnsafePickleError(full_name)
        return _NAMES[full_name]


def _flat(
    content: dict, prefix: str = '', depth: int = 0
) -> Iterator[tuple[str, np.ndarray]]:
    # A pickled dict can hold itself.
    if not isinstance(content, dict) or depth > _MOST_DEPTH:
        raise TypeError('the content is nested dicts')
    for name, value in content.items():
        if isinstance(value, _Array) and value.array is not None:
            yield f'{prefix}{name}', value.array
        elif isinstance(value, dict):
            yield from _flat(value, f'{prefix}{name}.', depth + 1)
