"""What a benchmark says, held against a clock and a peer that are made by hand."""

import dataclasses
import pathlib
import tempfile
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import absltest, parameterized

from invjax import benchmarking
from invjax.priors.denoiser import Denoiser
from invjax.priors.unet import NetworkPrior, UNet
from invjax.report import benchmarks


class _Clock:
    """It stands still unless somebody works."""

    def __init__(self):
        self.now = 0.0
        self.order = []

    def works(self, who, *seconds):
        """A call that takes these seconds, each time the next."""
        left = list(seconds)

        def call():
            self.order.append(who)
            self.now += left.pop(0)

        return call


class TimeCallsTest(absltest.TestCase):
    def setUp(self):
        super().setUp()
        self.clock = _Clock()
        self.enterContext(
            mock.patch.object(
                benchmarking.time, 'perf_counter', lambda: self.clock.now
            )
        )

    def test_a_step_is_timed_in_each_round_without_the_first_call(self):
        call = benchmarking.Call(self.clock.works('a', 9.0, 4.0, 6.0), 2, 1)
        (timed,) = benchmarking.time_calls({'a': call}, 2).values()
        self.assertEqual(timed.first, 9.0)
        self.assertEqual(timed.ours, [2.0, 3.0])
        self.assertEqual(timed.theirs, [])

    def test_without_a_peer_nobody_is_asked(self):
        call = benchmarking.Call(
            self.clock.works('a', 9.0, 4.0), 1, 1, 'forward'
        )
        (timed,) = benchmarking.time_calls({'a': call}, 1).values()
        self.assertEqual(timed, benchmarking.Timed(9.0, [4.0], []))

    def test_what_comes_before_is_done_each_time_and_not_timed(self):
        call = benchmarking.Call(
            self.clock.works('a', 9.0, 4.0, 6.0),
            2,
            1,
            before=self.clock.works('b', 100.0, 200.0),
        )
        (timed,) = benchmarking.time_calls({'a': call}, 2).values()
        self.assertEqual(self.clock.order, ['a', 'b', 'a', 'b', 'a'])
        self.assertEqual(timed, benchmarking.Timed(9.0, [2.0, 3.0], []))

    def test_calls_take_turns_and_the_peer_answers_in_the_same_round(self):
        calls = {
            'a': benchmarking.Call(
                self.clock.works('a', 1, 1, 1), 1, 1, 'forward'
            ),
            'b': benchmarking.Call(self.clock.works('b', 1, 1, 1), 1, 2),
        }
        answers = iter([100.0, 0.5, 0.25])

        def ask_peer(kind):
            self.clock.order.append(kind)
            return next(answers)

        timed = benchmarking.time_calls(calls, 2, ask_peer)
        self.assertEqual(
            ''.join(name[0] for name in self.clock.order), 'abf' + 2 * 'afb'
        )
        # Its first pass, which is slower, does not count.
        self.assertEqual(timed['a'].theirs, [0.5, 0.25])
        self.assertEqual(timed['b'].theirs, [])


class RowTest(absltest.TestCase):
    def test_numbers_are_those_that_are_worked_out_by_hand(self):
        # Two passes of 3e9 for each of 4 images are 24e9 operations. In 2 s,
        # the median, they are 12e9 a second, of 48e9.
        call = benchmarking.Call(lambda: None, 10, 2, 'gradient')
        timed = benchmarking.Timed(7.0, [1.0, 2.0, 8.0], [2.0, 1.0, 16.0])
        self.assertEqual(
            benchmarking.row(call, timed, 4, flops=3e9, ceiling=48e9),
            {
                'seconds_per_image': 0.5,
                'first_call_seconds': 7.0,
                'share_of_ceiling': 0.25,
                'peer_seconds_per_image': 0.5,
                # Of 1/2, 2 and 1/2, round by round.
                'ratio': 0.5,
            },
        )

    def test_without_a_peer_nothing_is_said_of_one(self):
        timed = benchmarking.Timed(7.0, [1.0], [])
        found = benchmarking.row(
            benchmarking.Call(lambda: None, 1, 1), timed, 1, 1.0, 1.0
        )
        self.assertNotIn('ratio', found)


