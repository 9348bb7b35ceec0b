"""A grid of hyperparameters over several images, in one compiled program."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from invjax import metrics, notebook, operators, restoration
from invjax.methods import Method
from invjax.problem import Problem
from invjax.study import running, summaries
from invjax.study.cells import PassingFolder, cell_id, read, read_picture
from invjax.study.plan import (
    Brought,
    Data,
    Plan,
    make_data,
)
from invjax.study.plan import grid as combinations
from invjax.study.summaries import Row, Setting, words

_NOISE_STD = 'noise_std'
# In a notebook.
_MOST_PICTURES = 12


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What came out of a sweep.

    Attributes:
        cells: dicts of id, protocol and scores, the measurements' first.
        varied: names of what was varied.
        num_computed: cells that were not there before.
        seconds: that they took.
        folder: of the cells.
    """

    cells: Sequence[dict]
    varied: Sequence[str]
    num_computed: int
    seconds: float
    folder: pathlib.Path
    # A folder of this call alone is there as long as its result.
    _holder: Any = dataclasses.field(default=None, repr=False)

    def setting(self, protocol: Mapping[str, Any]) -> Setting:
        """What the cells of a row share: the method, and what was varied."""
        values = {**protocol['settings'], _NOISE_STD: protocol[_NOISE_STD]}
        return Setting(
            protocol['method'],
            tuple((n, values[n]) for n in self.varied if n in values),
        )

    def rows(self) -> list[Row]:
        """A row a setting, the measurements' first."""
        found = summaries.summarise(self.cells, self.setting)
        return [Row(setting, scores) for setting, scores in found.items()]

    def table(self) -> list[str]:
        """A line a row: means with standard errors."""
        lines = []
        for row in self.rows():
            numbers = '  '.join(
                f'{name} {words(estimate)}'
                for name, estimate in row.scores.items()
            )
            lines.append(f'{row.setting.line():<36} {numbers}')
        return lines

    def pictures(self, image: int) -> dict[Setting, np.ndarray]:
        """The first sample of an image by each setting, (H, W, C)."""
        return {
            self.setting(cell['protocol']): read_picture(
                self.folder, cell['id']
            )
            for cell in self.cells
            if cell['protocol']['image'] == image
            and cell['protocol']['sample'] == 0
        }

    def __repr__(self):
        return '\n'.join(self.table())

    def _repr_html_(self):
        rows = self.rows()
        names = [*dict.fromkeys(n for row in rows for n in row.scores)]
        table = notebook.as_table(
            ['method', 'setting', *names],
            [
                [
                    row.setting.method,
                    row.setting.words(),
                    *(words(row.scores.get(name)) for name in names),
                ]
                for row in rows
            ],
        )
        first = min(cell['protocol']['image'] for cell in self.cells)
        shown = [*self.pictures(first).items()][:_MOST_PICTURES]
        return table + notebook.as_html(
            {setting.line(): x for setting, x in shown}, ''
        )


def plan_sweep(
    data: Data | None,
    task: str,
    method: str | type[Method] | Method | Sequence[Method],
    values: Mapping[str, Sequence[float]],
    num_steps: int | str = 100,
    *,
    settings: Mapping[str, Any] | None = None,
    noise_std: float = 0.05,
    **of_plan: Any,
) -> Plan:
    """The plan of a grid; every setting is checked before any work.

    Args:
        data: None as long as the prior is not loaded; its tuned defaults are
            then left out.
        task: a name.
        method: see `sweep`.
        values: name to values; `noise_std` too may be among them.
        num_steps: any form that `schedule.respace` takes.
        settings: flat, the same for all.
        noise_std: where it is not varied.
        **of_plan: see `Plan`.

    Raises:
        ValueError: for a name that there is not, or a value out of its range.
    """
    operators.check_names(task, of_plan.get('task_parameters') or {})
    values = dict(values)
    noise_stds = values.pop(_NOISE_STD, [noise_std])
    prior = None if data is None else data.prior
    methods = _methods(method, prior, task, num_steps, values, settings or {})
    return Plan(task, methods, num_steps, tuple(noise_stds), **of_plan)


def _methods(method, prior, task, num_steps, values, settings):
    """The method with each combination, or the methods that are given."""
    if isinstance(method, Sequence) and not isinstance(method, str):
        if values or settings:
            raise ValueError(
                'a grid or settings cannot be given with several methods, which '
                f'have theirs already, got {[*values, *settings]}.'
            )
        return tuple(
            restoration.resolve(one, prior, task, num_steps).method
            for one in method
        )
    return tuple(
        restoration.resolve(
            method, prior, task, num_steps, {**settings, **setting}
        ).method
        for setting in combinations(**values)
    )


