"""Batches: lanes are alone with themselves, and share one compiled program."""

from typing import Any
from unittest import mock

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest, parameterized

from invjax import batch, operators, problem, schedule
from invjax.diffusion import Transition
from invjax.methods.dmps import DMPS
from invjax.methods.dps import DPS
from invjax.methods.score_ald import ScoreALD
from invjax.methods.sdedit import SDEdit
from invjax.methods.unconditional import Unconditional
from invjax.priors import gaussian
from invjax.types import Info, Prediction

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
SHAPE = (4, 4, 2)
PRIOR = gaussian.GaussianPrior.isotropic(np.full(SHAPE, 0.2), 0.1, ALPHA_BAR)
KEY = jax.random.key(0)
_CALLS = []


@flax.struct.dataclass
class CountingPrior:
    """A prior that notes when Python runs it, which is when it is traced."""

    prior: Any

    @property
    def alpha_bar(self):
        return self.prior.alpha_bar

    def __call__(self, x_t, t):
        _CALLS.append(x_t.shape)
        return self.prior(x_t, t)


@flax.struct.dataclass
class BreakingPrior(CountingPrior):
    """A prior that predicts NaN from a timestep down."""

    last_good_t: jax.Array

    def __call__(self, x_t, t):
        eps = self.prior(x_t, t).eps
        return Prediction(jnp.where(t < self.last_good_t, jnp.nan, eps))


def make_problems(number=3, task='box_inpainting', shape=SHAPE):
    """Problems whose images, masks and noise all differ."""
    problems = []
    for i in range(number):
        key_x, key_operator, key_noise = jax.random.split(jax.random.key(i), 3)
        operator = operators.make_operator(task, key_operator, shape)
        x_0 = 0.2 + 0.3 * jax.random.normal(key_x, shape)
        problems.append(problem.measure(key_noise, x_0, operator, 0.1))
    return problems


def methods(*zetas):
    return [DPS(zeta) for zeta in zetas]


