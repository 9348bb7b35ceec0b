"""Writes network snapshots of EDM, as their code would, without PyTorch."""

import pathlib

import numpy as np

from tests.priors.pickle_writer import (
    KINDS,
    NO_HOOKS,
    ORDERED_DICT,
    REBUILD,
    Build,
    Call,
    Global,
    Opcodes,
    Persistent,
    opcodes_of,
    pickle_of,
    stream_of,
)

_RECONSTRUCT = Global('torch_utils.persistence', '_reconstruct_persistent_obj')
_LOAD = Global('torch.storage', '_load_from_bytes')
_PARAMETER = Global('torch._utils', '_rebuild_parameter')
# Modules of PyTorch's own among the authors', and the names of their buffers.
_MODULE_DICTS = ('enc', 'dec')
_BUFFERS = ('resample_filter', 'freqs')


def bytes_of(content: bytes) -> Opcodes:
    """Bytes as protocols from 3 on spell them."""
    return Opcodes(b'B' + len(content).to_bytes(4, 'little') + content)


def tensor_of(array: np.ndarray) -> Call:
    """A tensor in a stream of its own, inside of the pickle."""
    kind = Global('torch', KINDS[array.dtype.name])
    storage = Persistent(('storage', kind, '1', 'cpu', array.size, None))
    stream = stream_of(storage, {'1': (array.size, array.tobytes())})
    stride = tuple(s // array.itemsize for s in array.strides)
    return Call(
        REBUILD,
        (
            Call(_LOAD, (bytes_of(stream),)),
            0,
            array.shape,
            stride,
            False,
            NO_HOOKS,
        ),
    )


def object_of(class_name: str, state: dict, source: str = 'pass') -> Call:
    """An object of a class that comes along as program text."""
    meta = {
        'type': 'class',
        'version': 6,
        'module_src': source,
        'class_name': class_name,
        'state': state,
    }
    return Call(_RECONSTRUCT, (meta,))


def state_of(tensors: dict, init_kwargs: dict | None = None) -> dict:
    """The state of a module that has these tensors, by dotted names."""
    parameters, buffers, inner = {}, {}, {}
    for name, array in tensors.items():
        first, _, rest = name.partition('.')
        if rest:
            inner.setdefault(first, {})[rest] = array
        elif first in _BUFFERS:
            buffers[first] = tensor_of(array)
        else:
            tensor = tensor_of(array)
            parameters[first] = Call(_PARAMETER, (tensor, False, NO_HOOKS))
    return {
        'training': False,
        '_parameters': parameters,
        '_buffers': buffers,
        '_forward_hooks': Call(ORDERED_DICT, ()),
        '_modules': {
            name: module_of(name, inside) for name, inside in inner.items()
        },
        '_init_args': (),
        '_init_kwargs': init_kwargs or {},
        'bias': None,
    }


def module_of(name: str, tensors: dict):
    if name in _MODULE_DICTS:
        kind = Global('torch.nn.modules.container', 'ModuleDict')
        empty = Opcodes(opcodes_of(kind) + b')\x81')
        return Build(empty, state_of(tensors))
    return object_of('Part', state_of(tensors))


def nested_modules(depth):
    """2**depth modules, of which the pickle holds two times `depth`."""
    modules = state_of({'w': np.zeros(1, np.float32)})
    code = opcodes_of(object_of('Part', modules)) + b'q\xff'
    for _ in range(depth):
        # Takes the last module from the memo twice, and remembers what holds it.
        inner = {'a': Opcodes(b'h\xff'), 'b': Opcodes(b'h\xff')}
        state = state_of({}) | {'_modules': inner}
        code += b'0' + opcodes_of(object_of('Part', state)) + b'q\xff'
    return Opcodes(code)


def write_edm_pickle(
    path: pathlib.Path,
    class_name: str,
    init_kwargs: dict,
    tensors: dict[str, np.ndarray],
    source: str = 'pass',
) -> None:
    """Write a snapshot.

    Args:
        path: of the file.
        class_name: `EDMPrecond` or another of the authors'.
        init_kwargs: its arguments: numbers, strings, lists and dicts.
        tensors: arrays by the names that a state dict gives them.
        source: the program text that comes along.
    """
    network = object_of(class_name, state_of(tensors, init_kwargs), source)
    content = {
        'ema': network,
        'loss_fn': object_of('EDMLoss', {'P_mean': -1.2}, source),
        'augment_pipe': None,
        'dataset_kwargs': {'resolution': 32},
    }
    path.write_bytes(pickle_of(content))
