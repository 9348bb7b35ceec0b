"""One step: the mean gradient, whatever parts and devices; averages; refusals."""

import subprocess
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from invjax import schedule
from invjax.training import Config, loss
from invjax.training import step as steps
from tests.training import small

_BATCH = 8


def _config(**kwargs):
    given = {
        'images': 'phantoms:100',
        'out': 'nowhere',
        'size': (8, 8),
        'channels': 1,
        'preset': 'tiny',
        'batch': _BATCH,
        'learning_rate': 0.01,
        'warm_up': 0,
        'pooled_weight': 0.5,
    }
    return Config(**{**given, **kwargs})


def _images(seed=0):
    rng = np.random.default_rng(seed)
    return rng.uniform(-1, 1, (_BATCH, 8, 8, 1)).astype(np.float32)


def _run(config, number=3, devices=None, images=_images):
    """The state and metrics after some steps."""
    prior = small.prior_for(config)
    mesh = steps.make_mesh(config, devices)
    compiled = steps.compile_step(config, prior, mesh)
    state = jax.device_put(
        steps.first_state(config, prior.params), steps.replicated(mesh)
    )
    for i in range(number):
        batch = jax.device_put(images(i), steps.sharded(mesh))
        state, metrics = compiled.run(state, batch)
    return jax.device_get(state), jax.device_get(metrics)


def assert_trees_close(actual, expected, tolerance):
    for one, other in zip(
        jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)


