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
from invjax import (
    conditioners,
    evaluations,
    metrics,
    records,
    sweep,
    tuning,
)

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
_LPIPS = flags.DEFINE_list(
    'lpips', ['alex'], 'Variants of the distance: alex, vgg, both, or none.'
)


class Data(NamedTuple):
    """What all cells share.

    Attributes:
        prior, card: see `common.load_prior`.
        truths: (H, W, 3) in [-1, 1] each.
        distances: LPIPS in the variants of the flag.
    """

    prior: object
    card: dict
    truths: list[np.ndarray]
    distances: list[metrics.LPIPS]


class Plan(NamedTuple):
    """Which cells: all images and samples, and these.

    Attributes:
        task, method: names.
        settings: hyperparameters by name, a dict a setting.
        given: settings that all cells share.
        noise_stds: in [-1, 1] units.
        num_steps: any form that `schedule.respace` takes.
        hold_out: share of the measured pixels that is kept from the method.
        has_costs: whether the scores of a cell are to have its network
            evaluations, `forward` and `backward`, and its `seconds`: those of
            its batch, without compilation, over the batch's lanes.
    """

    task: str
    method: str
    settings: Sequence[dict]
    given: dict
    noise_stds: Sequence[float]
    num_steps: str
    hold_out: float = 0.0
    has_costs: bool = False


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
    distances = _load_distances(_LPIPS.value)
    prior, card = common.load_prior(MAX_LANES.value)
    truths = common.read_images(prior.image_shape[0])
    return Data(prior, card, truths, distances)


def _load_distances(variants: list[str]) -> list[metrics.LPIPS]:
    try:
        return [metrics.load_lpips(v) for v in variants if v != 'none']
    except RuntimeError as error:  # No place has the weights.
        raise ValueError(str(error)) from None


def compute(
    out, plan: Plan, data: Data, process: int = 0, num_processes: int = 1
) -> Done:
    """Compute the share of a process in the cells that a folder lacks."""
    writer = records.Writer(out, process)
    measured, cells = _protocols(plan, data)
    share = np.arange(process, len(cells), num_processes)
    missing = np.array(
        [i for i in share if records.cell_id(cells[i]) not in writer.done], int
    )
    if len(missing) < len(share):
        print(f'{len(share) - len(missing)} of {len(share)} cells are there.')
    # The first process measures for all.
    unmeasured = [
        i
        for i, cell in enumerate(measured)
        if process == 0 and records.cell_id(cell) not in writer.done
    ]
    if not len(missing) and not unmeasured:
        return Done(measured, cells, 0, 0.0)
    key = jax.random.key(common.SEED.value)
    wholes = _measure(key, plan, data)
    for i in unmeasured:
        y = common.picture_of(wholes[i])
        truth = data.truths[i % len(data.truths)]
        scores = common.scores(y, truth, wholes[i], data.distances)
        writer.write(measured[i], scores, y)
    start = time.perf_counter()
    if len(missing):
        _restore(writer, key, plan, data, wholes, cells, missing)
    seconds = time.perf_counter() - start
    # Its programs serve no other plan, and a hundred plans' would exhaust the
    # memory maps that a process may have, where compilation then crashes.
    jax.clear_caches()
    return Done(measured, cells, len(missing), seconds)


