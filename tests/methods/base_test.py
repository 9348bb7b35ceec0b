"""What all methods share: settings as plain data, and parts of a step."""

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax.diffusion import Transition
from invjax.methods import METHODS
from invjax.methods.base import Method, renoise, repeat_step
from invjax.methods.dip import DIP
from invjax.methods.dmps import DMPS
from invjax.methods.dps import DPS
from invjax.methods.sdedit import SDEdit
from tests.methods import dense

# For each, settings of which none is a default.
_NOT_DEFAULT = {
    'transition': 'ddim',
    'variance': 'beta',
    'eta': 0.25,
    'clip': False,
}


def other_than(default, kind):
    """A value that a field may have and is not its default."""
    if isinstance(default, str):
        return kind.names[-1]
    if isinstance(default, int):
        return default + 1
    return default / 2 if default else 0.5


class SettingsTest(parameterized.TestCase):
    @parameterized.parameters(*METHODS)
    def test_settings_are_the_inverse_of_of(self, name):
        cls = METHODS[name]
        self.assertEqual(cls.of(cls().settings()), cls())
        own = {
            field: other_than(default, cls.kinds[field])
            for field, default in cls.hyperparameters().items()
        }
        settings = {**own, **_NOT_DEFAULT}
        method = cls.of(settings)
        self.assertEqual(method.settings(), settings)
        self.assertEqual(tuple(settings), cls.setting_names())
        for field, value in own.items():
            self.assertEqual(getattr(method, field), value)
        self.assertEqual(
            method.transition, Transition('ddim', 'beta', 0.25, clip=False)
        )

    @parameterized.parameters(*METHODS)
    def test_a_misspelt_setting_is_named_in_a_sentence(self, name):
        with self.assertRaisesRegex(
            ValueError, f"{name} has no hyperparameter 'zetta'; it has .*eta"
        ):
            METHODS[name].of({'zetta': 1.0})

    @parameterized.parameters(*METHODS)
    def test_every_method_takes_the_choices_of_a_transition(self, name):
        with self.assertRaisesRegex(
            ValueError,
            "kind of transition must be one of ddpm, ddim, got 'euler'",
        ):
            METHODS[name].of({'transition': 'euler'})

    def test_whole_numbers_may_come_as_floats_and_no_others(self):
        # As flags and files give them.
        found = DIP.of({'channels': 8.0, 'iterations': 3.0})
        self.assertIs(type(found.channels), int)
        self.assertEqual((found.channels, found.iterations), (8, 3))
        for name in ('channels', 'iterations'):
            with self.assertRaisesRegex(ValueError, f'{name} of dip must be a'):
                DIP.of({name: 2.5})

    def test_settings_are_plain_data_whatever_came_in(self):
        method = DPS(np.float32(0.5), transition=Transition(eta=jnp.ones(())))
        settings = method.settings()
        self.assertIs(type(settings['zeta']), float)
        self.assertIs(type(settings['eta']), float)
        self.assertEqual(
            method.describe(),
            {'method': 'dps', 'version': 1, 'settings': settings},
        )

    def test_a_transition_is_given_by_name_alone(self):
        with self.assertRaises(TypeError):
            DMPS(1.0, Transition())

    def test_a_timestep_is_held_against_the_prior_where_that_is_known(self):
        method = SDEdit(250)
        method.check(251)
        with self.assertRaisesRegex(
            ValueError, 'tau of sdedit must be from 0 to 249, got 250'
        ):
            method.check(250)

    def test_what_a_method_must_have_is_an_update(self):
        class Nothing(Method):
            """It does nothing."""

        with self.assertRaisesRegex(NotImplementedError, 'Nothing has no upd'):
            Nothing().update(None, None, None, None, None, None)
        self.assertEqual(Nothing.name, 'nothing')
        self.assertIsNone(Nothing().first_t(dense.STEPS))


class StartTest(absltest.TestCase):
    def test_it_is_pure_noise_without_a_state(self):
        case = dense.case_of('dense')
        method = DPS()
        drawn = jax.vmap(
            lambda key: method.start(key, case.problem, case.steps)[0]
        )(jax.random.split(dense.KEY, 5000))
        dense.assert_moments(drawn, np.zeros(16), np.eye(16))
        _, state = method.start(dense.KEY, case.problem, case.steps)
        self.assertEqual(state, ())
        self.assertEqual(
            method.finish(dense.KEY, 'the image', state, case.problem),
            'the image',
        )


class PartsTest(parameterized.TestCase):
    @parameterized.parameters(0.0, 0.4, 1.0)
    def test_renoising_keeps_the_variance_of_the_level(self, mix):
        # Of x_t = sqrt(a) x_0 + sqrt(1 - a) eps, both parts have variance 1.
        case = dense.case_of('dense')
        for row in dense.ROWS:
            level = case.at(row)
            x_0, eps, noise = np.random.default_rng(0).normal(size=(3, 16))
            x_t = np.sqrt(level.a) * x_0 + np.sqrt(1 - level.a) * eps
            found = renoise(x_t, x_0, case.row(row), mix, noise)
            kept = np.sqrt(1 - mix) * eps + np.sqrt(mix) * noise
            np.testing.assert_allclose(
                found,
                np.sqrt(level.b) * x_0 + np.sqrt(1 - level.b) * kept,
                atol=1e-5 / np.sqrt(1 - level.a),
            )

    def test_a_repeated_step_has_a_new_key_each_time_and_ends_with_a_step(self):
        case = dense.case_of('dense')
        step = case.row(3)
        times = 4

        def step_once(key, x_t):
            # What the key is can be told from its noise.
            info = jax.tree.map(jnp.zeros_like, nothing)
            noise = jax.random.normal(key, (4, 4, 1))
            seen.append(x_t)
            return noise, info

        _, _, nothing = dense.update(DPS(), case, 3, dense.points(1)[0])
        seen = []
        begin = jnp.ones((4, 4, 1))
        with jax.disable_jit():
            end, _ = repeat_step(
                dense.KEY, begin, step, case.problem, times, step_once
            )
        self.assertLen(seen, times)
        np.testing.assert_array_equal(seen[0], begin)
        values = np.round(np.stack([np.ravel(x) for x in (*seen, end)]), 4)
        self.assertLen(np.unique(values, axis=0), times + 1)

    def test_a_step_is_undone_by_noise_that_is_independent_of_the_step_s(self):
        case = dense.case_of('dense')
        step = case.row(3)
        _, _, nothing = dense.update(DPS(), case, 3, dense.points(1)[0])
        seen, noises = [], []

        def step_once(key, x_t):
            seen.append(x_t)
            noises.append(jax.random.normal(key, x_t.shape))
            return jnp.full(x_t.shape, 2.0), nothing

        begin = jnp.zeros((4, 4, 1))
        with jax.disable_jit():
            repeat_step(dense.KEY, begin, step, case.problem, 65, step_once)
        # Of 1,024 normal values the variance is off by 4.4 %, and a correlation
        # by 3 %: bounds of four standard errors.
        back = np.stack(seen[1:]) - 2 * np.sqrt(1 - step.beta)
        before = np.stack(noises[:-1])
        self.assertAlmostEqual(np.var(back) / step.beta, 1, delta=0.18)
        self.assertLess(abs(np.mean(back)), 0.13 * np.sqrt(step.beta))
        self.assertLess(
            abs(np.corrcoef(back.ravel(), before.ravel())[0, 1]), 0.13
        )


if __name__ == '__main__':
    absltest.main()
