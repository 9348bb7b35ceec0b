"""Two processes that train together end with the weights of one."""

import pathlib
import socket
import subprocess
import sys
import tempfile
from unittest import mock

import jax
import numpy as np
import pytest
from absl.testing import absltest

from invjax.priors import checkpoint
from invjax.training import Config, evaluation, loop, network
from tests.training import small


def _config(out):
    return Config(
        images='phantoms:20',
        out=str(out),
        size=(8, 8),
        channels=1,
        preset='tiny',
        network={'channel_mult': (1,)},
        held_out=0.2,
        batch=4,
        num_steps=3,
        learning_rate=0.01,
        warm_up=1,
        half_lives=(1, 2),
        save_every=2,
        show_every=2,
        num_samples=2,
    )


def _train(out):
    with (
        mock.patch.object(evaluation, '_SAMPLE_STEPS', 2),
        mock.patch.object(evaluation, '_METHOD_STEPS', 2),
        mock.patch.object(evaluation, '_TASKS', ('super_resolution',)),
    ):
        loop.train(_config(out), print)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(('localhost', 0))
        return found.getsockname()[1]


@pytest.mark.slow
class ProcessesTest(absltest.TestCase):
    def test_two_share_each_batch_and_one_of_them_looks_and_writes(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        together, alone = (
            pathlib.Path(folder.name) / name for name in ('together', 'alone')
        )
        _train(alone)
        where = f'localhost:{_free_port()}'
        processes = [
            subprocess.Popen(
                [sys.executable, __file__, 'train', where, str(i), together],
                env=small.environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for i in range(2)
        ]
        said = [process.communicate(timeout=300)[0] for process in processes]
        self.assertEqual([p.returncode for p in processes], [0, 0], said)
        self.assertIn('Step 2', said[0])
        self.assertNotIn('Step 2', said[1])
        found, expected = (
            jax.tree.leaves(checkpoint.load_prior(out / 'prior').params)
            for out in (together, alone)
        )
        first = jax.tree.leaves(network.make_start(_config(alone)).prior.params)
        moved = max(
            np.abs(one - other).max()
            for one, other in zip(first, expected, strict=True)
        )
        self.assertGreater(moved, 0.02)
        # Kept in half precision; Adam makes much of the rounding of gradients
        # that are nearly zero, so that single values may differ by a step.
        for one, other in zip(found, expected, strict=True):
            self.assertLess(np.abs(one - other).mean(), 2e-4)
            self.assertLess(np.abs(one - other).max(), 0.01)


if __name__ == '__main__':
    if sys.argv[1:2] == ['train']:
        _, _, coordinator, number, folder_of_run = sys.argv
        jax.distributed.initialize(coordinator, 2, int(number))
        _train(folder_of_run)
    else:
        absltest.main()
