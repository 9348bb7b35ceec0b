"""Reads PyTorch weight files without PyTorch, and without trusting them.

A `.pt` file is a zip of one pickle and of raw storages:

    <root>/data.pkl    names, shapes, strides: a pickle, hence a small program
    <root>/data/<key>  one storage each: plain numbers
    <root>/byteorder   'little' or 'big'; absent before PyTorch 2.1

A pickle can call whatever it can import, so here it is read as data
(`pickled.py`). Reading takes only notes of tensors. A note becomes an array, a
view of the mapped file, after it has been checked against the bytes that are
there, and these against their checksum.
"""

import hashlib
import math
import os
import pathlib
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from invjax.priors import find_weights, pickled, safetensors_file
from invjax.priors.excerpts import excerpt
from invjax.priors.find_weights import Weights
from invjax.priors.pickled import CostlyFileError, UnsafeFileError

__all__ = [
    'UnsafeFileError',
    'Weights',
    'file_sha256',
    'read_state_dict',
    'read_weights',
]

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

# How a pickle of any protocol spells the number that opens legacy files.
_LEGACY_MAGIC = b'\x8a\x0a' + 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')


def read_weights(
    path: str | os.PathLike[str], weights_key: str | None = None
) -> Weights:
    """Read a network's weights from a PyTorch or safetensors file.

    The content decides on the format, not the name. In a checkpoint the weights
    are found by their structure (`find_weights.py`); averaged ones win.

    Args:
        path: the file. Do not overwrite it while the arrays are in use.
        weights_key: takes the weights there rather than averaged ones: the keys
            that lead to them, joined by dots.

    Returns:
        The weights, arrays by name in the file's order and with its dtypes.
        They are read-only views of the mapped file. Of a safetensors file or a
        stream a number is read from disk when it is used, and tied weights
        share memory.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file asks for a global that weights do not need.
            Nothing of it was executed.
        ValueError: the file has another format, is damaged, or has no weights
            or several to choose from.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist.')
    if not path.is_file():
        raise ValueError(f'{path} must be a file, not a directory or device.')
    with path.open('rb') as file:
        head = file.read(512)
    if head.startswith(b'PK'):
        content, tensor_type = _read_zip(path), Tensor
    elif safetensors_file.is_one(head):
        content, tensor_type = safetensors_file.read(path), np.ndarray
    else:
        raise ValueError(f'{path} {_what_else(path, head)}')
    load = _Loader(path)
    try:
        found = find_weights.find(content, tensor_type, load, weights_key)
    except find_weights.NotFoundError as error:
        raise ValueError(f'{path} {error}') from None
    arrays = {name: load(name, note) for name, note in found.tensors.items()}
    # A small file could ask for any number of elements, if tensors share them.
    if sum(array.size for array in arrays.values()) > path.stat().st_size:
        raise ValueError(
            f'{path} must have a byte or more for each of its weights, but'
            f' some of its {len(arrays)} tensors share them.'
        )
    return found._replace(tensors=arrays)


def read_state_dict(
    path: str | os.PathLike[str], weights_key: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of `read_weights` alone."""
    return read_weights(path, weights_key).tensors


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class _Loader:
    """From a tensor's name and note to its numbers.

    What it gives in all is bounded, since tensors can share numbers.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._num_bytes = 40 * path.stat().st_size

    def __call__(self, name: str, tensor: Any) -> np.ndarray:
        if type(tensor) is Tensor:
            where = f"{self._path}: tensor '{excerpt(name, 40)}'"
            tensor = _to_array(where, tensor)
        self._num_bytes -= tensor.nbytes
        if self._num_bytes < 0:
            raise ValueError(
                f'{self._path} has many tensors that share their numbers.'
            )
        return tensor


def _what_else(path: pathlib.Path, head: bytes) -> str:
    """Say what a file is that we do not read, and what to do about it."""
    load = f"torch.load({str(path)!r}, map_location='cpu', weights_only="
    if not head:
        return 'is empty; download it again.'
    if _LEGACY_MAGIC in head[:32]:
        return (
            'is in the format from before PyTorch 1.6; '
            f'{_how_to_resave(load + "True)")}'
        )
    if head[257:262] == b'ustar':
        return (
            'is in the tar format from before PyTorch 0.1.10; if you trust it,'
            f' for this can run code from it, {_how_to_resave(load + "False)")}'
        )
    if head.startswith(b'version https://git-lfs'):
        return 'is a git-lfs pointer; fetch the file itself with: git lfs pull'
    if head.lstrip().startswith(b'<'):
        return (
            'is a web page saved in place of the weights; open it in a browser'
            ' to see why, and download again.'
        )
    return (
        'must be a PyTorch zip file or safetensors, but it begins with'
        f' {head[:16]!r}.'
    )


def _how_to_resave(load: str) -> str:
    return (
        're-save it where PyTorch is installed: python -c "import torch;'
        f" torch.save({load}, 'resaved.pt')\""
    )


def _read_zip(path: pathlib.Path) -> Any:
    archive = _Archive(path)
    pickles = [n for n in archive.infos if re.fullmatch(r'[^/]+/data\.pkl', n)]
    if len(pickles) != 1:
        raise ValueError(
            f'{path} is a zip file but not one of PyTorch: it must have one'
            f' entry <root>/data.pkl, got {len(pickles)}.'
        )
    root = pickles[0].removesuffix('data.pkl')
    if root + 'constants.pkl' in archive.infos:
        load = f"torch.jit.load({str(path)!r}, map_location='cpu').state_dict()"
        raise ValueError(
            f'{path} is a TorchScript program; if you trust it,'
            f' {_how_to_resave(load)}'
        )
    if root + 'byteorder' in archive.infos:
        byteorder = archive[root + 'byteorder'].tobytes()
        if byteorder != b'little':
            raise ValueError(
                f"{path}: byteorder must be b'little', got {byteorder[:16]!r};"
                ' save it again on a little-endian machine.'
            )
    storages = _Folder(archive, root + 'data/')

    def storage(pid) -> _Storage:
        kind, key, _ = _storage_identifier(pid)
        return _Storage(kind, key, storages)

    data = archive[root + 'data.pkl']
    return _unpickle(path, lambda: _read_pickle(data, 0, storage)[0])


class _Archive(Mapping):
    """The entries of a zip file as views of the mapped file, (num_bytes,) uint8.

    Compressed entries are refused: torch.save writes none. An entry is checked
    against its checksum when it is first asked for. Entries that overlap are
    refused, so that those that are read have no more bytes than the file.

    Attributes:
        infos: what the zip directory says of each entry, by name.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.infos = {info.filename: info for info in archive.filelist}
        # Damaged directories raise nearly anything.
        except Exception as error:
            raise ValueError(
                f'{path} begins like a zip file but is cut short or damaged'
                f' ({excerpt(str(error))}); download it again.'
            ) from None
        self._bytes = np.memmap(path, np.uint8, mode='r').view(np.ndarray)
        self._views = {}
        self._unread = self._bytes.size

    def __len__(self):
        return len(self.infos)

    def __iter__(self):
        return iter(self.infos)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._views:
            view = self._view(name)
            self._unread -= view.size
            if self._unread < 0:
                raise ValueError(
                    f'{self._path}: entries of the zip file overlap; download'
                    ' the file again.'
                )
            self._check(name, view)
            self._views[name] = view
        return self._views[name]

    def _view(self, name: str) -> np.ndarray:
        info = self.infos.get(name)
        if info is None:
            raise ValueError(f"{self._path} lacks its entry '{excerpt(name)}'.")
        encrypted = info.flag_bits & 1
        if info.compress_type != zipfile.ZIP_STORED or encrypted:
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' must be neither"
                ' compressed nor encrypted; unzip the file and zip it again'
                ' with: zip -0 -r'
            )
        # Only the entry's own header says how long its name and padding are.
        header = self._bytes[info.header_offset :][:30].tobytes()
        if len(header) < 30 or not header.startswith(b'PK\3\4'):
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' is not where the zip"
                ' directory says; download the file again.'
            )
        start = info.header_offset + 30 + sum(struct.unpack('<26x2H', header))
        return self._bytes[start : start + info.file_size]

    def _check(self, name: str, view: np.ndarray) -> None:
        # PyTorch can be told to leave checksums out, and then writes 0.
        checksum = self.infos[name].CRC
        if checksum not in (0, zlib.crc32(view)):
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' is damaged: its bytes"
                ' do not have the checksum that is kept with them; download'
                ' the file again.'
            )


