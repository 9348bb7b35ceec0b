"""Whole programs that are kept: found again, told apart, and never in doubt."""

import functools
import os
import pathlib
import tempfile
from typing import NamedTuple
from unittest import mock

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized
from jax.experimental.compilation_cache import compilation_cache

from invjax import compiled
from invjax.methods import METHODS
from invjax.operators import Function, make_operator
from invjax.priors.unet import UNet


class FindTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        before = jax.config.jax_compilation_cache_dir
        # JAX goes on to write into the folder that it set up, which is gone.
        self.addCleanup(compilation_cache.reset_cache)
        self.addCleanup(jax.config.update, 'jax_compilation_cache_dir', before)
        jax.config.update('jax_compilation_cache_dir', folder.name)
        self.enterContext(mock.patch.object(compiled, '_finds', True))
        self.another_process()
        self.num_traces = 0

        def scaled(x, by, power):
            self.num_traces += 1
            return {'out': jnp.sum(x) * by**power, 'x': x}

        # As if the package defined it, in whose sources the trust lies.
        scaled.__module__, scaled.__qualname__ = 'invjax.compiled', 'scaled'
        self.scaled = jax.jit(scaled, static_argnames='power')
        self.enterContext(
            mock.patch.object(compiled, 'scaled', self.scaled, create=True)
        )

    def another_process(self):
        """Forget, as far as one can, what this process has compiled."""
        self.enterContext(mock.patch.object(compiled, '_found', {}))
        jax.clear_caches()

    def out(self, x, by, power=2):
        program = compiled.find(self.scaled, x, by, power=power)
        return np.asarray(program(x, by)['out'])

    def kept(self):
        return sorted((self.folder / 'whole').glob('*'))

    def test_a_second_process_finds_the_program_without_tracing_it(self):
        # 1 + 2 + 3 is 6, times 5 squared.
        self.assertEqual(self.out(jnp.array([1.0, 2.0, 3.0]), 5.0), 150)
        self.assertEqual(self.num_traces, 1)
        self.another_process()
        self.assertEqual(self.out(jnp.array([1.0, 2.0, 4.0]), 3.0), 63)
        self.assertEqual(self.num_traces, 1)
        self.assertLen(self.kept(), 1)

    def test_what_jax_has_compiled_already_can_be_kept_all_the_same(self):
        x = jnp.arange(40.0)
        with mock.patch.object(compiled, '_finds', False):
            self.out(x, 2.0)
        self.another_process()
        for _ in range(2):
            self.assertEqual(self.out(x, 2.0), 4 * 780)
            self.another_process()
        self.assertEqual(self.num_traces, 2)

    def test_jax_keeps_programs_after_one_was_kept_whole(self):
        self.out(jnp.ones(3), 1.0)
        self.assertTrue(jax.config.jax_enable_compilation_cache)
        seconds = jax.config.jax_persistent_cache_min_compile_time_secs
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
        self.addCleanup(
            jax.config.update,
            'jax_persistent_cache_min_compile_time_secs',
            seconds,
        )
        jax.jit(lambda x: x * 3 - 1)(jnp.ones(7))
        self.assertNotEmpty(list(self.folder.glob('*-cache')))

    def test_other_shapes_types_and_choices_are_other_programs(self):
        self.out(jnp.ones(3), 2.0)
        self.out(jnp.ones(4), 2.0)
        self.out(jnp.ones(3, jnp.int32), 2.0)
        self.out(jnp.ones(3), np.float32(2))  # Not weak in its type.
        self.assertEqual(self.out(jnp.ones(3), 2.0, power=3), 24)
        self.assertLen(self.kept(), 5)

    def test_a_damaged_program_is_compiled_anew(self):
        self.out(jnp.ones(3), 2.0)
        (path,) = self.kept()
        path.write_bytes(path.read_bytes()[:-100])
        self.another_process()
        self.assertEqual(self.out(jnp.ones(3), 2.0), 12)
        self.assertEqual(self.num_traces, 2)
        self.another_process()
        self.out(jnp.ones(3), 2.0)
        self.assertEqual(self.num_traces, 2)

    def test_a_folder_that_cannot_be_written_takes_nothing_away(self):
        (self.folder / 'whole').write_text('a file')
        self.assertEqual(self.out(jnp.ones(3), 2.0), 12)

    def test_the_least_recently_used_go_first(self):
        folder = self.folder / 'whole'
        folder.mkdir()
        for i in range(compiled._MOST_KEPT):
            path = folder / f'{i}.program'
            path.write_text('')
            os.utime(path, (i, i))
        self.out(jnp.ones(3), 2.0)
        self.assertLen(self.kept(), compiled._MOST_KEPT)
        self.assertFalse((folder / '0.program').exists())
        self.assertTrue((folder / '1.program').exists())

    def test_nothing_is_looked_for_where_nobody_asked(self):
        with mock.patch.object(compiled, '_finds', False):
            self.out(jnp.ones(3), 2.0)
        self.assertEmpty(self.kept())

    def test_what_a_user_defines_is_traced(self):
        class Mine(NamedTuple):
            x: jax.Array

        function = Function.of(lambda x: 2 * x, (4, 4, 3))
        for x in (Mine(jnp.ones(3)), function):
            found = compiled.find(self.scaled, x, 1.0, power=1)
            self.assertIsInstance(found, functools.partial)
            self.assertIs(found.func, self.scaled)

    def test_a_function_that_was_replaced_is_traced(self):
        other = jax.jit(lambda x, by, power: x, static_argnames='power')
        other.__wrapped__.__module__ = 'invjax.compiled'
        other.__wrapped__.__qualname__ = 'scaled'
        found = compiled.find(other, jnp.ones(3), 1.0, power=1)
        self.assertIs(found.func, other)


