"""Methods x tasks over many images, each method with its resolved settings."""

import dataclasses
import os
import pathlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from invjax import (
    images,
    metrics,
    operators,
    restoration,
    schedule,
    uncertainty,
)
from invjax import tuning as criteria
from invjax.methods import METHODS, Method
from invjax.study import running, summaries
from invjax.study.cells import cell_id, picture_path, read
from invjax.study.plan import MEASUREMENT, Data, Plan
from invjax.study.summaries import setting_words, words

# Scores to what is better the larger it is, where a table has the best in bold.
BETTER: dict[str, Callable[[float], float]] = {
    'psnr': lambda mean: mean,
    'ssim': lambda mean: mean,
    'chi_square': lambda mean: -float(criteria.discrepancy(np.array(mean))),
    'lpips_alex': lambda mean: -mean,
    'lpips_vgg': lambda mean: -mean,
}
COUNTS = ('forward', 'backward')
COSTS = (*COUNTS, 'seconds')


class Run(NamedTuple):
    """A method at a number of steps.

    Attributes:
        method: a name, which has the prior's defaults for each task, or a value.
        num_steps: any form that `schedule.respace` takes.
    """

    method: str | Method
    num_steps: int | str = 100

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method if isinstance(self.method, str) else self.method.name


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        task, method: names; the method may be `measurement`.
        num_steps: as it was given; '' of a measurement.
        cells: of all images and samples; none where the method cannot do the
            task.
        scores: name to the estimate over images.
    """

    task: str
    method: str
    num_steps: str
    cells: list[dict]
    scores: dict[str, metrics.Estimate]

    @property
    def settings(self) -> dict[str, Any]:
        """Of the method."""
        return self.cells[0]['protocol']['settings'] if self.cells else {}

    def value(self, score: str) -> float:
        """A score's mean, turned so that larger is better."""
        return float(BETTER[score](float(self.scores[score].mean)))


