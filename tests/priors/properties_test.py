"""Any file gives a network's weights or one sentence, whatever is in it."""

import pathlib
import re
import struct
import tempfile
import time
import zipfile

import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from invjax.priors import convert, torch_file
from tests.priors.pickle_writer import (
    NO_HOOKS,
    REBUILD,
    Call,
    Global,
    Persistent,
    opcodes_of,
    pickle_of,
    stream_of,
    view_of,
)

# The same examples each time, so that a failure is nobody else's.
_ALWAYS = settings(derandomize=True, deadline=None, max_examples=150)

_ARRAYS = {
    'time_embed.0.weight': np.arange(6, dtype=np.float32).reshape(2, 3),
    'out.2.bias': np.array([0.5, -2.0], np.float32),
}


def torch_zip():
    tensors = {}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'a.pt'
        with zipfile.ZipFile(path, 'w') as file:
            for i, (name, array) in enumerate(_ARRAYS.items()):
                stride = tuple(s // 4 for s in array.strides)
                tensors[name] = view_of(
                    str(i), 'FloatStorage', 0, array.shape, stride
                )
                file.writestr(f'a/data/{i}', array.tobytes())
            content = {'model': tensors, 'epoch': 3, 'best': {'loss': 0.1}}
            file.writestr('a/data.pkl', pickle_of(content))
        return path.read_bytes()


def torch_stream():
    tensors, storages = {}, {}
    for i, (name, array) in enumerate(_ARRAYS.items()):
        kind, stride = 'FloatStorage', tuple(s // 4 for s in array.strides)
        pid = (
            'storage',
            Global('torch', kind),
            str(i),
            'cpu',
            array.size,
            None,
        )
        args = (Persistent(pid), 0, array.shape, stride, False, NO_HOOKS)
        tensors[name] = Call(REBUILD, args)
        storages[str(i)] = array.size, array.tobytes()
    return stream_of({'model': tensors, 'epoch': 3}, storages)


_ZIP = torch_zip()
_STREAM = torch_stream()
_SAFETENSORS = safetensors.numpy.save(_ARRAYS)


_DAMAGES = ('flip', 'cut', 'leave', 'insert', 'double')


@st.composite
def damaged(draw, whole):
    """A file after one to three things that happen to files."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        end = at + draw(st.integers(1, 40))
        match draw(st.sampled_from(_DAMAGES)):
            case 'flip' if content:
                content[at] ^= 1 << draw(st.integers(0, 7))
            case 'cut':
                del content[at:]
            case 'leave':
                del content[at:end]
            case 'insert':
                content[at:at] = draw(st.binary(min_size=1, max_size=20))
            case 'double':
                content[at:at] = content[at:end]
    return bytes(content)


# Instructions of pickles with sensible arguments, in any order.
_INSTRUCTION = st.one_of(
    st.sampled_from([bytes([i]) for i in range(256)]),
    st.sampled_from(b'( ) ] } t l d s u a e 0 1 2 R b Q . N'.split()),
    st.sampled_from(
        [
            b'h\1', b'q\1', b'K\1', b'\x85', b'\x86', b'\x87', b'\x81',
            b'\x8f', b'\x90', b'\x91', b'\x93', b'\x94',
            b'ccollections\nOrderedDict\n',
            b'ctorch._utils\n_rebuild_tensor_v2\n',
            b'ctorch._utils\n_rebuild_parameter\n',
            b'ctorch._tensor\n_rebuild_from_type_v2\n',
            b'ctorch\nFloatStorage\n',
            b'cmy\nclass\n',
        ]
    ),
    st.sampled_from(['a', 'ema', 'w.b', 'storage', (0,), (2,)]).map(
        opcodes_of
    ),
    st.just(opcodes_of(view_of('0', 'FloatStorage', 0, (2,), (1,)))),
)  # fmt: skip

_NAMES = st.sampled_from(
    [
        *convert.expected_shapes(convert.UNet(channel_mult=(1, 2))),
        'input_blocks.1.1.qkv.weight',
        'output_blocks.7.2.conv.weight',
        'output_blocks.99999.0.x',
        'label_emb.weight',
        'x',
    ]
)
_SHAPES = st.lists(st.integers(0, 4) | st.sampled_from([32, 64, 128]),
                   max_size=5).map(tuple)  # fmt: skip


class PropertiesTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = self.enter_context(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(holder) / 'a.pt'

    def outcome(self, content):
        """The weights in a file of this content, or None if it is refused."""
        self.path.write_bytes(content)
        start = time.process_time()
        try:
            return torch_file.read_state_dict(self.path)
        except ValueError as error:
            sentence = str(error)
        finally:
            self.assertLess(time.process_time() - start, 2)
        self.assertIn(str(self.path), sentence)
        said = sentence.replace(str(self.path), '')
        self.assertTrue(said.isprintable(), repr(said))
        self.assertLess(len(said), 700)
        self.assertIsNone(re.search('MemoryError|SystemError', said))
        return None

    def assert_arrays(self, state_dict):
        for name, array in state_dict.items():
            self.assertIsInstance(name, str)
            self.assertIsInstance(array, np.ndarray)

    @_ALWAYS
    @given(damaged(_ZIP))
    def test_a_damaged_pytorch_file_is_refused_or_what_it_was(self, content):
        read = self.outcome(content)
        if read is not None:
            self.assertEqual(list(read), list(_ARRAYS))
            for name, array in _ARRAYS.items():
                np.testing.assert_array_equal(read[name], array)

    @_ALWAYS
    @given(damaged(_SAFETENSORS))
    def test_a_damaged_safetensors_file_is_refused_or_arrays(self, content):
        self.assert_arrays(self.outcome(content) or {})

    @_ALWAYS
    @given(damaged(_STREAM))
    def test_a_damaged_stream_is_refused_or_arrays(self, content):
        # It has no checksum.
        self.assert_arrays(self.outcome(content) or {})

    @_ALWAYS
    @given(
        st.sampled_from(
            [_STREAM[:15], b'', b'PK\3\4', bytes(8) + b'{', b'\x80\2', b'\x80']
        ),
        st.binary(max_size=200),
    )
    def test_any_bytes_are_refused_or_arrays(self, head, rest):
        self.assert_arrays(self.outcome(head + rest) or {})

    @settings(_ALWAYS, max_examples=500)
    @given(st.lists(_INSTRUCTION, max_size=40))
    def test_any_pickle_is_refused_or_gives_arrays(self, instructions):
        pickled = b'\x80\2' + b''.join(instructions) + b'.'
        with zipfile.ZipFile(self.path, 'w') as file:
            file.writestr('a/data.pkl', pickled)
            file.writestr('a/data/0', bytes(8))
        self.assert_arrays(self.outcome(self.path.read_bytes()) or {})

    @_ALWAYS
    @given(st.binary(max_size=300))
    def test_any_table_of_safetensors_is_refused_or_gives_arrays(self, table):
        table = b'{' + table
        content = struct.pack('<Q', len(table)) + table + bytes(16)
        self.assert_arrays(self.outcome(content) or {})

    @settings(_ALWAYS, max_examples=300)
    @given(st.dictionaries(_NAMES, _SHAPES, max_size=60))
    def test_any_shapes_are_an_architecture_or_refused(self, shapes):
        try:
            network = convert.infer_architecture(shapes)
        except ValueError as error:
            self.assertTrue(str(error).isprintable())
        else:
            self.assertIsInstance(network, convert.UNet)
            convert.mismatch(shapes, network)


if __name__ == '__main__':
    absltest.main()
