"""Compute the cells that a folder lacks, batch by batch."""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence

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


@jax.jit
def _scores(x, truth, problem: Problem, distances):
    found = {
        'psnr': metrics.psnr(x, truth),
        'ssim': metrics.ssim(x, truth),
        'chi_square': tuning.chi_square(x, problem),
    }
    for lpips in distances:
        found[f'lpips_{lpips.variant}'] = lpips(x, truth)
    return found


def score(x, truth, problem: Problem, distances=()) -> dict[str, float]:
    """What a table has of one restoration; LPIPS under its variant's name.

    Args:
        x, truth: (H, W, C) in [-1, 1].
        problem: that x solves.
        distances: `metrics.LPIPS` of each variant that is wanted.
    """
    found = _scores(x, truth, problem.bare(), tuple(distances))
    return {
        name: float(found[name])
        for name in ('psnr', 'ssim', 'chi_square', *found)
    }


def compute(
    folder: str | os.PathLike,
    plan: Plan,
    data: Data,
    *,
    process: int = 0,
    num_processes: int = 1,
    max_lanes: int = 8,
    memory_gib: float | None = None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    say: Callable[[str], None] = print,
) -> Done:
    """Compute the share of a process in the cells that a folder lacks.

    Args:
        folder: that is there.
        plan, data: what the study consists of.
        process, num_processes: this one's number among those that share it.
        max_lanes: the most lanes at once.
        memory_gib: instead of it, as many as fit on each device, by the
            compiler's estimate.
        on_progress: called with (lane steps done, lane steps in all).
        say: what is called with a sentence for the user.
    """
    store = Store(folder, process)
    problems = plan.problems(data)
    measured, cells = plan.protocols(data, problems)
    share = np.arange(process, len(cells), num_processes)
    names = [cell_id(cell) for cell in cells]
    missing = np.array([i for i in share if names[i] not in store.done], int)
    if len(missing) < len(share):
        say(f'{len(share) - len(missing)} of {len(share)} cells are there.')
    if process == 0:  # The first process measures for all.
        for cell, found in zip(measured, problems, strict=True):
            if cell_id(cell) not in store.done:
                y = found.as_picture()
                truth = data.truth(cell['image'])
                store.write(cell, score(y, truth, found, data.distances), y)
    start = time.perf_counter()
    computed = 0
    if len(missing):
        work = _Work(plan, data, problems, cells, max_lanes, memory_gib, say)
        computed = work.run(store, missing, names, on_progress)
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
        self.max_lanes = max_lanes
        if memory_gib is not None:
            fitting = batch.lanes_within(
                memory_gib * 2**30, self.lanes, data.prior, plan.num_steps
            )
            self.max_lanes = fitting * jax.local_device_count()
            say(f'{self.max_lanes} lanes at once.')
        self.costs = [{} for _ in plan.methods]
        if plan.has_costs:
            self.costs = [
                evaluations.count(
                    kept[0], data.prior, method, plan.num_steps
                )._asdict()
                for method in plan.methods
            ]

    def run(self, store: Store, missing, names, on_progress) -> int:
        """Compute and write cells; how many they were."""
        size = min(self.max_lanes, len(missing))
        if self.plan.has_costs:
            # The first run of a program takes more than its compilation longer.
            first = self.lanes.take(missing[:size])
            next(self._batches(first, 1, size))
        computed = 0
        for begin in range(0, len(missing), size):
            chunk = missing[begin : begin + size]

            def note(done, total, begin=begin, chunk=chunk):
                # In steps of lanes, of which a batch has `total`.
                steps = total / size
                on_progress(
                    int(begin * steps + done * len(chunk) / size),
                    int(len(missing) * steps),
                )

            with store.claimed([names[i] for i in chunk]) as free:
                todo = [i for i in chunk if names[i] in free]
                if todo:
                    self._run_batch(store, todo, size, note)
                    computed += len(todo)
        return computed

    def _batches(self, lanes, num_steps, size, note=lambda done, total: None):
        return batch.run_batches(
            lanes,
            self.data.prior,
            num_steps,
            max_lanes=size,
            on_progress=note,
        )

    def _run_batch(self, store: Store, todo, size, note):
        # Filled up by repetition, so that it runs the same program.
        filled = np.resize(np.array(todo, int), size)
        with sampling_seconds() as seconds:
            lanes = self.lanes.take(filled)
            result = next(self._batches(lanes, self.plan.num_steps, size, note))
        failed = batch.first_nonfinite_step(result.info)
        for place, index in enumerate(todo):
            cell = self.cells[index]
            if failed[place] >= 0:
                self.say(
                    f'image {cell["image"]} by {cell["method"]} with '
                    f'{cell["settings"]} is not finite from step '
                    f'{failed[place]}.'
                )
            x = result.x[place]
            seen, held_out = self.parts[self.lanes.rows[index]]
            truth = self.data.truth(cell['image'])
            scores = score(x, truth, seen, self.data.distances)
            if held_out is not None:
                scores['held_out'] = float(tuning.chi_square(x, held_out))
            if self.plan.has_costs:
                # Methods vary fastest among cells.
                scores |= self.costs[index % len(self.costs)]
                scores['seconds'] = seconds['sampling'] / size
            store.write(cell, scores, np.nan_to_num(x))
