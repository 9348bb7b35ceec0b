"""Methods x tasks over many faces, each method with its default settings.

    python -m experiments.evaluate --images=DIR --num_images=50 --out=DIR
    python -m experiments.evaluate --images=DIR --tasks=all --methods=all \\
        --steps=5,10,20,50,100 --out=DIR
    python -m experiments.evaluate --images=DIR --num_images=8 --num_samples=9 \\
        --calibration --out=DIR
    python -m experiments.evaluate --images=DIR --tasks=phase_retrieval \\
        --num_samples=4 --choose_sample --out=DIR

Cells are kept and continued as by `experiments.sweep`, in a folder a task.
Writes `evaluation.md`, means and standard errors over images with the best of
each task in bold, and the same as data in `evaluation.json`. Network evaluations
are counted by running the method on a prior that stands in for the network;
seconds are those of the machine that computed a cell, without compilation, and
the same for all images of a batch.
`fronts_evaluations.png` and `fronts_seconds.png` have quality against both, a
line a method over its numbers of steps. Where nothing is missing, the same
command only draws again. `--calibration` adds how often central intervals of
the samples hold the truth, against how often they should, as a table and a plot.
With `--choose_sample` the sample with the least residual stands for an image, as
one would choose without the truth where a task fails at random.
"""

from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import cells, common, plots
from invjax import (
    conditioners,
    defaults,
    images,
    metrics,
    operators,
    records,
    schedule,
    tuning,
    uncertainty,
)

_TASKS = flags.DEFINE_list(
    'tasks',
    ['gaussian_deblur', 'box_inpainting', 'random_inpainting'],
    f'Of {", ".join(operators.OPERATORS)}; or all.',
)
_METHODS = flags.DEFINE_list(
    'methods',
    ['sdedit', 'score_ald', 'dps'],
    f'Of {", ".join(conditioners.CONDITIONERS)}; or all, which leaves out '
    'unconditional. dps:100 is a method at its own number of steps. A method '
    'that cannot do a task has a dash in the table.',
)
_STEPS = flags.DEFINE_list(
    'steps',
    [],
    'Numbers of reverse steps, as 5,10,20: each method is run at each of them. '
    'They stand in place of --num_steps.',
)
_CALIBRATION = flags.DEFINE_bool(
    'calibration', False, 'Coverage of the truth; needs --num_samples above 1.'
)
_CHOOSE_SAMPLE = flags.DEFINE_bool(
    'choose_sample',
    False,
    "Scores are those of each image's sample with the least residual, at the cost "
    'of all; `success` is the share of samples that explain the measurement. '
    'Needs --num_samples above 1.',
)
common.define_images()
common.define_transition()

# Scores to what is better the larger it is, where a table has the best in bold.
_BETTER = {
    'psnr': lambda mean: mean,
    'ssim': lambda mean: mean,
    'chi_square': lambda mean: -tuning.discrepancy(mean),
    'lpips_alex': lambda mean: -mean,
    'lpips_vgg': lambda mean: -mean,
}
_COUNTS = ('forward', 'backward')
_COSTS = (*_COUNTS, 'seconds')
# Scores that are drawn against the costs: label, and the sign of better.
_DRAWN = {
    'psnr': ('PSNR, dB', 1.0),
    'lpips_alex': ('LPIPS alex, lower is better', -1.0),
    'lpips_vgg': ('LPIPS vgg, lower is better', -1.0),
}


class Row(NamedTuple):
    """A row of the table.

    Attributes:
        task, method: names; the method may be `measurement`.
        num_steps: as on the command line; '' of a measurement.
        cells: of all images and samples; none where the method cannot do the
            task.
        scores: name to the estimate over images.
    """

    task: str
    method: str
    num_steps: str
    cells: list[dict]
    scores: dict[str, metrics.Estimate]


def main():
    tasks, runs = _tasks(), _runs()
    for flag in (_CALIBRATION, _CHOOSE_SAMPLE):
        if flag.value and cells.NUM_SAMPLES.value < 2:
            raise ValueError(
                f'--{flag.name} needs --num_samples of 2 or more, got '
                f'{cells.NUM_SAMPLES.value}.'
            )
    if _CHOOSE_SAMPLE.value and not cells.NOISE_STD.value:
        raise ValueError(
            '--choose_sample compares residuals with the noise: --noise_std must '
            'be above 0, got 0.'
        )
    out = common.make_folder(common.OUT.value)
    process, num_processes = common.join_processes()
    data = cells.load()
    rows = []
    for task in tasks:
        folder = common.make_folder(str(out / task))
        done = {}
        for method, num_steps in runs:
            plan = _plan(task, method, num_steps, data)
            if _can_do(plan, data):
                done[method, num_steps] = cells.compute(
                    folder, plan, data, process, num_processes
                )
        rows += _rows(task, folder, runs, done)
    lines = _table(rows)
    if _CALIBRATION.value and any(row.cells for row in rows):
        coverages = {
            (row.task, row.method, row.num_steps): _coverage(
                out / row.task, row.cells, data.truths
            )
            for row in rows
            if row.cells and row.method != 'measurement'
        }
        lines += ['', *_coverage_table(coverages)]
        _plot(out, coverages)
    (out / 'evaluation.md').write_text('\n'.join(lines) + '\n')
    _draw_fronts(out, rows)
    record = {
        'rows': list(map(_as_data, rows)),
        'prior': data.card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'evaluation.json', record)
    print('\n'.join(lines))
    print(f'written: {out / "evaluation.md"} and the fronts beside it')


