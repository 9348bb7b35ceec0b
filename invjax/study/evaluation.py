"""Methods x tasks over many images, each method with its resolved settings."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import images as pictures
from invjax import (
    keys,
    metrics,
    notebook,
    operators,
    restoration,
    schedule,
    uncertainty,
)
from invjax import tuning as criteria
from invjax.methods import METHODS, Method
from invjax.methods.base import TRANSITION
from invjax.study import running, summaries
from invjax.study.cells import PassingFolder, cell_id, read, read_picture
from invjax.study.plan import MEASUREMENT, Data, Plan, make_data
from invjax.study.summaries import Setting, setting_words, words

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
        method: a name or a class, which have the prior's defaults for each
            task, or a value.
        num_steps: any form that `schedule.respace` takes.
        settings: (name, value) pairs, flat, on top of the method's.
    """

    method: str | type[Method] | Method
    num_steps: int | str = 100
    settings: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """Of the method."""
        return self.method if isinstance(self.method, str) else self.method.name

    @property
    def line(self) -> str:
        """What tells it from runs of other methods, at any number of steps."""
        if not isinstance(self.method, Method):
            return Setting(self.name, self.settings).line()
        of_value = {**self.method.settings(), **dict(self.settings)}
        return f'{self.name} {setting_words(of_value, self.name)}'.strip()

    def resolve(self, prior=None, task=None, settings=None) -> Method:
        """The method with all its settings; see `restoration.resolve`.

        Of `settings`, which several runs share, those of the transition are left
        out where its step does not read them.
        """
        own = {**(settings or {}), **dict(self.settings)}
        shared = {name: own.pop(name) for name in TRANSITION if name in own}
        given = (self.method, prior, task, self.num_steps)
        read = restoration.resolve(*given, own).method.read_of_transition()
        for name, value in shared.items():
            if name in read or name in dict(self.settings):
                own[name] = value
        return restoration.resolve(*given, own).method


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        task, method: names; the method may be `measurement`.
        num_steps: as it was given; '' of a measurement.
        cells: of all images and samples; none where the method cannot do the
            task.
        scores: name to the estimate over images.
        line: see `Run.line`; '' where it is the method's name.
    """

    task: str
    method: str
    num_steps: str
    cells: list[dict]
    scores: dict[str, metrics.Estimate]
    line: str = ''

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
        task, method, num_steps, line: as in `Row`.
        nominal: how often they should, rising.
        observed: the estimate over images at each.
        widened: the same of intervals that all other images widen
            (`uncertainty.conformal`, not guaranteed), as far as there are any.
    """

    task: str
    method: str
    num_steps: str
    nominal: np.ndarray
    observed: list[metrics.Estimate]
    widened: Sequence[metrics.Estimate] = ()
    line: str = ''

    @property
    def shown(self) -> str:
        """The method, with settings of its own."""
        return self.line or self.method


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What came out.

    Attributes:
        rows: of the table, task by task.
        coverage: where it was asked for.
        folder: of the cells, in a folder a task.
    """

    rows: Sequence[Row]
    coverage: Sequence[CoverageRow] = ()
    folder: pathlib.Path | None = None
    # A folder of this call alone is there as long as its result.
    _holder: Any = dataclasses.field(default=None, repr=False)

    def table(self) -> list[str]:
        """The table in Markdown, the best of each task in bold."""
        return table(self.rows)

    def __repr__(self):
        return '\n'.join([*self.table(), *coverage_table(self.coverage)])

    def _repr_html_(self):
        names, rows = table_texts(self.rows)
        return notebook.as_table([*_HEADER, *names], rows)

    def as_data(self) -> list[dict]:
        """The rows as plain data."""
        return [_as_data(row) for row in self.rows]


def evaluate(
    images: Sequence[jax.typing.ArrayLike],
    prior,
    tasks: Sequence[str],
    methods: Sequence[str | type[Method] | Method | Run],
    num_steps: int | str | Sequence[int | str] = 100,
    *,
    noise_std: float = 0.05,
    noise: str = 'gaussian',
    noise_parameters: Mapping[str, float] | None = None,
    settings: Mapping[str, Any] | None = None,
    num_samples: int = 1,
    seed: int = 0,
    first_image: int = 0,
    distances: Sequence[metrics.LPIPS] = (),
    calibration: bool = False,
    choose_sample: bool = False,
    folder: str | os.PathLike | None = None,
    progress: Callable[[str], Callable] = lambda what: lambda done, total: None,
    **how: Any,
) -> Evaluation:
    """Restore all images by all methods on all tasks, where they can do them.

        evaluate(images, prior, ['denoising', 'jpeg'], ['dps', 'ddrm'])
        evaluate(images, prior, ['denoising'], [dps(zeta=3.0), 'ddrm'], [5, 20])

    Args:
        images: (H, W, C) in [-1, 1] each.
        prior: see `invjax.load_prior`.
        tasks: names.
        methods: names and classes, which have the prior's defaults for each
            task, or values; a Run has its own number of steps and settings.
        num_steps: any form that `schedule.respace` takes, or several: each
            method is run at each of them.
        noise_std, noise, noise_parameters: see `invjax.measure`.
        settings: flat, on top of each method's: of those that all have.
        num_samples: of each image.
        seed: of everything random.
        first_image, distances, folder: see `sweeping.sweep`.
        calibration: whether to measure coverage; needs several samples.
        choose_sample: scores are those of each image's sample with the least
            residual, at the cost of all; `success` is the fraction of samples
            that explain the measurement.
        progress: called with what is computed; gives the function to call with
            (steps done, steps in all).
        **how: see `running.compute`.

    Raises:
        ValueError: before any work, for what there is not, for one sample where
            several are needed, for `choose_sample` without noise, or images
            that do not fit the prior.
    """
    runs = make_runs(methods, num_steps)
    check(
        tasks,
        runs,
        num_samples,
        noise_std,
        calibration,
        choose_sample,
        settings,
    )
    data = make_data(images, prior, first_image, distances)
    resolved = {}
    for task in tasks:  # Some are not for all images.
        operators.make_operator(task, keys.root(seed), prior.image_shape)
        resolved[task] = [run.resolve(prior, task, settings) for run in runs]
    holder = None
    if folder is None:
        holder = PassingFolder()
        folder = holder.path
    whole = pathlib.Path(folder)
    rows: list[Row] = []
    coverage: list[CoverageRow] = []
    for task in tasks:
        of_task = whole / task
        of_task.mkdir(parents=True, exist_ok=True)
        plans = [
            Plan(
                task,
                (method,),
                run.num_steps,
                (noise_std,),
                {'noise': noise, **(noise_parameters or {})},
                num_samples=num_samples,
                seed=seed,
                has_costs=True,
            )
            for run, method in zip(runs, resolved[task], strict=True)
        ]
        # Methods do not change how images are measured.
        problems = plans[0].problems(data)
        done = [
            running.compute(
                of_task,
                plan,
                data,
                problems,
                on_progress=progress(f'{run.line}, {task}'),
                **how,
            )
            if _can_do(plan.methods[0], problems[0].operator)
            else None
            for run, plan in zip(runs, plans, strict=True)
        ]
        found = rows_of_task(task, of_task, runs, done, choose_sample)
        rows += found
        if calibration:
            coverage += [
                _coverage(of_task, row, data)
                for row in found
                if row.cells and row.method != MEASUREMENT
            ]
    return Evaluation(rows, coverage, whole, holder)


def check(
    tasks,
    runs,
    num_samples,
    noise_std,
    calibration=False,
    choose_sample=False,
    settings=None,
) -> None:
    """Refuse, with a ValueError, what `evaluate` cannot do."""
    for task in tasks:
        operators.check_names(task, ())
    for run in runs:
        run.resolve(settings=settings)
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


def make_runs(
    methods: Sequence[str | type[Method] | Method | Run],
    num_steps: int | str | Sequence[int | str],
) -> list[Run]:
    """Each method at each number of steps, but for those that are runs."""
    numbers = [num_steps] if isinstance(num_steps, int | str) else num_steps
    return [
        run
        for method in methods
        for run in (
            [method]
            if isinstance(method, Run)
            else [Run(method, number) for number in numbers]
        )
    ]


def parse_runs(
    names: Sequence[str], steps: Sequence[str], num_steps: str
) -> list[Run]:
    """Runs of texts: `dps`, `all`, `dps:100`, `dps:100:zeta=3` or `dps:zeta=3`.

    Args:
        names: of methods, each with its own number of steps or without, and
            with settings or without.
        steps: numbers of steps for those without.
        num_steps: instead of them where there are none.

    Raises:
        ValueError: for two numbers of steps, or two values of a setting.
    """
    able = [name for name in METHODS if name != 'unconditional']
    runs = []
    for text in names:
        name, *more = text.split(':')
        own = [part for part in more if '=' not in part]
        pairs = [part.partition('=')[::2] for part in more if '=' in part]
        if len(own) > 1 or len(dict(pairs)) < len(pairs) or '' in more:
            raise ValueError(
                'a method may have one number of steps and each setting once, '
                f'as dps:100:zeta=3, got {text!r}.'
            )
        settings = tuple(sorted((n, _parse_value(v)) for n, v in pairs))
        numbers = own or list(steps) or [num_steps]
        runs += [
            Run(m, n, settings) for m in expand([name], able) for n in numbers
        ]
    return [*dict.fromkeys(runs)]


def _parse_value(text: str) -> Any:
    """A setting of a text; whether it may have that value is checked later."""
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    try:
        return float(text)
    except ValueError:
        return text


def expand(names: Sequence[str], every: Sequence[str]) -> list[str]:
    """Names, with all of them in place of `all`."""
    expanded = [
        n for name in names for n in (every if name == 'all' else [name])
    ]
    return [*dict.fromkeys(expanded)]


def _can_do(method: Method, operator) -> bool:
    try:
        method.check_operator(operator)
    except ValueError:
        return False
    return True


def rows_of_task(
    task: str,
    folder: str | os.PathLike,
    runs: Sequence[Run],
    done: Sequence[running.Done | None],
    choose_sample: bool = False,
) -> list[Row]:
    """Rows of a task, the measurement's first.

    Runs of which other processes still compute cells have no row.

    Args:
        folder: of its cells.
        runs: of which a row is made.
        done: what `running.compute` gave for each; None where the method
            cannot do the task: its row has no cells.
        choose_sample: see `evaluate`.
    """
    written = {cell['id']: cell for cell in read(folder)}

    def row(method, num_steps, protocols, line=''):
        names = [cell_id(protocol) for protocol in protocols]
        if any(name not in written for name in names):
            print(f'{task}, {line or method}: others are at work.')
            return []
        found = [written[name] for name in names]
        scores: dict[str, metrics.Estimate] = {}
        if found:
            chosen = found
            if choose_sample and method != MEASUREMENT:
                most = uncertainty.MOST_RESIDUAL**2
                chosen = summaries.choose_samples(found, most, COSTS)
            ((_, scores),) = summaries.summarise(chosen, lambda _: ()).items()
        return [Row(task, method, str(num_steps), found, scores, line)]

    rows = []
    for of_run in done:
        if of_run is not None:
            rows += row(MEASUREMENT, '', of_run.measured)
            break
    for run, of_run in zip(runs, done, strict=True):
        cells = () if of_run is None else of_run.cells
        line = '' if run.line == run.name else run.line
        rows += row(run.name, run.num_steps, cells, line)
    return rows


_HEADER = ('task', 'method', 'steps', 'setting')


def table_texts(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Names of the scores, and the texts of the rows, the best with `**`.

    Quality comes first, then what it costs.
    """
    names = [*dict.fromkeys(n for row in rows for n in row.scores)]
    names = [n for n in names if n not in COSTS] + [
        n for n in COSTS if n in names
    ]
    best = best_values(rows)
    texts = [
        [
            f'`{row.task}`',
            f'`{row.method}`',
            row.num_steps,
            setting_words(row.settings, row.method),
            *(
                _bold(
                    words(row.scores.get(name), name in COUNTS),
                    row.method != MEASUREMENT
                    and (row.task, name) in best
                    and name in row.scores
                    and row.value(name) == best[row.task, name],
                )
                for name in names
            ),
        ]
        for row in rows
    ]
    return names, texts


