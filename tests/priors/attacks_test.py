"""Weight files that attack, by kind: each is refused at a bounded cost.

What counts as refused is one sentence, within two seconds and 500 MB for a file
of up to a megabyte, that repeats no more than 100 characters of the file. All
are read by one other process, so that what they cost shows. Whoever finds
another attack adds a line here.
"""

import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

from absl.testing import absltest, parameterized

from tests.priors import edm_writer
from tests.priors.pickle_writer import (
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
    view_of,
)

_ROOT = pathlib.Path(__file__).parents[2]
_MB = 1_000_000
# In what the attacks below would leave, if one of them were run.
_MARKER = 'MARKER'
_LOAD = Global('torch.storage', '_load_from_bytes')
_TOUCH = f'touch {_MARKER}'
_EVAL = f'__import__("os").system({_TOUCH!r})'


def zip_of(pickled, storages=(), compression=zipfile.ZIP_STORED):
    def write(path):
        with zipfile.ZipFile(path, 'w', compression) as file:
            file.writestr('a/data.pkl', pickled)
            for i, storage in enumerate(storages):
                file.writestr(f'a/data/{i}', storage)

    return write


def content(value, storages=()):
    return zip_of(pickle_of(value), storages)


def code(opcodes):
    """A pickle of opcodes that leave one value."""
    return zip_of(b'\x80\x02' + opcodes + b'.')


def stream(value, storages=None):
    return lambda path: path.write_bytes(stream_of(value, storages or {}))


def snapshot(network):
    return lambda path: path.write_bytes(pickle_of({'ema': network}))


def call(module, name, *args):
    return content({'w': Call(Global(module, name), args)})


def table(entries, num_bytes=0, length=None):
    """A safetensors file; entries are (dtype, shape, begin, end) by name."""
    text = entries
    if isinstance(entries, dict):
        text = json.dumps(
            {
                name: {'dtype': d, 'shape': shape, 'data_offsets': [b, e]}
                for name, (d, shape, b, e) in entries.items()
            }
        ).encode()

    def write(path):
        size = len(text) if length is None else length
        path.write_bytes(struct.pack('<Q', size) + text + bytes(num_bytes))

    return write


def float_table(shapes):
    """A safetensors file with tensors of these shapes, by name."""
    entries, end = {}, 0
    for name, shape in shapes.items():
        begin, size = end, 4
        for n in shape:
            size *= n
        end += size
        entries[name] = ('F32', shape, begin, end)
    return table(entries, end)


def network(blocks=2, channels=32, **more):
    """Names and shapes as of a network, as far as they are looked at."""
    shapes = {
        'time_embed.0.weight': (4, channels),
        'input_blocks.0.0.weight': (channels, 3),
        'input_blocks.1.0.emb_layers.1.weight': (2 * channels, 4),
        'input_blocks.1.0.out_layers.3.weight': (channels, 1),
        'out.2.weight': (3, 1),
        **{f'input_blocks.{i}.0.x': (1,) for i in range(blocks)},
        **{f'output_blocks.{i}.0.x': (1,) for i in range(blocks)},
    }
    return shapes | more


def many(count, name, value=b'N'):
    """Opcodes of a dict of many names, `name` with a number in it."""
    items = (opcodes_of(name.format(i)) + value for i in range(count))
    return b'}(' + b''.join(items) + b'u'


TENSOR = opcodes_of(view_of('0', 'FloatStorage', 0, (2,), (1,)))
# Leaves a tensor in the memo, from where `h\xff` has it again.
MEMOIZED = TENSOR + b'q\xff0'


def overlapping(path):
    """2,000 names for the same 900,000 bytes."""
    tensors = {
        f'w{i}': view_of(str(i), 'FloatStorage', 0, (1,), (1,))
        for i in range(2000)
    }
    content(tensors, [bytes(900_000)])(path)
    whole = path.read_bytes()
    start = whole.rindex(b'PK\1\2')
    entry, end = whole[start:-22], bytearray(whole[-22:])
    name = b'a/data/0'
    entries = [
        entry.replace(name, b'a/data/%d' % i).replace(
            struct.pack('<H', len(name)),
            struct.pack('<H', len(b'a/data/%d' % i)),
            1,
        )
        for i in range(1, 2000)
    ]
    added = b''.join(entries)
    size = int.from_bytes(end[12:16], 'little') + len(added)
    end[8:16] = struct.pack('<HHI', 2001, 2001, size)
    path.write_bytes(whole[:-22] + added + end)


