"""Tensors in pickles of PyTorch: notes of them, and their numbers.

A pickle says of a tensor where its numbers are: in a storage, which is kept
outside of the pickle, from an offset on and with strides. A note of that becomes
an array, a view of the file, after it has been checked against the bytes that
are there.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from invjax.priors import pickled
from invjax.priors.excerpts import excerpt

# The type of a tensor's numbers, by its own dtype or by its storage's kind.
_DTYPES = {
    'torch.float64': np.float64,
    'torch.float32': np.float32,
    'torch.float16': np.float16,
    'torch.bfloat16': ml_dtypes.bfloat16,
    'torch.float8_e4m3fn': ml_dtypes.float8_e4m3fn,
    'torch.float8_e4m3fnuz': ml_dtypes.float8_e4m3fnuz,
    'torch.float8_e5m2': ml_dtypes.float8_e5m2,
    'torch.float8_e5m2fnuz': ml_dtypes.float8_e5m2fnuz,
    'torch.int64': np.int64,
    'torch.int32': np.int32,
    'torch.int16': np.int16,
    'torch.int8': np.int8,
    'torch.uint64': np.uint64,
    'torch.uint32': np.uint32,
    'torch.uint16': np.uint16,
    'torch.uint8': np.uint8,
    'torch.bool': np.bool_,
    'torch.complex64': np.complex64,
    'torch.complex128': np.complex128,
}
_STORAGES = {
    'torch.DoubleStorage': np.float64,
    'torch.FloatStorage': np.float32,
    'torch.HalfStorage': np.float16,
    'torch.BFloat16Storage': ml_dtypes.bfloat16,
    'torch.LongStorage': np.int64,
    'torch.IntStorage': np.int32,
    'torch.ShortStorage': np.int16,
    'torch.CharStorage': np.int8,
    'torch.ByteStorage': np.uint8,
    'torch.BoolStorage': np.bool_,
    'torch.ComplexFloatStorage': np.complex64,
    'torch.ComplexDoubleStorage': np.complex128,
    # Its tensors have dtypes of their own.
    'torch.storage.UntypedStorage': np.uint8,
}
_MAX_DIMENSIONS = 8


class Storage(NamedTuple):
    """What a pickle says of a storage."""

    kind: str  # a name in _STORAGES
    key: str
    storages: Mapping[str, np.ndarray]  # bytes by key, when all has been read
    start: int = 0  # of the part that it is of what has that key, in elements
    length: int | None = None  # in elements; None for all

    @property
    def bytes(self) -> np.ndarray:
        """(num_bytes,) uint8."""
        size = itemsize(self.kind)
        stored = self.storages[self.key]
        if self.length is None:
            return stored
        return stored[self.start * size : (self.start + self.length) * size]


class Tensor(NamedTuple):
    """What a pickle says of a tensor. Counts are in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: type
    is_lazy: bool  # whether a conjugation or negation is still to be done


def itemsize(kind: str) -> int:
    """Bytes of an element of a kind of storage."""
    return np.dtype(_STORAGES[kind]).itemsize


def storage_identifier(pid) -> tuple[str, str, tuple]:
    """The kind and the key of a storage, and what more is said of it."""
    what, kind, key, *more = pid
    if what != 'storage' or kind.name not in _STORAGES:
        raise TypeError('only storages are kept outside of the pickle')
    if type(key) is not str or len(key) > 100:
        raise TypeError('a storage is named by a string')
    return kind.name, key, tuple(more)


def _note_tensor(storage, offset, size, stride, dtype, metadata) -> Tensor:
    """Take note of a tensor; check the types, leave the bounds for later."""
    if type(storage) is not Storage or len(size) > _MAX_DIMENSIONS:
        raise TypeError('a tensor is a storage with up to eight dimensions')
    counts = (offset, *size, *stride)
    if not (
        len(size) == len(stride)
        and all(type(n) is int and abs(n) < 2**48 for n in counts)
    ):
        raise TypeError('a tensor has an offset, sizes and strides')
    return Tensor(
        storage, offset, tuple(size), tuple(stride), dtype, bool(metadata)
    )


