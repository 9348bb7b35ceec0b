"""Compute the cells that a folder lacks, batch by batch."""

import dataclasses
import functools
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from invjax import batch, evaluations, metrics, tuning
from invjax.problem import Problem
from invjax.study.cells import Store, cell_id
from invjax.study.plan import Data, Plan
from invjax.timing import sampling_seconds


@dataclasses.dataclass(frozen=True)
class Done:
    """What `compute` leaves behind.

    Attributes:
        measured, cells: protocols of the measurements and of the plan's cells.
        num_computed: cells that were not there before.
        seconds: that they took.
    """

    measured: Sequence[dict]
    cells: Sequence[dict]
    num_computed: int
    seconds: float


@functools.partial(jax.jit, static_argnames='has_ssim')
def _scores(x, truth, problem: Problem, distances, has_ssim):
    found = {'chi_square': tuning.chi_square(x, problem)}
    if truth is not None:
        found['psnr'] = metrics.psnr(x, truth)
        if has_ssim:
            found['ssim'] = metrics.ssim(x, truth)
        for lpips in distances:
            found[f'lpips_{lpips.variant}'] = lpips(x, truth)
    return found


def score(x, truth, problem: Problem, distances=()) -> dict[str, float]:
    """What a table has of one restoration; LPIPS under its variant's name.

    Args:
        x: (H, W, C) in [-1, 1].
        truth: the same, or None where it is not known: then there is chi-square
            alone. Images of less than 11 pixels a side have no SSIM.
        problem: that x solves.
        distances: `metrics.LPIPS` of each variant that is wanted.

    Raises:
        ValueError: by LPIPS, for images that it is not for.
    """
    has_ssim = min(problem.image_shape[:2]) >= metrics.SSIM_WINDOW
    found = _scores(x, truth, problem.bare(), tuple(distances), has_ssim)
    order = dict.fromkeys(['psnr', 'ssim', 'chi_square', *found])
    return {name: float(found[name]) for name in order if name in found}


@jax.jit
def _lpips(x, truths, distances):
    """LPIPS of (N, H, W, C) images by variant, each (N,)."""

    def of_one(pair):
        return {f'lpips_{lpips.variant}': lpips(*pair) for lpips in distances}

    # One after the other takes a CPU several times as long; the features of all
    # of them may not fit a GPU.
    return jax.lax.map(of_one, (x, truths), batch_size=8)


def compute(
    folder: str | os.PathLike,
    plan: Plan,
    data: Data,
    problems: Sequence[Problem] | None = None,
    *,
    process: int = 0,
    num_processes: int = 1,
    max_lanes: int = 8,
    memory_gib: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = print,
) -> Done:
    """Compute the share of a process in the cells that a folder lacks.

    What another run into the same folder is computing at that moment is left to
    it.

    Args:
        folder: that is there.
        plan, data: what the study consists of.
        problems: what `plan.problems` gave, where several plans share it.
        process, num_processes: this one's number among those that share it.
        max_lanes: the most lanes at once.
        memory_gib: instead of it, as many as fit on each device, by the
            compiler's estimate.
        on_progress: called with (lane steps done, lane steps in all).
        say: what is called with a sentence for the user.

    Raises:
        ValueError: before any work, by `Plan.check` and by `score`.
    """
    problems = plan.problems(data) if problems is None else problems
    plan.check(data.prior, problems)
    store = Store(folder, process)
    measured, cells = plan.protocols(data, problems)
    names = [cell_id(cell) for cell in cells]
    share = names[process::num_processes]
    missing = store.missing(share)
    if len(missing) < len(share):
        say(f'{len(share) - len(missing)} of {len(share)} cells are there.')
    if process == 0:  # The first process measures for all.
        by_name = {
            cell_id(cell): (cell, found)
            for cell, found in zip(measured, problems, strict=True)
        }
        with store.claimed(store.missing(by_name)) as free:
            for name in free:
                cell, found = by_name[name]
                y = found.as_picture()
                truth = data.truth(cell['image'])
                store.write(cell, score(y, truth, found, data.distances), y)
    start = time.perf_counter()
    computed = 0
    if missing:
        work = _Work(plan, data, problems, cells, max_lanes, memory_gib, say)
        places = {name: place for place, name in enumerate(names)}
        computed = work.run(store, missing, places, on_progress)
    seconds = time.perf_counter() - start
    # Its programs serve no other plan, and a hundred plans' would exhaust the
    # memory maps that a process may have, where compilation then crashes.
    jax.clear_caches()
    return Done(measured, cells, computed, seconds)


