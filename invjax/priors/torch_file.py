"""Reads PyTorch weight files without PyTorch, and without trusting them.

A `.pt` file is a zip of one pickle and of raw storages:

    <root>/data.pkl    names, shapes, strides: a pickle, hence a small program
    <root>/data/<key>  one storage each: plain numbers
    <root>/byteorder   'little' or 'big'; absent before PyTorch 2.1

A pickle can call whatever it can import, so this one may import nothing: the
few globals that weights need become names that call functions of ours, and any
other stops the reading. Unpickling takes only notes of tensors. A note becomes
an array, a view of the mapped file, after it has been checked against the bytes
that are there.
"""

import hashlib
import io
import math
import os
import pathlib
import pickle
import re
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
import safetensors

# Where checkpoints keep their weights, in order of preference. Averaged (EMA)
# weights come first: they are the ones to sample with.
_WRAPPERS = (
    'ema_state_dict',
    'state_dict_ema',
    'model_ema',
    'ema_model',
    'params_ema',
    'ema',
    'state_dict',
    'model_state_dict',
    'model',
    'params',
    'net',
    'module',
)

# DataParallel and torch.compile put these in front, not always of every name.
_ADDED_PREFIXES = re.compile(r'^((module|_orig_mod)\.)+')
# A network may have a part of such a name, so these must lead every name.
_COMMON_PREFIXES = ('model.', 'net.', 'network.', 'unet.', 'diffusion_model.')