class CoverageRow(NamedTuple):
    """How often central intervals hold the truth.

    Attributes:
        task, method, num_steps: as in `Row`.
        nominal: how often they should, rising.
        observed: the estimate over images at each.
    """

    task: str
    method: str
    num_steps: str
    nominal: np.ndarray
    observed: list[metrics.Estimate]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came out: rows of a table, and coverage where it was asked for."""

    rows: Sequence[Row]
    coverage: Sequence[CoverageRow] = ()

    def table(self) -> list[str]:
        """The table in Markdown, the best of each task in bold."""
        return table(self.rows)

    def __repr__(self):
        return '\n'.join([*self.table(), *coverage_table(self.coverage)])

    def as_data(self) -> list[dict]:
        """The rows as plain data."""
        return [_as_data(row) for row in self.rows]


def evaluate(
    data: Data,
    tasks: Sequence[str],
    runs: Sequence[Run],
    folder: str | os.PathLike | None = None,
    *,
    noise_std: float = 0.05,
    noise: Mapping[str, Any] | None = None,
    task_parameters: Mapping[str, Any] | None = None,
    settings: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    seed: int = 0,
    calibration: bool = False,
    choose_sample: bool = False,
    progress: Callable[[str], Callable] = lambda what: lambda done, total: None,
    **how: Any,
) -> Evaluation:
    """Restore all images by all methods on all tasks, where they can do them.

    Args:
        data: prior and images.
        tasks: names.
        runs: methods, each at a number of steps.
        folder: where cells are kept, in a folder a task, and continued; None
            keeps them for this call alone.
        noise_std, noise, task_parameters, num_samples, seed: see `Plan`.
        settings: flat, on top of each method's defaults; those that it has.
        calibration: whether to measure coverage; needs several samples.
        choose_sample: scores are those of each image's sample with the least
            residual, at the cost of all; `success` is the fraction of samples
            that explain the measurement.
        progress: called with what is computed; gives the function to call with
            (cells done, cells in all).
        **how: see `running.compute`.

    Raises:
        ValueError: before any work, for what there is not, for one sample where
            several are needed, or for --choose_sample without noise.
    """
    check(tasks, runs, num_samples, noise_std, calibration, choose_sample)
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            return evaluate(
                data,
                tasks,
                runs,
                temporary,
                noise_std=noise_std,
                noise=noise,
                task_parameters=task_parameters,
                settings=settings,
                num_samples=num_samples,
                seed=seed,
                calibration=calibration,
                choose_sample=choose_sample,
                progress=progress,
                **how,
            )
    rows: list[Row] = []
    for task in tasks:
        of_task = pathlib.Path(folder) / task
        of_task.mkdir(parents=True, exist_ok=True)
        done = {}
        for run in runs:
            resolved = restoration.resolve(
                run.method, data.prior, task, run.num_steps, settings
            )
            plan = Plan(
                task,
                (resolved.method,),
                run.num_steps,
                (noise_std,),
                noise or {},
                task_parameters or {},
                num_samples,
                seed,
                has_costs=True,
            )
            if _can_do(plan, data):
                done[run] = running.compute(
                    of_task,
                    plan,
                    data,
                    on_progress=progress(f'{run.name}, {task}'),
                    **how,
                )
        rows += rows_of_task(task, of_task, runs, done, choose_sample)
    found = [row for row in rows if row.cells and row.method != MEASUREMENT]
    coverage = [
        _coverage(pathlib.Path(folder) / row.task, row, data)
        for row in found
        if calibration
    ]
    return Evaluation(rows, coverage)


def check(
    tasks, runs, num_samples, noise_std, calibration=False, choose_sample=False
) -> None:
    """Refuse, with a ValueError, what `evaluate` cannot do."""
    for task in tasks:
        operators.check_names(task, ())
    for run in runs:
        restoration.resolve(run.method)
        schedule.respace(run.num_steps)
    for name, asked in (
        ('calibration', calibration),
        ('choose_sample', choose_sample),
    ):
        if asked and num_samples < 2:
            raise ValueError(
                f'{name} needs num_samples of 2 or more, got {num_samples}.'
            )
    if choose_sample and not noise_std:
        raise ValueError(
            'choose_sample compares residuals with the noise: noise_std must be '
            'above 0, got 0.'
        )


def parse_runs(
    names: Sequence[str], steps: Sequence[str], num_steps: str
) -> list[Run]:
    """Runs of texts such as `dps`, `all` and `dps:100`.

    Args:
        names: of methods, each with its own number of steps or without.
        steps: numbers of steps for those without.
        num_steps: instead of them where there are none.
    """
    able = [name for name in METHODS if name != 'unconditional']
    runs = []
    for text in names:
        name, _, own = text.partition(':')
        numbers = [own] if own else list(steps) or [num_steps]
        runs += [Run(m, n) for m in expand([name], able) for n in numbers]
    return [*dict.fromkeys(runs)]


def expand(names: Sequence[str], every: Sequence[str]) -> list[str]:
    """Names, with all of them in place of `all`."""
    expanded = [
        n for name in names for n in (every if name == 'all' else [name])
    ]
    return [*dict.fromkeys(expanded)]


def _can_do(plan: Plan, data: Data) -> bool:
    found = plan.problem(data.first_image, data.truths[0], 0.0)
    return isinstance(found.operator, plan.methods[0].needs_of_operator())


def rows_of_task(
    task: str,
    folder: str | os.PathLike,
    runs: Sequence[Run],
    done: Mapping[Run, running.Done],
    choose_sample: bool = False,
) -> list[Row]:
    """Rows of a task, the measurement's first.

    Args:
        folder: of its cells.
        runs: of which a row is made; without cells where `done` has none.
        done: what `running.compute` gave.
        choose_sample: see `evaluate`.
    """
    written = {cell['id']: cell for cell in read(folder)}

    def row(method, num_steps, protocols):
        names = [cell_id(protocol) for protocol in protocols]
        if any(name not in written for name in names):
            print(f'{task}, {method}: others are at work.')
            return []
        found = [written[name] for name in names]
        scores: dict[str, metrics.Estimate] = {}
        if found:
            chosen = found
            if choose_sample and method != MEASUREMENT:
                most = uncertainty.MOST_RESIDUAL**2
                chosen = summaries.choose_samples(found, most, COSTS)
            ((_, scores),) = summaries.summarise(chosen, lambda _: ()).items()
        return [Row(task, method, str(num_steps), found, scores)]

    rows = []
    for of_run in done.values():
        rows += row(MEASUREMENT, '', of_run.measured)
        break
    for run in runs:
        of_run = done.get(run)
        cells = of_run.cells if of_run is not None else []
        rows += row(run.name, run.num_steps, cells)
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Rows in Markdown: quality first, then what it costs."""
    names = [*dict.fromkeys(n for row in rows for n in row.scores)]
    names = [n for n in names if n not in COSTS] + [
        n for n in COSTS if n in names
    ]
    best = best_values(rows)
    lines = [
        f'| task | method | steps | setting | {" | ".join(names)} |',
        '| --- ' * (4 + len(names)) + '|',
    ]
    for row in rows:
        numbers = ' | '.join(
            _bold(
                words(row.scores.get(name), name in COUNTS),
                row.method != MEASUREMENT
                and (row.task, name) in best
                and name in row.scores
                and row.value(name) == best[row.task, name],
            )
            for name in names
        )
        lines.append(
            f'| `{row.task}` | `{row.method}` | {row.num_steps} '
            f'| {setting_words(row.settings, row.method)} | {numbers} |'
        )
    return lines


