"""Times: compiling and running add up."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl.testing import absltest

from invjax import timing


class SamplingSecondsTest(absltest.TestCase):
    def test_they_add_up_and_a_second_run_compiles_nothing(self):
        @jax.jit
        def inner(x):
            return jnp.sin(x) @ x

        @jax.jit
        def outer(x):
            return jax.lax.scan(lambda x, _: (inner(x), None), x, length=3)[0]

        x = np.eye(8, dtype=np.float32)
        times = []
        for _ in range(2):
            start = time.perf_counter()
            with timing.sampling_seconds() as seconds:
                time.sleep(0.05)
                outer(x).block_until_ready()
            total = time.perf_counter() - start
            self.assertAlmostEqual(sum(seconds.values()), total, delta=0.01)
            self.assertGreaterEqual(seconds['sampling'], 0.05)
            times.append(seconds)
        self.assertGreater(times[0]['compile'], 0)
        self.assertEqual(times[1]['compile'], 0)


if __name__ == '__main__':
    absltest.main()