class _Folder(Mapping):
    """The entries of an archive whose names begin alike, without that."""

    def __init__(self, archive: _Archive, prefix: str):
        self._archive = archive
        self._prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self._archive[self._prefix + name]

    def __iter__(self):
        names = (n for n in self._archive if n.startswith(self._prefix))
        return (name.removeprefix(self._prefix) for name in names)

    def __len__(self):
        return sum(1 for _ in self)


class _Storage(NamedTuple):
    """What a pickle says of a storage."""

    kind: str  # a name in _STORAGES
    key: str
    storages: Mapping[str, np.ndarray]  # bytes by key, when all has been read
    start: int = 0  # of the part that it is of what has that key, in elements
    count: int | None = None  # of its elements; None for all

    @property
    def bytes(self) -> np.ndarray:
        """(num_bytes,) uint8."""
        size = np.dtype(_STORAGES[self.kind]).itemsize
        stored = self.storages[self.key]
        if self.count is None:
            return stored
        return stored[self.start * size : (self.start + self.count) * size]


class Tensor(NamedTuple):
    """What a pickle says of a tensor. Counts are in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: type
    is_lazy: bool  # whether a conjugation or negation is still to be done


def _storage_identifier(pid) -> tuple[str, str, tuple]:
    """The kind and the key of a storage, and what more is said of it."""
    what, kind, key, *more = pid
    if what != 'storage' or kind.name not in _STORAGES:
        raise TypeError('only storages are kept outside of the pickle')
    if type(key) is not str or len(key) > 100:
        raise TypeError('a storage is named by a string')
    return kind.name, key, tuple(more)


def _note_tensor(storage, offset, size, stride, dtype, metadata) -> Tensor:
    """Take note of a tensor; check the types, leave the bounds for later."""
    if type(storage) is not _Storage or len(size) > _MAX_DIMENSIONS:
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
_CALLS = {
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


def _read_pickle(
    data: np.ndarray,
    start: int,
    storage: Callable[[Any], _Storage] | None = None,
    calls: Mapping[str, Callable] | None = None,
) -> tuple[Any, int]:
    """One pickle of a file, with notes of its tensors, and where it ends."""
    calls = _CALLS | (calls or {})
    return pickled.read(memoryview(data), start, calls, _NAMES, storage)


def _unpickle(path: pathlib.Path, read: Callable[[], Any]) -> Any:
    """What `read` reads of the file at `path`; refusals get their sentences."""
    try:
        return read()
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{path} asks for '{excerpt(str(error))}', which weights do not"
            ' need, so nothing was loaded; if you trust the file, re-save its'
            ' weights alone, as by torch.save(model.state_dict(), path).'
        ) from None
    except CostlyFileError as error:
        raise ValueError(
            f'{path} takes {error} to read, more than weights need; re-save'
            ' its weights alone, as by torch.save(model.state_dict(), path).'
        ) from None
    # Damaged bytes can raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{path}: data.pkl is damaged ({type(error).__name__}); download'
            ' the file again.'
        ) from None


def _to_array(where: str, tensor: Tensor) -> np.ndarray:
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