# The type of a tensor's numbers, by its own dtype or by its storage's kind.
_DTYPES = {
    'torch.float64': np.float64,
    'torch.float32': np.float32,
    'torch.float16': np.float16,
    'torch.bfloat16': ml_dtypes.bfloat16,
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

# How a pickle of any protocol spells the number that opens legacy files.
_LEGACY_MAGIC = b'\x8a\x0a' + 0x1950A86A20F9469CFC6C.to_bytes(10, 'little')


class UnsafeFileError(ValueError):
    """The file asks for a global that weights do not need."""


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the weights of a PyTorch (`.pt`, `.pth`) or safetensors file.

    The content decides on the format, not the name. In a checkpoint of nested
    dicts the weights are those under the first of the keys `ema_state_dict`,
    `state_dict_ema`, `model_ema`, `ema_model`, `params_ema`, `ema`,
    `state_dict`, `model_state_dict`, `model`, `params`, `net`, `module` that
    leads to tensors; so averaged weights win. What is not a tensor is left
    out. Names lose `module.` and `_orig_mod.` in front, and also `model.`,
    `net.`, `network.`, `unet.` or `diffusion_model.` where every name has it.

    Args:
        path: the file. Do not overwrite it while the arrays are in use.

    Returns:
        Arrays by name, in the file's order and with its dtypes. Those of a
        PyTorch file are read-only views of the mapped file: a number is read
        from disk when it is used, and tied weights share memory.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file asks for a global that weights do not need.
            Nothing of it was executed.
        ValueError: the file has another format, is damaged or has no tensors.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist.')
    if not path.is_file():
        raise ValueError(f'{path} must be a file, not a directory or device.')
    with path.open('rb') as file:
        head = file.read(512)
    if head.startswith(b'PK'):
        state_dict = _read_zip(path)
    elif head[8:9] == b'{':
        state_dict = _read_safetensors(path)
    else:
        raise ValueError(f'{path} {_what_else(path, head)}')
    return _with_bare_names(path, state_dict)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


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


def _with_bare_names(
    path: pathlib.Path, state_dict: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Drop what wrappers around the network put in front of its names."""
    names, stripped = None, list(state_dict)
    while stripped != names:
        names = stripped
        stripped = [_ADDED_PREFIXES.sub('', name) for name in names]
        for prefix in _COMMON_PREFIXES:
            if all(name.startswith(prefix) for name in stripped):
                stripped = [name.removeprefix(prefix) for name in stripped]
    bare = dict(zip(names, state_dict.values(), strict=True))
    if len(bare) != len(state_dict):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f'{path} has {twice!r} twice: with and without module. or'
            ' _orig_mod. in front.'
        )
    return bare


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework='numpy') as file:
            names = file.offset_keys()
            state_dict = {name: file.get_tensor(name) for name in names}
    except safetensors.SafetensorError as error:
        raise ValueError(
            f'{path} begins like a safetensors file but is cut short or'
            f' damaged ({error}); download it again.'
        ) from error
    if not state_dict:
        raise ValueError(f'{path} has no tensors.')
    return state_dict


def _read_zip(path: pathlib.Path) -> dict[str, np.ndarray]:
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
        byteorder = archive.view(root + 'byteorder').tobytes()
        if byteorder != b'little':
            raise ValueError(
                f"{path}: byteorder must be b'little', got {byteorder[:16]!r};"
                ' save it again on a little-endian machine.'
            )
    content = _unpickle(path, archive.view(root + 'data.pkl').tobytes())
    tensors = _find_tensors(content)
    if not tensors:
        raise ValueError(
            f'{path} must have tensors at its top level or under one of'
            f' {", ".join(_WRAPPERS)}, but it holds {_describe(content)}.'
        )
    return {
        name: _to_array(
            f'{path}: tensor {name!r}',
            tensor,
            archive.view(f'{root}data/{tensor.storage.key}'),
        )
        for name, tensor in tensors.items()
    }


class _Archive:
    """The entries of a zip file as views of the mapped file.

    Compressed entries are refused. torch.save writes none, and without them no
    entry has more bytes than the file.

    Attributes:
        infos: what the zip directory says of each entry, by name.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        try:
            with zipfile.ZipFile(path) as archive:
                self.infos = {info.filename: info for info in archive.filelist}
        # The latter two: a version or an entry's name that cannot be.
        except (zipfile.BadZipFile, RuntimeError, UnicodeDecodeError) as error:
            raise ValueError(
                f'{path} begins like a zip file but is cut short or damaged'
                f' ({error}); download it again.'
            ) from error
        self._bytes = np.asarray(np.memmap(path, np.uint8, mode='r'))

    def view(self, name: str) -> np.ndarray:
        """Return an entry's bytes, uint8, without copying them."""
        info = self.infos.get(name)
        if info is None:
            raise ValueError(f'{self._path} lacks its entry {name!r}.')
        encrypted = info.flag_bits & 1
        if info.compress_type != zipfile.ZIP_STORED or encrypted:
            raise ValueError(
                f'{self._path}: entry {name!r} must be neither compressed nor'
                ' encrypted; unzip the file and zip it again with: zip -0 -r'
            )
        # Only the entry's own header says how long its name and padding are.
        header = self._bytes[info.header_offset :][:30].tobytes()
        if len(header) < 30 or not header.startswith(b'PK\3\4'):
            raise ValueError(
                f'{self._path}: entry {name!r} is not where the zip directory'
                ' says; download the file again.'
            )
        start = info.header_offset + 30 + sum(struct.unpack('<26x2H', header))
        return self._bytes[start : start + info.file_size]


class _Storage(NamedTuple):
    """What the pickle says of a storage."""

    kind: str  # a name in _DTYPES, unless the tensor has its own
    key: str  # the entry's name after <root>/data/


class _Tensor(NamedTuple):
    """What the pickle says of a tensor. Counts are in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str  # a name in _DTYPES
    is_lazy: bool  # whether a conjugation or negation is still to be done


class _Dict(dict):
    """Stands for OrderedDict, and for all whose content does not matter."""

    __slots__ = ()

    def __setstate__(self, state):
        """Take no attributes, such as the `_metadata` of a state dict."""


class _Global(NamedTuple):
    """Stands for a global, of which the pickle gets no more than the name.

    A pickle can set attributes of what it gets, and a function's or a class's
    would stay set after it. A tuple has none to set.
    """

    name: str

    def __call__(self, *args):
        return _BUILDERS[self.name](*args)


def _note_tensor(storage, offset, size, stride, dtype, metadata) -> _Tensor:
    """Take note of a tensor; check the types, leave the bounds for later."""
    counts = (offset, *size, *stride)
    if not (
        isinstance(storage, _Storage)
        and len(size) == len(stride)
        and all(type(n) is int and abs(n) < 2**48 for n in counts)
        and dtype in _DTYPES
    ):
        raise TypeError('a tensor is a storage, an offset, sizes and strides')
    return _Tensor(
        storage, offset, tuple(size), tuple(stride), dtype, bool(metadata)
    )


def _rebuild_tensor_v2(
    storage, offset, size, stride, requires_grad, hooks, metadata=None
):
    del requires_grad, hooks
    return _note_tensor(storage, offset, size, stride, storage.kind, metadata)


def _rebuild_tensor_v3(
    storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
):
    del requires_grad, hooks
    return _note_tensor(storage, offset, size, stride, dtype.name, metadata)


def _rebuild_parameter(tensor, requires_grad, hooks, state=None):
    del requires_grad, hooks, state
    return tensor


def _rebuild_from_type(rebuild, kind, args, state):
    # Nothing that a pickle holds can be called but a _Global.
    del kind, state
    return rebuild(*args)


def _not_needed(*args):
    del args
    return _Dict()


# What a pickle may call. Protocol 2, that of torch.save, has Python 2's names
# of the builtins.
_BUILDERS = {
    'collections.OrderedDict': _Dict,
    'collections.Counter': _Dict,
    'torch.Size': tuple,
    'torch._utils._rebuild_tensor_v2': _rebuild_tensor_v2,
    'torch._utils._rebuild_tensor_v3': _rebuild_tensor_v3,
    'torch._utils._rebuild_parameter': _rebuild_parameter,
    'torch._utils._rebuild_parameter_with_state': _rebuild_parameter,
    'torch._tensor._rebuild_from_type_v2': _rebuild_from_type,
    # Settings and counters beside the weights.
    'torch.device': _not_needed,
    'builtins.set': _not_needed,
    '__builtin__.set': _not_needed,
    'builtins.complex': _not_needed,
    '__builtin__.complex': _not_needed,
    'builtins.bytearray': _not_needed,
    '__builtin__.bytearray': _not_needed,
    '_codecs.encode': _not_needed,  # how protocol 2 spells bytes
    'numpy.dtype': _not_needed,
    'numpy.core.multiarray.scalar': _not_needed,
    'numpy._core.multiarray.scalar': _not_needed,
}

_ALLOWED = {
    *_BUILDERS,
    *_DTYPES,
    # Named by tensors that have attributes, but not called.
    'torch.Tensor',
    'torch.nn.parameter.Parameter',
}


# The Python unpickler, since one opcode makes the C one fill 64 GiB: a memo
# index of 2**32 - 1.
class _Unpickler(pickle._Unpickler):
    """Builds containers, numbers, strings and notes of tensors; no more."""

    def find_class(self, module, name):
        full_name = f'{module}.{name}'
        if full_name not in _ALLOWED:
            raise UnsafeFileError(full_name)
        return _Global(full_name)

    def persistent_load(self, pid):
        _, kind, key, *_ = pid  # then the device and the number of elements
        if not isinstance(key, str):
            raise TypeError('a storage is named by a string')
        return _Storage(kind.name, key)


def _unpickle(path: pathlib.Path, data: bytes) -> Any:
    """Unpickle `data`, which is from the file at `path`."""
    try:
        return _Unpickler(io.BytesIO(data)).load()
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f'{path} asks for {str(error)!r}, which weights do not need, so'
            ' nothing was loaded; if you trust the file, re-save its weights'
            ' alone, as by torch.save(model.state_dict(), path).'
        ) from None
    # Damaged bytes can raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{path}: data.pkl is damaged ({type(error).__name__}); download'
            ' the file again.'
        ) from error


def _find_tensors(content: Any, depth: int = 3) -> dict[str, _Tensor]:
    """Find the weights in nested dicts; {} if there are none.

    Args:
        content: what the file holds, or a part of it.
        depth: how many dicts deep to look. A pickled dict can hold itself.
    """
    if not isinstance(content, dict) or depth == 0:
        return {}
    for wrapper in _WRAPPERS:
        tensors = _find_tensors(content.get(wrapper), depth - 1)
        if tensors:
            return tensors
    return {
        name: value
        for name, value in content.items()
        if isinstance(name, str) and isinstance(value, _Tensor)
    }


def _describe(content: Any) -> str:
    if not isinstance(content, dict):
        return f'one {type(content).__name__.strip("_").lower()}'
    keys = [repr(key[:80]) for key in content if isinstance(key, str)]
    return f'the keys {", ".join(keys[:20])}' if keys else 'no named entries'


def _to_array(where: str, tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """View a tensor in its storage.

    Args:
        where: the file and the tensor's name, for errors.
        tensor: what the pickle says of it.
        storage: (num_bytes,) uint8.
    """
    if tensor.is_lazy:
        raise ValueError(
            f'{where} was saved with a conjugation or negation still to be'
            ' done; save tensor.resolve_conj().resolve_neg() instead.'
        )
    dtype = np.dtype(_DTYPES[tensor.dtype])
    num_stored = storage.size // dtype.itemsize
    num_elements = math.prod(tensor.size)
    if num_elements == 0:
        return np.zeros(tensor.size, dtype)
    last = tensor.offset + sum(
        (n - 1) * stride
        for n, stride in zip(tensor.size, tensor.stride, strict=True)
    )
    # Strides of 0 would let a small file ask for any number of elements.
    if (
        min(tensor.offset, *tensor.size, *tensor.stride, 0) < 0
        or max(num_elements, last + 1) > num_stored
    ):
        raise ValueError(
            f'{where} must lie within its storage and have no more than its'
            f' {num_stored} elements, got offset {tensor.offset}, size'
            f' {tensor.size} and stride {tensor.stride}.'
        )
    return np.ndarray(
        tensor.size,
        dtype,
        buffer=storage,
        offset=tensor.offset * dtype.itemsize,
        strides=[stride * dtype.itemsize for stride in tensor.stride],
    )
