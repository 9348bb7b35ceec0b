"""Reads pickles as data: nothing that a pickle names is imported or called.

A pickle is a program for a small stack machine, and one of its instructions
calls whatever can be imported. This machine has no such instruction. What a
pickle names becomes a `Global`, which is the name; what it calls becomes an
`Object`, which is the name and the arguments; the few calls that weights need
are done by functions of ours that the caller hands over.

A file may also be made to cost as much as possible. So each instruction takes
time and memory in proportion to its own bytes: nothing is hashed but names and
small integers, nothing is copied, and what has to be copied is counted against
a budget.
"""

import codecs
import gc
import struct
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

# Each takes a quarter of a microsecond. A thousand tensors have 30,000, and a list of a
# million losses beside them a million.
_MAX_OPCODES = 2_000_000
# Of a key. Longer ones name nothing in a network, and comparing them costs.
_MAX_KEY = 500
# Of a module or of a class.
_MAX_NAME = 200


class UnsafeFileError(ValueError):
    """The file asks for a global that weights do not need."""


class CostlyFileError(ValueError):
    """The file asks for more work than weights need."""


class Global(NamedTuple):
    """A name that the pickle would import."""

    name: str


class Object(dict):
    """What the pickle would make by a call; a dict of the items set on it.

    Attributes:
        name: of what is called.
        args: what it is called with.
        state: what `__setstate__` would get, or None.
        elements: what `append` or `add` would get.
    """

    __slots__ = ('args', 'elements', 'name', 'state')

    def __init__(self, name: str, args: tuple):
        super().__init__()
        self.name = name
        self.args = args
        self.state: Any = None
        self.elements: list = []


# Modules of Python, NumPy and PyTorch hold what an attack needs, so what is
# named of them must be data. Of other packages, the writer's own included, any
# name is taken: it is never more than a name.
_WATCHED = {*sys.stdlib_module_names, '__builtin__', 'copy_reg', 'numpy'}
_WATCHED |= {'torch', 'torchvision', 'torchaudio'}
_DATA_MODULES = (
    'numpy.dtypes',
    'numpy.random',
    'pathlib',
    'torch.amp',
    'torch.cuda.amp',
    'torch.nn',
    'torch.optim',
)
_DATA = {
    'argparse.Namespace',
    'collections.Counter',
    'collections.OrderedDict',
    'collections.UserDict',
    'collections.defaultdict',
    'collections.deque',
    'copyreg._reconstructor',
    'copy_reg._reconstructor',
    'datetime.date',
    'datetime.datetime',
    'datetime.time',
    'datetime.timedelta',
    'datetime.timezone',
    'decimal.Decimal',
    'fractions.Fraction',
    'functools.partial',
    'numpy.core.multiarray._reconstruct',
    'numpy._core.multiarray._reconstruct',
    'numpy.core.multiarray.scalar',
    'numpy._core.multiarray.scalar',
    'numpy.core.numeric._frombuffer',
    'numpy._core.numeric._frombuffer',
    'numpy.dtype',
    'numpy.ndarray',
    'random.Random',
    'time.struct_time',
    'torch.Size',
    'torch.Tensor',
    'torch.device',
    'torch.serialization._get_layout',
    'torch.torch_version.TorchVersion',
    'types.SimpleNamespace',
    'uuid.UUID',
    '_codecs.encode',  # how protocol 2 spells bytes
    # Protocol 2, that of torch.save, has Python 2's names of the builtins.
    *(
        f'{module}.{name}'
        for module in ('builtins', '__builtin__')
        for name in (
            *('bool', 'complex', 'float', 'int', 'long'),
            *('bytearray', 'bytes', 'str', 'unicode'),
            *('dict', 'frozenset', 'list', 'object', 'set', 'tuple'),
            *('range', 'slice', 'xrange'),
        )
    ),
    *(
        f'numpy.{name}{bits}'
        for name, sizes in {
            'bool': ('', '_'),
            'float': (16, 32, 64),
            'int': (8, 16, 32, 64),
            'uint': (8, 16, 32, 64),
        }.items()
        for bits in sizes
    ),
}