def table(rows: Sequence[Row]) -> list[str]:
    """Rows in Markdown, the best of each task in bold."""
    names, texts = table_texts(rows)
    return [
        f'| {" | ".join([*_HEADER, *names])} |',
        '| --- ' * (len(_HEADER) + len(names)) + '|',
        *(f'| {" | ".join(row)} |' for row in texts),
    ]


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
        'line': row.line or row.method,
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
    """Line to its points of cost, the sum of some scores, and of a score.

    They rise in cost, in whatever order the runs were given.
    """
    found: dict[str, list] = {}
    for row in rows:
        if row.task == task and all(n in row.scores for n in (score, *costs)):
            cost = sum(float(row.scores[name].mean) for name in costs)
            point = cost, float(row.scores[score].mean)
            if np.all(np.isfinite(point)):
                found.setdefault(row.line or row.method, []).append(point)
    return {line: np.array(sorted(p)) for line, p in found.items()}


def _coverage(folder, row: Row, data: Data) -> CoverageRow:
    samples: dict[int, list] = {}
    for cell in row.cells:
        x = read_picture(folder, cell['id'])
        samples.setdefault(cell['protocol']['image'], []).append(x)
    stacked, truths = [], []
    for image, xs in samples.items():
        truth = data.truth(image)
        assert truth is not None  # What is evaluated was measured here.
        stacked.append(np.stack(xs))
        # Of 256 levels, as the pictures are.
        truths.append(pictures.to_float(pictures.to_uint8(np.asarray(truth))))
    by_image = [
        uncertainty.coverage(xs, truth)
        for xs, truth in zip(stacked, truths, strict=True)
    ]
    observed = np.stack([found.observed for found in by_image], axis=1)
    return CoverageRow(
        row.task,
        row.method,
        row.num_steps,
        by_image[0].nominal,
        [metrics.mean_and_standard_error(values) for values in observed],
        _widened(stacked, truths, by_image[0].nominal),
        row.line,
    )