class StepTest(parameterized.TestCase):
    @pytest.mark.slow
    def test_the_gradient_is_the_mean_of_each_images(self):
        prior = small.prior()
        terms = steps.terms_of(_config())
        rows = schedule.reverse_steps(prior.alpha_bar)
        noise = np.random.default_rng(1).standard_normal((_BATCH, 8, 8, 1))
        t = np.arange(0, 50, 50 // _BATCH)[:_BATCH]

        def gradient(part):
            return jax.grad(steps.batch_loss, has_aux=True)(
                prior.params,
                prior,
                rows,
                terms,
                _images()[part],
                t[part],
                noise[part].astype(np.float32),
                jnp.ones(steps.NUM_LEVELS),
            )[0]

        together = gradient(slice(None))
        each = [gradient(slice(i, i + 1)) for i in range(_BATCH)]
        mean = jax.tree.map(lambda *leaves: sum(leaves) / _BATCH, *each)
        assert_trees_close(together, mean, 1e-5)

    @parameterized.parameters('simple', 'balanced')
    def test_parts_change_nothing_but_the_rounding(self, weighting):
        whole, seen = _run(_config(weighting=weighting))
        parts, seen_of_parts = _run(_config(weighting=weighting, accumulate=4))
        assert_trees_close(seen_of_parts, seen, 1e-5)
        np.testing.assert_allclose(
            parts.level_errors, whole.level_errors, rtol=1e-5
        )
        # What was seen at a level is what later images of it are weighed by.
        self.assertGreater(np.abs(whole.level_errors - 1).max(), 0.01)
        _, simple = _run(_config())
        is_same = abs(seen.loss.total - simple.loss.total) < 1e-6
        self.assertEqual(is_same, weighting == 'simple')
        # Adam divides by the gradient's size, and so enlarges rounding.
        assert_trees_close(parts.params, whole.params, 1e-4)

    def test_two_devices_have_the_step_of_one(self):
        # Devices are made when JAX starts.
        done = subprocess.run(
            [sys.executable, __file__, 'devices'],
            env={**small.environment(), 'JAX_NUM_CPU_DEVICES': '2'},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn('2 devices agree with 1', done.stdout)

    def test_it_learns(self):
        config = _config(pooled_weight=0.0)
        _, before = _run(config, 1)
        _, after = _run(config, 200)
        self.assertLess(after.loss.total, 0.9 * before.loss.total)

    def test_what_is_not_finite_moves_nothing_from_then_on(self):
        def images(i):
            return _images(i) + (np.nan if i == 2 else 0)

        good, _ = _run(_config(), 2)
        state, seen = _run(_config(), 4, images=images)
        self.assertFalse(seen.is_finite)
        self.assertFalse(state.is_finite)
        self.assertEqual(state.step, 2)
        assert_trees_close(state.params, good.params, 0)
        assert_trees_close(state.averages, good.averages, 0)
        assert_trees_close(state.optimizer, good.optimizer, 0)

    def test_other_steps_have_other_noise(self):
        # Without learning, only noise and timesteps differ.
        losses = {
            float(
                _run(
                    _config(learning_rate=1e-30), n, images=lambda i: _images()
                )[1].loss.total
            )
            for n in (1, 2, 3)
        }
        self.assertLen(losses, 3)

    def test_timesteps_and_noise_have_keys_of_their_own(self):
        config, prior = _config(), small.prior()
        step = steps.make_step(config, prior, steps.make_mesh(config))
        keys = []
        draw_timesteps, normal = steps.draw_timesteps, jax.random.normal

        def noted(draw):
            def draw_and_note(key, *arguments):
                keys.append(key)
                return draw(key, *arguments)

            return draw_and_note

        with (
            mock.patch.object(steps, 'draw_timesteps', noted(draw_timesteps)),
            mock.patch.object(jax.random, 'normal', noted(normal)),
        ):
            # Traced alone; a key that is used twice is one and the same tracer.
            jax.eval_shape(
                step, steps.first_state(config, prior.params), _images()
            )
        of_timesteps, of_noise = keys
        self.assertIsNot(of_timesteps, of_noise)

    def test_devices_that_cannot_share_a_batch_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'cannot be shared by 3'):
            steps.make_mesh(_config(), jax.devices() * 3)

    def test_of_a_divided_cpu_as_many_are_used_as_share_a_batch_evenly(self):
        for batch, accumulate, expected in ((8, 1, 2), (9, 1, 3), (8, 8, 1)):
            config = _config(batch=batch, accumulate=accumulate)
            with (
                mock.patch.object(
                    jax, 'devices', lambda: jax.local_devices() * 3
                ),
                mock.patch.object(steps, 'Mesh', lambda found, names: found),
            ):
                self.assertLen(steps.make_mesh(config), expected)

    def test_memory_of_a_divided_cpu_is_that_of_all_its_devices(self):
        state = {'x': np.zeros(2**26, np.float32)}
        run = mock.Mock()
        run.memory_analysis().temp_size_in_bytes = 2**29
        one, two = (
            steps._memory_words(run, state, jax.devices() * n) for n in (1, 2)
        )
        self.assertStartsWith(one, '0.75 GiB on the device at the peak, 0.25')
        self.assertStartsWith(two, '1.50 GiB on the 2 devices together')


class TimestepsTest(parameterized.TestCase):
    def test_every_batch_has_all_levels_and_every_place_has_all_timesteps(self):
        keys = jax.random.split(jax.random.key(0), 4000)
        t = jax.vmap(lambda key: steps.draw_timesteps(key, 5, 20))(keys)
        # Within a fifth of the circle from one to the next.
        for batch in np.sort(t[:100], axis=1):
            gaps = np.diff([*batch, batch[0] + 20])
            self.assertLessEqual(gaps.max(), 8)
        for place in range(5):
            counts = np.bincount(t[:, place], minlength=20)
            self.assertLen(counts, 20)
            # 200 each, to five standard errors.
            np.testing.assert_allclose(counts, 200, atol=5 * 200**0.5)


class LevelsTest(parameterized.TestCase):
    def test_balanced_weighs_each_error_by_what_is_usual_at_its_level(self):
        prior = small.prior()
        rows = schedule.reverse_steps(prior.alpha_bar)
        terms = loss.Terms(weighting='balanced', variance_weight=0.0)
        rng = np.random.default_rng(0)
        usual = rng.uniform(0.1, 3, steps.NUM_LEVELS).astype(np.float32)
        noise = rng.standard_normal((4, 8, 8, 1), np.float32)
        # Of 50 timesteps a level has two or three.
        t = np.array([0, 2, 3, 49])
        total, parts = steps.batch_loss(
            prior.params, prior, rows, terms, _images()[:4], t, noise, usual
        )
        errors = []
        for i in range(4):
            alpha_bar = prior.alpha_bar[t[i]]
            x_t = np.sqrt(alpha_bar) * _images()[i]
            x_t = x_t + np.sqrt(1 - alpha_bar) * noise[i]
            eps = prior(x_t.astype(np.float32), t[i]).eps
            errors.append(np.square(eps - noise[i]).mean())
        levels = [0, 0, 1, 19]
        expected = np.mean(np.array(errors) / usual[levels])
        np.testing.assert_allclose(total, expected, rtol=1e-5)
        np.testing.assert_allclose(
            np.asarray(parts.level_sums)[[0, 1, 19]],
            [errors[0] + errors[1], errors[2], errors[3]],
            rtol=1e-5,
        )
        np.testing.assert_array_equal(
            parts.level_counts, np.bincount(levels, minlength=20)
        )

    def test_the_usual_error_is_that_of_late_and_stays_where_none_was_seen(
        self,
    ):
        seen = steps.Parts(
            None,
            jnp.zeros(steps.NUM_LEVELS).at[3].set(0.5),
            jnp.zeros(steps.NUM_LEVELS).at[3].set(2),
        )
        levels = jnp.ones(steps.NUM_LEVELS)
        once = steps.update_levels(levels, seen)
        # Two images one after the other, each of a fiftieth.
        np.testing.assert_allclose(once[3], 0.25 + 0.75 * 0.98**2, rtol=1e-6)
        for _ in range(500):
            levels = steps.update_levels(levels, seen)
        np.testing.assert_allclose(levels[3], 0.25, rtol=1e-4)
        np.testing.assert_array_equal(np.delete(levels, 3), 1)


class AverageTest(parameterized.TestCase):
    def test_half_is_forgotten_within_a_half_life(self):
        config = _config(half_lives=(80, 160))
        state = steps.first_state(config, {'w': jnp.zeros(3)})
        # Long after the beginning.
        state = state.replace(step=jnp.asarray(10_000))
        for _ in range(80 // _BATCH):
            averages = steps.average(config, state, {'w': jnp.ones(3)})
            state = state.replace(averages=averages, step=state.step + 1)
        np.testing.assert_allclose(state.averages[0]['w'], 1 / 2, rtol=1e-5)
        np.testing.assert_allclose(
            state.averages[1]['w'], 1 - 0.5**0.5, rtol=1e-5
        )

    def test_the_first_parameters_are_soon_forgotten(self):
        config = _config(half_lives=(10**6, 10**7))
        state = steps.first_state(config, {'w': jnp.zeros(3)})
        for i in range(40):
            averages = steps.average(config, state, {'w': jnp.ones(3)})
            state = state.replace(averages=averages, step=jnp.asarray(i + 1))
        for average in state.averages:
            np.testing.assert_allclose(average['w'], 1, atol=1e-4)


class OptimizerTest(parameterized.TestCase):
    @parameterized.parameters(
        ('none', 1.0, 1.0), ('cosine', 0.5, 0.0), ('linear', 0.5, 0.0)
    )
    def test_the_rate_rises_and_falls(self, decay, half_way, end):
        config = _config(
            decay=decay, warm_up=10, num_steps=110, learning_rate=2.0
        )
        rate = steps.learning_rate(config)
        self.assertGreater(rate(0), 0)
        rising = [float(rate(i)) for i in range(11)]
        np.testing.assert_allclose(np.diff(rising), rising[1] - rising[0], 1e-4)
        np.testing.assert_allclose(rate(10), 2.0)
        np.testing.assert_allclose(rate(60), 2.0 * half_way, rtol=1e-4)
        np.testing.assert_allclose(rate(110), 2.0 * end, atol=1e-5)

    def test_kernels_alone_decay_and_long_gradients_are_cut(self):
        config = _config(weight_decay=0.1, learning_rate=0.5)
        params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
        optimizer = steps.make_optimizer(config)
        nothing = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(nothing, optimizer.init(params), params)
        np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-6)
        np.testing.assert_array_equal(updates['bias'], 0)

        # What Adam remembers of a gradient of norm 300 is that of one of 3.
        config = _config(clip=3.0)
        optimizer = steps.make_optimizer(config)
        one = jax.tree.map(jnp.zeros_like, params)
        one['bias'] = jnp.array([300.0, 0.0])
        _, state = optimizer.update(one, optimizer.init(params), params)
        moments = [
            leaf for leaf in jax.tree.leaves(state) if leaf.shape == (2,)
        ]
        np.testing.assert_allclose(moments[0], [0.3, 0], rtol=1e-5)

    def test_muon_moves_a_kernel_by_the_same_in_all_its_directions(self):
        rng = np.random.default_rng(0)
        shape = 3, 3, 8, 16
        # Directions of a gradient that differ by a factor of 100.
        left, _, right = np.linalg.svd(rng.standard_normal((72, 16)), False)
        sizes = np.geomspace(0.01, 1, 16)
        gradient = ((left * sizes) @ right).astype(np.float32)
        config = _config(optimizer='muon', weight_decay=0.0, clip=1e6)
        optimizer = steps.make_optimizer(config)
        # Two channels of an image, or an image's mean and variance.
        gradients = {
            'kernel': gradient.reshape(shape),
            'first': jnp.full((3, 3, 2, 16), -3.0),
            'last': jnp.full((3, 3, 16, 6), 0.01),
            'bias': jnp.linspace(-1, 2.1, 16),
        }
        params = jax.tree.map(jnp.ones_like, gradients)
        updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        update = np.reshape(updates['kernel'], (72, 16))
        found = -np.diag(left.T @ update @ right.T)
        # About as large as an update of Adam, and orthogonal but for a factor
        # of 0.5 to 1.5 that its five iterations leave.
        self.assertGreater(found.min(), 0.3 * found.max())
        root_mean_square = np.sqrt(np.mean(np.square(update)))
        np.testing.assert_allclose(
            root_mean_square, 0.2 * config.learning_rate, rtol=0.3
        )
        # The others are Adam's, whose first update is the rate, whatever the
        # gradient's size, times what Nesterov's momentum makes of it with
        # beta_1 = 0.9: 0.9 (1 - 0.9) / (1 - 0.9^2) + 1.
        for name in ('first', 'last', 'bias'):
            expected = -np.sign(gradients[name]) * (0.09 / 0.19 + 1)
            np.testing.assert_allclose(
                updates[name] / config.learning_rate, expected, rtol=1e-4
            )

    def test_muon_learns_and_decays_kernels_alone(self):
        config = _config(pooled_weight=0.0, optimizer='muon')
        _, before = _run(config, 1)
        _, after = _run(config, 200)
        self.assertLess(after.loss.total, 0.9 * before.loss.total)

        config = _config(optimizer='muon', weight_decay=0.1, learning_rate=0.5)
        params = {
            'kernel': jnp.ones((8, 8)),
            'narrow': jnp.ones((3, 3, 1, 8)),
            'bias': jnp.ones(8),
        }
        optimizer = steps.make_optimizer(config)
        nothing = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(nothing, optimizer.init(params), params)
        np.testing.assert_allclose(updates['kernel'], -0.05, rtol=1e-5)
        np.testing.assert_array_equal(updates['bias'], 0)
        # Those of the first layer and the last are Adam's, without decay.
        np.testing.assert_array_equal(updates['narrow'], 0)


def _compare_devices():
    for more in ({}, {'weighting': 'balanced', 'optimizer': 'muon'}):
        one, seen_of_one = _run(_config(**more), devices=jax.devices()[:1])
        for accumulate in (1, 2):
            both, seen = _run(_config(accumulate=accumulate, **more))
            assert_trees_close(seen, seen_of_one, 1e-5)
            assert_trees_close(both, one, 1e-4)
    print(f'{len(jax.devices())} devices agree with 1')


if __name__ == '__main__':
    if sys.argv[1:] == ['devices']:
        _compare_devices()
    else:
        absltest.main()
