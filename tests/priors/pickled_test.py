"""Pickles as data: the same as pickle's for plain data, and nothing built."""

import pickle
import pickletools

from absl.testing import absltest, parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from invjax.priors import pickled
from tests.priors.pickle_writer import (
    Build,
    Call,
    Global,
    Opcodes,
    opcodes_of,
    pickle_of,
)

# Keys that are kept, and all that needs no call in any protocol.
_KEYS = st.one_of(st.text(max_size=20), st.integers(-(2**63), 2**64 - 1))
_PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False),
        st.text(),
    ),
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(_KEYS, inner),
    ),
    max_leaves=30,
)


def read(data, **kwargs):
    value, end = pickled.read(memoryview(data), **kwargs)
    assert end == len(data)
    return value


class PlainDataTest(parameterized.TestCase):
    @settings(max_examples=200, deadline=None)
    @given(value=_PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
    def test_plain_data_are_read_as_pickle_reads_them(self, value, protocol):
        self.assertEqual(read(pickle.dumps(value, protocol)), value)

    @settings(max_examples=200, deadline=None)
    @given(value=st.binary(max_size=300), protocol=st.integers(3, 5))
    def test_bytes_are_views_of_the_file(self, value, protocol):
        # Protocol 5 has an instruction for arrays of bytes too.
        kind = bytearray if protocol == 5 else bytes
        self.assertEqual(
            bytes(read(pickle.dumps(kind(value), protocol))), value
        )

    def test_a_shared_object_is_one_and_may_hold_itself(self):
        shared = ['x']
        shared.append(shared)
        first, second = read(pickle.dumps([shared, shared]))
        self.assertIs(first, second)
        self.assertIs(first[1], first)

    def test_keys_that_would_cost_to_hash_are_left_out(self):
        content = {('a', 1): 0, None: 1, 2.5: 2, 'b': 3, 4: 5, 'c' * 501: 6}
        content[2**64] = 7
        self.assertEqual(read(pickle.dumps(content)), {'b': 3, 4: 5})

    def test_several_pickles_follow_each_other(self):
        data = pickle.dumps('first') + pickle.dumps('second')
        first, end = pickled.read(memoryview(data))
        second, _ = pickled.read(memoryview(data), end)
        self.assertEqual((first, second), ('first', 'second'))


class CallsTest(parameterized.TestCase):
    def test_a_call_is_its_name_and_arguments(self):
        made = read(
            pickle_of(Build(Call(Global('my.code', 'Net'), (1, 'a')), {'b': 2}))
        )
        self.assertEqual(made.name, 'my.code.Net')
        self.assertEqual((made.args, made.state), ((1, 'a'), {'b': 2}))

    @parameterized.named_parameters(
        ('reduce', b'cm\nf\n(K\1tR'),
        ('new_object', b'cm\nf\n(K\1t\x81'),
        ('new_object_with_names', b'cm\nf\n(K\1t}\x92'),
        ('instance', b'(K\1im\nf\n'),
        ('old_object', b'(cm\nf\nK\1o'),
        ('stack_global', b'\x8c\1m\x8c\1f\x93(K\1tR'),
    )
    def test_every_way_to_call_gives_the_same(self, code):
        made = read(b'\x80\x02' + code + b'.')
        self.assertEqual((made.name, made.args), ('m.f', (1,)))

    def test_functions_of_ours_take_what_the_pickle_gives(self):
        calls = {'torch.double': lambda x: 2 * x}
        content = pickle_of(Call(Global('torch', 'double'), (4,)))
        self.assertEqual(read(content, calls=calls), 8)

    def test_items_and_elements_of_unknown_classes_are_kept_beside(self):
        made = read(
            b'\x80\x02'
            + opcodes_of(Call(Global('m', 'Both'), ()))
            + b'(K\1K\2e(K\3K\4u.'
        )
        self.assertEqual((dict(made), made.elements), ({3: 4}, [1, 2]))

    @parameterized.named_parameters(
        ('of_a_number', Opcodes(b'K\1)R')),
        ('with_no_tuple', Opcodes(b'cm\nf\n]R')),
        ('with_many_arguments', Call(Global('torch', 'double'), (1,) * 11)),
        ('of_an_extension', Opcodes(b'\x82\1')),
        ('attributes_of_a_list', Build(Opcodes(b']'), {'a': 1})),
        ('attributes_of_a_name', Build(Global('m', 'f'), {'a': 1})),
        ('items_of_a_list', Opcodes(b']K\1K\2s')),
        ('elements_of_a_dict', Opcodes(b'}K\1a')),
    )
    def test_what_no_pickle_of_data_does_is_an_error(self, content):
        with self.assertRaises(Exception) as caught:
            read(pickle_of(content), calls={'torch.double': lambda x: 2 * x})
        self.assertNotIsInstance(caught.exception, pickled.UnsafeFileError)

    def test_there_is_an_instruction_for_each_that_data_need(self):
        known = {ord(opcode.code) for opcode in pickletools.opcodes}
        left_out = {
            'EXT1', 'EXT2', 'EXT4',  # classes that a program registers
            'NEXT_BUFFER', 'READONLY_BUFFER',  # data that come beside
            'PERSID',  # identifiers that are text, of protocol 0
            'STOP',
        }  # fmt: skip
        expected = known - {
            ord(opcode.code)
            for opcode in pickletools.opcodes
            if opcode.name in left_out
        }
        self.assertEqual(set(pickled._INSTRUCTIONS), expected)


class CostTest(parameterized.TestCase):
    def test_more_instructions_than_weights_need_are_refused(self):
        with self.assertRaises(pickled.CostlyFileError):
            read(b'\x80\x02' + b'N0' * 1_000_001 + b'N.')

    def test_what_calls_copy_in_all_is_bounded(self):
        # A list of 100,000 pairs, and a dict of it, thirty times.
        pairs = b'](' + b'K\1K\2\x86' * 100_000 + b'eq\1'
        copies = b'h\1\x85R0h\0' * 30
        content = b'\x80\x02' + pairs + b'ctorch\nd\nq\0' + copies + b'.'
        with self.assertRaises(pickled.CostlyFileError):
            read(content, calls={'torch.d': lambda pairs: dict(pairs)})

    def test_a_memo_index_of_four_billion_takes_no_memory(self):
        self.assertEqual(
            read(b'\x80\x02K\7r\xff\xff\xff\xff0j\xff\xff\xff\xff.'), 7
        )


if __name__ == '__main__':
    absltest.main()
