"""The schedule against the reference's tables and against its own definition."""

import json
import pathlib

import numpy as np
from absl.testing import absltest, parameterized

from invjax import schedule

_GOLDENS = np.load(
    pathlib.Path(__file__).parent / 'goldens' / 'diffusion_math.npz'
)
_RESPACED = [
    name.removeprefix('respace_')
    for name in _GOLDENS.files
    if name.startswith('respace_')
]
LINEAR = schedule.alpha_bars(schedule.linear_betas())


class TablesTest(parameterized.TestCase):
    @parameterized.parameters(*schedule.SCHEDULES)
    def test_betas_are_the_references(self, name):
        np.testing.assert_allclose(
            schedule.SCHEDULES[name](), _GOLDENS[f'betas_{name}'], atol=1e-12
        )

    @parameterized.parameters(*_RESPACED)
    def test_respacing_keeps_the_timesteps_of_the_reference(self, spec):
        np.testing.assert_array_equal(
            schedule.respace(spec), _GOLDENS[f'respace_{spec}']
        )

    @parameterized.parameters(1000, 100)
    def test_kept_signal_power_is_the_references(self, num_steps):
        kept = LINEAR[schedule.respace(num_steps)]
        golden = _GOLDENS[f'alphas_cumprod_{num_steps}']
        np.testing.assert_allclose(kept, golden, atol=1e-12)
        # The reference's respaced betas multiply up to the same powers.
        betas = _GOLDENS[f'betas_respaced_{num_steps}']
        np.testing.assert_allclose(schedule.alpha_bars(betas), kept, atol=1e-12)

    def test_one_step_alone_starts_where_there_is_noise_alone(self):
        alpha_bar = schedule.alpha_bars(schedule.linear_betas(100))
        for spec in (1, '1', 'quad1', 'ddim1'):
            with self.subTest(spec):
                np.testing.assert_array_equal(schedule.respace(spec, 100), [99])
                steps = schedule.reverse_steps(alpha_bar, spec)
                self.assertAlmostEqual(
                    float(steps.alpha_bar_t[0]), alpha_bar[-1], places=6
                )
                self.assertEqual(float(steps.alpha_bar_s[0]), 1.0)

    @parameterized.parameters(1000, 100)
    def test_steps_have_the_references_betas_in_float32(self, num_steps):
        steps = schedule.reverse_steps(LINEAR, num_steps)
        np.testing.assert_allclose(
            steps.beta[::-1],
            _GOLDENS[f'betas_respaced_{num_steps}'],
            rtol=2e-7,  # One rounding to float32 and no more.
        )

    @parameterized.parameters(*schedule.SCHEDULES)
    def test_signal_power_falls_from_almost_1_to_almost_0(self, name):
        alpha_bar = schedule.alpha_bars(schedule.SCHEDULES[name]())
        self.assertTrue(np.all(np.diff(alpha_bar) < 0))
        self.assertGreater(alpha_bar[0], 0.999)
        self.assertLess(alpha_bar[-1], 1e-4)

    def test_a_shorter_linear_schedule_ends_at_like_noise(self):
        # log alpha_bar_T is about minus the sum of the betas, 10.05 for all T.
        for length in (250, 4000):
            betas = schedule.linear_betas(length)
            self.assertAlmostEqual(betas.sum(), 10.05, places=9)


