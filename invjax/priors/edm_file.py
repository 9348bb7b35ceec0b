"""Reads the networks of NVIDIA's EDM (Karras et al., 2022) as plain data.

A `network-snapshot-*.pkl` is a pickle of a dict, under whose key `ema` is a
network with averaged weights. Its classes come along as program text, which
their own code runs; here it stays text. What is read is the name of the class,
the arguments that it was made with, and its tensors by the names that the
network's state dict has: `_parameters` and `_buffers` of nested modules.

The authors write with `pickle.dump` as it comes (training/training_loop.py of
NVlabs/edm), which is protocol 4 since Python 3.8, the oldest that their
environment.yml allows. Protocols 2, 3 and 5 are read as well: they have the
same objects in other words.
"""

import io
import math
import os
import pathlib
from typing import Any, NamedTuple

import numpy as np

from invjax.priors import torch_formats
from invjax.priors.excerpts import excerpt, listing
from invjax.priors.pickled import Object
from invjax.priors.torch_file import mapped, refusals
from invjax.priors.torch_tensors import Storage, Tensor, read_pickle, to_array

# What makes an object of a class that comes along with its program text.
_PERSISTENT = 'torch_utils.persistence._reconstruct_persistent_obj'

_MAX_DEPTH = 32
_MAX_PARTS = 20_000
_MAX_NAME = 500
# Of the arguments of a network.
_MAX_VALUES = 1000

# Kinds of NumPy's numbers, as a pickle says them.
_SCALARS = ('b1', 'f2', 'f4', 'f8', 'i1', 'i2', 'i4', 'i8', 'u1', 'u2', 'u4')


class EdmNetwork(NamedTuple):
    """A network as plain data.

    Attributes:
        class_name: `EDMPrecond`, `VPPrecond` or another of the authors'.
        init_kwargs: the arguments that it was made with: numbers, strings,
            None, lists and dicts of these. `model_type` names the class inside
            that `class_name` wraps.
        tensors: arrays by name, in the order of its state dict and with the
            file's dtypes; read-only views of the mapped file. Buffers such as
            `resample_filter` are among them.
    """

    class_name: str
    init_kwargs: dict[str, Any]
    tensors: dict[str, np.ndarray]


def is_one(head: bytes) -> bool:
    """Whether a file may be of this kind: whether it begins as a pickle does.

    Args:
        head: its first 32 bytes or more.
    """
    is_pickle = head[:1] == b'\x80' and head[1:2] in b'\2\3\4\5'
    return is_pickle and not torch_formats.is_stream(head)


