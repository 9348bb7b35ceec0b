"""A run: killed, stopped, gone on with, and refused; and what it leaves."""

import fcntl
import json
import pathlib
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from unittest import mock

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from absl.testing import absltest, parameterized

from invjax import diffusion, images, phantoms
from invjax.priors import checkpoint, convert
from invjax.training import (
    Config,
    data,
    evaluation,
    loop,
    network,
    page,
    progress,
)
from tests.training import small

_STEPS = 24


def _config(out, **kwargs):
    given = {
        'images': 'phantoms:20',
        'out': str(out),
        'size': (8, 8),
        'channels': 1,
        'preset': 'tiny',
        'held_out': 0.1,
        'batch': 8,
        'num_steps': _STEPS,
        'learning_rate': 0.01,
        # Both have a state of their own, from which a run goes on.
        'weighting': 'balanced',
        'optimizer': 'muon',
        'warm_up': 2,
        'flips': 'all',
        'save_every': 1,
        'show_every': 1000,
        'num_samples': 4,
    }
    return Config(**{**given, **kwargs})


def _no_look(self, state, progress):
    del progress
    (self.folder / 'prior').mkdir(exist_ok=True)


def _small():
    """Runs with the small network, and without looks."""
    stack = mock.patch.multiple(loop._Run, _look=_no_look)
    start = mock.patch.object(network, 'make_start', small.make_start)
    # A prior that is kept says what its network is.
    described = mock.patch.object(convert, 'describe', lambda network: {})
    return stack, start, described


def _train(config, say=lambda line: None):
    look, start, described = _small()
    with look, start, described:
        return loop.train(config, say)


def _state(out):
    """The leaves of the last checkpoint, as bytes, and its other half."""
    with ocp.CheckpointManager(
        pathlib.Path(out).absolute() / 'checkpoints',
        item_names=('state', 'rest'),
    ) as manager:
        step = manager.latest_step()
        kept = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(), rest=ocp.args.JsonRestore()
            ),
        )
    leaves = [
        np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(kept['state'])
    ]
    return step, leaves, kept['rest']