class ReverseStepsTest(parameterized.TestCase):
    @parameterized.parameters(None, 1, 2, 7, 1000, 'ddim25', '10,20,30')
    def test_each_step_ends_where_the_next_begins(self, num_steps):
        steps = schedule.reverse_steps(LINEAR, num_steps)
        for end, begin in (
            (steps.alpha_bar_s, steps.alpha_bar_t),
            (steps.noise_var_s, steps.noise_var_t),
        ):
            np.testing.assert_array_equal(end[:-1], begin[1:])
        self.assertEqual(steps.alpha_bar_s[-1], 1.0)
        self.assertEqual(steps.noise_var_s[-1], 0.0)
        self.assertEqual(steps.posterior_variance[-1], 0.0)
        for field in steps:
            self.assertTrue(np.all(np.isfinite(field)))

    @parameterized.parameters(
        None,
        2,
        100,
        'ddim25',
        '10,20,30',
        'quad20',
        'quad400',
        'quad1000',
        'edm2',
        'edm20',
        'edm700',
        'edm1000',
    )
    def test_timesteps_run_down_to_zero_and_all_are_active(self, num_steps):
        steps = schedule.reverse_steps(LINEAR, num_steps)
        self.assertTrue(np.all(np.diff(steps.t) < 0))
        self.assertEqual(steps.t[-1], 0)
        self.assertTrue(np.all(steps.active))
        np.testing.assert_allclose(steps.time, steps.t / 999, rtol=1e-6)

    def test_complements_to_one_keep_float32_digits(self):
        # 1 - alpha_bar_0 is beta_0 = 1e-4 exactly; in float32 the subtraction
        # would be off by up to 6e-8, which is 6e-4 of it.
        steps = schedule.reverse_steps(LINEAR)
        self.assertAlmostEqual(float(steps.noise_var_t[-1]), 1e-4, delta=1e-10)

    def test_posterior_variance_is_that_of_two_noisy_looks_at_x_s(self):
        # Given x_0, x_s has precision 1 / noise_var_s, and x_t adds a look at
        # it of precision (1 - beta) / beta.
        steps = schedule.reverse_steps(LINEAR, 50)
        beta, noise_var_s = (
            np.asarray(field, np.float64)[:-1]
            for field in (steps.beta, steps.noise_var_s)
        )
        precision = 1 / noise_var_s + (1 - beta) / beta
        np.testing.assert_allclose(
            steps.posterior_variance[:-1], 1 / precision, rtol=1e-6
        )

    @parameterized.parameters(
        0,
        -5,
        1001,
        '',
        'ddim',
        'ddim0',
        'ddim300',
        'quad',
        'quad0',
        'quad1001',
        'edm',
        'edm1',
        'edm1001',
        'edm²',
        'fast',
        '10,',
        '10,0',
        1.5,
        # Digits by Unicode, which int() does not take.
        '²',
        'ddim²',
        '10,²',
    )
    def test_a_spec_that_cannot_be_is_refused_in_a_sentence(self, spec):
        with self.assertRaisesRegex(ValueError, 'num_steps|integer stride'):
            schedule.respace(spec)

    def test_quadratic_timesteps_are_even_in_their_square_roots(self):
        kept = schedule.respace('quad10')
        # 999 (i / 9)^2 for i = 0 to 9: 0, 12.3, 49.3, 111, ...
        np.testing.assert_allclose(
            np.diff(np.sqrt(kept)), np.sqrt(999) / 9, rtol=0.05
        )
        self.assertEqual(kept[[0, 3, -1]].tolist(), [0, 111, 999])

    def test_edm_steps_have_the_noise_levels_that_edm_gives(self):
        # Karras et al. (2022, eq. 5), from sigma_max down, with i from 0.
        largest, smallest, number = 157.4, 0.01, 12
        i = np.arange(number)
        expected = (
            largest ** (1 / 7)
            + i / (number - 1) * (smallest ** (1 / 7) - largest ** (1 / 7))
        ) ** 7
        steps = schedule.reverse_steps(LINEAR, 'edm12')
        sigma = np.sqrt(steps.noise_var_t / steps.alpha_bar_t)
        # The nearest row is within half of the spacing, which is at most 6 % of
        # sigma at these levels.
        np.testing.assert_allclose(sigma, expected, rtol=0.03)
        np.testing.assert_allclose(sigma[[0, -1]], [157.4, 0.01], rtol=1e-3)

    def test_edm_steps_follow_the_levels_and_not_their_numbers(self):
        # On its own levels, EDM's spacing is the even one.
        levels = schedule.Sigmas(num_levels=101)
        np.testing.assert_array_equal(
            schedule.respace('edm11', 101, levels.alpha_bar),
            10 * np.arange(11),
        )

    def test_a_part_that_asks_for_too_many_is_refused(self):
        with self.assertRaisesRegex(ValueError, '501 of 500 timesteps'):
            schedule.respace('501,10')


