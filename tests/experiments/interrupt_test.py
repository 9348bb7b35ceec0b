"""Ctrl-C: one line and a status, whatever a run is at."""

import pathlib
import signal
import tempfile
import time

from absl.testing import absltest, parameterized

from tests.experiments import tiny_prior

# Two are asked for; a machine that is busy with other tests may take longer.
_SECONDS = 10.0


class InterruptTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        holder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(holder.cleanup)
        cls.folder = pathlib.Path(holder.name)
        tiny_prior.write(cls.folder, 1)

    @parameterized.named_parameters(
        ('while_it_compiles', 'compiling'), ('while_it_runs', ' steps, ')
    )
    def test_it_ends_in_one_line(self, words):
        process = tiny_prior.start(
            'restore',
            self.folder,
            f'--image={self.folder}/images/0.png',
            '--task=denoising',
            '--method=dps',
            '--num_steps=1000',
            '--num_samples=3',
            f'--out={self.folder}/out',
        )
        for line in process.stderr:
            if words in line:
                break
        else:
            self.fail('it ended before it was interrupted')
        start = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=60)
        self.assertLess(time.monotonic() - start, _SECONDS)
        self.assertEqual(process.returncode, 130)
        self.assertNotIn('Traceback', rest)
        lines = [x for x in rest.splitlines() if ' steps, ' not in x]
        self.assertEqual(lines, ['interrupted; what was written before stays.'])


if __name__ == '__main__':
    absltest.main()