def read_edm_pickle(path: str | os.PathLike[str]) -> EdmNetwork:
    """Read the averaged network of a `network-snapshot-*.pkl`.

    Nothing of the file is executed, its program text least of all.

    Args:
        path: the file. Do not overwrite it while the arrays are in use.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file asks for a global that networks do not need.
        ValueError: the file has another format, is damaged, or has no network
            under the key `ema`.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist.')
    if not path.is_file() or not is_one(_head(path)):
        raise ValueError(
            f'{path} must be a pickle, as network-snapshot-*.pkl of EDM is.'
        )
    content = mapped(path)
    with refusals(path, str(path)):
        data, _ = read_pickle(content, 0, None, _calls())
    network = data.get('ema') if isinstance(data, dict) else None
    if network is None:
        keys = data if isinstance(data, dict) else ()
        shown = listing(key for key in keys if isinstance(key, str))
        raise ValueError(
            f"{path} must be a dict with a network under 'ema', as "
            'network-snapshot-*.pkl of EDM is, but its keys are: '
            f'{shown or "none"}.'
        )
    try:
        meta = _meta(network)
        init_kwargs = _init_kwargs(meta['state'])
        notes = _tensors(network)
    except _StrangeError as error:
        raise ValueError(
            f"{path} has no network of EDM under 'ema': {error}."
        ) from None
    # What is missing or of another type shows where it is used.
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} has no network of EDM under 'ema': a part of it is missing"
            f' or of another type ({type(error).__name__}).'
        ) from None
    if sum(math.prod(note.shape) for note in notes.values()) > content.size:
        raise ValueError(
            f'{path} must have a byte or more for each of its weights, but '
            f'some of its {len(notes)} tensors share them.'
        )
    tensors = {
        name: to_array(f"{path}: tensor '{excerpt(name, 40)}'", note)
        for name, note in notes.items()
    }
    return EdmNetwork(meta['class_name'], init_kwargs, tensors)


class _StrangeError(ValueError):
    """The object is not what EDM makes; the message says why."""


def _head(path: pathlib.Path) -> bytes:
    with path.open('rb') as file:
        return file.read(64)


def _calls() -> dict:
    """What the pickle may call beyond what any pickle of tensors may."""
    read = {}

    def load_from_bytes(data):
        """A storage, in a stream or a zip file within the pickle."""
        if type(data) is not memoryview:
            raise TypeError('a storage is in bytes')
        # Once for each: the pickle may ask for the same one again and again.
        if id(data) not in read:
            read[id(data)] = data, _read_storage(np.frombuffer(data, np.uint8))
        return read[id(data)][1]

    def encode(text, encoding):
        """Bytes, which protocol 2 spells as text of the same code points."""
        if type(text) is not str or encoding != 'latin1':
            raise TypeError('bytes are spelled in latin1')
        return memoryview(text.encode('latin1'))

    return {
        'torch.storage._load_from_bytes': load_from_bytes,
        '_codecs.encode': encode,
    }


def _read_storage(content: np.ndarray) -> Storage:
    head = content[:32].tobytes()
    if torch_formats.is_zip(head):
        file = io.BytesIO(content.data)
        data, storage = torch_formats.open_zip('', file, content)
        value, _ = read_pickle(data, 0, storage)
    else:
        value = torch_formats.read_stream(content)
    if type(value) is not Storage:
        raise TypeError('the bytes are of something else than a storage')
    return value


def _meta(module: Any) -> dict:
    """What is said of an object of a class that comes along."""
    if type(module) is not Object or module.name != _PERSISTENT:
        raise _StrangeError('it is not made by torch_utils.persistence')
    (meta,) = module.args
    if not (
        isinstance(meta, dict)
        and meta['type'] == 'class'
        and type(meta['class_name']) is str
        and isinstance(meta['state'], dict)
    ):
        raise _StrangeError('it does not say its class and its state')
    if len(meta['class_name']) > 100 or not meta['class_name'].isidentifier():
        raise _StrangeError('the name of its class is none')
    return meta


def _init_kwargs(state: dict) -> dict[str, Any]:
    if len(state['_init_args']) > 0:
        raise _StrangeError('it was made with arguments without names')
    kwargs = _Arguments().plain(state['_init_kwargs'])
    if type(kwargs) is not dict:
        raise _StrangeError('the arguments it was made with are no dict')
    return kwargs


class _Arguments:
    """Turns what a pickle holds into plain data, up to a number of values."""

    def __init__(self):
        self._left = _MAX_VALUES

    def plain(self, value: Any, depth: int = 8) -> Any:
        """Numbers, strings, None, and lists and dicts of these."""
        self._left -= 1
        if self._left < 0 or depth == 0:
            raise _StrangeError('it was made with too many arguments')
        if value is None or type(value) in (bool, float):
            return value
        if type(value) is int and abs(value) < 2**63:
            return value
        if type(value) is str and len(value) <= 1000:
            return value
        if type(value) in (list, tuple):
            return [self.plain(inner, depth - 1) for inner in value]
        if type(value) is Object and value.name.endswith('.multiarray.scalar'):
            return _number(value)
        # A class of dict, such as the authors' EasyDict, has items as well.
        is_dict = type(value) is dict or (
            type(value) is Object and value.args == () and value
        )
        if is_dict and all(type(key) is str for key in value):
            return {
                key: self.plain(inner, depth - 1)
                for key, inner in value.items()
            }
        raise _StrangeError('it was made with what is no plain data')


def _number(scalar: Object) -> bool | int | float:
    """A number of NumPy, which a pickle has as its kind and its bytes."""
    dtype, data = scalar.args
    kind = dtype.args[0]
    if dtype.name != 'numpy.dtype' or kind not in _SCALARS:
        raise _StrangeError('a number is of an unknown kind')
    # A version, and then the byte order.
    if dtype.state is not None and dtype.state[1] == '>':
        raise _StrangeError('a number was written on a big-endian machine')
    return np.frombuffer(data, kind, 1)[0].item()


def _tensors(network: Object) -> dict[str, Tensor]:
    """Notes of parameters and buffers by name, in a state dict's order."""
    tensors, num_parts = {}, 0
    # Modules that are still to be looked at; the last one is the next.
    waiting = [('', network, 0)]
    while waiting:
        prefix, module, depth = waiting.pop()
        state = _state(module)
        own = _parts(state, '_parameters') + _parts(state, '_buffers')
        modules = _parts(state, '_modules')
        # A module may be in many places, and so count many times.
        num_parts += 1 + len(own) + len(modules)
        if num_parts > _MAX_PARTS or depth > _MAX_DEPTH:
            raise _StrangeError('it has too many parts')
        for name, tensor in own:
            if type(tensor) is not Tensor:
                raise _StrangeError('what should be a tensor is none')
            tensors[_joined(prefix, name)] = tensor
        waiting += [
            (_joined(prefix, name), inner, depth + 1)
            for name, inner in reversed(modules)
        ]
    if not tensors:
        raise _StrangeError('it has no tensors')
    return tensors


def _state(module: Any) -> dict:
    """The attributes of a module, of the authors' classes or of torch.nn's."""
    if type(module) is not Object:
        raise _StrangeError('a part of it is no module')
    if module.name.startswith('torch.nn.'):
        return module.state
    return _meta(module)['state']


def _parts(state: dict, kind: str) -> list[tuple[str, Any]]:
    """(name, part) of the parts of a module that are not None."""
    parts = state[kind]
    if len(parts) > _MAX_PARTS:
        raise _StrangeError('it has too many parts')
    return [(name, part) for name, part in parts.items() if part is not None]


def _joined(prefix: str, name: Any) -> str:
    joined = f'{prefix}.{name}' if prefix else name
    if type(name) is not str or len(joined) > _MAX_NAME:
        raise _StrangeError('a part has a name that is none')
    return joined