class _Work:
    """The missing cells of a plan: their lanes, costs and scores."""

    def __init__(self, plan, data, problems, cells, max_lanes, memory_gib, say):
        self.plan, self.data, self.cells, self.say = plan, data, cells, say
        self.parts = plan.parts(data, problems)
        kept = [seen for seen, _ in self.parts]
        number = len(data.truths)
        # Of each noise, images are numbered anew: the keys are the same.
        self.lanes = batch.join_lanes(
            [
                batch.make_lanes(
                    plan.root(),
                    kept[i : i + number],
                    plan.methods,
                    plan.num_samples,
                    data.first_image,
                )
                for i in range(0, len(kept), number)
            ]
        )
        self.max_lanes, self.devices = max_lanes, jax.local_devices()
        if memory_gib is not None:
            # Devices of a CPU share its memory; others have their own.
            shared = jax.default_backend() == 'cpu'
            fitting = batch.lanes_within(
                memory_gib * 2**30,
                self.lanes,
                data.prior,
                plan.num_steps,
                sharing=len(self.devices) if shared else 1,
            )
            if shared:
                self.devices = self.devices[: fitting.devices]
                self.max_lanes = fitting.lanes
            else:
                self.max_lanes = fitting.lanes * len(self.devices)
            say(f'{self.max_lanes} lanes at once.')
        self.costs: list[dict[str, Any]] = [{} for _ in plan.methods]
        if plan.has_costs:
            self.costs = [
                evaluations.count(
                    kept[0], data.prior, method, plan.num_steps
                )._asdict()
                for method in plan.methods
            ]

    def run(self, store: Store, missing, places, on_progress) -> int:
        """Compute and write cells; how many they were.

        Args:
            store: of the cells.
            missing: names of those that are not done.
            places: name to place among the lanes.
            on_progress: see `compute`.
        """
        # Of each device as many, so that a few do not need a second batch.
        devices = min(len(self.devices), self.max_lanes, len(missing))
        size = -(-len(missing) // devices) * devices
        size = min(self.max_lanes - self.max_lanes % devices, size)
        if self.plan.has_costs:
            # The first run of a program takes more than its compilation longer.
            every = [places[name] for name in missing]
            first = self.lanes.take(np.resize(every, size))
            next(self._batches(first, 1, size))
        computed, left = 0, missing
        while left:
            with store.claimed(left, size) as free:
                if free:

                    def note(done, total, free=free, computed=computed):
                        # Of a batch's lanes some may be there to fill it up.
                        steps = total // size
                        on_progress(
                            computed * steps + done * len(free) // size,
                            len(missing) * steps,
                        )

                    todo = np.array([places[name] for name in free])
                    self._run_batch(store, todo, size, note)
                    computed += len(free)
            looked_at = len(left)
            left = store.missing(left)
            if not free and len(left) == looked_at:
                break  # Others have claimed all that is left.
        return computed

    def _batches(self, lanes, num_steps, size, note=lambda done, total: None):
        return batch.run_batches(
            lanes,
            self.data.prior,
            num_steps,
            max_lanes=size,
            devices=self.devices,
            on_progress=note,
        )

    def _run_batch(self, store: Store, todo, size, note):
        """Compute and write cells, at most `size`, by their places."""
        # Filled up by repetition, so that it runs the same program.
        filled = np.resize(todo, size)
        with sampling_seconds() as seconds:
            lanes = self.lanes.take(filled)
            results = list(
                self._batches(lanes, self.plan.num_steps, size, note)
            )
        x = np.concatenate([result.x for result in results])
        failed = np.concatenate(
            [batch.first_nonfinite_step(result.info) for result in results]
        )
        truths = [self.data.truth(self.cells[i]['image']) for i in filled]
        distances = {}
        if self.data.distances and any(truth is not None for truth in truths):
            # Of what has no truth the distance is not looked at.
            others = [
                mine if truth is None else truth
                for mine, truth in zip(x, truths, strict=True)
            ]
            distances = jax.device_get(
                _lpips(x, np.stack(others), tuple(self.data.distances))
            )
        for place, index in enumerate(todo):
            cell = self.cells[index]
            if failed[place] >= 0:
                self.say(
                    f'image {cell["image"]} by {cell["method"]} with '
                    f'{cell["settings"]} is not finite from step '
                    f'{failed[place]}.'
                )
            seen, held_out = self.parts[self.lanes.rows[index]]
            scores = score(x[place], truths[place], seen)
            if truths[place] is not None:
                for name, values in distances.items():
                    scores[name] = float(values[place])
            if held_out is not None:
                scores['held_out'] = float(
                    tuning.chi_square(x[place], held_out)
                )
            if failed[place] >= 0:
                # Clipping can make numbers of what has none.
                scores = dict.fromkeys(scores, math.nan)
            if self.plan.has_costs:
                # Methods vary fastest among cells.
                scores |= self.costs[index % len(self.costs)]
                scores['seconds'] = seconds['sampling'] / size
            store.write(cell, scores, np.nan_to_num(x[place]))