def sweep(
    images: Sequence[jax.typing.ArrayLike] | Problem | Sequence[Problem],
    prior,
    method: str | type[Method] | Method | Sequence[Method] = 'dps',
    grid: Mapping[str, Sequence[float]] | None = None,
    num_steps: int | str = 100,
    *,
    task: str | None = None,
    noise_std: float = 0.05,
    noise: str = 'gaussian',
    noise_parameters: Mapping[str, float] | None = None,
    task_parameters: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    seed: int = 0,
    hold_out: float = 0.0,
    first_image: int = 0,
    distances: Sequence[metrics.LPIPS] = (),
    folder: str | os.PathLike | None = None,
    max_lanes: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> Sweep:
    """Restore several images with each combination of some hyperparameters.

        sweep(images, prior, 'dps', {'zeta': [1, 3, 6]}, task='denoising')
        sweep(images, prior, [dps(zeta=1), dps(zeta=3)], task='denoising')
        sweep(problems, prior, 'dps', {'zeta': [1, 3, 6]})

    Args:
        images: (H, W, C) in [-1, 1] each, which are measured here; or problems
            that were measured already, of one kind of operator and one shape.
        prior: see `invjax.load_prior`.
        method: a name or a class, which have the prior's defaults for the task;
            a value; or several values that differ in numbers alone.
        grid: name to values; of images `noise_std` too may be among them. All
            combinations are tried.
        num_steps: any form that `schedule.respace` takes.
        task, noise_std, noise, noise_parameters, task_parameters: how images
            are measured, see `invjax.measure`.
        num_samples: of each image and setting.
        seed: of everything random.
        hold_out: fraction of the measured pixels that the method does not see;
            for masks.
        first_image: number of the first image in its data set: a part of one
            has the noise that it has in the whole.
        distances: LPIPS in the variants that are wanted, see
            `metrics.load_lpips`.
        folder: where cells are kept and continued; None keeps them as long as
            the result.
        max_lanes: the most restorations at once.
        on_progress: called with (steps done, steps in all).
        **settings: hyperparameters and choices, the same for all.

    Raises:
        ValueError: before any work, for a name that there is not, a value out
            of its range, an operator that the method cannot do, or images that
            do not fit.
    """
    values = dict(grid or {})
    of_plan: dict[str, Any] = {
        'num_samples': num_samples,
        'seed': seed,
        'hold_out': hold_out,
    }
    brought = [images] if isinstance(images, Problem) else list(images)
    problems = [found for found in brought if isinstance(found, Problem)]
    truths = [found for found in brought if not isinstance(found, Problem)]
    if problems and truths:
        raise ValueError(
            'images must be all pictures or all problems, got '
            f'{len(truths)} and {len(problems)} of them.'
        )
    if problems:
        if task is not None or task_parameters or _NOISE_STD in values:
            raise ValueError(
                'a task and noise are for images, which are measured here; '
                'problems have theirs already.'
            )
        data, plan = _brought(
            problems,
            Data(prior, [p.truth for p in problems], first_image, distances),
            method,
            num_steps,
            values,
            settings,
            of_plan,
        )
    else:
        if task is None:
            raise ValueError(
                f'task must be one of {", ".join(operators.OPERATORS)} for '
                'images, got none.'
            )
        data = make_data(truths, prior, first_image, distances)
        of_noise = {'noise': noise, **(noise_parameters or {})}
        plan = plan_sweep(
            data,
            task,
            method,
            values,
            num_steps,
            settings=settings,
            noise_std=noise_std,
            noise=of_noise,
            task_parameters=task_parameters or {},
            **of_plan,
        )
    holder = None
    if folder is None:
        holder = PassingFolder()
        folder = holder.path
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    done = running.compute(
        folder, plan, data, max_lanes=max_lanes, on_progress=on_progress
    )
    varied = list(values) or _differences(plan.methods)
    return collect(folder, done, varied, holder)


def _brought(problems, data, method, num_steps, values, settings, of_plan):
    """The data and the plan of problems."""
    tasks = {problem.task for problem in problems}
    task = tasks.pop() if len(tasks) == 1 else None
    shapes = {
        (
            jax.tree.structure(p.bare()),
            *map(np.shape, jax.tree.leaves(p.bare())),
        )
        for p in problems
    }
    if len(shapes) > 1:
        raise ValueError(
            'the problems of a sweep must be of one kind of operator and one '
            f'shape, got {len(shapes)} kinds.'
        )
    plan = Brought(
        task,
        _methods(method, data.prior, task, num_steps, values, settings),
        num_steps,
        # Each problem has its own.
        noise_stds=(0.0,),
        measured=problems,
        **of_plan,
    )
    return data, plan


def _differences(methods: Sequence[Method]) -> list[str]:
    """Names of the settings in which methods differ."""
    first = methods[0].settings()
    return [
        n for n in first if any(m.settings()[n] != first[n] for m in methods)
    ]


def collect(
    folder: str | os.PathLike,
    done: running.Done,
    varied: Sequence[str],
    holder: Any = None,
) -> Sweep:
    """What is in a folder of a sweep's cells; others may be at work on some.

    Args:
        folder: of the cells.
        done: what `running.compute` gave.
        varied: names of what was varied.
        holder: of a folder that goes with the result.
    """
    written = {cell['id']: cell for cell in read(folder)}
    names = [cell_id(cell) for cell in [*done.measured, *done.cells]]
    found = [written[name] for name in names if name in written]
    return Sweep(
        found,
        varied,
        done.num_computed,
        done.seconds,
        pathlib.Path(folder),
        holder,
    )


def is_complete(found: Sweep, done: running.Done) -> bool:
    """Whether all cells of a plan are there."""
    return len(found.cells) == len(done.measured) + len(done.cells)
