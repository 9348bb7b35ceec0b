"""Pickles of arrays: read as NumPy reads them, and no code is run."""

import os
import pathlib
import pickle
import tempfile

import numpy as np
from absl.testing import absltest, parameterized

from invjax.metrics import array_pickle


class _Attack:
    def __init__(self, call, *args):
        self.what = call, args

    def __reduce__(self):
        return self.what


class ArrayPickleTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = self.enterContext(tempfile.TemporaryDirectory())
        self.path = pathlib.Path(folder) / 'arrays.pickle'

    @parameterized.product(
        protocol=[2, 3, 4], dtype=['<f2', '<f4', '<f8'], order=['C', 'F']
    )
    def test_nested_arrays_come_back(self, protocol, dtype, order):
        rng = np.random.default_rng(0)
        array = np.asarray(rng.normal(size=(2, 3, 4)), dtype, order=order)
        if protocol == 2:
            # Its bytes are spelt by a call, which is not allowed.
            self.path.write_bytes(pickle.dumps({'a': array}, protocol))
            with self.assertRaises(array_pickle.UnsafePickleError):
                array_pickle.read_arrays(self.path)
            return
        tree = {'a': {'b': array}, 'c': array[0], 'step': 3}
        self.path.write_bytes(pickle.dumps(tree, protocol))
        found = array_pickle.read_arrays(self.path)
        self.assertEqual([*found], ['a.b', 'c'])
        np.testing.assert_array_equal(found['a.b'], array)
        np.testing.assert_array_equal(found['c'], array[0])
        self.assertEqual(found['a.b'].dtype, np.dtype(dtype))

    def test_nothing_that_a_pickle_calls_is_run(self):
        mark = self.path.with_name('mark')
        for attack in (
            _Attack(os.mkdir, str(mark)),
            _Attack(eval, f'__import__("os").mkdir({str(mark)!r})'),
        ):
            self.path.write_bytes(pickle.dumps({'a': attack}))
            with self.assertRaisesRegex(
                array_pickle.UnsafePickleError, "asks for '(posix|builtins)"
            ):
                array_pickle.read_arrays(self.path)
            self.assertFalse(mark.exists())

    def test_what_is_no_array_of_numbers_is_refused(self):
        loop = {}
        loop['loop'] = loop
        for content in (
            {'a': np.array(['text'])},
            {'a': np.array([1, 2])},
            {'a': np.array([1.0]).astype('>f4')},
            loop,
            [1, 2],
        ):
            self.path.write_bytes(pickle.dumps(content))
            with self.assertRaisesRegex(ValueError, 'damaged or no pickle'):
                array_pickle.read_arrays(self.path)

    def test_a_shape_that_does_not_count_its_bytes_is_refused(self):
        whole = pickle.dumps({'a': np.ones((2, 3), np.float32)}, protocol=3)
        shape = b'K\2K\3\x86'
        self.assertEqual(whole.count(shape), 1)
        # The first length is -1, which NumPy would fill in; 2.0; and 1.
        for other in (
            b'J\xff\xff\xff\xffK\3\x86',
            b'G\x40' + bytes(7) + b'K\3\x86',
            b'K\1K\3\x86',
        ):
            self.path.write_bytes(whole.replace(shape, other))
            with self.assertRaisesRegex(ValueError, 'damaged or no pickle'):
                array_pickle.read_arrays(self.path)

    def test_any_cut_or_changed_byte_is_a_sentence_or_other_numbers(self):
        whole = pickle.dumps({'a': np.ones((2, 3), np.float32)})
        for i in range(len(whole)):
            for damaged in (
                whole[:i],
                whole[:i] + bytes([whole[i] ^ 0xFF]) + whole[i + 1 :],
            ):
                self.path.write_bytes(damaged)
                try:
                    found = array_pickle.read_arrays(self.path)
                except ValueError as error:
                    self.assertStartsWith(str(error), str(self.path))
                else:
                    for array in found.values():
                        self.assertEqual(array.size, 6)

    def test_a_file_that_is_not_there_is_an_error_of_the_system(self):
        with self.assertRaises(FileNotFoundError):
            array_pickle.read_arrays(self.path)


if __name__ == '__main__':
    absltest.main()