class RowsTest(absltest.TestCase):
    def test_each_kind_of_step_of_a_network_is_measured(self):
        network = UNet(
            image_size=16,
            model_channels=32,
            channel_mult=(1,),
            attention_downsamplings=(),
            head_channels=32,
        )
        x = jnp.zeros((16, 16, 3))
        params = jax.jit(network.init)(jax.random.key(0), x, 0)['params']
        prior = NetworkPrior(params, network)
        asked = []

        def ask(**question):
            asked.append(question)
            return 1.0

        found = benchmarking.rows('tiny', prior, 2, 3, 1, 1e9, ask)
        rows = {row['what']: row for row in found}
        self.assertEqual(
            list(rows),
            [
                'forward',
                'unconditional step',
                'ScoreALD step',
                'DPS step',
                'bare DPS step',
            ],
        )

        def operations(row):
            # Of one image, by which shares are made: the same in all rows, but
            # twice as many where the gradient is taken.
            return row['share_of_ceiling'] * row['seconds_per_image'] * 1e9

        forward = operations(rows['forward'])
        for what, row in rows.items():
            passes = 2 if 'DPS' in what else 1
            self.assertAlmostEqual(operations(row) / forward, passes, places=4)
            self.assertEqual((row['network'], row['batch']), ('tiny', 2))
        # Its convolutions, by hand: 9 products and sums for each pair of
        # channels and pixel. First, two of a block of 32 on the way down, four
        # in the middle, and on the way up two blocks of 64 to 32, each with a
        # shortcut of one pixel, and last.
        pairs = 3 * 32 + 2 * 32 * 32 + 4 * 32 * 32
        pairs += 2 * (64 * 32 + 32 * 32) + 32 * 6
        by_hand = 2 * 16**2 * (9 * pairs + 2 * 64 * 32)
        self.assertLess(abs(forward / by_hand - 1), 0.15)
        self.assertEqual(
            [question['kind'] for question in asked],
            ['forward', 'gradient', 'forward', 'gradient'],
        )


class AskedTest(absltest.TestCase):
    def test_a_network_that_there_is_not_is_refused(self):
        with self.assertRaisesRegex(ValueError, "got 'sdxl'"):
            benchmarking.check(benchmarking.Benchmark(['faces64', 'sdxl']))
        benchmarking.check(benchmarking.Benchmark())

    def test_a_network_whose_file_the_peer_writes_needs_one(self):
        asked = benchmarking.Benchmark(['edm_ffhq64'])
        with self.assertRaisesRegex(ValueError, 'edm_ffhq64 needs --peer'):
            benchmarking.check(asked)
        benchmarking.check(dataclasses.replace(asked, peer='/a/python'))


class WrittenTest(absltest.TestCase):
    """A network whose file the peer writes; here a function in its place."""

    def setUp(self):
        super().setUp()
        self.prior = Denoiser.of(lambda x, t: 0.5 * x, (4, 4, 3), 'noise')

    def test_the_gradient_is_that_of_the_sum_of_squares(self):
        x = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
        # Of (x / 2)^2, for each value.
        np.testing.assert_allclose(
            benchmarking._gradient(self.prior, x), 0.5 * x, rtol=1e-6
        )

    def test_it_is_written_loaded_twice_and_timed_beside_the_peer(self):
        asked, loads = [], iter([(8.0, 3), (2.0, 1)])

        def ask(**question):
            asked.append(question)
            if question['kind'] == 'write':
                return f'{question["folder"]}/written.pkl'
            return 2 * 2**30 if question['kind'] == 'memory' else 4.0

        def in_a_process(function, path, keep):
            self.assertEqual(function, 'load_alone')
            self.assertStartsWith(path, asked[0]['folder'])
            (pathlib.Path(keep) / 'one').mkdir(parents=True, exist_ok=True)
            seconds, peak = next(loads)
            return {'seconds': seconds, 'peak_bytes': peak * 2**30}

        def prior(name, asked):
            self.assertEndsWith(asked.kept[name], 'kept/one')
            return self.prior

        def step(name, asked, cache):
            self.assertFalse(asked.prepare)
            return {'peak_bytes': 3 * 2**30}

        peer = mock.MagicMock()
        peer.return_value.__enter__.return_value = ask
        others = []
        with (
            mock.patch.object(benchmarking.peer, 'start', peer),
            mock.patch.object(benchmarking, '_in_a_process', in_a_process),
            mock.patch.object(benchmarking, 'make_prior', prior),
            mock.patch.object(benchmarking, 'step_in_a_process', step),
        ):
            rows = benchmarking._of_written(
                'edm_ffhq64',
                benchmarking.Benchmark(batches=[2], rounds=1, peer='python'),
                1e9,
                others,
                lambda line: None,
            )
        self.assertEqual([r['what'] for r in rows], ['forward', 'gradient'])
        for row in rows:
            self.assertEqual(row['peer_seconds_per_image'], 2.0)
            self.assertAlmostEqual(row['ratio'], row['seconds_per_image'] / 2)
        self.assertEqual(
            [question['kind'] for question in asked],
            [
                'write',
                *('forward', 'gradient', 'forward', 'gradient'),
                'memory',
            ],
        )
        self.assertEqual(
            [words for _, words in others],
            [
                '8.0 s / 2.0 s',
                '3.00 GiB / 1.00 GiB',
                '3.00 GiB, 1.50 of the peer with a gradient',
            ],
        )
        table = benchmarks.table(
            benchmarking.Measured(1e9, rows, others, 'float32', 'cpu')
        )
        self.assertIn('| edm_ffhq64: peak memory of these', '\n'.join(table))


