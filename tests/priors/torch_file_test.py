"""Tests of the PyTorch file reader, on files that are written here by hand.

The golden is one that PyTorch wrote.
"""

import hashlib
import json
import math
import pathlib
import pickle
import tarfile
import tempfile
import zipfile
import zlib

import ml_dtypes
import numpy as np
import safetensors.numpy
from absl.testing import absltest, parameterized

from invjax.priors import torch_file
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
    view_of,
)

GOLDENS = pathlib.Path(__file__).parent.parent / 'goldens'


class TorchFileTestCase(parameterized.TestCase):
    """Writes a file at `path`, with what `tensor` and `storages` collected."""

    def setUp(self):
        super().setUp()
        folder = self.enter_context(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / 'a.pt'
        self.storages = {}

    def tensor(self, array, dtype=np.float32):
        """Describe an array, (...), in a storage of its own."""
        array = np.asarray(array, dtype)
        key = str(len(self.storages))
        self.storages[key] = array.tobytes()
        stride = tuple(s // array.itemsize for s in array.strides)
        kind = KINDS[array.dtype.name]
        return view_of(key, kind, 0, array.shape, stride)

    def write(self, content, compression=zipfile.ZIP_STORED, **entries):
        with zipfile.ZipFile(self.path, 'w', compression) as file:
            file.writestr('a/data.pkl', pickle_of(content))
            for name, entry in entries.items():
                file.writestr(f'a/{name}', entry)
            for key, storage in self.storages.items():
                file.writestr(f'a/data/{key}', storage)

    def read(self, content):
        self.write(content)
        return torch_file.read_state_dict(self.path)

    def assert_refused(self, regex, error=ValueError):
        """Assert that one line refuses the file, with its path in it."""
        with self.assertRaisesRegex(error, regex) as context:
            torch_file.read_state_dict(self.path)
        sentence = str(context.exception)
        self.assertIn(str(self.path), sentence)
        self.assertNotIn('\n', sentence)


class TensorsTest(TorchFileTestCase):
    def test_a_file_of_pytorch_holds_the_weights_of_the_recipe(self):
        state_dict = torch_file.read_state_dict(GOLDENS / 'unet_tiny32.pt')
        keys = np.load(GOLDENS / 'unet_tiny32.npz')['keys']
        self.assertCountEqual(state_dict, keys.tolist())
        for name, array in state_dict.items():
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            n = rng.standard_normal(array.shape, dtype=np.float32)
            if array.ndim >= 2:
                weight = n / np.sqrt(math.prod(array.shape[1:]))
            elif name.endswith('.weight'):
                weight = 1 + 0.1 * n
            else:
                weight = 0.1 * n
            self.assertEqual(array.dtype, np.float32)
            np.testing.assert_allclose(array, weight, rtol=1e-6)

    @parameterized.parameters(*KINDS)
    def test_numbers_of_every_kind_come_back_as_they_were(self, dtype):
        array = np.array([[0, 1, 2], [3, 4, 5]]).astype(dtype)
        read = self.read({'w': self.tensor(array, dtype)})['w']
        self.assertEqual(read.dtype, array.dtype)
        np.testing.assert_array_equal(read, array)

    def test_bfloat16_is_the_upper_half_of_float32(self):
        upper_halves = np.array([0x3F80, 0xC049], '<u2')
        self.storages['0'] = upper_halves.tobytes()
        read = self.read({'w': view_of('0', 'BFloat16Storage', 0, (2,), (1,))})
        bits = upper_halves.astype(np.uint32) << 16
        np.testing.assert_array_equal(
            read['w'].astype(np.float32), bits.view(np.float32)
        )

    def test_a_tensor_of_untyped_storage_has_its_own_dtype(self):
        self.storages['0'] = np.array([1, 65535], '<u2').tobytes()
        kind = Global('torch.storage', 'UntypedStorage')
        storage = Persistent(('storage', kind, '0', 'cpu', 4))
        dtype = Global('torch', 'uint16')
        read = self.read(
            {
                'w': Call(
                    Global('torch._utils', '_rebuild_tensor_v3'),
                    (storage, 0, (2,), (1,), False, NO_HOOKS, dtype),
                )
            }
        )
        self.assertEqual(read['w'].dtype, np.uint16)
        np.testing.assert_array_equal(read['w'], [1, 65535])

    def test_strided_tensors_are_the_views_that_numpy_takes(self):
        x = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
        views = {
            'transposed': x.T,
            'every_second': x[:, 1:, ::2],
            'row': x[1],
            'scalar': x[1, 2, 3, ...],
            'empty': x[:0],
        }
        self.storages['0'] = x.tobytes()
        start = x.__array_interface__['data'][0]
        read = self.read(
            {
                name: view_of(
                    '0',
                    'FloatStorage',
                    (view.__array_interface__['data'][0] - start) // 4,
                    view.shape,
                    tuple(stride // 4 for stride in view.strides),
                )
                for name, view in views.items()
            }
        )
        for name, view in views.items():
            with self.subTest(name):
                self.assertEqual(read[name].shape, view.shape)
                np.testing.assert_array_equal(read[name], view)

    def test_tied_weights_share_memory_that_cannot_be_written(self):
        tied = self.tensor([1, 2])
        read = self.read({'a': tied, 'b': tied})
        self.assertTrue(np.shares_memory(read['a'], read['b']))
        self.assertFalse(read['a'].flags.writeable)

    def test_parameters_and_tensors_with_attributes_are_tensors(self):
        tensor = self.tensor([1, 2])
        read = self.read(
            {
                'parameter': Call(
                    Global('torch._utils', '_rebuild_parameter'),
                    (tensor, True, NO_HOOKS),
                ),
                'with_state': Call(
                    Global('torch._utils', '_rebuild_parameter_with_state'),
                    (tensor, True, NO_HOOKS, {'note': 'x'}),
                ),
                'of_a_type': Call(
                    Global('torch._tensor', '_rebuild_from_type_v2'),
                    (REBUILD, Global('torch', 'Tensor'), tensor.args, {}),
                ),
            }
        )
        self.assertLen(read, 3)
        for name, array in read.items():
            with self.subTest(name):
                np.testing.assert_array_equal(array, [1, 2])

    @parameterized.named_parameters(
        ('offset', 1, (4,), (1,)),
        ('negative_offset', -1, (4,), (1,)),
        ('size', 0, (5,), (1,)),
        ('negative_size', 0, (-2, -2), (2, 1)),
        ('stride', 0, (2, 2), (3, 1)),
        ('negative_stride', 3, (4,), (-1,)),
        ('stride_that_repeats', 0, (2**40,), (0,)),
    )
    def test_tensors_must_lie_in_their_storage_of_four(
        self, offset, size, stride
    ):
        self.storages['0'] = bytes(4 * 4)
        self.write({'w': view_of('0', 'FloatStorage', offset, size, stride)})
        self.assert_refused("tensor 'w' must lie within its storage")

    @parameterized.named_parameters(
        ('lengths', (2, 2), (1,)),
        ('float', (4.0,), (1,)),
        ('long', (2**70,), (1,)),
        ('string', '4', '1'),
    )
    def test_sizes_and_strides_must_be_counts(self, size, stride):
        self.storages['0'] = bytes(4 * 4)
        self.write({'w': view_of('0', 'FloatStorage', 0, size, stride)})
        self.assert_refused('data.pkl is damaged')

    def test_a_conjugation_still_to_be_done_is_refused(self):
        self.storages['0'] = bytes(8)
        self.write(
            {
                'w': view_of(
                    '0', 'ComplexFloatStorage', 0, (1,), (1,), {'conj': True}
                )
            }
        )
        self.assert_refused('resolve_conj')


class CheckpointsTest(TorchFileTestCase):
    @parameterized.named_parameters(
        ('averaged_weights_win', ('model', 'ema'), 'ema'),
        ('in_any_order', ('ema', 'state_dict'), 'ema'),
        ('a_state_dict', ('optimizer', 'state_dict'), 'state_dict'),
        ('a_model', ('model', 'discriminator'), 'model'),
    )
    def test_weights_are_found_in_a_checkpoint(self, keys, chosen):
        content = {key: {'w': self.tensor([i])} for i, key in enumerate(keys)}
        read = self.read({'epoch': 3, **content})
        np.testing.assert_array_equal(read['w'], [keys.index(chosen)])

    def test_an_average_without_tensors_is_passed_over(self):
        content = {'ema': {'decay': 0.9}, 'model': {'w': self.tensor([1])}}
        self.assertEqual(list(self.read(content)), ['w'])

    def test_weights_are_found_two_wrappers_deep(self):
        content = {'state_dict': {'model': {'w': self.tensor([1])}}}
        self.assertEqual(list(self.read(content)), ['w'])

    def test_what_is_not_a_tensor_is_left_out(self):
        dtype = Call(Global('numpy', 'dtype'), ('f8', False, True))
        dtype = Build(dtype, (3, '<', None, None, None, -1, -1, 0))
        encoded = Call(Global('_codecs', 'encode'), ('\0' * 8, 'latin1'))
        scalar = Global('numpy._core.multiarray', 'scalar')
        content = {
            'epoch': 3,
            'lr': 1e-4,
            'name': 'unet',
            'none': None,
            'betas': (0.9, 0.999),
            'device': Call(Global('torch', 'device'), ('cpu',)),
            'size': Call(Global('torch', 'Size'), ((1, 2),)),
            'best': Call(scalar, (dtype, encoded)),
            'w': self.tensor([1]),
            7: self.tensor([2]),
        }
        self.assertEqual(list(self.read(content)), ['w'])

    @parameterized.named_parameters(
        ('namespace', Opcodes(
            b'cargparse\nNamespace\n)\x81' + opcodes_of({'lr': 1e-4}) + b'b'
        )),
        ('path', Call(Global('pathlib', 'PosixPath'), ('/', 'x'))),
        ('date', Call(Global('datetime', 'datetime'), ('\7\xe8\1\1' * 2,))),
        ('array', Build(
            Call(
                Global('numpy._core.multiarray', '_reconstruct'),
                (Global('numpy', 'ndarray'), (0,), 'b'),
            ),
            (1, (2,), None, False, '\0' * 16),
        )),
        ('default_dict', Call(
            Global('collections', 'defaultdict'),
            (Global('__builtin__', 'list'),),
        )),
        ('own_class', Build(
            Call(Global('my_project.config', 'Config'), ()), {'width': 64}
        )),
        ('scheduler', Build(
            Call(Global('torch.optim.lr_scheduler', 'StepLR'), ()), {'n': 1}
        )),
        ('set', Opcodes(b'\x8f(K\1K\2\x90')),
        ('key_that_is_a_tuple', Opcodes(b'}K\1K\2\x86Ns')),
    )  # fmt: skip
    def test_training_state_is_read_as_data_and_left_out(self, state):
        content = {'state': state, 'model': {'w': self.tensor([1])}}
        self.assertEqual(list(self.read(content)), ['w'])

    def test_a_dict_and_a_class_of_dict_hold_weights_alike(self):
        kind = Global('easydict', 'EasyDict')
        state_dict = Opcodes(
            opcodes_of(Call(kind, ()))
            + opcodes_of('w')
            + opcodes_of(self.tensor([1]))
            + b's'
        )
        self.assertEqual(list(self.read({'model': state_dict})), ['w'])

    def test_attributes_of_a_state_dict_are_left_out(self):
        attributes = {'_metadata': {}, 'items': 1, '__class__': ORDERED_DICT}
        state_dict = Opcodes(
            opcodes_of(Build(Call(ORDERED_DICT, ()), attributes))
            + opcodes_of('w')
            + opcodes_of(self.tensor([1]))
            + b's'
        )
        self.assertEqual(list(self.read(state_dict)), ['w'])

    @parameterized.named_parameters(
        ('data_parallel', ('module.a.b', 'module.c'), ('a.b', 'c')),
        ('compiled', ('_orig_mod.a.b', '_orig_mod.c'), ('a.b', 'c')),
        ('both', ('_orig_mod.module.a', 'module._orig_mod.c'), ('a', 'c')),
        ('averaged', ('n_averaged', 'module.a'), ('a',)),
        ('part_of_a_model', ('model.a', 'model.c'), ('a', 'c')),
        ('model_of_module', ('model.module.a', 'model.module.c'), ('a', 'c')),
        ('no_part_of_a_model', ('model.a', 'c'), ('model.a', 'c')),
        ('inner_module', ('a.module.b', 'a.c'), ('a.b', 'a.c')),
        ('compiled_part', ('a._orig_mod.b', 'a.c'), ('a.b', 'a.c')),
    )
    def test_names_lose_what_wrappers_put_in_front(self, names, bare):
        content = {name: self.tensor([1]) for name in names}
        self.assertSequenceEqual(list(self.read(content)), bare)

    def test_names_that_become_the_same_are_refused(self):
        self.write({'a': self.tensor([1]), 'module.a': self.tensor([2])})
        self.assert_refused("'a' twice")

    def test_without_tensors_the_keys_are_listed(self):
        self.write({'epoch': 3, 'unet': {'w': 1.0}})
        self.assert_refused(
            "must have tensors.* holds the keys 'epoch', 'unet'"
        )

    def test_a_single_tensor_is_not_a_state_dict(self):
        self.write(self.tensor([1]))
        self.assert_refused('must have tensors.* holds one tensor')

    def test_a_dict_that_holds_itself_is_refused(self):
        self.write(Opcodes(b'}q\1' + opcodes_of('model') + b'h\1s'))
        self.assert_refused('must have tensors')


def attacks(command):
    """Pickles, by name, that run a shell command when pickle reads them."""
    system = Global('os', 'system')
    python = f'__import__("os").system({command!r})'
    builtins_import = Call(Global('builtins', '__import__'), ('os',))
    getattr_system = Call(
        Global('builtins', 'getattr'), (builtins_import, 'system')
    )
    return {
        'system': Call(system, (command,)),
        'posix': Call(Global('posix', 'system'), (command,)),
        'eval': Call(Global('builtins', 'eval'), (python,)),
        'python_2_eval': Call(Global('__builtin__', 'eval'), (python,)),
        'exec': Call(Global('builtins', 'exec'), (python,)),
        'nested_getattr': Call(getattr_system, (command,)),
        # Protocol 4 takes the names from the stack.
        'stack_global': Call(
            Opcodes(opcodes_of('os') + opcodes_of('system') + b'\x93'),
            (command,),
        ),
        'inst': Opcodes(b'(' + opcodes_of(command) + b'ios\nsystem\n'),
        'hidden_in_a_state_dict': {
            'state_dict': {'w': 1.0, 'epoch': (1, Call(system, (command,)))}
        },
        'set_state': Build(
            Call(ORDERED_DICT, ()), {'x': Call(system, (command,))}
        ),
    }


class UnsafeFilesTest(TorchFileTestCase):
    @parameterized.named_parameters(*((n, n) for n in attacks('')))
    def test_what_would_run_a_command_is_refused_and_not_run(self, name):
        marker = self.path.with_name('marker')
        content = attacks(f'touch {marker}')[name]
        self.write(content)
        self.assert_refused('asks for', torch_file.UnsafeFileError)
        self.assertFalse(marker.exists())
        # The attack is a real one: the plain unpickler falls for it.
        pickle.loads(pickle_of(content))
        self.assertTrue(marker.exists())

    def test_the_forbidden_global_is_named(self):
        self.write(Call(Global('os', 'system'), ('true',)))
        self.assert_refused("asks for 'os.system'")

    @parameterized.named_parameters(
        ('dotted', Global('torch', '_utils.os.system')),
        ('of_an_allowed_module', Global('torch._utils', '_import_dotted_name')),
        ('of_an_allowed_type', Global('collections', 'OrderedDict.__class__')),
        ('nested_load', Global('torch.storage', '_load_from_bytes')),
        ('numpy_load', Global('numpy', 'load')),
    )
    def test_only_globals_on_the_list_are_allowed(self, forbidden):
        self.write({'w': forbidden})
        self.assert_refused('asks for', torch_file.UnsafeFileError)

    def test_a_storage_identifier_is_unpickled_as_carefully(self):
        attack = Call(Global('os', 'system'), ('true',))
        self.write(Persistent(('storage', attack, '0', 'cpu', 1)))
        self.assert_refused('os.system', torch_file.UnsafeFileError)

    @parameterized.named_parameters(
        ('function', REBUILD, ({}, {'__defaults__': (None,) * 7})),
        ('function_dict', REBUILD, {'name': 'x'}),
        ('class', ORDERED_DICT, ({}, {'__init__': REBUILD})),
        ('class_set_state', ORDERED_DICT, {'__setstate__': REBUILD}),
        ('dtype', Global('torch', 'float32'), (3, '>', None, None, None)),
    )
    def test_globals_take_no_attributes(self, target, state):
        tensor = self.tensor([1])
        self.write(Build(target, state))
        self.assert_refused('data.pkl is damaged')
        np.testing.assert_array_equal(self.read({'w': tensor})['w'], [1])

    @parameterized.named_parameters(
        ('kind_of_storage', view_of('0', 'Size', 0, (1,), (1,))),
        ('call_of_a_dtype', Call(Global('torch', 'float32'), ())),
        ('call_of_a_string', Call('os.system', ('true',))),
        ('new_object', Opcodes(opcodes_of(ORDERED_DICT) + b')\x81')),
        ('storage_key', Persistent(
            ('storage', Global('torch', 'FloatStorage'), ('0',), 'cpu', 1)
        )),
    )  # fmt: skip
    def test_allowed_globals_do_only_what_weights_need(self, content):
        self.write(content)
        self.assert_refused('data.pkl is damaged')

    def test_a_memo_index_of_four_billion_takes_no_memory(self):
        # The C unpickler would make a table of 2**33 pointers here.
        memoize = b'r' + (2**32 - 1).to_bytes(4, 'little')
        tensor = Opcodes(opcodes_of(self.tensor([1])) + memoize)
        np.testing.assert_array_equal(self.read({'w': tensor})['w'], [1])

    def test_a_flipped_bit_is_refused_wherever_it_is_read(self):
        # Bits of data.pkl and of the storages, which the checksums are for.
        self.write({'w': self.tensor(np.arange(5))})
        whole = self.path.read_bytes()
        with zipfile.ZipFile(self.path) as file:
            sizes = {i.filename: i.file_size for i in file.filelist}
            starts = {
                i.filename: i.header_offset + 30 + len(i.filename)
                for i in file.filelist
            }
        for name, start in starts.items():
            for position in range(start, start + sizes[name]):
                damaged = bytearray(whole)
                damaged[position] ^= 1 << position % 8
                self.path.write_bytes(damaged)
                self.assert_refused(f"'{name}' is damaged: its bytes do not")

    def test_files_that_were_written_without_checksums_are_read(self):
        # As PyTorch does by set_crc32_options(False).
        self.write({'w': self.tensor([1, 2])})
        whole = self.path.read_bytes()
        with zipfile.ZipFile(self.path) as file:
            for info in file.filelist:
                checksum = info.CRC.to_bytes(4, 'little')
                whole = whole.replace(checksum, bytes(4))
        self.path.write_bytes(whole)
        read = torch_file.read_state_dict(self.path)
        np.testing.assert_array_equal(read['w'], [1, 2])

    def test_entries_that_overlap_are_refused(self):
        # Two names in the directory for one place in the file.
        big = np.zeros(3000, np.float32)
        tensors = {'a': self.tensor(big), 'b': self.tensor(big)}
        self.write(tensors)
        with zipfile.ZipFile(self.path) as file:
            first = file.getinfo('a/data/0').header_offset
            last = file.getinfo('a/data/1').header_offset
        whole = self.path.read_bytes()
        directory = whole.rindex(b'PK\1\2')
        entry = bytearray(whole[directory:])
        entry[42:46] = first.to_bytes(4, 'little')
        # Nothing of the second is left but its line in the directory.
        tail = bytearray(whole[whole.index(b'PK\1\2') : directory] + entry)
        end = tail.rindex(b'PK\5\6')
        tail[end + 16 : end + 20] = last.to_bytes(4, 'little')
        self.path.write_bytes(whole[:last] + tail)
        self.assert_refused('entries of the zip file overlap')

    def test_tensors_that_share_most_numbers_are_refused(self):
        self.storages['0'] = bytes(4000)
        shared = view_of('0', 'FloatStorage', 0, (1000,), (1,))
        self.write({f'w{i}': shared for i in range(100)})
        self.assert_refused('a byte or more for each of its weights')

    def test_compressed_entries_are_refused(self):
        self.write({'w': self.tensor([0] * 1000)}, zipfile.ZIP_DEFLATED)
        self.assert_refused('must be neither compressed')


class OtherFilesTest(TorchFileTestCase):
    def test_a_file_cut_short_anywhere_is_refused(self):
        self.write({'w': self.tensor([1, 2])})
        whole = self.path.read_bytes()
        for num_bytes in range(2, len(whole)):
            self.path.write_bytes(whole[:num_bytes])
            self.assert_refused('begins like a zip file but is cut short')

    def test_a_zip_of_an_unknown_version_is_refused(self):
        self.write({'w': self.tensor([1, 2])})
        whole = bytearray(self.path.read_bytes())
        # The version that it takes to read the first entry.
        whole[whole.index(b'PK\1\2') + 6] = 99
        self.path.write_bytes(whole)
        self.assert_refused('begins like a zip file but .*version 9.9')

    def test_a_pickle_cut_short_anywhere_is_refused(self):
        whole = pickle_of({'w': self.tensor([1, 2])})
        for num_bytes in range(len(whole)):
            with zipfile.ZipFile(self.path, 'w') as file:
                file.writestr('a/data.pkl', whole[:num_bytes])
            # A cut inside a global's name leaves a name that is not allowed.
            self.assert_refused('data.pkl is damaged|asks for')

    def test_a_missing_storage_is_named(self):
        self.write({'w': view_of('5', 'FloatStorage', 0, (1,), (1,))})
        self.assert_refused("lacks its entry 'a/data/5'")

    def test_an_entry_whose_header_is_gone_is_refused(self):
        self.write({'w': self.tensor([1, 2])})
        content = self.path.read_bytes()
        self.path.write_bytes(content.replace(b'PK\3\4', b'PK\0\0'))
        self.assert_refused('is not where the zip directory says')

    def test_big_endian_storages_are_refused(self):
        self.write({'w': self.tensor([1])}, byteorder=b'big')
        self.assert_refused("byteorder must be b'little', got b'big'")

    def test_legacy_tar_files_come_with_the_command_that_resaves_them(self):
        with tarfile.open(self.path, 'w') as file:
            file.addfile(tarfile.TarInfo('storages'))
        self.assert_refused(r'tar format .*torch\.save\(torch\.load\(')

    def test_torchscript_comes_with_the_command_that_resaves_it(self):
        self.write({}, **{'constants.pkl': b''})
        self.assert_refused(r'TorchScript .*torch\.save\(torch\.jit\.load\(')

    def test_a_zip_file_of_something_else_is_refused(self):
        with self.path.open('wb') as file:
            np.savez(file, x=np.ones(2))
        self.assert_refused('is a zip file but not one of PyTorch')

    @parameterized.named_parameters(
        ('empty', b'', 'is empty'),
        ('git_lfs', b'version https://git-lfs.github.com/spec/v1\noid', 'lfs'),
        ('web_page', b'\n<!DOCTYPE html><html>', 'is a web page'),
        ('text', b'Not found', "begins with b'Not found'"),
        ('gzip', b'\x1f\x8b\x08\0', 'must be a PyTorch zip file or safeten'),
    )
    def test_other_content_is_refused_by_what_it_is(self, content, regex):
        self.path.write_bytes(content)
        self.assert_refused(regex)

    def test_a_missing_file_is_not_found(self):
        self.assert_refused('does not exist', FileNotFoundError)

    def test_a_directory_is_refused(self):
        self.path.mkdir()
        self.assert_refused('must be a file, not a directory')


def stream_view(key, count, size, part=None, kind='FloatStorage'):
    """Describe a contiguous tensor of a stream."""
    pid = ('storage', Global('torch', kind), key, 'cpu', count, part)
    args = (Persistent(pid), 0, (size,), (1,), False, NO_HOOKS)
    return Call(REBUILD, args)


class StreamTest(TorchFileTestCase):
    """The format from before PyTorch 1.6."""

    numbers = np.arange(4, dtype=np.float32)

    def write_stream(self, value, storages=None, **kwargs):
        if storages is None:
            storages = {'7': (4, self.numbers.tobytes())}
        self.path.write_bytes(stream_of(value, storages, **kwargs))

    def test_a_file_of_pytorch_comes_back_number_by_number(self):
        weights = torch_file.read_weights(GOLDENS / 'stream.pt')
        self.assertEqual(weights.key, 'model')
        expected = {
            'a.weight': np.arange(12, dtype=np.float32).reshape(3, 4),
            'a.tied': np.arange(4, 8, dtype=np.float32),
            'half.weight': np.array([1.5, -2], np.float16),
            'bf16.weight': np.array([0.25, 3], ml_dtypes.bfloat16),
            'b.transposed': np.arange(6, dtype=np.float64).reshape(2, 3).T,
            'b.count': np.array(7, np.int64),
            'b.parameter': np.ones(2, np.float32),
        }
        self.assertEqual(list(weights.tensors), list(expected))
        for name, array in expected.items():
            with self.subTest(name):
                self.assertEqual(weights.tensors[name].dtype, array.dtype)
                np.testing.assert_array_equal(weights.tensors[name], array)
        self.assertTrue(
            np.shares_memory(
                weights.tensors['a.weight'], weights.tensors['a.tied']
            )
        )

    def test_storages_follow_in_the_order_of_their_keys(self):
        self.write_stream(
            {'a': stream_view('x', 1, 1), 'b': stream_view('y', 2, 2)},
            {
                'y': (2, self.numbers[1:3].tobytes()),
                'x': (1, self.numbers[:1].tobytes()),
            },
        )
        read = torch_file.read_state_dict(self.path)
        np.testing.assert_array_equal(read['a'], [0])
        np.testing.assert_array_equal(read['b'], [1, 2])

    def test_a_storage_may_be_a_part_of_another(self):
        # As PyTorch 0.3 says it: the part's key, its start and its count.
        view = stream_view('7', 4, 2, ('part', 1, 2))
        self.write_stream({'w': view})
        read = torch_file.read_state_dict(self.path)
        np.testing.assert_array_equal(read['w'], [1, 2])

    @parameterized.named_parameters(
        ('beyond_the_end', 3, 2),
        ('before_the_start', -1, 2),
        ('of_words', 'a', 'b'),
    )
    def test_a_part_must_lie_in_its_storage(self, start, count):
        view = stream_view('7', 4, 2, ('part', start, count))
        self.write_stream({'w': view})
        self.assert_refused('damaged|must lie within its storage')

    def test_a_stream_cut_short_anywhere_is_refused(self):
        self.write_stream({'w': stream_view('7', 4, 4)})
        whole = self.path.read_bytes()
        for num_bytes in range(20, len(whole)):
            self.path.write_bytes(whole[:num_bytes])
            # A cut inside a global's name leaves a name that is not allowed.
            self.assert_refused('is damaged|asks for')

    @parameterized.named_parameters(
        ('count', {'7': (3, bytes(12))}),
        ('missing', {}),
        ('of_another_key', {'8': (4, bytes(16))}),
        ('left_over', {'7': (4, bytes(16)), '8': (4, bytes(16))}),
        ('huge', {'7': (2**62, bytes(16))}),
    )
    def test_storages_must_be_those_of_the_tensors(self, storages):
        self.write_stream({'w': stream_view('7', 4, 4)}, storages)
        self.assert_refused('is damaged')

    def test_a_storage_cannot_be_two(self):
        self.write_stream(
            {
                'a': stream_view('7', 4, 4),
                'b': stream_view('7', 2, 2, kind='DoubleStorage'),
            }
        )
        self.assert_refused('is damaged')

    def test_big_endian_streams_are_refused(self):
        self.write_stream({'w': stream_view('7', 4, 4)}, little_endian=False)
        self.assert_refused('written on a big-endian machine')

    @parameterized.named_parameters(*((n, n) for n in attacks('')))
    def test_a_stream_runs_no_command(self, name):
        marker = self.path.with_name('marker')
        self.write_stream(attacks(f'touch {marker}')[name])
        self.assert_refused('asks for', torch_file.UnsafeFileError)
        self.assertFalse(marker.exists())

    def test_the_source_of_a_class_stays_text(self):
        # Whole modules were saved with it.
        marker = self.path.with_name('marker')
        source = f'open({str(marker)!r}, "w")'
        kind = Persistent(('module', Global('my.code', 'Net'), 'x.py', source))
        state = {'_parameters': {'w': stream_view('7', 4, 4)}}
        module = Opcodes(opcodes_of(kind) + b')\x81' + opcodes_of(state) + b'b')
        self.write_stream(module)
        read = torch_file.read_state_dict(self.path)
        np.testing.assert_array_equal(read['w'], self.numbers)
        self.assertFalse(marker.exists())


class SafetensorsTest(TorchFileTestCase):
    def write_table(self, table, numbers=b''):
        text = table if isinstance(table, bytes) else json.dumps(table).encode()
        length = len(text).to_bytes(8, 'little')
        self.path.write_bytes(length + text + numbers)

    @parameterized.named_parameters(
        ('gap', {'a': ([1], [0, 4]), 'b': ([1], [8, 12])}),
        ('overlap', {'a': ([2], [0, 8]), 'b': ([2], [4, 12])}),
        ('cut_short', {'a': ([3], [0, 12]), 'b': ([3], [12, 24])}),
        ('negative', {'a': ([-3], [0, 12])}),
        ('dimensions', {'a': ([1] * 8 + [3], [0, 12])}),
        ('no_integers', {'a': ([3], [0, 12.0])}),
    )
    def test_a_table_that_does_not_fit_its_numbers_is_refused(self, tensors):
        self.write_table(
            {
                name: {'dtype': 'F32', 'shape': shape, 'data_offsets': offsets}
                for name, (shape, offsets) in tensors.items()
            },
            bytes(12),
        )
        self.assert_refused('begins like a safetensors file but')

    def test_more_or_fewer_numbers_than_the_shape_says_are_refused(self):
        entry = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 12]}
        self.write_table({'a': entry}, bytes(12))
        self.assert_refused("'a' does not have as many numbers")

    def test_a_name_that_is_there_twice_is_refused(self):
        entry = b'{"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}'
        table = b'{"a": ' + entry + b', "a": ' + entry + b'}'
        self.write_table(table, bytes(4))
        self.assert_refused('begins like a safetensors file but')

    def test_types_that_numpy_lacks_are_named(self):
        entry = {'dtype': 'F4', 'shape': [8], 'data_offsets': [0, 4]}
        self.write_table({'a': entry}, bytes(4))
        self.assert_refused("'a' has numbers of type F4")

    def test_float8_is_the_upper_half_of_float16(self):
        # E5M2 has float16's sign and exponent, and two bits of its fraction.
        entry = {'dtype': 'F8_E5M2', 'shape': [3], 'data_offsets': [0, 3]}
        upper_halves = np.array([0x3C, 0xC1, 0x04], np.uint8)
        self.write_table({'w': entry}, upper_halves.tobytes())
        read = torch_file.read_state_dict(self.path)['w'].astype(np.float32)
        halves = (upper_halves.astype(np.uint16) << 8).view(np.float16)
        np.testing.assert_array_equal(read, halves.astype(np.float32))

    def test_arrays_come_back_whatever_the_file_is_called(self):
        state_dict = {
            'a': np.arange(6, dtype=np.float32).reshape(2, 3),
            'b': np.array([1, -2], ml_dtypes.bfloat16),
            'c': np.array(7),
        }
        safetensors.numpy.save_file(state_dict, self.path)
        read = torch_file.read_state_dict(self.path)
        self.assertSameElements(read, state_dict)
        for name, array in state_dict.items():
            with self.subTest(name):
                self.assertEqual(read[name].dtype, array.dtype)
                np.testing.assert_array_equal(read[name], array)

    def test_names_lose_what_wrappers_put_in_front(self):
        safetensors.numpy.save_file({'module.a': np.ones(1)}, self.path)
        self.assertEqual(list(torch_file.read_state_dict(self.path)), ['a'])

    def test_a_file_cut_short_is_refused(self):
        safetensors.numpy.save_file({'a': np.ones(3)}, self.path)
        self.path.write_bytes(self.path.read_bytes()[:-1])
        self.assert_refused('begins like a safetensors file but is cut short')

    def test_a_file_without_tensors_is_refused(self):
        safetensors.numpy.save_file({}, self.path)
        self.assert_refused('has no tensors')


class FileSha256Test(TorchFileTestCase):
    def test_it_is_the_hash_of_all_bytes(self):
        content = bytes(range(256)) * 2000
        self.path.write_bytes(content)
        self.assertEqual(
            torch_file.file_sha256(self.path),
            hashlib.sha256(content).hexdigest(),
        )

    def test_it_agrees_with_a_value_of_the_standard(self):
        # FIPS 180-2, B.1: the message 'abc'.
        self.path.write_bytes(b'abc')
        self.assertEqual(
            torch_file.file_sha256(self.path),
            'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
        )


if __name__ == '__main__':
    absltest.main()