class NoiseLevelsTest(parameterized.TestCase):
    @parameterized.parameters(
        # Signal power at rows 0, T/4, T/2 and 3T/4 of diffusers 0.42.1, where
        # it is a product in float32.
        ({}, [0.9998999834, 0.5214229822, 0.0777966529, 0.0033001585]),
        (
            {
                'schedule': 'scaled_linear',
                'beta_start': 0.00085,
                'beta_end': 0.012,
            },
            [0.9991499782, 0.6737923026, 0.2763324678, 0.0561698042],
        ),
        (
            {'schedule': 'squaredcos_cap_v2'},
            [0.9999586940, 0.8458880186, 0.4922850430, 0.1431786567],
        ),
        (
            {'schedule': 'sigmoid'},
            [0.9998508096, 0.9027990103, 0.2988875806, 0.0056229196],
        ),
        (
            {'zero_terminal': True},
            [0.9998999834, 0.5188605189, 0.0752462000, 0.0026441060],
        ),
        (
            {'num_train_steps': 50, 'beta_end': 0.2},
            [0.9998999834, 0.7224606872, 0.2522997558, 0.0482840873],
        ),
    )
    def test_tables_are_those_of_diffusers(self, fields, expected):
        betas = schedule.Betas(**fields)
        rows = np.arange(4) * betas.num_train_steps // 4
        np.testing.assert_allclose(betas.alpha_bar[rows], expected, rtol=1e-4)

    def test_trained_betas_are_the_table(self):
        betas = schedule.Betas(trained_betas=(0.1, 0.5))
        np.testing.assert_allclose(betas.alpha_bar, [0.9, 0.45], rtol=1e-15)

    @parameterized.parameters(
        ({'zero_terminal': True}, 999), ({'trained_betas': (0.1, 0.2, 1.0)}, 2)
    )
    def test_a_last_row_without_signal_is_left_out(self, fields, rows):
        alpha_bar = schedule.Betas(**fields).alpha_bar
        self.assertLen(alpha_bar, rows)
        self.assertGreater(alpha_bar[-1], 0)

    def test_shifting_the_end_to_zero_keeps_the_first_row(self):
        shifted = schedule.Betas(zero_terminal=True).alpha_bar
        np.testing.assert_allclose(shifted[0], LINEAR[0], rtol=1e-12)
        # The square roots keep their order and their spacing's proportions.
        before, after = np.diff(LINEAR[:-1] ** 0.5), np.diff(shifted**0.5)
        np.testing.assert_allclose(after / before, after[0] / before[0])

    def test_sigmas_are_those_of_edm(self):
        # By hand: from 0.002 to 80 in three, the middle one is the seventh
        # power of the mean of 0.002^(1/7) = 0.41157 and 80^(1/7) = 1.87009.
        alpha_bar = schedule.Sigmas(num_levels=3).alpha_bar
        sigma = np.sqrt(1 / alpha_bar - 1)
        np.testing.assert_allclose(sigma, [0.002, 1.14083**7, 80], rtol=1e-4)

    def test_a_geometric_sequence_is_the_limit_of_large_rho(self):
        limit = schedule.Sigmas(0.01, 50, 30, rho=None)
        large = schedule.Sigmas(0.01, 50, 30, rho=1e6)
        np.testing.assert_allclose(limit.alpha_bar, large.alpha_bar, rtol=1e-4)
        sigma = np.sqrt(1 / limit.alpha_bar - 1)
        np.testing.assert_allclose(sigma[1:] / sigma[:-1], 5000 ** (1 / 29))

    def test_a_flow_has_the_signal_that_its_definition_gives(self):
        # At s = 1/4: (3/4 x_0 + 1/4 z), so 9 parts of signal to 1 of noise.
        flow = schedule.FlowTimes(4)
        np.testing.assert_allclose(flow.alpha_bar, [0.9, 0.5, 0.1])
        # A shift of 3 takes 1/2 to 3/4.
        shifted = schedule.FlowTimes(4, shift=3.0)
        np.testing.assert_allclose(shifted.alpha_bar[1], 0.1)

    @parameterized.parameters(
        schedule.Betas('sigmoid', 20, 1e-3, 0.5),
        schedule.Betas(trained_betas=(0.1, 0.5)),
        schedule.Sigmas(0.01, 1348.0, 2000, None),
        schedule.FlowTimes(100, 3.0),
    )
    def test_a_description_is_plain_data_and_has_an_inverse(self, levels):
        text = json.dumps(schedule.describe_levels(levels))
        again = schedule.levels_from_description(json.loads(text))
        self.assertEqual(again, levels)
        self.assertEqual(hash(again), hash(levels))

    @parameterized.parameters(
        (schedule.Betas, {'schedule': 'cubic'}, 'scaled_linear.*cubic'),
        (schedule.Betas, {'beta_end': 1.5}, 'above 0 and at most 1'),
        (schedule.Betas, {'beta_start': 0.0}, 'above 0 and at most 1'),
        (schedule.Betas, {'trained_betas': ()}, 'two or more'),
        (schedule.Sigmas, {'sigma_min': 0.0}, 'sigma_min above 0'),
        (schedule.Sigmas, {'sigma_max': float('inf')}, 'sigma_max'),
        (schedule.Sigmas, {'num_levels': 1}, '2 noise levels or more'),
        (schedule.Sigmas, {'rho': 0.5}, 'rho must be'),
        (schedule.FlowTimes, {'shift': 0.0}, 'shift above 0'),
    )
    def test_levels_that_cannot_be_are_refused(self, levels, fields, message):
        with self.assertRaisesRegex(ValueError, message):
            levels(**fields)