class LanesTest(parameterized.TestCase):
    def test_methods_vary_fastest_then_samples_then_images(self):
        problems = make_problems(2)
        lanes = batch.make_lanes(
            KEY, problems, methods(0.0, 1.0, 2.0), num_samples=2
        )
        self.assertLen(lanes.keys, 12)
        np.testing.assert_array_equal(lanes.methods.zeta, [0, 1, 2] * 4)
        for i in range(12):
            np.testing.assert_array_equal(
                lanes.problems.y[lanes.rows[i]], problems[i // 6].y
            )

    def test_keys_are_the_same_across_methods_and_no_others(self):
        lanes = batch.make_lanes(
            KEY, make_problems(2), methods(0.0, 1.0, 2.0), num_samples=2
        )
        data = jax.random.key_data(lanes.keys).reshape(4, 3, -1)
        np.testing.assert_array_equal(data, data[:, :1] + 0 * data)
        self.assertLen(np.unique(data[:, 0], axis=0), 4)

    def test_a_part_of_a_data_set_has_the_keys_it_has_in_the_whole(self):
        problems = make_problems(3)
        whole = batch.make_lanes(KEY, problems, methods(1.0), num_samples=2)
        part = batch.make_lanes(
            KEY, problems[1:], methods(1.0), num_samples=2, first_image=1
        )
        np.testing.assert_array_equal(
            jax.random.key_data(whole.keys)[2:], jax.random.key_data(part.keys)
        )

    def test_methods_of_other_choices_are_refused(self):
        with self.assertRaisesRegex(ValueError, 'differ in numbers alone'):
            batch.make_lanes(
                KEY, make_problems(1), [DPS(), DPS(normalise='gradient')]
            )

    def test_some_lanes_are_taken_in_the_order_asked_for(self):
        lanes = batch.make_lanes(KEY, make_problems(2), methods(0.0, 1.0, 2.0))
        taken = lanes.take(np.array([4, 0, 5]))
        np.testing.assert_array_equal(taken.methods.zeta, [1, 0, 2])
        np.testing.assert_array_equal(taken.rows, [1, 0, 1])
        np.testing.assert_array_equal(
            jax.random.key_data(taken.keys),
            jax.random.key_data(lanes.keys)[np.array([4, 0, 5])],
        )

    def test_lanes_of_several_calls_are_those_of_each(self):
        problems = make_problems(3)
        parts = [
            batch.make_lanes(KEY, problems[:2], methods(0.2, 0.9)),
            batch.make_lanes(KEY, problems[2:], methods(0.5), first_image=2),
        ]
        joined = batch.join_lanes(parts)
        np.testing.assert_array_equal(joined.rows, [0, 0, 1, 1, 2])
        np.testing.assert_allclose(joined.methods.zeta, [0.2, 0.9] * 2 + [0.5])
        result = batch.run_lanes(joined, PRIOR, 10)
        expected = [batch.run_lanes(part, PRIOR, 10).x for part in parts]
        np.testing.assert_allclose(
            result.x, np.concatenate(expected), atol=1e-5
        )


class RunTest(parameterized.TestCase):
    @parameterized.parameters(
        Unconditional(), DPS(0.7), ScoreALD(5.0, 9.0), SDEdit(500)
    )
    def test_a_row_of_a_batch_is_that_image_alone(self, method):
        problems = make_problems(3)
        lanes = batch.make_lanes(KEY, problems, [method])
        together = batch.run_lanes(lanes, PRIOR, 20)
        np.testing.assert_array_equal(together.lanes, [0, 1, 2])
        for i, measured in enumerate(problems):
            alone = batch.run_lanes(
                batch.make_lanes(KEY, [measured], [method], first_image=i),
                PRIOR,
                20,
            )
            # Sums of a batch may be added up in another order.
            np.testing.assert_allclose(together.x[i], alone.x[0], atol=1e-5)
            np.testing.assert_allclose(
                together.info.residual[i], alone.info.residual[0], atol=1e-4
            )

    @parameterized.parameters(1, 3, 4, 6, 100)
    def test_max_lanes_does_not_change_results(self, max_lanes):
        lanes = batch.make_lanes(KEY, make_problems(3), methods(0.2, 1.0))
        expected = batch.run_lanes(lanes, PRIOR, 20, max_lanes=2)
        result = batch.run_lanes(lanes, PRIOR, 20, max_lanes=max_lanes)
        np.testing.assert_array_equal(result.lanes, np.arange(6))
        np.testing.assert_allclose(result.x, expected.x, atol=1e-5)
        for values, others in zip(result.info, expected.info, strict=True):
            self.assertEqual(values.shape, (6, 20))
            np.testing.assert_allclose(values, others, atol=1e-4)

    @parameterized.parameters(3, 20, 64)
    def test_the_length_of_a_stretch_does_not_change_results(self, stretch):
        lanes = batch.make_lanes(KEY, make_problems(2), methods(1.0))
        expected = batch.run_lanes(lanes, PRIOR, 20)
        result = batch.run_lanes(lanes, PRIOR, 20, stretch=stretch)
        np.testing.assert_allclose(result.x, expected.x, atol=1e-5)

    def test_methods_share_their_noise(self):
        # The prior's first step comes before any correction, so its length
        # tells the noise: the same for all methods, another for each image.
        lanes = batch.make_lanes(KEY, make_problems(2), methods(0.0, 0.5, 2.0))
        result = batch.run_lanes(lanes, PRIOR, 20)
        first = result.info.prior_step[:, 0].reshape(2, 3)
        np.testing.assert_allclose(first, first[:, :1] + 0 * first, rtol=1e-6)
        self.assertNotAlmostEqual(first[0, 0], first[1, 0], places=3)

    def test_progress_rises_to_the_whole(self):
        lanes = batch.make_lanes(KEY, make_problems(3), [Unconditional()])
        seen = []
        batch.run_lanes(
            lanes,
            PRIOR,
            25,
            max_lanes=2,
            on_progress=lambda *pair: seen.append(pair),
        )
        done, total = zip(*seen, strict=True)
        self.assertEqual(set(total), {75})
        self.assertEqual(done, (0, 20, 40, 50, 60, 70, 75))

    def test_mistakes_are_refused_before_any_work(self):
        measured = make_problems(1)
        nonlinear = measured[0].replace(
            operator=operators.Function.of(jnp.tanh, SHAPE)
        )
        for lanes, num_steps, message in (
            (batch.make_lanes(KEY, measured, methods(1.0)), 0, 'num_steps'),
            (
                batch.make_lanes(KEY, measured, [SDEdit(1000)]),
                10,
                'tau of sdedit must be from 0 to 999, got 1000',
            ),
            (
                batch.make_lanes(KEY, [nonlinear], [DMPS()]),
                10,
                'dmps needs a linear operator, which Function is not',
            ),
        ):
            with self.assertRaisesRegex(ValueError, message):
                # Not iterated: the call itself refuses.
                batch.run_batches(lanes, PRIOR, num_steps)


@flax.struct.dataclass
class CardedPrior(CountingPrior):
    """A prior with a card, which says nothing of how it computes."""

    card: Any = flax.struct.field(pytree_node=False, default=None)

    def bare(self):
        return self.replace(card=None)


class ProgramTest(absltest.TestCase):
    def run_dps(self, zetas, problems, num_steps=20, prior=None, key=KEY):
        return batch.run_lanes(
            batch.make_lanes(key, problems, methods(*zetas)),
            CountingPrior(PRIOR) if prior is None else prior,
            num_steps,
            max_lanes=4,
        )

    def test_one_trace_serves_all_values_and_the_next_sweep(self):
        problems = make_problems(2)
        _CALLS.clear()
        self.run_dps([0.1, 0.5, 1.0, 2.0], problems)
        self.assertLen(_CALLS, 1)
        # Other values, another number of them, images, masks, steps and another
        # key.
        self.run_dps([0.3, 0.7], problems[::-1])
        self.run_dps([3.0] * 5, problems, 33, key=jax.random.key(7))
        others = make_problems(4, 'random_inpainting')[2:]
        self.run_dps([0.1, 0.2], others)
        # Another noise, a truth and a task's name, which no method sees.
        named = [
            p.replace(
                noise_std=jnp.float32(0.4), truth=p.y, task='box_inpainting'
            )
            for p in problems
        ]
        self.run_dps([0.1, 0.2], named)
        # Other weights, of the same prior.
        wider = gaussian.GaussianPrior.isotropic(
            np.full(SHAPE, 0.1), 0.3, ALPHA_BAR
        )
        self.run_dps([0.1, 0.2], problems, prior=CountingPrior(wider))
        # Another value of what both have.
        batch.run_lanes(
            batch.make_lanes(
                KEY, problems, [DPS(1.0, transition=Transition(eta=0.3))] * 2
            ),
            CountingPrior(PRIOR),
            20,
            max_lanes=4,
        )
        self.assertLen(_CALLS, 1)

    def test_another_card_is_not_another_program(self):
        problems = make_problems(2)
        _CALLS.clear()
        for card in ('one', 'other'):
            self.run_dps([0.1], problems, prior=CardedPrior(PRIOR, card))
        self.assertLen(_CALLS, 1)

    def test_another_choice_is_another_program(self):
        problems = make_problems(2)
        self.run_dps([0.1], problems)
        _CALLS.clear()
        x = batch.run_lanes(
            batch.make_lanes(KEY, problems, [DPS(0.1, 'gradient')]),
            CountingPrior(PRIOR),
            20,
            max_lanes=4,
        ).x
        self.assertLen(_CALLS, 1)
        self.assertGreater(np.abs(x - self.run_dps([0.1], problems).x).max(), 0)

    def test_a_class_defined_anew_under_its_name_is_another_program(self):
        problems = make_problems(2)
        found = []
        for shift in (0.25, 0.75):

            class Constant(Unconditional):
                """All pixels are alike."""

                shift_by = shift

                def finish(self, key, x, state, problem):
                    return 0 * x + self.shift_by

            lanes = batch.make_lanes(KEY, problems, [Constant()])
            found.append(batch.run_lanes(lanes, PRIOR, 5).x.mean())
        np.testing.assert_allclose(found, [0.25, 0.75])


class StartsTest(parameterized.TestCase):
    @parameterized.product(
        num_starts=[3, 5], method=[DPS(0.1), DPS(moments='adam')]
    )
    def test_starts_of_least_residual_end_as_they_do_alone(
        self, num_starts, method
    ):
        # Two images, each with so many starts. Of 9 steps 3 are early; of 3
        # starts one goes on, and of 5 two.
        lanes = batch.make_lanes(KEY, make_problems(2), [method], num_starts)
        alone = batch.run_lanes(lanes, PRIOR, 9, max_lanes=4, stretch=4)
        residual = alone.info.residual[:, 2].reshape(2, num_starts)
        number = {3: 1, 5: 2}[num_starts]
        expected = [
            image * num_starts + start
            for image in range(2)
            for start in sorted(np.argsort(residual[image])[:number])
        ]
        steps = []
        found = batch.run_starts(
            lanes,
            PRIOR,
            9,
            num_starts,
            max_lanes=4,
            stretch=4,
            on_progress=lambda done, total: steps.append((done, total)),
        )
        np.testing.assert_array_equal(found.lanes, expected)
        np.testing.assert_allclose(found.x, alone.x[expected], atol=1e-6)
        jax.tree.map(
            lambda one, other: np.testing.assert_allclose(
                one, other[expected], rtol=1e-5, atol=1e-6
            ),
            found.info,
            alone.info,
        )
        self.assertEqual(steps[-1][0], 2 * (num_starts * 3 + number * 6))
        self.assertEqual(*steps[-1])

    def test_a_start_that_is_not_finite_is_given_up(self):
        lanes = batch.make_lanes(KEY, make_problems(1), [Fails()], 8)
        found = batch.run_starts(lanes, PRIOR, 3, 8, stretch=4)
        self.assertTrue(np.isfinite(found.x).all())
        self.assertLen(found.x, 2)


class Fails(Unconditional):
    """Every other start is not a number."""

    def start(self, key, problem, steps):
        x, state = super().start(key, problem, steps)
        return jnp.where(x[0, 0, 0] > 0, jnp.nan, x), state


class MemoryTest(absltest.TestCase):
    def test_what_is_held_does_not_grow_with_the_lanes(self):
        problems = make_problems(2, shape=(32, 32, 3))
        prior = gaussian.GaussianPrior.isotropic(
            np.zeros((32, 32, 3)), 0.1, ALPHA_BAR
        )
        held = []
        for num_samples in (4, 200):
            lanes = batch.make_lanes(
                KEY, problems, [Unconditional()], num_samples=num_samples
            )
            seen = []
            for result in batch.run_batches(lanes, prior, 2, max_lanes=4):
                del result
                seen.append(sum(a.nbytes for a in jax.live_arrays()))
            held.append(max(seen) - lanes.keys.nbytes)
            del lanes
        # 392 more images are 4.8 MB; the keys, a few bytes a lane, are apart.
        self.assertLess(held[1] - held[0], 64 * 1024)

    def test_the_lanes_that_are_found_to_fit_do_fit(self):
        lanes = batch.make_lanes(KEY, make_problems(2), methods(1.0))
        memory = batch.batch_bytes(lanes, PRIOR, 10, max_lanes=5)
        fitting = batch.lanes_within(memory, lanes, PRIOR, 10).lanes
        self.assertLessEqual(
            batch.batch_bytes(lanes, PRIOR, 10, max_lanes=fitting), memory
        )
        # One of the five may be lost to the rounding of small buffers.
        self.assertBetween(fitting, 4, 5)

    def test_all_the_lanes_fit_and_one_more_would_not(self):
        # One lane takes 130 bytes and each more 30: 7 take 310, and 8 take 340.
        with mock.patch.object(
            batch, 'batch_bytes', lambda *_, max_lanes: 100 + 30 * max_lanes
        ):
            found = [
                batch.lanes_within(memory, None, PRIOR)
                for memory in (130, 310, 339, 340)
            ]
        self.assertEqual(found, [(1, 1), (7, 1), (7, 1), (8, 1)])

    def test_devices_that_share_a_memory_each_have_what_is_not_of_lanes(self):
        # 100 bytes a device and 30 a lane.
        with mock.patch.object(
            batch, 'batch_bytes', lambda *_, max_lanes: 100 + 30 * max_lanes
        ):
            found = [
                batch.lanes_within(memory, None, PRIOR, sharing=3)
                for memory in (400, 389, 259, 130)
            ]
        self.assertEqual(found, [(3, 3), (6, 2), (5, 1), (1, 1)])

    def test_memory_that_holds_no_lane_is_refused(self):
        lanes = batch.make_lanes(KEY, make_problems(1), methods(1.0))
        with self.assertRaisesRegex(ValueError, 'which one lane takes, got'):
            batch.lanes_within(1000, lanes, PRIOR, 10)


class SkippedStepsTest(parameterized.TestCase):
    def test_info_is_nan_for_the_steps_that_no_lane_needs(self):
        lanes = batch.make_lanes(
            KEY, make_problems(2), [SDEdit(200), SDEdit(444)]
        )
        # Kept timesteps are 999, 888, ..., 0: the first five are above 444.
        result = batch.run_lanes(lanes, PRIOR, 10, stretch=3)
        for values in result.info:
            self.assertEqual(values.shape, (4, 10))
            self.assertTrue(np.all(np.isnan(values[:, :5])))
            self.assertTrue(np.all(np.isfinite(values[:, 5:])))

    def test_taus_that_share_a_scan_give_what_each_gives_alone(self):
        problems = make_problems(2)
        taus = [SDEdit(tau) for tau in (100, 400, 900)]
        together = batch.run_lanes(
            batch.make_lanes(KEY, problems, taus), PRIOR, 20
        ).x.reshape(2, 3, *SHAPE)
        for i, method in enumerate(taus):
            alone = batch.run_lanes(
                batch.make_lanes(KEY, problems, [method]), PRIOR, 20
            )
            np.testing.assert_allclose(together[:, i], alone.x, atol=1e-5)


class FirstNonfiniteStepTest(parameterized.TestCase):
    def test_it_finds_a_planted_value_in_any_field_that_can_break(self):
        for name in ('residual', 'guidance', 'prior_step'):
            for bad in (np.nan, np.inf, -np.inf):
                info = Info(*(np.ones((3, 6)) for _ in Info._fields))
                getattr(info, name)[1, 4:] = bad
                getattr(info, name)[2, 0] = bad
                np.testing.assert_array_equal(
                    batch.first_nonfinite_step(info), [-1, 4, 0]
                )

    def test_steps_that_were_left_out_do_not_count(self):
        info = Info(*(np.ones((2, 6)) for _ in Info._fields))
        for values in info:
            values[:, :3] = np.nan
        info.residual[1, 5] = np.nan
        np.testing.assert_array_equal(batch.first_nonfinite_step(info), [-1, 5])

    @parameterized.parameters(Unconditional(), DPS(), ScoreALD())
    def test_it_finds_the_step_at_which_a_prior_breaks(self, method):
        # Kept timesteps are 999, 888, ..., 0; t = 444, number 5, is the first
        # below 500.
        breaking = BreakingPrior(PRIOR, jnp.asarray(500))
        lanes = batch.make_lanes(KEY, make_problems(2), [method])
        result = batch.run_lanes(lanes, breaking, 10)
        np.testing.assert_array_equal(
            batch.first_nonfinite_step(result.info), [5, 5]
        )

    @parameterized.parameters(Unconditional(), DPS(), SDEdit())
    def test_a_good_run_has_none(self, method):
        lanes = batch.make_lanes(KEY, make_problems(2), [method])
        result = batch.run_lanes(lanes, PRIOR, 10)
        np.testing.assert_array_equal(
            batch.first_nonfinite_step(result.info), [-1, -1]
        )


if __name__ == '__main__':
    absltest.main()