def _restore(writer, key, plan, data, wholes, cells, missing):
    """Compute and write the missing ones of some cells."""
    problems, held = _hold_out(key, plan, wholes)
    first = common.FIRST_IMAGE.value
    # Of each noise, images are numbered anew: the keys are the same.
    lanes = sweep.join_lanes(
        [
            sweep.make_lanes(
                key,
                problems[i : i + len(data.truths)],
                plan.settings,
                NUM_SAMPLES.value,
                first,
            )
            for i in range(0, len(problems), len(data.truths))
        ]
    )
    todo = lanes.take(missing)
    costs = [{} for _ in plan.settings]
    if plan.has_costs:
        costs = [
            _evaluations(problems[0], plan, data, setting)
            for setting in plan.settings
        ]
    arguments = todo, data.prior, plan.method
    settings = {'max_lanes': _max_lanes(plan, data, todo), **plan.given}
    if plan.has_costs:
        # The first run of a program takes more than its compilation longer.
        next(sweep.run_batches(*arguments, 1, **settings))
    batches = sweep.run_batches(
        *arguments,
        plan.num_steps,
        on_progress=common.Progress(f'{plan.method}, {plan.task}'),
        **settings,
    )
    for result, seconds in _timed(batches):
        failed = sweep.first_nonfinite_step(result.info)
        for lane, x, bad in zip(result.lanes, result.x, failed, strict=True):
            cell, row = cells[missing[lane]], todo.rows[lane]
            if bad >= 0:
                print(
                    f'image {cell["image"]} with {cell["settings"]} is not '
                    f'finite from step {bad}.'
                )
            truth = data.truths[cell['image'] - first]
            scores = common.scores(x, truth, problems[row], data.distances)
            if held[row] is not None:
                scores['held_out'] = float(tuning.chi_square(x, held[row]))
            if plan.has_costs:
                # Settings vary fastest among cells.
                scores |= costs[missing[lane] % len(costs)]
                scores['seconds'] = seconds
            writer.write(cell, scores, np.nan_to_num(x))


def _protocols(plan: Plan, data: Data) -> tuple[list[dict], list[dict]]:
    """Those of the measurements and of the cells, in the order of the lanes."""
    measured, cells = [], []
    for noise_std in plan.noise_stds:
        for number, truth in enumerate(
            data.truths, start=common.FIRST_IMAGE.value
        ):
            shared = _shared_protocol(plan.task, noise_std, number, truth)
            measured.append(_measurement_cell(shared))
            cells += [
                _cell(plan, data.card, shared, sample, setting)
                for sample in range(NUM_SAMPLES.value)
                for setting in plan.settings
            ]
    return measured, cells


def _measure(key, plan, data) -> list:
    """The problem of each image, for each noise."""
    return [
        common.measure_numbered(key, number, truth, plan.task, noise_std)
        for noise_std in plan.noise_stds
        for number, truth in enumerate(
            data.truths, start=common.FIRST_IMAGE.value
        )
    ]


def _hold_out(key, plan, wholes) -> tuple[list, list]:
    """What a method sees of each problem, and the rest of it, or None."""
    if not plan.hold_out:
        return wholes, [None] * len(wholes)
    _, key_held = jax.random.split(key)
    num_images = len(wholes) // len(plan.noise_stds)
    parts = [
        tuning.hold_out(
            jax.random.fold_in(
                key_held, common.FIRST_IMAGE.value + i % num_images
            ),
            whole,
            plan.hold_out,
        )
        for i, whole in enumerate(wholes)
    ]
    kept, rest = zip(*parts, strict=True)
    return list(kept), list(rest)


def _evaluations(problem, plan, data, setting) -> dict[str, int]:
    found = evaluations.count(
        problem,
        data.prior,
        plan.method,
        plan.num_steps,
        **{**plan.given, **setting},
    )
    return found._asdict()


def _timed(batches):
    """Each result, and the seconds of sampling that a lane of it took."""
    num_lanes = None
    while True:
        with common.sampling_seconds() as seconds:
            result = next(batches, None)
        if result is None:
            return
        # The first batch is full; what fills up the last takes its time too.
        num_lanes = num_lanes or len(result.lanes)
        yield result, seconds['sampling'] / num_lanes


def _max_lanes(plan, data, todo) -> int:
    """The flags' number of lanes at once."""
    if _MEMORY_GIB.value is None:
        return MAX_LANES.value
    fitting = sweep.lanes_within(
        _MEMORY_GIB.value * 2**30,
        todo,
        data.prior,
        plan.method,
        plan.num_steps,
        **plan.given,
    )
    max_lanes = fitting * jax.local_device_count()
    print(f'{max_lanes} lanes at once.')
    return max_lanes


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
        'num_steps': plan.num_steps,
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
