"""Snapshots of EDM as plain data; their program text stays text."""

import collections
import pathlib
import pickle
import sys
import tempfile
import types
import zipfile
from unittest import mock

import numpy as np
from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from invjax.priors import edm_file
from invjax.priors.pickled import UnsafeFileError
from tests.priors import edm_writer
from tests.priors.pickle_writer import (
    NO_HOOKS,
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

_KWARGS = {
    'img_resolution': 32,
    'model_type': 'SongUNet',
    'channel_mult': [1, 2],
    'sigma_data': 0.5,
    'use_fp16': False,
    'label_dim': None,
}


def random_tensors():
    rng = np.random.default_rng(0)
    shapes = {
        # In the order of modules, each with its parameters and buffers first.
        'model.map_noise.freqs': (4,),
        'model.map_layer0.weight': (8, 4),
        'model.map_layer0.bias': (8,),
        'model.enc.32x32_conv.weight': (4, 3, 3, 3),
        'model.enc.16x16_down.conv0.weight': (4, 4, 3, 3),
        'model.enc.16x16_down.conv0.resample_filter': (1, 1, 2, 2),
        'model.dec.32x32_aux_conv.bias': (3,),
    }
    return {
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in shapes.items()
    }


class EdmFileTestCase(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        holder = self.enter_context(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(holder) / 'network-snapshot-1.pkl'

    def write(self, **parts):
        """A snapshot with other parts in the state of its network."""
        state = edm_writer.state_of(random_tensors(), _KWARGS) | parts
        network = edm_writer.object_of('EDMPrecond', state)
        self.path.write_bytes(pickle_of({'ema': network}))

    def assert_refused(self, regex, error=ValueError):
        with self.assertRaisesRegex(error, regex) as caught:
            edm_file.read_edm_pickle(self.path)
        sentence = str(caught.exception)
        self.assertIn(str(self.path), sentence)
        self.assertTrue(sentence.isprintable())


class ReadTest(EdmFileTestCase):
    def test_class_arguments_and_tensors_come_back(self):
        tensors = random_tensors()
        edm_writer.write_edm_pickle(self.path, 'EDMPrecond', _KWARGS, tensors)
        network = edm_file.read_edm_pickle(self.path)
        self.assertEqual(network.class_name, 'EDMPrecond')
        self.assertEqual(network.init_kwargs, _KWARGS)
        self.assertEqual(list(network.tensors), list(tensors))
        for name, array in tensors.items():
            self.assertEqual(network.tensors[name].dtype, np.float32)
            self.assertFalse(network.tensors[name].flags.writeable)
            np.testing.assert_array_equal(network.tensors[name], array)

    def test_the_program_text_is_never_run(self):
        marker = self.path.with_name('marker')
        source = f'open({str(marker)!r}, "w").close()'
        edm_writer.write_edm_pickle(
            self.path, 'EDMPrecond', _KWARGS, random_tensors(), source
        )
        edm_file.read_edm_pickle(self.path)
        self.assertFalse(marker.exists())
        # It is program text that would write the file.
        exec(source)
        self.assertTrue(marker.exists())

    @parameterized.parameters('numpy.core.multiarray', 'numpy._core.multiarray')
    def test_numbers_of_numpy_are_numbers(self, module):
        kind = Build(
            Call(Global('numpy', 'dtype'), ('f8', False, True)),
            (3, '<', None, None, None, -1, -1, 0),
        )
        number = Call(
            Global(module, 'scalar'),
            (kind, edm_writer.bytes_of(np.float64(0.002).tobytes())),
        )
        self.write(_init_kwargs={'sigma_min': number})
        kwargs = edm_file.read_edm_pickle(self.path).init_kwargs
        self.assertEqual(kwargs, {'sigma_min': 0.002})

    def test_the_authors_class_of_dict_is_a_dict(self):
        easy = Opcodes(
            b'cdnnlib.util\nEasyDict\n)\x81'
            + opcodes_of('depth')
            + opcodes_of(3)
            + b's'
        )
        self.write(_init_kwargs={'inner': easy})
        kwargs = edm_file.read_edm_pickle(self.path).init_kwargs
        self.assertEqual(kwargs, {'inner': {'depth': 3}})

    def test_a_storage_may_be_a_zip_file(self):
        inner = self.path.with_name('storage.pt')
        kind = Global('torch', 'FloatStorage')
        with zipfile.ZipFile(inner, 'w') as file:
            storage = Persistent(('storage', kind, '0', 'cpu', 2))
            file.writestr('a/data.pkl', pickle_of(storage))
            file.writestr('a/data/0', np.array([3, 4], np.float32).tobytes())
        load = Global('torch.storage', '_load_from_bytes')
        content = edm_writer.bytes_of(inner.read_bytes())
        tensor = Call(
            REBUILD, (Call(load, (content,)), 0, (2,), (1,), False, NO_HOOKS)
        )
        self.write(_parameters={'w': tensor})
        network = edm_file.read_edm_pickle(self.path)
        np.testing.assert_array_equal(network.tensors['w'], [3, 4])


class _Reduced:
    """What a pickle says of an object: a call, and how it is filled."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


class ProtocolTest(EdmFileTestCase):
    """Files that Python's own pickle writes, of objects as the authors have."""

    def module(self, name, **contents):
        """A module by which pickle finds what it names, for this test."""
        made = types.ModuleType(name)
        for key, value in contents.items():
            value.__module__, value.__qualname__ = name, key
            setattr(made, key, value)
        # With the packages that it is in.
        parts = name.split('.')
        above = ['.'.join(parts[:i]) for i in range(1, len(parts))]
        modules = {
            n: types.ModuleType(n) for n in above if n not in sys.modules
        }
        self.enter_context(
            mock.patch.dict(sys.modules, {**modules, name: made})
        )
        return made

    def snapshot(self, tensors, init_kwargs):
        """A network of one module inside a ModuleDict inside another."""

        def function():
            return lambda *args: None

        persistence = self.module(
            'torch_utils.persistence', _reconstruct_persistent_obj=function()
        )
        storage = self.module('torch.storage', _load_from_bytes=function())
        utils = self.module(
            'torch._utils',
            _rebuild_tensor_v2=function(),
            _rebuild_parameter=function(),
        )
        container = self.module(
            'torch.nn.modules.container', ModuleDict=type('ModuleDict', (), {})
        )

        def parameter(array):
            kind = Global('torch', 'FloatStorage')
            persistent = Persistent(
                ('storage', kind, '1', 'cpu', array.size, None)
            )
            stream = stream_of(persistent, {'1': (array.size, array.tobytes())})
            stride = tuple(n // array.itemsize for n in array.strides)
            held = _Reduced(storage._load_from_bytes, (stream,))
            tensor = _Reduced(
                utils._rebuild_tensor_v2,
                (
                    held,
                    0,
                    array.shape,
                    stride,
                    False,
                    collections.OrderedDict(),
                ),
            )
            hooks = collections.OrderedDict()
            return _Reduced(utils._rebuild_parameter, (tensor, False, hooks))

        def state(parameters, modules, **others):
            return {
                'training': False,
                '_non_persistent_buffers_set': set(),
                '_parameters': collections.OrderedDict(parameters),
                '_buffers': collections.OrderedDict(),
                '_modules': collections.OrderedDict(modules),
                **others,
            }

        def network(class_name, state):
            meta = {
                'type': 'class',
                'version': 6,
                'module_src': 'import os',
                'class_name': class_name,
                'state': {'_init_args': (), '_init_kwargs': {}, **state},
            }
            return _Reduced(
                persistence._reconstruct_persistent_obj, (meta,), None
            )

        parts = {n: parameter(array) for n, array in tensors.items()}
        inner = network('Conv2d', state(parts, {}))
        holder = container.ModuleDict()
        holder.__dict__.update(state({}, {'conv': inner}))
        model = network('SongUNet', state({}, {'enc': holder}))
        return network(
            'EDMPrecond', state({}, {'model': model}, _init_kwargs=init_kwargs)
        )

    @parameterized.parameters(2, 3, 4, 5)
    def test_every_protocol_that_is_written_is_read(self, protocol):
        rng = np.random.default_rng(0)
        # Each byte that there is, and no bytes.
        tensors = {
            'bytes': rng.permutation(np.arange(256, dtype=np.uint8))
            .repeat(4)
            .view(np.float32),
            'bias': np.zeros(0, np.float32),
            'weight': rng.standard_normal((3, 5)).astype(np.float32),
        }
        with self.path.open('wb') as file:
            pickle.dump(
                {'ema': self.snapshot(tensors, _KWARGS), 'loss_fn': None},
                file,
                protocol,
            )
        network = edm_file.read_edm_pickle(self.path)
        self.assertEqual(network.class_name, 'EDMPrecond')
        self.assertEqual(network.init_kwargs, _KWARGS)
        for name, array in tensors.items():
            found = network.tensors[f'model.enc.conv.{name}']
            np.testing.assert_array_equal(
                found.view(np.uint8), array.view(np.uint8)
            )

    def test_text_that_spells_no_bytes_is_refused(self):
        encode = Global('_codecs', 'encode')
        for text, encoding in (('\u20ac', 'latin1'), ('a', 'utf-16'), (3, 'a')):
            spelled = Call(encode, (text, encoding))
            self.path.write_bytes(pickle_of({'ema': spelled}))
            self.assert_refused('is damaged')

    def test_text_is_not_copied_again_and_again(self):
        # 100,000 copies of a megabyte would take minutes.
        start = b'c_codecs\nencode\nq\1' + opcodes_of('x' * 10**6) + b'q\2'
        again = b'h\1h\2h\3\x86R0'
        self.path.write_bytes(
            b'\x80\2'
            + start
            + opcodes_of('latin1')
            + b'q\3'
            + again * 10**5
            + b'}.'
        )
        self.assert_refused('copies to read, more than weights need')


class RefusalTest(EdmFileTestCase):
    @parameterized.named_parameters(
        ('in_the_pickle', lambda call: {'ema': call}),
        (
            'in_the_arguments',
            lambda call: {
                'ema': edm_writer.object_of(
                    'EDMPrecond', edm_writer.state_of({}, {'x': call})
                )
            },
        ),
        (
            'in_a_stream_of_a_tensor',
            lambda call: {
                'ema': Call(
                    Global('torch.storage', '_load_from_bytes'),
                    (edm_writer.bytes_of(stream_of(call, {})),),
                )
            },
        ),
    )
    def test_a_command_is_refused_and_not_run(self, content):
        marker = self.path.with_name('marker')
        call = Call(Global('os', 'system'), (f'touch {marker}',))
        self.path.write_bytes(pickle_of(content(call)))
        self.assert_refused("asks for 'os.system'", UnsafeFileError)
        self.assertFalse(marker.exists())

    @parameterized.named_parameters(
        ('arguments_without_names', {'_init_args': (1,)}, 'without names'),
        ('arguments_of_a_list', {'_init_kwargs': Opcodes(b']')}, 'no dict'),
        ('an_object_as_argument', {
            '_init_kwargs': {'x': Call(Global('my.code', 'Thing'), (1,))}
        }, 'no plain data'),
        ('a_function_as_argument', {
            '_init_kwargs': {'x': Global('my.code', 'function')}
        }, 'no plain data'),
        ('many_arguments', {'_init_kwargs': {'x': [0] * 2000}}, 'too many arg'),
        ('arguments_that_hold_themselves', {
            '_init_kwargs': Opcodes(b'}q\1' + opcodes_of('x') + b'h\1s')
        }, 'too many arguments'),
        ('a_module_that_is_none', {'_modules': {'model': 3}}, 'no module'),
        ('a_module_of_another_class', {
            '_modules': {'model': Call(Global('my.code', 'Net'), ())}
        }, 'torch_utils.persistence'),
        ('a_tensor_that_is_none', {'_parameters': {'w': 3}}, 'is none'),
        ('no_parameters', {'_parameters': 3}, 'of another type'),
        ('no_tensors', {'_modules': {}}, 'no tensors'),
        ('modules_without_end', {'_modules': {'model': edm_writer.nested_modules(30)}},
         'too many parts'),
        ('a_long_name', {'_modules': {'m' * 400: edm_writer.module_of(
            'n', {'n' * 400: np.zeros(1, np.float32)})}}, 'a name that is no'),
    )  # fmt: skip
    def test_what_the_authors_code_does_not_make_is_refused(
        self, parts, reason
    ):
        self.write(**parts)
        self.assert_refused(f"no network of EDM under 'ema': .*{reason}")

    @parameterized.named_parameters(
        ('nothing_under_ema', {'net': 3}, "under 'ema'.*keys are: net"),
        ('a_number_under_ema', {'ema': 3}, 'torch_utils.persistence'),
        ('a_list', (1, 2), 'keys are: none'),
    )
    def test_other_pickles_are_refused(self, content, regex):
        self.path.write_bytes(pickle_of(content))
        self.assert_refused(regex)

    @parameterized.named_parameters(
        ('empty', b''),
        ('zip', b'PK\3\4'),
        ('text', b'network'),
        ('stream', stream_of({}, {})),
    )
    def test_other_files_are_refused(self, content):
        self.path.write_bytes(content)
        self.assert_refused('must be a pickle')

    def test_a_missing_file_is_not_found(self):
        self.assert_refused('does not exist', FileNotFoundError)

    def test_a_stream_that_is_asked_for_again_and_again_is_read_once(self):
        # 100,000 streams would take minutes.
        load = b'ctorch.storage\n_load_from_bytes\nq\1'
        tensor = np.zeros(1, np.float32)
        storage = edm_writer.tensor_of(tensor).args[0].args[0]
        again = b'h\1h\2\x85R0' * 100_000
        self.path.write_bytes(
            b'\x80\3' + load + storage.code + b'q\2' + again + b'}.'
        )
        self.assert_refused('keys are: none')

    def test_a_file_cut_short_is_refused(self):
        self.write()
        whole = self.path.read_bytes()
        for num_bytes in range(2, len(whole), 7):
            self.path.write_bytes(whole[:num_bytes])
            self.assert_refused('is damaged|asks for')

    @settings(derandomize=True, deadline=None, max_examples=200)
    @given(st.data())
    def test_a_damaged_file_is_refused_or_plain_data(self, data):
        self.write()
        content = bytearray(self.path.read_bytes())
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(2, len(content) - 1))
            content[at] = data.draw(st.integers(0, 255))
        self.path.write_bytes(content)
        try:
            network = edm_file.read_edm_pickle(self.path)
        except ValueError as error:
            self.assertTrue(str(error).isprintable())
            self.assertIn(str(self.path), str(error))
        else:
            # Plain data are what pickle keeps as it is.
            kwargs = pickle.loads(pickle.dumps(network.init_kwargs))
            self.assertEqual(repr(kwargs), repr(network.init_kwargs))
            for array in network.tensors.values():
                self.assertIsInstance(array, np.ndarray)


if __name__ == '__main__':
    absltest.main()