def _start_process(out):
    return subprocess.Popen(
        [sys.executable, __file__, 'train', str(out)],
        env=small.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _wait_for_batches(process, number):
    """Until so many were read; gives the steps that it went on from."""
    began_at = []
    for line in process.stdout:
        if 'Going on from step' in line:
            began_at.append(line)
        number -= line.startswith('batch')
        if not number:
            break
    return began_at


@pytest.mark.slow
class InterruptionTest(absltest.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        folder = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.folder = pathlib.Path(folder)
        process = _start_process(cls.folder / 'whole')
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        cls.whole = _state(cls.folder / 'whole')

    def assert_ended_the_same(self, out):
        step, leaves, rest = _state(out)
        self.assertEqual(step, _STEPS)
        self.assertEqual(leaves, self.whole[1])
        self.assertEqual(rest['place'], self.whole[2]['place'])
        losses = [loss['total'] for loss in rest['history']['losses']]
        expected = [
            loss['total'] for loss in self.whole[2]['history']['losses']
        ]
        self.assertEqual(losses, expected)

    def test_killed_at_any_moment_it_ends_with_the_same_weights(self):
        out = self.folder / 'killed'
        rng = random.Random(0)
        began_at = []
        for _ in range(3):
            process = _start_process(out)
            began_at += _wait_for_batches(process, rng.randint(2, 8))
            # In a step, or while a checkpoint is written.
            time.sleep(rng.uniform(0.0, 0.3))
            self.assertIsNone(process.poll())
            process.kill()
            process.communicate()
        process = _start_process(out)
        said, errors = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, errors)
        # It did not begin anew each time.
        self.assertNotEmpty(began_at)
        self.assertIn('Going on from step', said)
        self.assert_ended_the_same(out)

    def test_asked_to_stop_it_saves_and_says_so(self):
        out = self.folder / 'stopped'
        process = _start_process(out)
        _wait_for_batches(process, 4)
        process.send_signal(signal.SIGTERM)
        said, errors = process.communicate(timeout=300)
        self.assertEqual(process.returncode, 0, errors)
        found = re.search(
            r'stopped at step (\d+) by SIGTERM.*the same command goes on', said
        )
        self.assertIsNotNone(found, said)
        step, _, _ = _state(out)
        self.assertEqual(step, int(found[1]))
        self.assertLess(step, _STEPS)
        # The prior that the sentence speaks of is there, as of that step.
        card = json.loads((out / 'prior' / 'card.json').read_text())
        self.assertEqual(card['training']['steps'], step)
        self.assertNotIn('held_out_loss', card)
        _start_process(out).communicate(timeout=300)
        self.assert_ended_the_same(out)


class RunTest(parameterized.TestCase):
    def setUp(self):
        super().setUp()
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name) / 'run'

    def assert_goes_on_from_step_3(self):
        """To where it would have got without the fault."""
        step, _, rest = _state(self.out)
        self.assertEqual(step, 3)
        self.assertEqual(rest['place']['next_index'], 3)
        good = self.out.parent / 'good'
        for out in (self.out, good):
            _train(_config(out, num_steps=6, save_every=100))
        self.assertEqual(_state(self.out)[1], _state(good)[1])

    def test_it_says_what_it_will_take_before_the_first_step(self):
        lines = []
        outcome = _train(_config(self.out, num_steps=2), lines.append)
        self.assertTrue(outcome.is_finished)
        text = ' '.join(lines)
        self.assertIn('the first 20 slices', text)
        self.assertIn('2 of them held out', text)
        self.assertRegex(text, r'Memory: .* GiB on the device at the peak')

    def test_checkpoints_of_another_version_are_refused_with_a_way_on(self):
        with mock.patch.object(loop.steps.State, 'version', 1):
            _train(_config(self.out, num_steps=1))
        with self.assertRaisesRegex(
            ValueError, 'another version .* init=.*run/prior'
        ):
            _train(_config(self.out))

    def test_a_longer_run_goes_on_and_keeps_the_last_few(self):
        _train(_config(self.out, num_steps=3))
        lines = []
        outcome = _train(
            _config(self.out, num_steps=6, keep=2, learning_rate=0.02),
            lines.append,
        )
        self.assertEqual(outcome.step, 6)
        self.assertIn('Going on from step 3', ' '.join(lines))
        kept = sorted(p.name for p in (self.out / 'checkpoints').iterdir())
        self.assertEqual(kept, ['5', '6'])
        _, _, rest = _state(self.out)
        self.assertIn(
            'from step 3: learning_rate 0.02, before 0.01',
            rest['history']['changes'],
        )

    def test_another_run_in_the_same_folder_is_refused(self):
        _train(_config(self.out, num_steps=1))
        with self.assertRaisesRegex(ValueError, 'a run with batch 8, got 4'):
            _train(_config(self.out, num_steps=1, batch=4))
        other = self.out.parent / 'other'
        other.mkdir()
        (other / 'thesis.tex').write_text('')
        with self.assertRaisesRegex(ValueError, 'thesis.tex'):
            _train(_config(other))

    def test_other_pictures_than_before_are_refused(self):
        pictures = self.out.parent / 'pictures'
        for i in range(4):
            images.write_image(
                pictures / f'{i}.png', phantoms.draw(0, 1, i, side=8)[0]
            )
        given = {'images': str(pictures), 'batch': 2}
        _train(_config(self.out, num_steps=1, **given))
        _train(_config(self.out, num_steps=2, **given))
        images.write_image(pictures / 'b.png', phantoms.draw(1, 1, side=8)[0])
        with self.assertRaisesRegex(ValueError, 'other pictures than those'):
            _train(_config(self.out, num_steps=3, **given))
        (pictures / 'b.png').unlink()
        self.assertEqual(
            _train(_config(self.out, num_steps=3, **given)).step, 3
        )

    def test_a_picture_that_cannot_be_read_leaves_what_was_trained(self):
        read, counted = data.Batches.__next__, []

        def broken(self):
            counted.append(0)
            if len(counted) == 4:
                raise ValueError('3.png ends too early.')
            return read(self)

        with (
            mock.patch.object(data.Batches, '__next__', broken),
            self.assertRaisesRegex(ValueError, '3.png ends'),
        ):
            _train(_config(self.out, save_every=100))
        self.assert_goes_on_from_step_3()

    def test_one_process_at_a_time_trains_in_a_folder(self):
        _train(_config(self.out, num_steps=1))
        with (self.out / '.lock').open('ab') as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            with self.assertRaisesRegex(ValueError, 'another process trains'):
                _train(_config(self.out, num_steps=2))
        self.assertEqual(_train(_config(self.out, num_steps=2)).step, 2)

    def test_what_was_changed_is_kept_through_a_kill_before_a_checkpoint(self):
        _train(_config(self.out, num_steps=1))
        changed = _config(self.out, num_steps=2, clip=2.0)
        with (
            mock.patch.object(loop._Run, 'run', side_effect=KeyboardInterrupt),
            self.assertRaises(KeyboardInterrupt),
        ):
            _train(changed)
        _train(changed)
        _, _, rest = _state(self.out)
        self.assertIn(
            'from step 1: clip 2.0, before 1.0', rest['history']['changes']
        )
        # It is the run's own from then on.
        _train(_config(self.out, num_steps=3, clip=2.0))
        _, _, rest = _state(self.out)
        self.assertLen(rest['history']['changes'], 3)

    def test_a_run_that_is_done_leaves_the_prior_of_its_end(self):
        looked = []

        def look(self, state, progress):
            del progress
            (self.folder / 'prior').mkdir(exist_ok=True)
            card = {
                'name': self.config.prior_name,
                'licence': self.config.licence,
                'training': {'steps': int(state.step)},
            }
            (self.folder / 'prior' / 'card.json').write_text(json.dumps(card))
            looked.append(int(state.step))

        _, start, described = _small()
        with mock.patch.object(loop._Run, '_look', look), start, described:

            def train(**given):
                return loop.train(_config(self.out, **given), lambda line: None)

            train(num_steps=2)
            train(num_steps=2)
            self.assertEqual(looked, [2])
            train(num_steps=2, licence='CC0')
            self.assertEqual(looked, [2, 2])

    def test_a_loss_that_is_not_finite_stops_it_with_the_last_good_state(self):
        read = data.Batches.__next__
        counted = []

        def broken(self):
            counted.append(0)
            return read(self) + (np.nan if len(counted) == 4 else 0)

        with (
            mock.patch.object(data.Batches, '__next__', broken),
            self.assertRaisesRegex(ValueError, 'step 4 has a loss of nan'),
        ):
            _train(_config(self.out, save_every=100))
        self.assert_goes_on_from_step_3()

    def test_a_new_network_leaves_a_prior_a_page_and_pictures(self):
        config = _config(
            self.out,
            num_steps=2,
            network={'channel_mult': (1,)},
            licence='public domain',
        )
        with (
            mock.patch.object(evaluation, '_SAMPLE_STEPS', 2),
            mock.patch.object(evaluation, '_METHOD_STEPS', 2),
            mock.patch.object(evaluation, '_TASKS', ('super_resolution',)),
        ):
            outcome = loop.train(config, lambda line: None)
        prior = checkpoint.load_prior(outcome.prior)
        self.assertEqual(prior.image_shape, (8, 8, 1))
        card = prior.card
        self.assertEqual(card['name'], 'run')
        self.assertEqual(card['licence'], 'public domain')
        self.assertEqual(card['training']['images_seen'], 16)
        self.assertEqual((card['num_pictures'], card['num_held_out']), (18, 2))
        self.assertLen(card['held_out_loss']['t'], 12)
        self.assertIn('--channel_mult=1', card['training']['command'])
        # What it keeps is one of the averages, to half precision.
        _, _, rest = _state(self.out)
        best = rest['history']['looks'][-1]['best']
        self.assertIn(best, (0, 1))
        levels = rest['history']['looks'][-1]['levels'][best]
        self.assertEqual(levels['error'], card['held_out_loss']['error'])
        text = (self.out / 'report.html').read_text()
        self.assertIn('public domain', text)
        self.assertIn('2 of 2', text)
        self.assertIn('>python -m experiments.train', text)
        for name in ('samples-00000002', 'restorations', 'pictures'):
            self.assertTrue((self.out / f'{name}.png').is_file())