def best_values(rows: Sequence[Row]) -> dict[tuple[str, str], float]:
    """Task and score to the best mean of a method, by `Row.value`."""
    best: dict[tuple[str, str], float] = {}
    for row in rows:
        for name in row.scores.keys() & BETTER.keys():
            value = row.value(name)
            if row.method != MEASUREMENT and np.isfinite(value):
                key = row.task, name
                best[key] = max(best.get(key, -np.inf), value)
    return best


def _bold(text: str, is_bold: bool) -> str:
    return f'**{text}**' if is_bold else text


def _as_data(row: Row) -> dict:
    return {
        'task': row.task,
        'method': row.method,
        'num_steps': row.num_steps,
        'can_do': bool(row.cells),
        'num_cells': len(row.cells),
        'settings': row.settings,
        'scores': {
            name: {
                'mean': float(estimate.mean),
                'standard_error': float(estimate.standard_error),
            }
            for name, estimate in row.scores.items()
        },
    }


def points(
    rows: Sequence[Row], task: str, score: str, costs: Sequence[str]
) -> dict[str, np.ndarray]:
    """Method to its points of cost, the sum of some scores, and of a score."""
    found: dict[str, list] = {}
    for row in rows:
        if row.task == task and all(n in row.scores for n in (score, *costs)):
            cost = sum(float(row.scores[name].mean) for name in costs)
            point = cost, float(row.scores[score].mean)
            if np.all(np.isfinite(point)):
                found.setdefault(row.method, []).append(point)
    return {method: np.array(p) for method, p in found.items()}


def _coverage(folder, row: Row, data: Data) -> CoverageRow:
    samples: dict[int, list] = {}
    for cell in row.cells:
        x = images.read_exact(
            picture_path(folder, cell['id']), data.truths[0].shape[0]
        )
        samples.setdefault(cell['protocol']['image'], []).append(x)
    by_image = [
        uncertainty.coverage(np.stack(xs), data.truth(image))
        for image, xs in samples.items()
    ]
    observed = np.stack([found.observed for found in by_image], axis=1)
    return CoverageRow(
        row.task,
        row.method,
        row.num_steps,
        by_image[0].nominal,
        [metrics.mean_and_standard_error(values) for values in observed],
    )


def coverage_table(rows: Sequence[CoverageRow]) -> list[str]:
    """Coverage in Markdown; nothing where there is none."""
    if not rows:
        return []
    nominal = rows[0].nominal
    lines = [
        f'| task | method | steps | {" | ".join(f"{n:.0%}" for n in nominal)} |',
        '| --- ' * (3 + len(nominal)) + '|',
    ]
    for row in rows:
        numbers = ' | '.join(map(words, row.observed))
        lines.append(
            f'| `{row.task}` | `{row.method}` | {row.num_steps} | {numbers} |'
        )
    return lines