def _widened(samples, truths, nominal) -> list[metrics.Estimate]:
    """Held-out coverage at the first levels, as far as it can be had.

    Pictures have 256 levels, and values of one level are told apart at random,
    as `uncertainty.coverage` does in the mean.
    """
    if all(np.all(of_image == of_image[0]) for of_image in samples):
        return []  # What has no spread cannot be widened.
    rng = np.random.default_rng(0)
    samples, truths = (
        [x + rng.uniform(-1, 1, x.shape) / 255 for x in of_images]
        for of_images in (samples, truths)
    )
    found = []
    for level in nominal:
        try:
            shares = uncertainty.held_out_coverage(
                samples, truths, level, guaranteed=False
            )
        except ValueError:  # One image.
            break
        found.append(metrics.mean_and_standard_error(shares))
    return found


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
        what = f'| `{row.task}` | `{row.shown}`'
        numbers = ' | '.join(map(words, row.observed))
        lines.append(f'{what} | {row.num_steps} | {numbers} |')
        if row.widened:
            dashes = [None] * (len(nominal) - len(row.widened))
            numbers = ' | '.join(map(words, [*row.widened, *dashes]))
            lines.append(f'{what} widened | {row.num_steps} | {numbers} |')
    return lines


def protocol_words(found: Evaluation) -> str:
    """How an evaluation was measured, in a sentence for a caption."""
    cells = [c for r in found.rows for c in r.cells if r.method != MEASUREMENT]
    if not cells:
        return 'Nothing was measured.'
    protocols = [cell['protocol'] for cell in cells]
    images = len({p['image'] for p in protocols})
    samples = len({p['sample'] for p in protocols})
    noises = sorted({p['noise_std'] for p in protocols})
    said = (
        f'Mean and standard error over {images} '
        f'image{"s" if images > 1 else ""}'
    )
    if samples > 1:
        said += f', {samples} samples each'
    return (
        f'{said}; noise of standard deviation '
        f'{", ".join(f"{v:g}" for v in noises)} in [-1, 1] units; seed '
        f'{protocols[0]["seed"]}; prior {protocols[0]["prior"][:12]}.'
    )