class StretchesTest(parameterized.TestCase):
    @parameterized.parameters(1, 4, 7, 20, 33)
    def test_active_rows_are_all_the_steps_in_order(self, length):
        steps = schedule.reverse_steps(LINEAR, 20)
        cuts, num_skipped = schedule.stretches(steps, length)
        self.assertEqual(num_skipped, 0)
        joined = schedule.Steps(*map(np.concatenate, zip(*cuts, strict=True)))
        for field, whole in zip(joined, steps, strict=True):
            np.testing.assert_array_equal(field[joined.active], whole)
        # All of one length, filled up at the very end only.
        self.assertEqual({len(cut.t) for cut in cuts}, {length})
        self.assertTrue(np.all(joined.active[:20]))
        self.assertFalse(np.any(joined.active[20:]))
        self.assertLess(len(joined.active) - 20, length)

    def test_rows_above_first_t_are_left_out(self):
        steps = schedule.reverse_steps(LINEAR, '10')  # t = 999, 888, ..., 0
        cuts, num_skipped = schedule.stretches(steps, 3, first_t=444)
        kept = np.concatenate([cut.t[cut.active] for cut in cuts])
        np.testing.assert_array_equal(kept, [444, 333, 222, 111, 0])
        self.assertEqual(num_skipped, 5)

    def test_the_last_row_stays_whatever_first_t_is(self):
        steps = schedule.reverse_steps(LINEAR, 10)
        cuts, num_skipped = schedule.stretches(steps, 4, first_t=-1)
        self.assertEqual(num_skipped, 9)
        np.testing.assert_array_equal(cuts[0].active, [True] + 3 * [False])


if __name__ == '__main__':
    absltest.main()