def _is_data(module: str, name: str) -> bool:
    if module.partition('.')[0] not in _WATCHED:
        return True
    if f'{module}.{name}' in _DATA:
        return True
    inside = any(f'{module}.'.startswith(f'{data}.') for data in _DATA_MODULES)
    return inside and '.' not in name


def read(
    data: memoryview,
    start: int = 0,
    calls: Mapping[str, Callable] | None = None,
    names: frozenset[str] = frozenset(),
    persistent: Callable[[Any], Any] | None = None,
) -> tuple[Any, int]:
    """Read one pickle, of any protocol.

    Args:
        data: (num_bytes,) unsigned bytes that hold the pickle.
        start: where it begins.
        calls: by name, functions of ours for what the pickle calls. Each takes
            the arguments that the pickle gives, at most ten, and raises an
            exception of any kind where they cannot be right.
        names: further names of Python, NumPy and PyTorch that are data.
        persistent: what to take for an object that is kept outside of the
            pickle, given its identifier.

    Returns:
        What the pickle holds, and where it ends. That is made of dicts (whose
        keys are strings of at most 500 characters or integers of at most 64
        bits; items with other keys are left out), lists, tuples, numbers,
        strings, memoryviews for bytes, `Global`, `Object`, and what `calls` and
        `persistent` return. It may hold itself.

    Raises:
        UnsafeFileError: a global is named that no data need. The message is the
            name.
        CostlyFileError: it takes millions of instructions.
        Exception: of nearly any kind, where the pickle is damaged.
    """
    machine = _Machine(data, start, calls or {}, names, persistent)
    # The search for garbage would look at all that has been made so far again
    # and again, which takes three times as long as to make it.
    collects = gc.isenabled()
    gc.disable()
    try:
        return machine.run(), machine.at
    finally:
        if collects:
            gc.enable()


