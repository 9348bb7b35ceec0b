"""The benchmark of an accelerator: its time, its faults, and its numbers."""

from unittest import mock

import jax
from absl.testing import absltest, parameterized

from invjax import accelerating
from invjax.methods import METHODS
from invjax.report import benchmarks
from tests.standard_normal import StandardNormal


class RunPartTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.now = 0.0
        self.enterContext(
            mock.patch.object(accelerating.time, 'monotonic', lambda: self.now)
        )

    def items(self, *seconds, error=None):
        for i, taken in enumerate(seconds):

            def measure(left, i=i, taken=taken):
                self.now += taken
                if error is not None and i == 0:
                    raise error
                return {'left': left}

            yield accelerating.Item({'i': i}, measure)

    def test_what_there_is_no_time_for_is_not_begun_and_said(self):
        # After 4 and 5 s of 12, three are left, and the longest took five.
        rows = list(accelerating.run_part(self.items(4, 5, 1, 1), 12))
        self.assertEqual(rows[:2], [{'i': 0, 'left': 12}, {'i': 1, 'left': 8}])
        self.assertLen(rows, 3)
        self.assertIn('12 s', rows[2]['left_out'])
        self.assertEqual(self.now, 9)

    def test_memory_that_does_not_do_ends_a_row_and_not_the_part(self):
        error = jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 90 GiB')
        rows = list(accelerating.run_part(self.items(1, 1, error=error), 9))
        self.assertEqual(rows[0], {'i': 0, 'left_out': 'out of memory'})
        self.assertEqual(rows[1], {'i': 1, 'left': 8})

    def test_a_part_that_takes_too_long_leaves_the_next_ones_less(self):
        plan = accelerating.Plan(seconds={'networks': 10, 'sweep': 5})
        asked = {}

        def run_part(items, seconds):
            asked[len(asked)] = seconds
            self.now += 12
            return iter(())

        with mock.patch.object(accelerating, 'run_part', run_part):
            accelerating.measure(plan, say=lambda line: None)
        self.assertEqual(asked, {0: 10, 1: 3})


class PlanTest(absltest.TestCase):
    def test_all_parts_together_stay_below_the_minutes(self):
        for minutes in (1, 8):
            seconds = accelerating.plan_here(minutes).seconds
            self.assertAlmostEqual(sum(seconds.values()), 60 * minutes - 30)
            # The parts keep what they are to each other.
            self.assertAlmostEqual(
                seconds['networks'] / seconds['sweep'], 200 / 40
            )


class MeasureTest(parameterized.TestCase):
    @parameterized.parameters(
        ('NVIDIA H100 80GB HBM3', 'bfloat16', 989e12),
        ('NVIDIA H100 PCIe', 'bfloat16', 756e12),
        ('NVIDIA L40S', 'tf32', 183e12),
        ('NVIDIA L4', 'tf32', 60e12),
        ('cpu', 'float32', None),
    )
    def test_peaks_are_those_of_the_data_sheets(self, kind, precision, flops):
        self.assertEqual(accelerating.peak_flops(kind, precision), flops)

    def test_a_pass_has_its_time_its_memory_and_its_share(self):
        labels = {
            'network': 'tiny',
            'batch': 2,
            'precision': 'float32',
            'what': 'forward',
        }
        with mock.patch.object(
            accelerating, 'peak_flops', lambda kind, precision: 1e12
        ):
            found = accelerating._of_network(labels, 1.0)
        # Of a peak of 1 TFLOP/s, both are the same number.
        self.assertAlmostEqual(
            found['share_of_peak'], found['tflops_per_second'], places=9
        )
        # The network's 0.14 GFLOP an image, by the clock.
        flops = found['tflops_per_second'] * found['ms_per_image'] * 1e9
        self.assertBetween(flops, 1e8, 2e8)
        # More than the images, less than all weights and features by far.
        self.assertBetween(found['gib'] * 2**30, 2 * 16 * 16 * 3 * 4, 2**24)

    def test_a_restoration_that_takes_too_long_is_told_from_its_steps(self):
        labels = {'network': 'tiny', 'batch': 2, 'precision': 'float32'}
        prior = StandardNormal((16, 16, 3))
        call = [labels, [METHODS['unconditional']()], 40]
        with mock.patch.object(accelerating, '_prior', lambda *_: prior):
            cut = accelerating._of_sampler(*call, seconds=0)
            whole = accelerating._of_sampler(*call, seconds=600)
        # Two stretches of four steps, at least, are always timed.
        self.assertEqual(cut['of_steps'], 8)
        self.assertNotIn('of_steps', whole)
        self.assertGreater(whole['seconds_per_image'], 0)


class TableTest(absltest.TestCase):
    def test_ours_stand_against_pytorch_and_what_is_left_out_is_said(self):
        labels = {'network': 'faces64', 'batch': 16, 'precision': 'bfloat16'}
        ours = {
            'tflops_per_second': 100.0,
            'share_of_peak': 0.25,
            'gib': 1.5,
            'compile_seconds': 20.0,
        }
        rows = [
            {
                'part': 'networks',
                **labels,
                'what': 'DPS step',
                'ms_per_image': 3.0,
                **ours,
            },
            {
                'part': 'networks',
                **labels,
                'what': 'forward',
                'left_out': 'out of memory',
            },
            {
                'part': 'restorations',
                **labels,
                'what': '1000 steps of dps',
                'seconds_per_image': 4.0,
                'first_call_seconds': 60.0,
                'of_steps': 300,
            },
            {
                'part': 'PyTorch',
                **labels,
                'what': 'gradient',
                'mode': 'eager',
                'ms_per_image': 6.0,
            },
        ]
        lines = benchmarks.accelerator_table(rows, 'H100', 'peak 989')
        self.assertEqual(lines[0], 'H100; peak 989.')
        self.assertIn(
            '| faces64 | 16 | bfloat16 | DPS step | 3.00 | 100 | 25% | 1.50 '
            '| 20.0 | 0.50 |  |',
            lines,
        )
        self.assertIn(
            '| faces64 | 16 | bfloat16 | 1000 steps of dps, by 300 of them '
            '| 4.000 | 60.0 |',
            lines,
        )
        self.assertEqual(
            lines[-1],
            '- left out: networks, faces64, 16, bfloat16, forward: out of '
            'memory.',
        )


if __name__ == '__main__':
    absltest.main()