class ProcessesTest(parameterized.TestCase):
    @parameterized.parameters(None, '/a/python')
    def test_memory_is_of_the_second_process_and_beside_the_peer(self, python):
        answers = iter(
            [
                {'compile_seconds': c, 'step_seconds': s, 'peak_bytes': p}
                for c, s, p in [
                    (30.0, 9.0, 9 * 2**30),
                    (3.0, 8.0, 2 * 2**30),
                    (40.0, 9.0, 9 * 2**30),
                    (4.0, 7.0, 3 * 2**30),
                    (50.0, 9.0, 9 * 2**30),
                    (5.0, 6.0, 4 * 2**30),
                ]
            ]
        )
        asked = []

        def step(name, how, cache):
            asked.append((name, how.prepare, how.remat, cache))
            return next(answers)

        peer = mock.MagicMock()
        peer.return_value.__enter__.return_value = lambda **question: 4 * 2**30
        with (
            mock.patch.object(benchmarking, 'step_in_a_process', step),
            mock.patch.object(benchmarking.peer, 'start', peer),
        ):
            found = dict(
                benchmarking._processes(benchmarking.Benchmark(peer=python))
            )
        self.assertEqual(
            [how[1:3] for how in asked],
            2 * [(True, False)] + 2 * [(False, False)] + 2 * [(False, True)],
        )
        # Two processes share a cache of compiled programs, and no more do.
        caches = [how[3] for how in asked]
        self.assertEqual(caches[0::2], caches[1::2])
        self.assertLen(set(caches), 3)
        self.assertEqual(
            found['ffhq256, prepared: compile, first / with the cache'],
            '30.0 s / 3.0 s',
        )
        self.assertEqual(found['ffhq256, plain: step'], '7.0 s')
        memory = found['ffhq256, rematerialised: peak memory']
        if python is None:
            self.assertEqual(memory, '4.00 GiB')
        else:
            self.assertEqual(memory, '4.00 GiB, 1.00 of the peer')
            self.assertEqual(found['peak memory, peer'], '4.00 GiB')

    def test_in_a_process_of_its_own_one_step_of_one_image_is_taken(self):
        clock, asked = _Clock(), []

        def sampler(prior, methods, batch, num_steps):
            asked.append((prior, len(methods), batch, num_steps))
            return clock.works('step', 9.0, 4.0)

        with (
            mock.patch.object(benchmarking, 'make_prior', lambda *_: 'prior'),
            mock.patch.object(benchmarking, '_sampler', sampler),
            mock.patch.object(
                benchmarking.time, 'perf_counter', lambda: clock.now
            ),
        ):
            found = benchmarking.step_alone('tiny', benchmarking.Benchmark())
        self.assertEqual(asked, [('prior', 1, 1, 1)])
        # The first call compiles, and takes the step too.
        self.assertEqual(found['compile_seconds'], 5.0)
        self.assertEqual(found['step_seconds'], 4.0)
        # On a CPU, which counts no memory of its own, that of the process.
        if jax.default_backend() == 'cpu':
            self.assertGreater(found['peak_bytes'], 2**26)

    @pytest.mark.slow
    def test_a_process_of_its_own_finds_the_package_and_the_cache(self):
        asked = benchmarking.Benchmark(prepare=False)
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (
                benchmarking.step_in_a_process('faces64', asked, cache)
                for _ in range(2)
            )
        self.assertLess(warm['compile_seconds'], cold['compile_seconds'] / 2)
        self.assertGreater(warm['peak_bytes'], 2**27)


class TableTest(absltest.TestCase):
    def test_numbers_stand_in_their_units(self):
        seconds = {
            'forward': 0.010,
            'unconditional step': 0.011,
            'ScoreALD step': 0.012,
            'DPS step': 0.030,
            'bare DPS step': 0.025,
        }
        rows = [
            {
                'network': 'faces64',
                'batch': 8,
                'what': what,
                'seconds_per_image': value,
                'first_call_seconds': 12.34,
                'share_of_ceiling': 0.5,
            }
            for what, value in seconds.items()
        ]
        rows[0] |= {'peer_seconds_per_image': 0.02, 'ratio': 0.51}
        lines = benchmarks.table(
            benchmarking.Measured(
                2e11, rows, [('faces64: load', '1.0 s')], 'float32', 'cpu'
            )
        )
        self.assertEqual(lines[0], 'Ceiling: 200 GFLOP/s on cpu, float32.')
        self.assertEqual(
            lines[4],
            '| faces64 | 8 | forward | 10.0 | 50% | 12.3 | 20.0 | 0.51 |',
        )
        self.assertEqual(
            lines[7], '| faces64 | 8 | DPS step | 30.0 | 50% | 12.3 | | |'
        )
        self.assertEqual(
            lines[-3:],
            [
                '| faces64, batch 8: sampler beyond the network | 10.0% |',
                '| faces64, batch 8: DPS step in the sampler / bare | 1.20 |',
                '| faces64: load | 1.0 s |',
            ],
        )
        self.assertEqual(
            benchmarking.line(rows[0]),
            'faces64, batch 8, forward: 10.0 ms an image, 50% of the ceiling, '
            '0.51 of the peer',
        )


if __name__ == '__main__':
    absltest.main()
