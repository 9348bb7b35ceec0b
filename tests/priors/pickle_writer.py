"""Spells pickles out opcode by opcode.

So no PyTorch is needed, and a file can say what an honest one would not.
"""

import pickle
from typing import Any, NamedTuple


class Global(NamedTuple):
    """What `module.name` is where the pickle is read."""

    module: str
    name: str


class Call(NamedTuple):
    """What `function(*args)` gives there."""

    function: Any
    args: Any


class Build(NamedTuple):
    """`target`, after `state` was set on it."""

    target: Any
    state: Any


class Persistent(NamedTuple):
    """What the reader has for this identifier, a storage."""

    pid: Any


class Opcodes(NamedTuple):
    """Opcodes as they are, which leave one value."""

    code: bytes


def opcodes_of(value) -> bytes:
    """Spell a value: one of the above, a dict, a list, a tuple or an atom."""
    match value:
        case Global(module, name):
            return f'c{module}\n{name}\n'.encode()
        case Call(function, args):
            return opcodes_of(function) + opcodes_of(args) + b'R'
        case Build(target, state):
            return opcodes_of(target) + opcodes_of(state) + b'b'
        case Persistent(pid):
            return opcodes_of(pid) + b'Q'
        case Opcodes(code):
            return code
        case dict():
            parts = [part for item in value.items() for part in item]
            return b'}(' + b''.join(map(opcodes_of, parts)) + b'u'
        case list():
            return b'](' + b''.join(map(opcodes_of, value)) + b'e'
        case tuple():
            return b'(' + b''.join(map(opcodes_of, value)) + b't'
        case _:
            # Without the protocol in front and the stop at the end.
            return pickle.dumps(value, protocol=2)[2:-1]


def pickle_of(value) -> bytes:
    return b'\x80\x02' + opcodes_of(value) + b'.'


KINDS = {
    'float64': 'DoubleStorage',
    'float32': 'FloatStorage',
    'float16': 'HalfStorage',
    'bfloat16': 'BFloat16Storage',
    'int64': 'LongStorage',
    'int32': 'IntStorage',
    'int16': 'ShortStorage',
    'int8': 'CharStorage',
    'uint8': 'ByteStorage',
    'bool': 'BoolStorage',
    'complex64': 'ComplexFloatStorage',
}
REBUILD = Global('torch._utils', '_rebuild_tensor_v2')
ORDERED_DICT = Global('collections', 'OrderedDict')
NO_HOOKS = Call(ORDERED_DICT, ())


def view_of(key, kind, offset, size, stride, *more):
    """Describe a view of the storage `key`, as torch.save does."""
    pid = ('storage', Global('torch', kind), key, 'cpu', 0)
    args = (Persistent(pid), offset, size, stride, False, NO_HOOKS, *more)
    return Call(REBUILD, args)


STREAM_MAGIC = 0x1950A86A20F9469CFC6C


def stream_of(value, storages, little_endian=True) -> bytes:
    """Spell a stream of `torch.save` from before PyTorch 1.6.

    Args:
        value: what it holds.
        storages: by key, the number of elements and their bytes.
        little_endian: what it says of the machine.
    """
    machine = {'protocol_version': 1001, 'little_endian': little_endian}
    pickles = (STREAM_MAGIC, 1001, machine, value)
    return (
        b''.join(map(pickle_of, pickles))
        + pickle.dumps(list(storages), protocol=2)
        + b''.join(
            count.to_bytes(8, 'little') + numbers
            for count, numbers in storages.values()
        )
    )
