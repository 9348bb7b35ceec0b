"""Ctrl-C: one line and a status, whatever a run is at."""

import pathlib
import signal
import tempfile
import time

from absl.testing import absltest, parameterized

from tests.experiments import tiny_prior

_SECONDS = 2.0


def _seconds_to_end(process) -> float:
    """How long a process takes to end, by the clock of a machine without others.

    The clock is the processor time that a busy thread gets meanwhile: on an idle
    machine all the time there is, on a loaded one as much less as the process
    gets, too.
    """
    start, last = time.thread_time(), time.monotonic() + 120
    while process.poll() is None and time.monotonic() < last:
        pass
    return time.thread_time() - start


class InterruptTest(parameterized.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            # A shell starts what runs in its background so, and what that
            # starts would ignore Ctrl-C too.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            cls.addClassCleanup(signal.signal, signal.SIGINT, signal.SIG_IGN)
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
        process.send_signal(signal.SIGINT)
        self.assertLess(_seconds_to_end(process), _SECONDS)
        _, rest = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 130)
        self.assertNotIn('Traceback', rest)
        lines = [x for x in rest.splitlines() if ' steps, ' not in x]
        self.assertEqual(lines, ['interrupted; what was written before stays.'])


if __name__ == '__main__':
    absltest.main()