def _tasks() -> list[str]:
    tasks = _expand(_TASKS.value, operators.OPERATORS)
    for task in tasks:
        operators.check_names(task, ())
    return tasks


def _runs() -> list[tuple[str, str]]:
    """Methods, each with a number of steps, as the flags have them."""
    able = [m for m in conditioners.CONDITIONERS if m != 'unconditional']
    runs = []
    for text in _METHODS.value:
        name, _, own = text.partition(':')
        numbers = [own] if own else _STEPS.value or [common.NUM_STEPS.value]
        runs += [(m, n) for m in _expand([name], able) for n in numbers]
    for method, num_steps in runs:
        common.check_settings(method)
        schedule.respace(num_steps)  # Refuses what is no number of steps.
    return [*dict.fromkeys(runs)]


def _expand(names, every) -> list[str]:
    """Names, with all of them in place of `all`."""
    expanded = [
        n for name in names for n in (every if name == 'all' else [name])
    ]
    return [*dict.fromkeys(expanded)]


def _plan(task, method, num_steps, data) -> cells.Plan:
    default = defaults.default_settings(
        data.card['name'], method, task, num_steps
    )
    numbers, choices = conditioners.split_settings(method, default)
    return cells.Plan(
        task,
        method,
        [numbers],
        {**choices, **common.given_settings()},
        [cells.NOISE_STD.value],
        num_steps,
        has_costs=True,
    )


def _can_do(plan, data) -> bool:
    operator = operators.make_operator(
        plan.task, jax.random.key(0), data.truths[0].shape
    )
    try:
        conditioners.check_operator(plan.method, operator, plan.given)
    except ValueError:
        return False
    return True


def _rows(task, folder, runs, done) -> list[Row]:
    """Rows of a task, the measurement's first."""
    written = {cell['id']: cell for cell in records.read(folder)}

    def row(method, num_steps, protocols):
        names = [records.cell_id(protocol) for protocol in protocols]
        if any(name not in written for name in names):
            print(f'{task}, {method}: others are at work.')
            return []
        found = [written[name] for name in names]
        scores = {}
        if found:
            if _CHOOSE_SAMPLE.value and method != 'measurement':
                most = uncertainty.MOST_RESIDUAL**2
                chosen = records.choose_samples(found, most, _COSTS)
            else:
                chosen = found
            ((_, scores),) = records.summarise(chosen, lambda _: ()).items()
        return [Row(task, method, num_steps, found, scores)]

    rows = []
    for method, num_steps in runs:
        of_run = done.get((method, num_steps))
        if of_run is not None and not rows:
            rows += row('measurement', '', of_run.measured)
    for method, num_steps in runs:
        of_run = done.get((method, num_steps))
        rows += row(method, num_steps, of_run.cells if of_run else [])
    return rows


def _table(rows) -> list[str]:
    names = dict.fromkeys(n for row in rows for n in row.scores)
    # Quality first, then what it costs.
    names = [n for n in names if n not in _COSTS] + [
        n for n in _COSTS if n in names
    ]
    best = _best(rows)
    lines = [
        f'| task | method | steps | setting | {" | ".join(names)} |',
        '| --- ' * (4 + len(names)) + '|',
    ]
    for row in rows:
        numbers = ' | '.join(
            _bold(
                _words(row.scores.get(name), name in _COUNTS),
                row.method != 'measurement'
                and (row.task, name) in best
                and name in row.scores
                and _value(row, name) == best[row.task, name],
            )
            for name in names
        )
        lines.append(
            f'| `{row.task}` | `{row.method}` | {row.num_steps} '
            f'| {_setting(row)} | {numbers} |'
        )
    return lines


def _setting(row) -> str:
    if not row.cells:
        return ''
    settings = row.cells[0]['protocol']['settings']
    return ', '.join(
        f'{name} {value:g}'
        for name, value in settings.items()
        if not isinstance(value, str | bool)
    )


