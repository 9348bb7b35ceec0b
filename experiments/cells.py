"""Cells of one method on one task: computed where missing, written one by one.

A cell is an image, a sample and a setting; `invjax/records.py` says how it is
kept. The binaries that go over many images share this.
"""

import hashlib
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import conditioners, metrics, records, sweep, tuning

NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 1, 'Of each image and setting.', lower_bound=1
)
NOISE_STD = flags.DEFINE_float(
    'noise_std', 0.05, 'In [-1, 1] units.', lower_bound=0
)
common.define_noise()
MAX_LANES = flags.DEFINE_integer(
    'max_lanes', 8, 'The most lanes at once.', lower_bound=1
)
_MEMORY_GIB = flags.DEFINE_float(
    'memory_gib',
    None,
    'Instead of --max_lanes: as many as fit on each device, by the '
    "compiler's estimate.",
    lower_bound=0,
)
_LPIPS = flags.DEFINE_enum(
    'lpips', 'alex', ['alex', 'vgg', 'none'], 'Variant of the distance.'
)


class Data(NamedTuple):
    """What all cells share.

    Attributes:
        prior, card: see `common.load_prior`.
        truths: (H, W, 3) in [-1, 1] each.
        lpips: metric, or None.
    """

    prior: object
    card: dict
    truths: list[np.ndarray]
    lpips: object


class Plan(NamedTuple):
    """Which cells: all images and samples, and these.

    Attributes:
        task, method: names.
        settings: hyperparameters by name, a dict a setting.
        given: settings that all cells share.
        noise_stds: in [-1, 1] units.
        hold_out: share of the measured pixels that is kept from the method.
    """

    task: str
    method: str
    settings: Sequence[dict]
    given: dict
    noise_stds: Sequence[float]
    hold_out: float = 0.0


class Done(NamedTuple):
    """What `compute` leaves behind.

    Attributes:
        measured, cells: protocols of the measurements and of the plan's cells.
        num_computed: cells that were not there before.
        seconds: that they took.
    """

    measured: list[dict]
    cells: list[dict]
    num_computed: int
    seconds: float


def load() -> Data:
    """The data of the flags."""
    common.given_noise()  # Refuses what cannot be, before anything is loaded.
    lpips = None if _LPIPS.value == 'none' else metrics.load_lpips(_LPIPS.value)
    prior, card = common.load_prior(MAX_LANES.value)
    truths = common.read_images(prior.image_shape[0])
    return Data(prior, card, truths, lpips)


def compute(
    out, plan: Plan, data: Data, process: int = 0, num_processes: int = 1
) -> Done:
    """Compute the share of a process in the cells that a folder lacks."""
    key = jax.random.key(common.SEED.value)
    _, key_held = jax.random.split(key)
    first = common.FIRST_IMAGE.value
    writer = records.Writer(out, process)
    parts, measured, cells, problems, held = [], [], [], [], []
    for noise_std in plan.noise_stds:
        of_noise = []
        for number, truth in enumerate(data.truths, start=first):
            measurement = common.measure_numbered(
                key, number, truth, plan.task, noise_std
            )
            shared = _shared_protocol(plan.task, noise_std, number, truth)
            measured.append(_measurement_cell(shared))
            if (
                process == 0
                and records.cell_id(measured[-1]) not in writer.done
            ):
                y = common.picture_of(measurement)
                scores = common.scores(y, truth, measurement, data.lpips)
                writer.write(measured[-1], scores, y)
            kept, rest = measurement, None
            if plan.hold_out:
                key_image = jax.random.fold_in(key_held, number)
                kept, rest = tuning.hold_out(
                    key_image, measurement, plan.hold_out
                )
            of_noise.append(kept)
            held.append(rest)
            cells += [
                _cell(plan, data.card, shared, sample, setting)
                for sample in range(NUM_SAMPLES.value)
                for setting in plan.settings
            ]
        parts.append(
            sweep.make_lanes(
                key, of_noise, plan.settings, NUM_SAMPLES.value, first
            )
        )
        problems += of_noise
    lanes = sweep.join_lanes(parts)
    share = np.arange(process, len(cells), num_processes)
    missing = np.array(
        [i for i in share if records.cell_id(cells[i]) not in writer.done], int
    )
    if len(missing) < len(share):
        print(f'{len(share) - len(missing)} of {len(share)} cells are there.')
    start = time.perf_counter()
    if len(missing):
        todo = lanes.take(missing)
        for result in _batches(plan, data, todo):
            failed = sweep.first_nonfinite_step(result.info)
            for lane, x, bad in zip(
                result.lanes, result.x, failed, strict=True
            ):
                cell, row = cells[missing[lane]], todo.rows[lane]
                if bad >= 0:
                    print(
                        f'image {cell["image"]} with {cell["settings"]} is not '
                        f'finite from step {bad}.'
                    )
                truth = data.truths[cell['image'] - first]
                scores = common.scores(x, truth, problems[row], data.lpips)
                if held[row] is not None:
                    scores['held_out'] = float(tuning.chi_square(x, held[row]))
                writer.write(cell, scores, np.nan_to_num(x))
    seconds = time.perf_counter() - start
    return Done(measured, cells, len(missing), seconds)


def _batches(plan, data, todo):
    max_lanes = MAX_LANES.value
    arguments = todo, data.prior, plan.method, common.NUM_STEPS.value
    if _MEMORY_GIB.value is not None:
        fitting = sweep.lanes_within(
            _MEMORY_GIB.value * 2**30, *arguments, **plan.given
        )
        max_lanes = fitting * jax.local_device_count()
        print(f'{max_lanes} lanes at once.')
    return sweep.run_batches(
        *arguments,
        max_lanes=max_lanes,
        on_progress=common.Progress(f'{plan.method}, {plan.task}'),
        **plan.given,
    )


def _shared_protocol(task, noise_std, number, truth) -> dict:
    """What a measurement depends on, and all that is made of it."""
    protocol = {
        'task': task,
        'task_parameters': common.given_task_parameters(),
        'seed': common.SEED.value,
        'noise_std': noise_std,
        'image': number,
        'image_sha256': hashlib.sha256(truth.tobytes()).hexdigest(),
    }
    # Left out where it is Gaussian, so that older cells keep their names.
    if common.given_noise():
        protocol['noise'] = common.given_noise()
    return protocol


def _measurement_cell(shared: dict) -> dict:
    return {**shared, 'method': 'measurement', 'sample': 0, 'settings': {}}


def _cell(plan, card, shared, sample, setting) -> dict:
    protocol = {
        **shared,
        'num_steps': common.NUM_STEPS.value,
        'prior': card['sha256'],
        'dtype': common.DTYPE.value,
        'method': plan.method,
        'sample': sample,
        'settings': {
            **conditioners.hyperparameters(plan.method),
            **plan.given,
            **setting,
        },
    }
    if plan.hold_out:
        protocol['hold_out'] = plan.hold_out
    return protocol