ATTACKS = {
    # To run code: by the calls of a pickle.
    'code: os.system': call('os', 'system', _TOUCH),
    'code: posix.system': call('posix', 'system', _TOUCH),
    'code: subprocess': call('subprocess', 'check_output', ('touch', _MARKER)),
    'code: eval': call('builtins', 'eval', _EVAL),
    'code: exec': call('builtins', 'exec', _EVAL),
    'code: eval of Python 2': call('__builtin__', 'eval', _EVAL),
    'code: import': call('builtins', '__import__', 'antigravity'),
    'code: importlib': call('importlib', 'import_module', 'antigravity'),
    'code: runpy': call('runpy', 'run_path', '/tmp/x.py'),
    'code: pickle in a pickle': call('pickle', 'loads', 'cos\nsystem\n'),
    'code: marshal': call('marshal', 'loads', 'x'),
    'code: a code object': call('types', 'CodeType', 0),
    'code: getattr': call('builtins', 'getattr', Global('os', 'path'), 'x'),
    'code: operator': call('operator', 'methodcaller', 'system', _TOUCH),
    'code: torch.load': call('torch.serialization', 'load', 'x.pt'),
    'code: torch.hub': call('torch.hub', 'load', 'x/y', 'z'),
    'code: numpy.load': call('numpy', 'load', 'x.npy'),
    'code: numpy.f2py': call('numpy.f2py', 'compile', 'x'),
    'code: a stream in a tensor': call(
        'torch.storage', '_load_from_bytes', 'x'
    ),
    'code: a name with dots': call('torch', '_utils.os.system', _TOUCH),
    'code: an attribute of a class': call(
        'collections', 'OrderedDict.__class__', 'x'
    ),
    'code: taken from the stack': content(
        Call(
            Opcodes(opcodes_of('os') + opcodes_of('system') + b'\x93'),
            (_TOUCH,),
        )
    ),
    'code: as an instance': code(b'(' + opcodes_of(_TOUCH) + b'ios\nsystem\n'),
    'code: as an old instance': code(
        b'(cos\nsystem\n' + opcodes_of(_TOUCH) + b'o'
    ),
    'code: as a new object': code(
        b'cos\nsystem\n' + opcodes_of((_TOUCH,)) + b'\x81'
    ),
    'code: in the name of a storage': content(
        Persistent(
            ('storage', Call(Global('os', 'system'), (_TOUCH,)), '0', 'cpu', 1)
        )
    ),
    'code: in the state of a dict': content(
        Build(
            Call(ORDERED_DICT, ()),
            {'x': Call(Global('os', 'system'), (_TOUCH,))},
        )
    ),
    'code: by a registered extension': code(b'\x82\1'),
    'code: in a stream': stream({'w': Call(Global('os', 'system'), ('x',))}),
    'code: a class with its source': stream(
        Persistent(
            (
                'module',
                Global('os', 'system'),
                'x.py',
                f'__import__("os").system({_TOUCH!r})',
            )
        )
    ),
    # To change what is read after it: by setting attributes.
    'attributes: of a function': content(
        Build(REBUILD, ({}, {'__defaults__': (None,) * 7}))
    ),
    'attributes: of a class': content(
        Build(ORDERED_DICT, ({}, {'__init__': REBUILD}))
    ),
    'attributes: of a tensor': code(TENSOR + b'}b'),
    # To take memory.
    'memory: a length of 8 GiB': code(b'\x8e' + struct.pack('<Q', 2**33)),
    'memory: an array of 8 GiB': code(b'\x96' + struct.pack('<Q', 2**33)),
    'memory: a string of 8 GiB': code(b'\x8d' + struct.pack('<Q', 2**33)),
    'memory: a frame of 8 GiB': code(b'\x95' + struct.pack('<Q', 2**33)),
    'memory: a memo of 2**32': code(b'Nr\xff\xff\xff\xff'),
    'memory: 2**60 leaves by the memo': code(b')' + b'2\x86' * 60),
    'memory: 2**60 elements by the memo': code(
        b'](NNeq\0' + b'](h\0h\0eq\0' * 60
    ),
    'memory: copies of a list': code(
        b']('
        + b'N' * 400_000
        + b'eq\1'
        + b'](ctorch\nSize\nq\2'
        + b'h\2h\1\x85R' * 100_000
        + b'e'
    ),
    'memory: dicts of a list': code(
        b']('
        + b'U\1aK\2\x86' * 100_000
        + b'eq\1'
        + b'](ccollections\nOrderedDict\nq\2'
        + b'h\2h\1\x85R' * 90_000
        + b'e'
    ),
    'memory: a megabyte of dicts': code(b'}' * _MB),
    'memory: a megabyte of marks': code(b'(' * _MB),
    'memory: a megabyte of objects': code(
        b'cmy\nclass\nq\0' + b'h\0)\x81' * (_MB // 4)
    ),
    'memory: a megabyte of bytes': code(b'C\0' * (_MB // 2)),
    'memory: a megabyte of numbers': code(b'I1\n' * (_MB // 3)),
    'memory: a tensor of 2**40 by strides of 0': content(
        {'w': view_of('0', 'FloatStorage', 0, (2**40,), (0,))}, [bytes(16)]
    ),
    'memory: an empty tensor of 2**47 rows': content(
        {'w': view_of('0', 'FloatStorage', 0, (2**47, 0), (1, 1))},
        [bytes(16)],
    ),
    'memory: a thousand tensors of one storage': content(
        {
            f'w{i}': view_of('0', 'FloatStorage', 0, (200_000,), (1,))
            for i in range(1000)
        },
        [bytes(800_000)],
    ),
    'memory: a compressed storage': zip_of(
        pickle_of({'w': view_of('0', 'FloatStorage', 0, (5_000_000,), (1,))}),
        [bytes(20 * _MB)],
        zipfile.ZIP_DEFLATED,
    ),
    'memory: 2,000 names for one storage': overlapping,
    'memory: a table of 2**60 bytes': table(b'{}', length=2**60),
    'memory: a table with a tensor of 2**45': table(
        {'w': ('F32', (2**45,), 0, 2**47)}
    ),
    'memory: a stream with a storage of 2**60': stream({}, {'0': (2**60, b'')}),
    'memory: a stream with 50,000 keys': stream(
        {}, {str(i): (0, b'') for i in range(50_000)}
    ),
    'memory: a network of 2**20 channels': float_table(network(channels=2**16)),
    # To take time.
    'time: 3 million instructions': code(b'N0' * 1_500_000 + b'N'),
    'time: hashing nested tuples': code(b'})' + b'2\x86' * 60 + b'Ns'),
    'time: comparing long keys': code(
        b'}'
        + b''.join(
            b'X' + struct.pack('<I', 300_000) + b'x' * 300_000 + b'Ns'
            for _ in range(3)
        )
    ),
    'time: hashing long numbers': code(
        b'}q\0\x8b'
        + struct.pack('<i', 700_000)
        + b'\7' * 700_000
        + b'q\1Ns'
        + b'h\1Ns' * 60_000
    ),
    'time: a long number in text': code(b'I' + b'7' * 900_000 + b'\n'),
    'time: a long name of a global': code(b'cx\n' + b'y' * 900_000 + b'\n'),
    'time: a line without an end': code(b'S' + b'x' * 900_000),
    'time: many lines': code(b'Vx\n' * 300_000),
    'time: a call with many arguments': code(
        b'('
        + b'N' * 400_000
        + b'tq\1ctorch._utils\n_rebuild_parameter\nq\2'
        + b'h\2h\1R' * 50_000
    ),
    'time: sizes with many numbers': code(
        b'('
        + b'K\1' * 100_000
        + b'tq\1'
        + opcodes_of(
            view_of('0', 'FloatStorage', 0, Opcodes(b'h\1'), Opcodes(b'h\1'))
        )
        * 5000
    ),
    'time: 20,000 networks': code(
        MEMOIZED + many(20_000, 'a{}.time_embed.0.weight', b'h\xff')
    ),
    'time: 20,000 averages': code(
        MEMOIZED + many(20_000, 'ema{}.a.b', b'h\xff')
    ),
    'time: 500,000 tensors': code(MEMOIZED + b'](' + b'h\xff' * 450_000 + b'e'),
    'time: names of many parts': code(
        MEMOIZED + many(900, 'a.' * 200 + '{}', b'h\xff')
    ),
    'time: a long prefix': code(
        MEMOIZED
        + b'}'
        + opcodes_of('a.' * 240)
        + many(60_000, '{}', b'h\xff')
        + b's'
    ),
    'time: block 10**12': float_table(
        network() | {'output_blocks.999999999999.0.weight': (1,)}
    ),
    'time: a block of 5,000 digits': float_table(
        network() | {f'output_blocks.{"9" * 5000}.0.weight': (1,)}
    ),
    'time: 5,000 blocks': float_table(network(blocks=5000)),
    'time: 199 levels': float_table(
        network(blocks=199, **{'output_blocks.0.1.conv.weight': (1,)})
    ),
    'time: a table of 10,000 tensors': float_table(
        {f'w{i}': (1,) for i in range(10_000)}
    ),
    'time: a name of a megabyte': float_table({'w' * _MB: (1,)}),
    # To overflow the interpreter's stack.
    'stack: nested tuples as a key': code(b'})' + b'\x85' * 900_000 + b'Ns'),
    'stack: nested tuples': code(b')' + b'\x85' * 900_000),
    'stack: nested lists': code(b']' * 450_000 + b'a' * 449_999),
    'stack: nested dicts': code(
        b'}X\1\0\0\0xq\0' + b'}h\0' * 200_000 + b'N' + b's' * 200_001
    ),
    'stack: nested calls': code(
        b'cmy\nclass\nq\0N' + b'\x85q\1h\0h\1\x81' * 100_000
    ),
    'stack: nested tables': table(b'{"a":' * 100_000),
    'stack: a table of nested lists': table(
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": '
        + b'[' * 50_000
        + b']' * 50_000
        + b'}}'
    ),
    'stack: a rebuild of a rebuild': code(
        b'](ctorch._tensor\n_rebuild_from_type_v2\nq\0Neq\1h\1a'
        + b'h\0(h\0Nh\1NtR'
    ),
    # Shapes and types that raise what nobody expects.
    'shape: 100,000 dimensions': content(
        {'w': view_of('0', 'FloatStorage', 0, (1,) * 100_000, (1,) * 100_000)},
        [bytes(4)],
    ),
    'shape: no numbers': content(
        {'w': view_of('0', 'FloatStorage', 0, ('a',), ('b',))}, [bytes(4)]
    ),
    'shape: beyond 64 bits': content(
        {'w': view_of('0', 'FloatStorage', 2**70, (2**70,), (1,))}, [bytes(4)]
    ),
    'shape: of a time embedding alone': float_table(
        {'time_embed.0.weight': (2, 2)}
    ),
    'shape: a time embedding of one axis': float_table(
        {'time_embed.0.weight': (2,)}
    ),
    'shape: no channels': float_table(network(channels=0)),
    'shape: one channel': float_table(network(channels=1)),
    'shape: scalars': float_table(dict.fromkeys(network(), ())),
    'type: float4': table({'w': ('F4', (8,), 0, 4)}, 4),
    'type: float8 of no network': table({'w': ('F8_E4M3', (4,), 0, 4)}, 4),
    'type: a list': table(
        b'{"w": {"dtype": [], "shape": [], "data_offsets": [0, 0]}}'
    ),
    'type: floats as offsets': table(
        b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4.0]}}', 4
    ),
    'type: a parameter that is no tensor': content(
        {
            'w': Call(
                Global('torch._utils', '_rebuild_parameter'),
                (Global('torch', 'float32'), True, NO_HOOKS),
            )
        }
    ),
    'type: a tensor of no storage': content(
        {
            'w': Call(
                Global('torch._utils', '_rebuild_tensor_v3'),
                (1, 0, (2,), (1,), False, NO_HOOKS, Global('torch', 'uint16')),
            )
        }
    ),
    # On the networks of EDM, whose pickles hold streams.
    'edm: a command in a stream': snapshot(
        Call(
            _LOAD,
            (
                edm_writer.bytes_of(
                    stream_of(Call(Global('os', 'system'), (_TOUCH,)), {})
                ),
            ),
        )
    ),
    'edm: 2**30 modules': snapshot(
        edm_writer.object_of(
            'EDMPrecond',
            edm_writer.state_of({})
            | {'_modules': {'model': edm_writer.nested_modules(30)}},
        )
    ),
    'edm: a stream 100,000 times': snapshot(
        Opcodes(
            b'ctorch.storage\n_load_from_bytes\nq\1'
            + edm_writer.bytes_of(stream_of({}, {})).code
            + b'q\2'
            + b'h\1h\2\x85R0' * 100_000
        )
    ),
    'edm: a stream in a stream': snapshot(
        Call(
            _LOAD,
            (edm_writer.bytes_of(stream_of(Call(_LOAD, (b'',)), {})),),
        )
    ),
    # To write on the terminal, or to fill it.
    'message: control characters': float_table(
        {'\x1b[2J\x1b]0;owned\x07\r\n' * 20: (1,)}
    ),
    'message: long keys': content({'k' * 400 + str(i): 1 for i in range(99)}),
    'message: long names': float_table(
        network(channels=64) | {f'{"n" * 300}{i}': (1,) for i in range(9)}
    ),
    'message: a long global': call('os', 'x' * 190, 1),
    'message: surrogates': code(b'}X\3\0\0\0\xed\xa0\x80Ns'),
    'message: long averages': code(
        MEMOIZED + many(2, f'ema.{"y" * 300}.{{}}', b'h\xff')
    ),
}

# Reads each file as a user's program would, and says how it went.
_READER = """
import json, pathlib, sys, time
from invjax.priors import convert, edm_file, torch_file

def peak():
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    return next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) / 1e3

for path in sys.stdin.read().splitlines():
    pathlib.Path('/proc/self/clear_refs').write_text('5')  # resets the peak
    before, start = peak(), time.process_time()
    try:
        if path.endswith('.pkl'):
            edm_file.read_edm_pickle(path)
        else:
            convert.convert(torch_file.read_state_dict(path))
        kind, message = 'read', ''
    except Exception as error:
        kind, message = type(error).__name__, str(error)
    seconds = time.process_time() - start
    print(json.dumps([path, kind, message, seconds, peak() - before]))
"""


class AttacksTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        cls.paths = {}
        for i, (name, write) in enumerate(ATTACKS.items()):
            suffix = '.pkl' if name.startswith('edm: ') else '.pt'
            cls.paths[name] = cls.folder / f'{i}{suffix}'
            write(cls.paths[name])
        process = subprocess.run(
            [sys.executable, '-c', _READER],
            input='\n'.join(map(str, cls.paths.values())),
            cwd=cls.folder,
            env={**os.environ, 'PYTHONPATH': str(_ROOT)},
            capture_output=True,
            text=True,
        )
        lines = map(json.loads, process.stdout.splitlines())
        cls.outcomes = {path: outcome for path, *outcome in lines}
        cls.stderr = process.stderr

    @parameterized.named_parameters(*((name, name) for name in ATTACKS))
    def test_it_is_refused_at_a_bounded_cost(self, name):
        path = self.paths[name]
        # One that crashes the interpreter has no outcome.
        self.assertIn(str(path), self.outcomes, self.stderr)
        kind, message, seconds, megabytes = self.outcomes[str(path)]
        self.assertIn(kind, ('ValueError', 'UnsafeFileError'), message)
        self.assertEqual(kind == 'UnsafeFileError', 'asks for' in message)
        share = max(1, path.stat().st_size / _MB)
        self.assertLess(seconds, 2 * share)
        self.assertLess(megabytes, 500 * share)

    @parameterized.named_parameters(*((name, name) for name in ATTACKS))
    def test_its_sentence_is_one_line_and_repeats_little(self, name):
        path = self.paths[name]
        _, message, *_ = self.outcomes[str(path)]
        self.assertTrue(message.isprintable(), repr(message))
        said = message.replace(str(path), '')
        self.assertLess(len(said), 1000)
        content = path.read_bytes().decode('latin-1')
        for i in range(len(said) - 100):
            self.assertNotIn(said[i : i + 101], content)

    def test_no_command_was_run(self):
        self.assertFalse((self.folder / _MARKER).exists())

    @parameterized.named_parameters(
        *((name, name) for name in ATTACKS if name.startswith('code: '))
    )
    def test_code_is_refused_for_what_it_asks_for(self, name):
        kind, message, *_ = self.outcomes[str(self.paths[name])]
        if name == 'code: by a registered extension':
            self.assertIn('is damaged', message)
        else:
            self.assertEqual(kind, 'UnsafeFileError', message)


if __name__ == '__main__':
    absltest.main()