class EvaluationTest(absltest.TestCase):
    def test_who_says_nothing_has_an_error_of_one(self):
        prior = small.prior()
        zero = jax.tree.map(np.zeros_like, prior.params)
        images = phantoms.draw(0, 20, side=8)
        levels = evaluation.by_level(prior.replace(params=zero), images)
        # 1280 values.
        np.testing.assert_allclose(levels.error, 1, atol=5 * (2 / 1280) ** 0.5)
        self.assertEqual(sorted(levels.t), list(levels.t))
        self.assertEqual(levels.t[-1], 49)
        alpha_bar = prior.alpha_bar[levels.t]
        noise = diffusion.diffuse(0.0, alpha_bar, 1.0)
        signal = diffusion.diffuse(1.0, alpha_bar, 0.0)
        np.testing.assert_allclose(levels.noise_std, noise / signal, rtol=1e-6)

    def test_the_estimate_is_that_of_the_noise_that_was_added(self):
        # Of an image of one value the noise is known.
        prior = small.prior()

        def knows(self, x_t, t):
            alpha_bar = jax.numpy.asarray(self.alpha_bar)[t]
            eps = (x_t - alpha_bar**0.5 * 0.25) / (1 - alpha_bar) ** 0.5
            return evaluation.diffusion.Prediction(eps)

        with mock.patch.object(type(prior), '__call__', knows):
            levels = evaluation.by_level(
                prior.replace(num_train_steps=49), np.full((3, 8, 8, 1), 0.25)
            )
        np.testing.assert_allclose(levels.error, 0, atol=1e-6)
        self.assertGreater(min(levels.psnr), 60)