def as_toml(found: Evaluation) -> str:
    """Coverage in the form of a prior's `calibration.toml`.

    See `invjax.priors.card.Card.coverage`, which reads it.
    """
    lines = ['# How often central intervals of samples hold the truth.', '']
    # Coverage stands in the order of the rows that have it.
    measured = [r for r in found.rows if r.cells and r.method != MEASUREMENT]
    for row, of_row in zip(found.coverage, measured, strict=False):
        protocols = [cell['protocol'] for cell in of_row.cells]
        errors = [
            0.0 if np.isnan(e.standard_error) else float(e.standard_error)
            for e in row.observed
        ]
        settings = ', '.join(
            f'{name} = {_toml(value)}'
            for name, value in of_row.settings.items()
        )
        numbers = {
            'nominal': [float(v) for v in row.nominal],
            'observed': [float(e.mean) for e in row.observed],
            'standard_error': errors,
        }
        lines += [
            '[[entry]]',
            f"method = '{row.method}'",
            *([f"line = '{row.line}'"] if row.line else []),
            f"task = '{row.task}'",
            f"num_steps = '{row.num_steps}'",
            f'noise_std = {protocols[0]["noise_std"]:g}',
            f'settings = {{ {settings} }}',
            f'num_images = {len({p["image"] for p in protocols})}',
            f'num_samples = {len({p["sample"] for p in protocols})}',
            *(
                f'{name} = [{", ".join(f"{v:.4f}" for v in values)}]'
                for name, values in numbers.items()
            ),
            '',
        ]
    return '\n'.join(lines)


def _toml(value: Any) -> str:
    """A setting as TOML, which has infinity but not as JSON writes it."""
    if isinstance(value, bool):
        return 'true' if value else 'false'
    if value == 'inf':
        return 'inf'
    return f"'{value}'" if isinstance(value, str) else repr(value)