def _rebuild_tensor_v2(
    storage, offset, size, stride, requires_grad, hooks, metadata=None
):
    del requires_grad, hooks
    dtype = _STORAGES[storage.kind]
    return _note_tensor(storage, offset, size, stride, dtype, metadata)


def _rebuild_tensor(storage, offset, size, stride):
    return _rebuild_tensor_v2(storage, offset, size, stride, False, None)


def _rebuild_tensor_v3(
    storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
):
    del requires_grad, hooks
    dtype = _DTYPES[dtype.name]
    return _note_tensor(storage, offset, size, stride, dtype, metadata)


def _rebuild_parameter(tensor, requires_grad, hooks, state=None):
    del requires_grad, hooks, state
    if type(tensor) is not Tensor:
        raise TypeError('a parameter is a tensor')
    return tensor


def _rebuild_from_type(rebuild, kind, args, state):
    del kind, state
    if type(rebuild) is not pickled.Global or len(args) > 10:
        raise TypeError('a tensor is rebuilt by a function')
    return _CALLS[rebuild.name](*args)


def _ordered_dict(items=()) -> dict:
    # Python 2 gives the items as a list of pairs.
    made = {}
    for key, value in items:
        if type(key) is not str or len(key) > 500:
            raise TypeError('tensors are named by strings')
        made[key] = value
    return made


# What a pickle may call.
_CALLS: dict[str, Callable] = {
    'collections.OrderedDict': _ordered_dict,
    'collections.Counter': lambda *args: {},
    'collections.defaultdict': lambda *args: {},
    'torch._utils._rebuild_tensor': _rebuild_tensor,
    'torch._utils._rebuild_tensor_v2': _rebuild_tensor_v2,
    'torch._utils._rebuild_tensor_v3': _rebuild_tensor_v3,
    'torch._utils._rebuild_parameter': _rebuild_parameter,
    'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
    'torch._tensor._rebuild_from_type_v2': _rebuild_from_type,
}
_NAMES = frozenset(
    # The last two are named by tensors that have attributes, but not called.
    {*_DTYPES, *_STORAGES, 'torch.Tensor', 'torch.nn.parameter.Parameter'}
)


def read_pickle(
    data: np.ndarray,
    start: int,
    storage: Callable[[Any], Storage] | None = None,
    calls: Mapping[str, Callable] | None = None,
) -> tuple[Any, int]:
    """One pickle of a file, with notes of its tensors, and where it ends."""
    calls = {**_CALLS, **(calls or {})}
    return pickled.read(data.data, start, calls, _NAMES, storage)


def to_array(where: str, tensor: Tensor) -> np.ndarray:
    """View a tensor in its storage; `where` begins a sentence on it."""
    if tensor.is_lazy:
        raise ValueError(
            f'{where} was saved with a conjugation or negation still to be'
            ' done; save tensor.resolve_conj().resolve_neg() instead.'
        )
    stored = tensor.storage.bytes
    dtype = np.dtype(tensor.dtype)
    num_stored = stored.size // dtype.itemsize
    num_elements = math.prod(tensor.shape)
    if num_elements == 0:
        return np.zeros(tensor.shape, dtype)
    last = tensor.offset + sum(
        (n - 1) * stride
        for n, stride in zip(tensor.shape, tensor.stride, strict=True)
    )
    # Strides of 0 would let a small file ask for any number of elements.
    if (
        min(tensor.offset, *tensor.shape, *tensor.stride, 0) < 0
        or max(num_elements, last + 1) > num_stored
    ):
        raise ValueError(
            f'{where} must lie within its storage and have no more than its'
            f' {num_stored} elements, got offset {tensor.offset}, size'
            f' {excerpt(str(tensor.shape), 22)} and stride'
            f' {excerpt(str(tensor.stride), 22)}.'
        )
    return np.ndarray(
        tensor.shape,
        dtype,
        buffer=stored,
        offset=tensor.offset * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.stride],
    )