class HistoryTest(absltest.TestCase):
    def test_a_long_history_keeps_its_means_in_fewer_points(self):
        history = page.History()
        rng = np.random.default_rng(0)
        values = rng.uniform(size=5000)
        for step, value in enumerate(values, 1):
            history.add({'step': step, 'count': 1, 'total': value})
        self.assertLess(len(history.losses), 1100)
        counts = [loss['count'] for loss in history.losses]
        self.assertEqual(sum(counts), 5000)
        self.assertEqual(history.losses[-1]['step'], 5000)
        mean = sum(x['total'] * x['count'] for x in history.losses) / 5000
        self.assertAlmostEqual(mean, values.mean())
        self.assertEqual(
            page.History(**json.loads(json.dumps(history.as_dict()))), history
        )


class PageTest(absltest.TestCase):
    def test_two_channels_are_shown_by_their_magnitude(self):
        # 0 is black, 1 is the middle, and 2 and more are white.
        x = np.array([[[0.3, -0.4], [0, 0]], [[0.6, 0.8], [3, 4]]])
        np.testing.assert_allclose(
            page.as_picture(x)[..., 0], [[-0.5, -1], [0, 1]], atol=1e-12
        )
        np.testing.assert_array_equal(page.as_picture(x[..., :1]), x[..., :1])

    def test_every_other_level_has_a_line_over_time(self):
        t = [10 * place for place in range(12)]
        first = {'t': t, 'error': [1.0 + place for place in range(12)]}
        second = {'t': t, 'error': [0.5 + place / 4 for place in range(12)]}
        plot = page._held_out_plot([(5, first), (9, second)])
        named = re.findall(r't = (\d+)', plot['legend'])
        self.assertEqual([int(n) for n in named], t[::2])


class ProgressTest(absltest.TestCase):
    def test_the_rest_takes_as_long_as_the_last_steps_did(self):
        seen = progress.Progress(300, 8, 0, self.fail)
        self.assertEqual(seen.images_a_second, 0)
        self.assertEqual(seen.left(0), 'unknown')
        for step in range(1, 11):
            seen.step(step, 2.0, 0.1)
        self.assertAlmostEqual(seen.images_a_second, 4.0)
        self.assertEqual(seen.left(210), '0:03:00')
        for step in range(11, 300):
            seen.step(step, 1.0, 0.1)
        self.assertAlmostEqual(seen.images_a_second, 8.0, places=4)
        self.assertEqual(seen.left(240), '0:01:00')


def _train_here(out):
    read = data.Batches.__next__

    def slow(self):
        print('batch', flush=True)
        time.sleep(0.2)
        return read(self)

    with mock.patch.object(data.Batches, '__next__', slow):
        outcome = _train(_config(out), lambda line: print(line, flush=True))
    print(outcome.words)


if __name__ == '__main__':
    if sys.argv[1:2] == ['train']:
        _train_here(sys.argv[2])
    else:
        absltest.main()
