"""A training run: steps, looks, checkpoints, interruptions.

The folder of a run has

    config.json        what it is
    checkpoints/STEP/  what it goes on from: the state of the steps, the place in
                       the data, the history
    prior/             the prior as it is, for `load_prior`
    train.html         what it looks like; samples and restorations beside it

A checkpoint is complete or not there, and a run that goes on from one ends with
the same weights, bit for bit on the same machine, as one that was never
interrupted.
"""

import contextlib
import dataclasses
import hashlib
import json
import pathlib
import shlex
import signal
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from invjax.priors import checkpoint, convert
from invjax.priors.unet import NetworkPrior
from invjax.strict_json import as_json, write_json
from invjax.training import data, evaluation, network, page
from invjax.training import step as steps
from invjax.training.config import MAY_CHANGE, Config
from invjax.training.progress import Progress

# Of the held-out pictures, those that looks are at.
_MOST_HELD_OUT = 64
_NUM_RESTORED = 2
_STORED_AS = np.float16


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

    SIGTERM and SIGINT stop it after the step that it is in, with a checkpoint.
    All processes of `jax.distributed` call this with the same config; a folder
    that they share is written by one of them.

    Args:
        config: of the run.
        say: what prints a line.

    Raises:
        ValueError: before any work, if something does not fit together; later,
            if a loss or a gradient is not finite, with the step. The last good
            state is then kept.
    """
    folder = pathlib.Path(config.out).absolute()
    run = _Run(config, folder, say)
    try:
        return run.run()
    finally:
        run.close()


def _keep_config(folder: pathlib.Path, config: Config) -> list[str]:
    """Write what a run is; gives what has changed since, in words.

    Raises:
        ValueError: if the folder has another run or something else in it.
    """
    path = folder / 'config.json'
    given = as_json(dataclasses.asdict(config))
    changes = []
    if path.is_file():
        try:
            kept = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f'{path} cannot be read: {error}') from None
        for name, value in given.items():
            if kept.get(name) == value:
                continue
            if name not in MAY_CHANGE:
                raise ValueError(
                    f'{folder} has a run with {name} {kept.get(name)}, got '
                    f'{value}; give the same, or another out.'
                )
            changes.append(f'{name} {value}, before {kept.get(name)}')
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f'{folder} must be a new or empty folder, or one with a run to go '
            f'on with, but it has {min(e.name for e in folder.iterdir())} in it.'
        )
    folder.mkdir(parents=True, exist_ok=True)
    if jax.process_index() == 0:
        write_json(path, given)
    return changes


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
        self.pictures = data.open_pictures(
            config.images,
            config.size,
            config.channels,
            config.crop,
            config.value_range,
        )
        self.changes = _keep_config(folder, config)
        self.split = data.split(
            len(self.pictures), config.held_out, config.seed
        )
        self.say(
            f'{self.pictures.words}; {len(self.split.held_out):,} of them held '
            'out.'
        )
        self.held_out = self._cut(self.split.held_out)
        self.mesh = steps.make_mesh(config)
        self.start = network.make_start(config)
        self.prior = self.start.prior
        number = network.num_parameters(self.prior.params)
        self.say(f'{self.start.words}: {number:,} parameters.')
        self.manager = ocp.CheckpointManager(
            folder / 'checkpoints',
            options=ocp.CheckpointManagerOptions(
                max_to_keep=config.keep, cleanup_tmp_directories=True
            ),
            item_names=('state', 'rest'),
        )

    def _cut(self, numbers: np.ndarray) -> np.ndarray | None:
        chosen = numbers[:_MOST_HELD_OUT]
        if not len(chosen):
            return None
        return data.held_out_images(self.pictures, chosen, self.config.size)

    def close(self):
        self.manager.close()

    def run(self) -> Outcome:
        config = self.config
        compiled = steps.compile_step(config, self.prior, self.mesh)
        self.say(f'Memory: {compiled.words}.')
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
        with _noting_signals() as noted:
            # Where the data go on after the steps that were taken.
            place = batches.state()
            images = self._put(next(batches))
            while step < config.num_steps and not _is_noted(noted):
                begin = time.perf_counter()
                place_after = batches.state()
                state, metrics = compiled.run(state, images)
                # Read and sent while the step is computed.
                images = self._put(next(batches))
                seen = _as_numbers(metrics)
                if not seen.pop('is_finite'):
                    self._save(state.replace(is_finite=_true()), place)
                    raise ValueError(self._not_finite(step + 1, seen))
                step, place = step + 1, place_after
                seconds = time.perf_counter() - begin
                self.history.seconds += seconds
                self.unwritten.append({'step': step, 'count': 1, **seen})
                progress.step(step, seconds, seen['total'])

                is_last = step == config.num_steps
                if step % config.show_every == 0 or is_last:
                    self._look(state, progress)
                if step % config.save_every == 0 or is_last:
                    self._save(state, place)
        progress.close()
        if step >= config.num_steps:
            if not (self.folder / 'prior').is_dir():
                self._look(state, progress)
            words = f'{step:,} steps taken'
        else:
            self._save(state, place)
            by = noted[0] if noted else 'another process'
            words = (
                f'stopped at step {step:,} by {by}, with a checkpoint; the '
                'same command goes on from there'
            )
        return Outcome(
            step, step >= config.num_steps, self.folder / 'prior', words
        )

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
            first = steps.first_state(self.config, self.prior.params)
            return jax.device_put(first, everywhere)
        shapes = jax.eval_shape(
            lambda: steps.first_state(self.config, self.prior.params)
        )
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=everywhere
            ),
            shapes,
        )
        restored = self.manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(target),
                rest=ocp.args.JsonRestore(),
            ),
        )
        batches.set_state(restored['rest']['place'])
        self.history = page.History(**restored['rest']['history'])
        self.history.changes += [f'from step {step}: {c}' for c in self.changes]
        self.say(
            f'Going on from step {step:,}'
            + ''.join(f'; {change}' for change in self.changes)
            + '.'
        )
        return restored['state']

    def _save(self, state: steps.State, place: dict[str, Any]) -> None:
        """A checkpoint, unless this step has one."""
        self._write_down()
        step = int(state.step)
        if self.manager.latest_step() == step:
            return
        rest = {'place': place, 'history': self.history.as_dict()}
        self.manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                rest=ocp.args.JsonSave(as_json(rest)),
            ),
        )

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
        """Judge the averages, and write the prior and the page."""
        self._write_down()
        if not self.is_writer:
            return
        config, step = self.config, int(state.step)
        begin = time.perf_counter()
        priors = [
            self.prior.replace(params=_on_one_device(params))
            for params in state.averages
        ]
        levels, best = [], len(priors) - 1
        if self.held_out is not None:
            levels = [evaluation.by_level(p, self.held_out) for p in priors]
            best = int(np.argmin([found.mean_error for found in levels]))
        self.history.looks.append(
            {
                'step': step,
                'seconds': self.history.seconds,
                'levels': [found.as_dict() for found in levels],
                'best': best,
            }
        )
        card = self._card(priors[best], step, levels[best] if levels else None)
        checkpoint.save_prior(
            self.folder / 'prior', _stored(priors[best].params), card
        )
        self._draw(priors[best], step)
        page.write(
            self.folder,
            config,
            self.history,
            {
                'step': f'{step:,} of {config.num_steps:,}',
                'images seen': f'{step * config.batch:,}',
                'images a second': f'{progress.images_a_second:.1f}',
                'time': page.duration(self.history.seconds),
                'left': progress.left(step),
                'as of': time.strftime('%Y-%m-%d %H:%M:%S'),
            },
            {'config': dataclasses.asdict(config), 'card': card},
        )
        found = (
            f'held-out error {levels[best].mean_error:.4f}, ' if levels else ''
        )
        self.say(
            f'Step {step:,}: {found}looked at in '
            f'{time.perf_counter() - begin:.0f} s; see '
            f'{self.folder / "train.html"}.'
        )

    def _draw(self, prior: NetworkPrior, step: int) -> None:
        """Samples, and restorations of pictures that were held out."""
        drawn = evaluation.samples(prior, self.config.num_samples)
        rows = page.in_rows(drawn)
        page.sheet(rows).save(self.folder / f'samples-{step:08d}.png')
        first = self.folder / 'pictures.png'
        if not first.is_file():
            numbers = self.split.trained[: self.config.num_samples]
            shown = data.held_out_images(
                self.pictures, numbers, self.config.size
            )
            page.sheet(page.in_rows(shown)).save(first)
        if self.held_out is not None:
            made = evaluation.restorations(prior, self.held_out[:_NUM_RESTORED])
            page.sheet(**made, titles=('truth', 'measured', 'restored')).save(
                self.folder / 'restorations.png'
            )

    def _card(self, prior, step: int, levels) -> dict[str, Any]:
        """All that is to be known of the prior, as plain data."""
        config, origin = self.config, self.start.origin
        card = {
            'name': config.prior_name,
            'sha256': _sha256(_stored(prior.params)),
            'architecture': convert.describe(prior.network),
            'num_parameters': network.num_parameters(prior.params),
            'stored_as': np.dtype(_STORED_AS).name,
            'noise_schedule': prior.noise_schedule,
            'num_train_steps': prior.num_train_steps,
            'data': self.pictures.words,
            'num_pictures': len(self.split.trained),
            'num_held_out': len(self.split.held_out),
            'licence': config.licence,
            'training': {
                'command': command(config),
                'steps': step,
                'images_seen': step * config.batch,
                'hours': round(self.history.seconds / 3600, 2),
                'changes': self.history.changes,
            },
            'note': f'trained on {len(self.split.trained):,} pictures',
        }
        if origin is not None:
            if 'rescale_timesteps' in origin:
                card['rescale_timesteps'] = origin['rescale_timesteps']
            card['init'] = {
                name: origin.get(name)
                for name in ('name', 'sha256', 'data', 'licence')
            }
        if levels is not None:
            card['held_out_loss'] = levels.as_dict()
        return as_json(card)


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


def _on_one_device(params: dict) -> dict:
    """What all devices have, on the first of this process."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), params)


def _stored(params: dict) -> dict:
    return jax.tree.map(lambda leaf: np.asarray(leaf, _STORED_AS), params)


def _sha256(params: dict) -> str:
    """Of names and values, in the order of the names."""
    leaves = flax.traverse_util.flatten_dict(params, sep='/')
    digest = hashlib.sha256()
    for name in sorted(leaves):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(leaves[name]).tobytes())
    return digest.hexdigest()


def command(config: Config) -> str:
    """The command line of a run: all that is not by default."""
    given = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name == 'network':
            given += list(value.items())
        elif value != field.default:
            given.append((field.name, value))
    return ' '.join(
        ['python -m experiments.train']
        + [shlex.quote(_flag(name, value)) for name, value in given]
    )


def _flag(name: str, value) -> str:
    if isinstance(value, bool):
        return f'--{name}' if value else f'--no{name}'
    if isinstance(value, tuple | list):
        if name == 'size' and value[0] == value[1]:
            value = value[:1]
        if name == 'attention_downsamplings':
            value = value or (0,)
        value = ','.join(map(str, value))
    return f'--{name}={value}'
