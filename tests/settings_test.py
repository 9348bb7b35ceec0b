"""Settings: frozen, checked, pytrees of their numbers, and programs by class."""

from __future__ import annotations

import dataclasses
import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch
from invjax.diffusion import Transition
from invjax.methods import METHODS
from invjax.methods.base import Method, observe
from invjax.methods.dmps import DMPS
from invjax.methods.dps import DPS
from invjax.methods.score_ald import ScoreALD
from invjax.methods.sdedit import SDEdit
from invjax.methods.tds import TDS
from invjax.settings import (
    Number,
    Settings,
    choice,
    count,
    fraction,
    not_negative,
    positive,
    positive_or_infinite,
    size,
    switch,
    timestep,
)

INFINITY = float('inf')


# Of a module whose annotations are text: ranges stand in the defaults.
class Inner(Settings):
    """A part.

    Attributes:
        depth: how deep.
    """

    depth: Number = positive(1.0)


class Whole(Settings):
    """Every kind of field.

    Attributes:
        weight: a weight
            of two lines.
        low, high: ends.
    """

    weight: Number = not_negative(1.0)
    low: Number = positive(2.0)
    high: Number = positive_or_infinite(3.0)
    share: Number = fraction(0.5)
    times: Number = count(4)
    tau: Number = timestep(5)
    any_number: Number = -7.0
    way: str = choice('this', 'that')
    wide: bool = switch(True)
    narrow: bool = False
    parts: int = size(8)
    inner: Inner = dataclasses.field(default=Inner())


class RangesTest(parameterized.TestCase):
    @parameterized.parameters(
        ('weight', [0, 1e9], [-1e-9, INFINITY, 'x'], '0 or more and finite'),
        ('low', [1e-9, 5], [0, -1, INFINITY], 'above 0 and finite'),
        ('high', [1e-9, INFINITY], [0, -1, -INFINITY], 'above 0'),
        ('share', [0, 0.3, 1], [-1e-9, 1.001, INFINITY], 'from 0 to 1'),
        (
            'times',
            [1, 7, 2.0],
            [0, 1.5, INFINITY],
            'a whole number of 1 or more',
        ),
        ('tau', [0, 0.5, 1e6], [-1e-9, INFINITY], 'from 0 to T - 1'),
        ('any_number', [-1e9, 0, INFINITY], [None], 'a number'),
        ('way', ['this', 'that'], ['other', 1], 'one of this, that'),
        ('wide', [True, False, np.True_], [1, 'yes'], 'True or False'),
        ('narrow', [True, False], [0], 'True or False'),
        ('parts', [1, 9], [0, 2.5, True, '3'], 'a whole number of 1 or more'),
        ('inner', [Inner(3.0)], [3.0, Whole()], 'Inner'),
    )
    def test_ends_are_in_and_what_lies_beyond_is_named(
        self, name, good, bad, words
    ):
        self.assertIn(words, Whole.range_of(name))
        for value in good:
            self.assertEqual(getattr(Whole(**{name: value}), name), value)
        for value in bad:
            with self.assertRaisesRegex(
                ValueError, f'^{name} of whole must be .*{words}.*, got .+[.]$'
            ):
                Whole(**{name: value})

    @parameterized.parameters(
        'weight', 'low', 'high', 'share', 'times', 'tau', 'any_number'
    )
    def test_nan_is_in_no_range_and_found_among_others(self, name):
        for value in (np.nan, np.array([1.0, np.nan])):
            with self.assertRaisesRegex(ValueError, f'{name} of .*, got nan'):
                Whole(**{name: value})

    def test_all_values_of_an_array_are_checked(self):
        Whole(share=np.array([0.0, 1.0]))
        with self.assertRaisesRegex(ValueError, 'got -0.5'):
            Whole(share=np.array([0.0, -0.5, 1.0]))

    def test_a_timestep_is_held_against_the_last_where_that_is_known(self):
        value = Whole(tau=np.array([0, 250]))
        value.check(251)
        with self.assertRaisesRegex(ValueError, 'from 0 to 249, got 250'):
            value.check(250)

    def test_what_is_inside_is_checked_too(self):
        with self.assertRaisesRegex(ValueError, 'depth of inner must be above'):
            Whole(inner=Inner(-1.0))

    def test_a_change_is_checked(self):
        self.assertEqual(Whole().replace(share=0.25).share, 0.25)
        with self.assertRaisesRegex(ValueError, 'share of whole'):
            Whole().replace(share=2)
        with self.assertRaisesRegex(TypeError, 'nothing'):
            Whole().replace(nothing=2)

    def test_a_traced_number_passes_and_a_traced_size_does_not(self):
        @jax.jit
        def weigh(value):
            return Whole(weight=value).weight

        self.assertEqual(weigh(-1.0), -1.0)

        @jax.jit
        def part(value):
            return Whole(parts=value).parts

        with self.assertRaisesRegex(
            ValueError, 'parts of whole must be .*not traced, since it sets a'
        ):
            part(3)

    def test_a_field_without_a_range_is_refused_where_it_is_defined(self):
        with self.assertRaisesRegex(TypeError, "the field 'title' needs a def"):

            class Wrong(Settings):
                title: str = 'x'

        with self.assertRaisesRegex(TypeError, "the field 'free' needs a def"):

            class Free(Settings):
                free: Number


