"""A training run: steps, looks, checkpoints, interruptions.

The folder of a run has

    config.json        what it is
    checkpoints/STEP/  what it goes on from: the state of the steps, the place in
                       the data, the history
    prior/             the prior as it is, for `load_prior`
    report.html        what it looks like; samples and restorations beside it

A checkpoint is complete or not there, and a run that goes on from one ends with
the same weights, bit for bit on the same machine, as one that was never
interrupted.
"""

import contextlib
import dataclasses
import fcntl
import json
import pathlib
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from invjax.strict_json import as_json, write_json
from invjax.training import data, look, network, page
from invjax.training import step as steps
from invjax.training.config import MAY_CHANGE, Config
from invjax.training.progress import Progress

_CONFIG = 'config.json'


class Outcome(NamedTuple):
    """How a run ended.

    Attributes:
        step: that it got to.
        is_finished: whether it took all steps; else it was asked to stop.
        prior: its folder.
        words: a sentence on it.
    """

    step: int
    is_finished: bool
    prior: pathlib.Path
    words: str


def train(config: Config, say: Callable[[str], None] = print) -> Outcome:
    """Train a prior, or go on with it where it was interrupted.

    SIGTERM and SIGINT stop it after the step that it is in, with a checkpoint;
    a second one ends it at once.
    All processes of `jax.distributed` call this with the same config; a folder
    that they share is written by one of them.

    Args:
        config: of the run.
        say: what prints a line.

    Raises:
        ValueError: before any work, if something does not fit together, or
            another process trains in the same folder; later, if a loss or a
            gradient is not finite, with the step, or a picture cannot be read.
            The last good state is then kept.
    """
    folder = pathlib.Path(config.out).absolute()
    with _noting_signals() as noted:
        run = _Run(config, folder, say)
        try:
            return run.run(noted)
        finally:
            run.close()


def _changes(folder: pathlib.Path, config: Config) -> list[str]:
    """What is another than in the run that a folder has, in words.

    Raises:
        ValueError: if that makes it another run, or the folder has something
            else in it.
    """
    path = folder / _CONFIG
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f'{path} cannot be read: {error}') from None
        changes = []
        for name, value in as_json(dataclasses.asdict(config)).items():
            if kept.get(name) == value:
                continue
            if name not in MAY_CHANGE:
                raise ValueError(
                    f'{folder} has a run with {name} {kept.get(name)}, got '
                    f'{value}; give the same, or another out.'
                )
            changes.append(f'{name} {value}, before {kept.get(name)}')
        return changes
    if folder.exists():
        # A hidden one may be half of what an interruption left.
        others = [e.name for e in folder.iterdir() if e.name[0] != '.']
        if others:
            raise ValueError(
                f'{folder} must be a new or empty folder, or one with a run to '
                f'go on with, but it has {min(others)} in it.'
            )
    return []


def _locked(folder: pathlib.Path):
    """The folder of a run, taken by this process as long as the file is open.

    Raises:
        ValueError: if another process has it.
    """
    file = (folder / '.lock').open('ab')
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f'another process trains in {folder}; wait until it is done, or '
            'give another out.'
        ) from None
    except OSError:
        pass  # Not every file system has locks.
    return file