def _best(rows) -> dict[tuple[str, str], float]:
    """Task and score to the best mean of a method, by its value."""
    best = {}
    for row in rows:
        for name in row.scores.keys() & _BETTER.keys():
            value = _value(row, name)
            if row.method != 'measurement' and np.isfinite(value):
                key = row.task, name
                best[key] = max(best.get(key, -np.inf), value)
    return best


def _value(row, name) -> float:
    return float(_BETTER[name](row.scores[name].mean))


def _bold(text, is_bold) -> str:
    return f'**{text}**' if is_bold else text


def _words(estimate, is_count=False) -> str:
    if estimate is None or np.isnan(estimate.mean):
        return '-'
    if is_count:
        return f'{estimate.mean:g}'
    if np.isnan(estimate.standard_error):
        return f'{estimate.mean:.3f}'
    return f'{estimate.mean:.3f} +- {estimate.standard_error:.3f}'


def _as_data(row) -> dict:
    """A row for JSON, which has no NaN."""

    def number(value):
        return float(value) if np.isfinite(value) else None

    settings = row.cells[0]['protocol']['settings'] if row.cells else {}
    return {
        'task': row.task,
        'method': row.method,
        'num_steps': row.num_steps,
        'can_do': bool(row.cells),
        'num_cells': len(row.cells),
        'settings': settings,
        'scores': {
            name: {
                'mean': number(estimate.mean),
                'standard_error': number(estimate.standard_error),
            }
            for name, estimate in row.scores.items()
        },
    }


def _draw_fronts(out, rows):
    costs = {
        'evaluations': ('network evaluations', _COUNTS),
        'seconds': ('seconds an image', ('seconds',)),
    }
    drawn = [n for n in _DRAWN if any(n in row.scores for row in rows)]
    tasks = [*dict.fromkeys(row.task for row in rows)]
    for name, (label, parts) in costs.items():
        panels = [
            [
                plots.Panel(
                    task, *_DRAWN[score], _lines(rows, task, score, parts)
                )
                for task in tasks
            ]
            for score in drawn
        ]
        plots.fronts(out, f'fronts_{name}', panels, label)


def _lines(rows, task, score, parts) -> dict[str, np.ndarray]:
    """Method to its points of cost, the sum of its parts, and score."""
    points = {}
    for row in rows:
        if row.task == task and all(n in row.scores for n in (score, *parts)):
            cost = sum(row.scores[name].mean for name in parts)
            point = cost, row.scores[score].mean
            if np.all(np.isfinite(point)):
                points.setdefault(row.method, []).append(point)
    return {method: np.array(p) for method, p in points.items()}


def _coverage(folder, of_both, truths):
    """Nominal coverage, and the observed one's estimate over images at each."""
    samples = {}
    for cell in of_both:
        x = images.read_exact(
            records.picture_path(folder, cell['id']), truths[0].shape[0]
        )
        samples.setdefault(cell['protocol']['image'], []).append(x)
    by_image = [
        uncertainty.coverage(
            np.stack(xs), truths[image - common.FIRST_IMAGE.value]
        )
        for image, xs in samples.items()
    ]
    observed = np.stack([coverage.observed for coverage in by_image], axis=1)
    return by_image[0].nominal, [
        metrics.mean_and_standard_error(values) for values in observed
    ]


def _coverage_table(coverages) -> list[str]:
    nominal = next(iter(coverages.values()))[0]
    lines = [
        f'| task | method | steps | {" | ".join(f"{n:.0%}" for n in nominal)} |',
        '| --- ' * (3 + len(nominal)) + '|',
    ]
    for (task, method, num_steps), (_, estimates) in coverages.items():
        numbers = ' | '.join(map(_words, estimates))
        lines.append(f'| `{task}` | `{method}` | {num_steps} | {numbers} |')
    return lines


def _plot(out, coverages):
    tasks = [*dict.fromkeys(task for task, *_ in coverages)]
    figure, axes = plots.subplots(
        1, len(tasks), 2.2 * len(tasks), 2.2, sharey=True
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.plot([0, 1], [0, 1], color='black', linestyle=':')
        for (of_task, method, steps), (nominal, estimates) in coverages.items():
            if of_task == task:
                axis.errorbar(
                    nominal,
                    [e.mean for e in estimates],
                    [e.standard_error for e in estimates],
                    marker='o',
                    markersize=3,
                    label=f'{method}, {steps} steps',
                )
        axis.set(title=task, xlabel='nominal coverage', aspect='equal')
    axes[0, 0].set_ylabel('observed coverage')
    axes[0, 0].legend()
    plots.save(figure, out, 'calibration')


if __name__ == '__main__':
    common.run(main)
