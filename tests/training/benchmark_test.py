"""The benchmark of training: that it times whole steps, each on the last state."""

import contextlib
from unittest import mock

import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from invjax import benchmarking
from invjax.priors import state_dict
from invjax.training import benchmark
from tests.training import small


class MeasureTest(absltest.TestCase):
    def test_a_row_has_a_step_of_ours_and_one_of_the_peer_in_turn(self):
        asked, counts = [], []

        def ask(**question):
            asked.append(question)
            first_of_turn = len(asked) % (1 + benchmark.STEPS_IN_A_ROW) == 1
            return 900.0 if first_of_turn else 50.0

        def compile_step(config, prior, mesh):
            del prior, mesh
            self.assertEqual(config.batch, 4)

            def run(state, images):
                self.assertEqual(images.shape, (4, 64, 64, 3))
                counts.append(int(state.step))
                metrics = jnp.zeros(())
                return state.replace(step=state.step + 1), metrics

            return benchmark.steps.Compiled(run, 'a little')

        with (
            mock.patch.object(benchmark, '_peer') as peer,
            mock.patch.object(
                benchmark, 'make_prior', lambda *_: small.prior()
            ),
            mock.patch.object(benchmark.steps, 'compile_step', compile_step),
            mock.patch.object(benchmarking, 'ceiling_flops', lambda: 1e12),
            mock.patch.object(benchmarking, 'flops_of_pass', lambda *_: 1e6),
        ):
            peer.return_value = contextlib.nullcontext(ask)
            measured = benchmark.measure(
                benchmarking.Benchmark(['faces64'], [4], 3, 'python'),
                lambda line: None,
            )
        (row,) = measured.rows
        # Each step goes on from the one before. The first round is not timed,
        # and of the other three neither is the first step, here of the peer.
        in_a_row = benchmark.STEPS_IN_A_ROW
        number = in_a_row + 3 * (1 + in_a_row)
        self.assertEqual(counts, list(range(number)))
        question = {'network': 'faces64', 'batch': 4}
        self.assertEqual(asked, 4 * (1 + in_a_row) * [question])
        self.assertEqual(row['peer_seconds_per_image'], 50 / 4)
        self.assertAlmostEqual(row['ratio'], row['seconds_per_image'] / 12.5)
        share = 3 * 1e6 / row['seconds_per_image'] / 1e12
        self.assertAlmostEqual(row['share_of_ceiling'] / share, 1.0, places=5)
        words = dict(measured.others)
        self.assertEqual(words['faces64, batch 4: memory'], 'a little')
        self.assertEqual(
            words['faces64, batch 4: peer, s, each round'],
            '50.00, 50.00, 50.00',
        )

    def test_a_network_that_is_not_trained_is_refused(self):
        with self.assertRaisesRegex(ValueError, "diffusers64 with .*'ffhq256'"):
            benchmark.check(benchmarking.Benchmark(['ffhq256']))


class NetworkTest(absltest.TestCase):
    def test_that_of_diffusers_has_as_many_parameters_as_theirs(self):
        # Of UNet2DModel with the arguments of train_unconditional.py.
        shapes = state_dict.flax_shapes(benchmark.DIFFUSERS64, 3)
        number = sum(int(np.prod(shape)) for shape in shapes.values())
        self.assertEqual(number, 113_673_219)


if __name__ == '__main__':
    absltest.main()