@contextlib.contextmanager
def _noting_signals():
    """Gives a list, which gets the name of a signal that asks to stop."""
    noted: list[str] = []
    if threading.current_thread() is not threading.main_thread():
        yield noted  # Only the main thread may ask for signals.
        return

    def note(number, frame):
        del frame
        noted.append(signal.Signals(number).name)
        # A second one does what it did before.
        signal.signal(number, before[number])

    before = {
        number: signal.signal(number, note)
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """A run with all that it needs; see `train`."""

    def __init__(self, config, folder, say):
        self.config, self.folder = config, folder
        self.is_writer = jax.process_index() == 0
        self.say = say if self.is_writer else lambda line: None
        # Whatever is refused, nothing is written before.
        self.changes = _changes(folder, config)
        self.pictures = data.open_pictures(
            config.images,
            config.size,
            config.channels,
            config.crop,
            config.value_range,
        )
        self.split = data.split(
            len(self.pictures), config.held_out, config.seed
        )
        self.say(
            f'{self.pictures.words}; {len(self.split.held_out):,} of them held '
            'out.'
        )
        self.mesh = steps.make_mesh(config)
        self.start = network.make_start(config)
        params = self.start.prior.params
        self.say(
            f'{self.start.words}: {network.num_parameters(params):,} parameters.'
        )
        self.looks = look.Looks(
            config, folder, self.pictures, self.split, self.start
        )
        self.compiled = steps.compile_step(config, self.start.prior, self.mesh)
        self.say(f'Memory: {self.compiled.words}.')

        folder.mkdir(parents=True, exist_ok=True)
        self.lock = _locked(folder) if self.is_writer else None
        if self.is_writer and not self.changes:
            self._write_config()
        self.manager = ocp.CheckpointManager(
            folder / 'checkpoints',
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep, cleanup_tmp_directories=True
            ),
            item_names=('state', 'rest'),
        )

    def close(self):
        self.manager.close()
        if self.lock is not None:
            self.lock.close()

    def _write_config(self):
        write_json(self.folder / _CONFIG, dataclasses.asdict(self.config))

    def run(self, noted: list[str]) -> Outcome:
        """Until the last step, or one after a signal is noted."""
        config = self.config
        batches = data.Batches(
            self.pictures,
            self.split.trained,
            config.batch,
            config.size,
            config.flips,
            config.seed,
            jax.process_index(),
            jax.process_count(),
        )
        state = self._first_or_last(batches)
        step = int(state.step)
        progress = Progress(config.num_steps, config.batch, step, self.say)
        # Where the data go on after the steps that were taken.
        place = batches.state()
        images = self._put(next(batches))
        while step < config.num_steps and not _is_noted(noted):
            begin = time.perf_counter()
            place_after = batches.state()
            state, metrics = self.compiled.run(state, images)
            # Read and sent while the step is computed.
            broken = None
            try:
                images = self._put(next(batches))
            except Exception as error:  # Whatever it is, the step counts.
                broken = error
            seen = _as_numbers(metrics)
            if not seen.pop('is_finite'):
                self._save(dataclasses.replace(state, is_finite=_true()), place)
                raise ValueError(self._not_finite(step + 1, seen))
            step, place = step + 1, place_after
            seconds = time.perf_counter() - begin
            self.history.seconds += seconds
            self.unwritten.append({'step': step, 'count': 1, **seen})
            progress.step(step, seconds, seen['total'])

            is_last = step == config.num_steps
            if step % config.show_every == 0 or is_last:
                self._look(state, progress)
            # Several processes only save together, and others may be well.
            is_ending = broken is not None and jax.process_count() == 1
            if step % config.save_every == 0 or is_last or is_ending:
                self._save(state, place)
            if broken is not None and not is_last:
                raise broken
        progress.close()
        if step >= config.num_steps:
            if not self._has_prior(step):
                self._look(state, progress)
            words = f'{step:,} steps taken'
        else:
            self._save(state, place)
            if self.is_writer:
                self.looks.save_prior(state, self.history)
            by = noted[0] if noted else 'another process'
            words = (
                f'stopped at step {step:,} by {by}, with a checkpoint; the '
                'same command goes on from there'
            )
        return Outcome(
            step, step >= config.num_steps, self.folder / 'prior', words
        )

    def _has_prior(self, step: int) -> bool:
        """Whether the prior that is there is that of this step and config."""
        try:
            card = json.loads((self.folder / 'prior' / 'card.json').read_text())
            found = (card['training']['steps'], card['name'], card['licence'])
        except (OSError, ValueError, KeyError, TypeError):
            return False
        config = self.config
        return found == (step, config.prior_name, config.licence)

    def _put(self, images: np.ndarray) -> jax.Array:
        """This process's rows of a batch, on its devices."""
        return jax.make_array_from_process_local_data(
            steps.sharded(self.mesh), images
        )

    def _first_or_last(self, batches: data.Batches) -> steps.State:
        """The state to begin with; the data and the history follow it."""
        everywhere = steps.replicated(self.mesh)
        self.unwritten: list[dict[str, float]] = []
        step = self.manager.latest_step()
        if step is None:
            self.history = page.History()
            first = steps.first_state(self.config, self.start.prior.params)
            return jax.device_put(first, everywhere)
        shapes = jax.eval_shape(
            lambda: steps.first_state(self.config, self.start.prior.params)
        )
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=everywhere
            ),
            shapes,
        )
        rest = self.manager.restore(
            step, args=ocp.args.Composite(rest=ocp.args.JsonRestore())
        )['rest']
        if rest.get('version') != steps.State.version:
            raise ValueError(
                f'{self.folder} has a run that another version of this program '
                'began, whose checkpoints cannot be gone on with; give another '
                f'out, and go on from its prior with '
                f'init={self.folder / "prior"}.'
            )
        mark = rest['pictures']
        if mark != self.pictures.mark:
            raise ValueError(
                f'{self.folder} has a run with other pictures than those that '
                f'{self.config.images} has now ({self.pictures.words}); bring '
                'them back, or give another out.'
            )
        batches.set_state(rest['place'])
        self.history = page.History(**rest['history'])
        self.history.changes += [f'from step {step}: {c}' for c in self.changes]
        self.say(
            f'Going on from step {step:,}'
            + ''.join(f'; {change}' for change in self.changes)
            + '.'
        )
        return self.manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(target)),
        )['state']

    def _save(self, state: steps.State, place: dict[str, Any]) -> None:
        """A checkpoint, unless this step has one."""
        self._write_down()
        step = int(state.step)
        if self.manager.latest_step() == step:
            return
        rest = {
            'version': steps.State.version,
            'place': place,
            'pictures': self.pictures.mark,
            'history': self.history.as_dict(),
        }
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                rest=ocp.args.JsonSave(as_json(rest)),
            ),
        )
        if self.changes and self.is_writer:
            # Not before the checkpoint says what was changed.
            self.manager.wait_until_finished()
            self._write_config()
        self.changes = []

    def _write_down(self) -> None:
        if self.unwritten:
            self.history.add(page.mean_of(self.unwritten))
            self.unwritten.clear()

    def _not_finite(self, step: int, seen) -> str:
        kept = (
            f'the state before it is kept in {self.folder / "checkpoints"}'
            if step > 1
            else 'it was the first one'
        )
        return (
            f'step {step} has a loss of {seen["total"]} and a gradient of norm '
            f'{seen["gradient_norm"]}; {kept}. A smaller learning_rate may help.'
        )

    def _look(self, state: steps.State, progress: Progress) -> None:
        self._write_down()
        if self.is_writer:
            self.say(self.looks.look(state, self.history, progress))


def _true() -> jax.Array:
    return jnp.ones((), bool)


def _is_noted(noted: list[str]) -> bool:
    """Whether any process was asked to stop; all of them have one answer."""
    if jax.process_count() == 1:
        return bool(noted)
    everyone = multihost_utils.process_allgather(np.array(len(noted)))
    return bool(everyone.any())


def _as_numbers(metrics: steps.Metrics) -> dict[str, float]:
    """What was seen of a step; waits until it is done."""
    metrics = jax.device_get(metrics)
    numbers = {name: float(v) for name, v in metrics.loss._asdict().items()}
    return {
        **numbers,
        'gradient_norm': float(metrics.gradient_norm),
        'is_finite': bool(metrics.is_finite),
    }