class ValueTest(absltest.TestCase):
    def test_it_does_not_change(self):
        value = Whole()
        with self.assertRaises(dataclasses.FrozenInstanceError):
            value.weight = 2.0

    def test_values_that_say_the_same_are_equal(self):
        self.assertEqual(Whole(weight=2.0), Whole(weight=2.0))
        self.assertNotEqual(Whole(weight=2.0), Whole())
        self.assertNotEqual(Whole(way='that'), Whole())

    def test_it_shows_what_is_not_a_default(self):
        self.assertEqual(repr(Whole()), 'Whole()')
        self.assertEqual(
            repr(Whole(share=0.25, way='that')), "Whole(share=0.25, way='that')"
        )
        self.assertEqual(
            repr(Whole(inner=Inner(2.0))), 'Whole(inner=Inner(depth=2.0))'
        )
        self.assertIn('[0.25, 0.75]', repr(Whole(share=np.array([0.25, 0.75]))))

    def test_meanings_are_those_of_the_docstring(self):
        meanings = Whole.meanings()
        self.assertEqual(meanings['weight'], 'a weight of two lines.')
        self.assertEqual(meanings['low'], 'ends.')
        self.assertEqual(meanings['high'], 'ends.')
        self.assertEqual(meanings['share'], '')
        self.assertEqual(list(meanings), list(Whole.kinds))

    def test_every_setting_of_every_method_has_a_meaning(self):
        for cls in (*METHODS.values(), Transition):
            for name, text in cls.meanings().items():
                self.assertTrue(text, f'{name} of {cls.name}')
        # Of a class above, too.
        self.assertIn('timestep of the first', METHODS['hqs'].meanings()['tau'])


class TreeTest(absltest.TestCase):
    def test_numbers_are_leaves_and_the_rest_is_static(self):
        value = Whole(weight=2.0, way='that')
        leaves, structure = jax.tree.flatten(value)
        self.assertEqual(leaves, [2.0, 2.0, 3.0, 0.5, 4, 5, -7.0, 1.0])
        self.assertEqual(jax.tree.unflatten(structure, leaves), value)
        paths = [
            jax.tree_util.keystr(path)
            for path, _ in jax.tree_util.tree_leaves_with_path(value)
        ]
        self.assertEqual(paths[0], '.weight')
        self.assertEqual(paths[-1], '.inner.depth')

    def test_structures_differ_by_choices_and_not_by_numbers(self):
        structure = jax.tree.structure(Whole())
        self.assertEqual(jax.tree.structure(Whole(weight=9.0)), structure)
        for other in (
            Whole(way='that'),
            Whole(wide=False),
            Whole(parts=9),
            Inner(),
        ):
            self.assertNotEqual(jax.tree.structure(other), structure)

    def test_leaves_may_be_what_is_no_number(self):
        # As JAX has them when it looks at a tree.
        names = jax.tree.map(lambda leaf: 'leaf', Whole())
        self.assertEqual(names.weight, 'leaf')
        self.assertEqual(names.way, 'this')
        shaped = jax.eval_shape(lambda value: value, Whole())
        self.assertEqual(shaped.weight.shape, ())

    def test_a_method_is_a_tree_of_its_numbers(self):
        method = DMPS(3.0, transition=Transition(eta=0.5))
        self.assertEqual(jax.tree.leaves(method), [0.5, 3.0])


class StackTest(absltest.TestCase):
    def test_methods_that_differ_in_numbers_are_one_of_arrays(self):
        stacked = batch.stack_methods(
            [ScoreALD(2.0, 3.0), ScoreALD(5.0), ScoreALD(gamma_T=7.0)]
        )
        np.testing.assert_array_equal(stacked.gamma_0, [2, 5, 10])
        np.testing.assert_array_equal(stacked.gamma_T, [3, 15, 7])
        self.assertEqual(stacked.gamma_0.dtype, np.float32)
        np.testing.assert_array_equal(stacked.transition.eta, [0, 0, 0])
        stacked.check(1000)

    def test_methods_that_differ_otherwise_are_refused_in_a_sentence(self):
        for one, other in (
            (DPS(), DPS(normalise='gradient')),
            (DPS(), SDEdit()),
            (TDS(particles=2), TDS(particles=3)),
            (DPS(), DPS(transition=Transition(clip=False))),
        ):
            with self.assertRaisesRegex(
                ValueError, 'must differ in numbers alone, got .* and .*'
            ):
                batch.stack_methods([one, other])


def shifting(amount):
    """A class of one name whatever it does, as a notebook defines it anew."""

    class Shift(Method):
        """It adds a number.

        Attributes:
            factor: of it.
        """

        factor: Number = not_negative(1.0)

        def update(self, key, x_t, state, step, problem, prior):
            moved = x_t + self.factor * amount
            return moved, state, observe(x_t, x_t, moved, x_t, problem)

    return Shift


class ProgramTest(absltest.TestCase):
    def test_a_class_that_is_defined_anew_runs_its_own_program(self):
        traced = []

        @functools.partial(jax.jit)
        def run(method, x):
            traced.append(type(method))
            return method.update(None, x, (), None, _Nothing(), None)[0]

        first, second = shifting(1.0), shifting(10.0)
        self.assertEqual(first.__qualname__, second.__qualname__)
        self.assertEqual(run(first(), jnp.zeros(())), 1)
        self.assertEqual(run(second(), jnp.zeros(())), 10)
        self.assertEqual(run(first(2.0), jnp.zeros(())), 2)
        # Another number is not another program.
        self.assertEqual(traced, [first, second])

    def test_a_class_in_a_source_whose_annotations_are_text_is_checked(self):
        # This file's are, and so would be those of a user's.
        self.assertIsInstance(inspect.get_annotations(Whole)['weight'], str)
        with self.assertRaisesRegex(ValueError, 'factor of shift must be 0 or'):
            shifting(1.0)(-1.0)


class _Nothing:
    """A problem that explains everything."""

    def residual(self, x):
        return jnp.zeros_like(x)


if __name__ == '__main__':
    absltest.main()