class _Machine:
    """The stack machine: what it reads, and where it is."""

    def __init__(self, data, start, calls, names, persistent):
        self.data = data
        self.at = start
        self.calls = calls
        self.names = names
        self.persistent = persistent
        self.stack = []
        self.marks = []
        self.memo = {}
        self.budget = _MAX_OPCODES
        # Bytes that are spelled as text are as long as what is copied of them.
        self.letters = _MAX_OPCODES + len(data)

    def run(self) -> Any:
        data, instructions = self.data, _INSTRUCTIONS
        for _ in range(_MAX_OPCODES):
            opcode = data[self.at]
            self.at += 1
            if opcode == _STOP:
                return self.stack.pop()
            instructions[opcode](self)
        raise CostlyFileError(f'more than {_MAX_OPCODES:,} instructions')

    # What instructions read after their opcode.

    def take(self, count: int) -> memoryview:
        end = self.at + count
        if count < 0 or end > len(self.data):
            raise EOFError('an argument goes beyond the end')
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def unpack(self, layout: str) -> int:
        piece = self.take(struct.calcsize(layout))
        return struct.unpack(layout, piece)[0]

    def line(self) -> bytes:
        width = 64
        while True:
            window = bytes(self.data[self.at : self.at + width])
            end = window.find(b'\n')
            if end >= 0:
                self.at += end + 1
                return window[:end]
            if len(window) < width:
                raise EOFError('a line has no end')
            width *= 4

    def text(self, count: int) -> str:
        return str(self.take(count), 'utf-8', 'surrogatepass')

    # What they do with the stack.

    def to_mark(self) -> list:
        """Take everything above the last mark off the stack."""
        mark = self.marks.pop()
        taken = self.stack[mark:]
        del self.stack[mark:]
        return taken

    def pop_tuple(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError('the stack has too few values')
        taken = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(taken)

    def pop_mark(self) -> None:
        self.to_mark()

    def pop(self) -> None:
        if self.marks and self.marks[-1] == len(self.stack):
            self.marks.pop()
        else:
            self.stack.pop()

    def set_items(self, flat: list) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise TypeError('items belong into a dict')
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            kind = type(key)
            if kind is str:
                fits = len(key) <= _MAX_KEY
            else:
                fits = kind is int and -(2**63) <= key < 2**64
            if fits:
                target[key] = value

    def pop_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def extend(self, elements: list) -> None:
        target = self.stack[-1]
        if type(target) is Object:
            target = target.elements
        if type(target) is not list:
            raise TypeError('elements belong into a list')
        target.extend(elements)

    def push_dict(self, flat: list) -> None:
        self.stack.append({})
        self.set_items(flat)

    def push_set(self, elements: list) -> None:
        # As data: hashing what a file puts into a set may cost anything.
        made = Object('builtins.set', ())
        made.elements = elements
        self.stack.append(made)

    def memoize(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        self.stack.append(self.memo[index])

    # Names and calls.

    def name(self, module, name) -> Global:
        if type(module) is not str or type(name) is not str:
            raise TypeError('a global is named by two strings')
        if max(len(module), len(name)) > _MAX_NAME:
            raise ValueError('a global has a name of more than 200 characters')
        full = f'{module}.{name}'
        if not (
            full in self.calls or full in self.names or _is_data(module, name)
        ):
            raise UnsafeFileError(full)
        return Global(full)

    def named_here(self) -> Global:
        module, name = self.line(), self.line()
        return self.name(module.decode(), name.decode())

    def push_named(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.name(module, name))

    def call(self, function, args) -> Any:
        if type(args) is not tuple:
            raise TypeError('arguments are a tuple')
        if type(function) not in (Global, Object):
            raise TypeError('only globals and objects are called')
        ours = self.calls.get(function.name)
        if ours is None:
            if function.name in self.names:
                raise TypeError(f'{function.name} is no function')
            return Object(function.name, args)
        if len(args) > 10:
            raise TypeError('no call that weights need has so many arguments')
        # What a call copies, it copies from its arguments.
        for argument in args:
            if type(argument) is str:
                self.letters -= len(argument)
            elif type(argument) in (list, tuple, dict):
                self.budget -= len(argument)
        if min(self.budget, self.letters) < 0:
            raise CostlyFileError(f'more than {_MAX_OPCODES:,} copies')
        return ours(*args)

    def reduce(self) -> None:
        args, function = self.stack.pop(), self.stack.pop()
        self.stack.append(self.call(function, args))

    def new_object(self) -> None:
        args, kind = self.stack.pop(), self.stack.pop()
        if type(args) is not tuple or type(kind) not in (Global, Object):
            raise TypeError('an object is made of a class and arguments')
        if kind.name in self.calls or kind.name in self.names:
            raise TypeError(f'{kind.name} is called in another way')
        self.stack.append(Object(kind.name, args))

    def new_object_ex(self) -> None:
        self.stack.pop()  # arguments by name
        self.new_object()

    def instance(self) -> None:
        function = self.named_here()
        self.stack.append(self.call(function, tuple(self.to_mark())))

    def old_object(self) -> None:
        function, *args = self.to_mark()
        self.stack.append(self.call(function, tuple(args)))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is Object:
            target.state = state
        # A dict takes no attributes, such as the `_metadata` of a state dict.
        elif type(target) is not dict:
            raise TypeError('this takes no attributes')

    def persist(self) -> None:
        if self.persistent is None:
            raise ValueError('nothing is kept outside of this pickle')
        self.stack.append(self.persistent(self.stack.pop()))

    def protocol(self) -> None:
        if self.take(1)[0] > 5:
            raise ValueError('protocols go up to 5')


def _integer(line: bytes) -> int | bool:
    if line in (b'00', b'01'):
        return line == b'01'
    return int(line.removesuffix(b'L'))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in (b"'", b'"') or line[-1:] != line[:1]:
        raise ValueError('a string has quotes around it')
    return codecs.escape_decode(line[1:-1])[0].decode('latin-1')


def _signed(piece: memoryview) -> int:
    return int.from_bytes(piece, 'little', signed=True)


_STOP = ord('.')
_INSTRUCTIONS = {
    opcode[0]: instruction
    for opcode, instruction in {
        b'\x80': _Machine.protocol,
        b'\x95': lambda m: m.take(8),  # a frame only speeds up reading
        # Constants. Strings of Python 2 are bytes, and latin-1 takes any.
        b'N': lambda m: m.stack.append(None),
        b'\x88': lambda m: m.stack.append(True),
        b'\x89': lambda m: m.stack.append(False),
        b'I': lambda m: m.stack.append(_integer(m.line())),
        b'L': lambda m: m.stack.append(_integer(m.line())),
        b'K': lambda m: m.stack.append(m.take(1)[0]),
        b'M': lambda m: m.stack.append(m.unpack('<H')),
        b'J': lambda m: m.stack.append(m.unpack('<i')),
        b'\x8a': lambda m: m.stack.append(_signed(m.take(m.take(1)[0]))),
        b'\x8b': lambda m: m.stack.append(_signed(m.take(m.unpack('<i')))),
        b'F': lambda m: m.stack.append(float(m.line())),
        b'G': lambda m: m.stack.append(m.unpack('>d')),
        b'S': lambda m: m.stack.append(_quoted(m.line())),
        b'T': lambda m: m.stack.append(str(m.take(m.unpack('<i')), 'latin-1')),
        b'U': lambda m: m.stack.append(str(m.take(m.take(1)[0]), 'latin-1')),
        b'V': lambda m: m.stack.append(str(m.line(), 'raw-unicode-escape')),
        b'X': lambda m: m.stack.append(m.text(m.unpack('<I'))),
        b'\x8c': lambda m: m.stack.append(m.text(m.take(1)[0])),
        b'\x8d': lambda m: m.stack.append(m.text(m.unpack('<Q'))),
        b'B': lambda m: m.stack.append(m.take(m.unpack('<I'))),
        b'C': lambda m: m.stack.append(m.take(m.take(1)[0])),
        b'\x8e': lambda m: m.stack.append(m.take(m.unpack('<Q'))),
        b'\x96': lambda m: m.stack.append(m.take(m.unpack('<Q'))),
        # Containers.
        b'(': lambda m: m.marks.append(len(m.stack)),
        b')': lambda m: m.stack.append(()),
        b'\x85': lambda m: m.stack.append((m.stack.pop(),)),
        b'\x86': lambda m: m.pop_tuple(2),
        b'\x87': lambda m: m.pop_tuple(3),
        b't': lambda m: m.stack.append(tuple(m.to_mark())),
        b']': lambda m: m.stack.append([]),
        b'l': lambda m: m.stack.append(m.to_mark()),
        b'a': lambda m: m.extend([m.stack.pop()]),
        b'e': lambda m: m.extend(m.to_mark()),
        b'}': lambda m: m.stack.append({}),
        b'd': lambda m: m.push_dict(m.to_mark()),
        b's': _Machine.pop_item,
        b'u': lambda m: m.set_items(m.to_mark()),
        b'\x8f': lambda m: m.push_set([]),
        b'\x90': lambda m: m.extend(m.to_mark()),
        b'\x91': lambda m: m.push_set(m.to_mark()),
        # The stack and the memo.
        b'0': _Machine.pop,
        b'1': _Machine.pop_mark,
        b'2': lambda m: m.stack.append(m.stack[-1]),
        b'p': lambda m: m.memoize(int(m.line())),
        b'q': lambda m: m.memoize(m.take(1)[0]),
        b'r': lambda m: m.memoize(m.unpack('<I')),
        b'\x94': lambda m: m.memoize(len(m.memo)),
        b'g': lambda m: m.recall(int(m.line())),
        b'h': lambda m: m.recall(m.take(1)[0]),
        b'j': lambda m: m.recall(m.unpack('<I')),
        # Names and calls. Those of registered extensions are not among them.
        b'c': lambda m: m.stack.append(m.named_here()),
        b'\x93': _Machine.push_named,
        b'R': _Machine.reduce,
        b'\x81': _Machine.new_object,
        b'\x92': _Machine.new_object_ex,
        b'i': _Machine.instance,
        b'o': _Machine.old_object,
        b'b': _Machine.build,
        b'Q': _Machine.persist,
    }.items()
}