class KeepTest(absltest.TestCase):
    def keep(self, before):
        setting = 'jax_compilation_cache_dir'
        self.addCleanup(jax.config.update, setting, jax.config.values[setting])
        jax.config.update(setting, before)
        with mock.patch.dict(os.environ, XDG_CACHE_HOME='/of/a/user'):
            compiled.keep_programs()
        return jax.config.values[setting]

    def test_without_a_folder_programs_go_to_the_cache_of_the_user(self):
        self.assertEqual(self.keep(None), '/of/a/user/invjax/compiled')

    def test_a_folder_that_the_user_has_chosen_stays(self):
        self.assertEqual(self.keep('/chosen'), '/chosen')


class NameTest(parameterized.TestCase):
    def name(self, *args):
        return compiled._words_of_tree(jax.tree.structure(args))

    def test_all_that_is_static_is_part_of_the_name(self):
        shape, key = (16, 16, 3), jax.random.key(0)
        names = [
            self.name(None),
            self.name(1),
            self.name(()),
            self.name((1,)),
            self.name([1]),
            self.name({'a': 1}),
            self.name({'b': 1}),
            self.name(METHODS['dps']()),
            self.name(METHODS['dps'](normalise='gradient')),
            self.name(METHODS['wiener']()),
            *(
                self.name(make_operator(task, key, shape))
                for task in ('gaussian_deblur', 'super_resolution')
            ),
            compiled._words(UNet()),
            compiled._words(UNet(image_size=64)),
            compiled._words(UNet(dtype=jnp.bfloat16)),
            compiled._words(1),
            compiled._words(1.0),
            compiled._words(True),
            compiled._words('1'),
            compiled._words(np.dtype('float32')),
        ]
        self.assertLen(set(names), len(names))

    def test_numbers_are_no_part_of_the_name(self):
        self.assertEqual(
            self.name(METHODS['dps'](zeta=1.0)),
            self.name(METHODS['dps'](zeta=2.0)),
        )

    @parameterized.parameters(
        'jax_default_matmul_precision', 'jax_numpy_dtype_promotion'
    )
    def test_settings_of_jax_are(self, setting):
        values = {
            'jax_default_matmul_precision': (None, 'highest'),
            'jax_numpy_dtype_promotion': ('standard', 'strict'),
        }[setting]
        self.addCleanup(jax.config.update, setting, values[0])
        names = set()
        for value in values:
            jax.config.update(setting, value)
            names.add(compiled._name(compiled_identity, (1,), {}))
        self.assertLen(names, 2)

    def test_an_object_without_words_has_no_name(self):
        @flax.struct.dataclass
        class Mine:
            x: jax.Array

        for value in (lambda x: x, object(), Mine, Mine(1.0), {1}):
            with self.assertRaises(compiled._UnknownError):
                compiled._words(value)


compiled_identity = jax.jit(compiled._user_cache)


if __name__ == '__main__':
    absltest.main()
