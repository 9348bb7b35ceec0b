"""The schedule against the reference's tables and against its own definition."""

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
        None, 2, 100, 'ddim25', '10,20,30', 'quad20', 'quad400', 'quad1000'
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

    def test_a_part_that_asks_for_too_many_is_refused(self):
        with self.assertRaisesRegex(ValueError, '501 of 500 timesteps'):
            schedule.respace('501,10')


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
