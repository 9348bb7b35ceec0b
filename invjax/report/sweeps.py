"""Figures of finished sweeps: curves of each metric, and what choices lose."""

import pathlib
from collections.abc import Sequence

import numpy as np

from invjax.report import figures
from invjax.study import summaries, sweeps
from invjax.study.plan import MEASUREMENT


def curves(folder: pathlib.Path, cells: Sequence[dict]) -> None:
    """A metric against the setting: a row a task, a column a method.

    Panels of what was not measured are left out.

    Args:
        folder: of `curves_METRIC.png` and `.pdf`.
        cells: see `invjax.study.sweeps`.
    """
    tasks = sorted({cell['protocol']['task'] for cell in cells})
    methods = sweeps.methods_of(cells)
    for metric in sweeps.metrics_of(cells):
        lines = {
            task: _estimates(sweeps.of_task(cells, task), metric)
            for task in tasks
        }
        drawn = [task for task in tasks if lines[task]]
        columns = [m for m in methods if any(m in lines[t] for t in drawn)]
        if not columns:
            continue
        figure, axes = figures.subplots(
            len(drawn),
            len(columns),
            max(7.0, 1.7 * len(columns)),
            1.9 * len(drawn),
            sharey='row',
        )
        for row, task in zip(axes, drawn, strict=True):
            for axis, method in zip(row, columns, strict=True):
                points = lines[task].get(method, {})
                if not points:
                    axis.set_visible(False)
                    continue
                axis.errorbar(
                    [s.words().replace(', ', '\n') for s in points],
                    [e.mean for e in points.values()],
                    [e.standard_error for e in points.values()],
                    marker='o',
                    capsize=3,
                )
                axis.tick_params(labelsize=6)
                axis.set_title(method, fontsize=8)
            first = next(axis for axis in row if axis.get_visible())
            first.set_ylabel(f'{task}\n{metric}', fontsize=7)
            # A shared axis has its numbers on the left, which may be hidden.
            first.tick_params(labelleft=True)
        figures.save(figure, folder, f'curves_{metric}')


def _estimates(cells, metric):
    """Method to setting to the estimate of a metric, where it is finite."""
    found: dict[str, dict] = {}
    summary = summaries.summarise(cells, sweeps.setting_of)
    for setting in sorted(summary):
        estimate = summary[setting].get(metric)
        if setting.method == MEASUREMENT or estimate is None:
            continue
        if np.isfinite(estimate.mean):
            found.setdefault(setting.method, {})[setting] = estimate
    return found


def losses(folder: pathlib.Path, rows: Sequence[sweeps.Loss]) -> None:
    """Bars: a panel a task and metric, a group a method, a bar a choice.

    Panels without rows are left out.

    Args:
        folder: of `tuning.png` and `.pdf`.
        rows: of `sweeps.losses`, one or more.
    """
    tasks = [*dict.fromkeys(row.task for row in rows)]
    metrics = [*dict.fromkeys(row.metric for row in rows)]
    names = [n for n in sweeps.CHOICES if any(n in row.losses for row in rows)]
    figure, axes = figures.subplots(
        len(metrics), len(tasks), 7, 2.0 * len(metrics), sharey='row'
    )
    handles = {}
    for of_metric, metric in zip(axes, metrics, strict=True):
        for axis, task in zip(of_metric, tasks, strict=True):
            group = [r for r in rows if (r.task, r.metric) == (task, metric)]
            if not group:
                axis.set_visible(False)
                continue
            for k, name in enumerate(names):
                at = [n for n, row in enumerate(group) if name in row.losses]
                handles[name] = axis.bar(
                    [n + 0.27 * (k - 1) for n in at],
                    [group[n].losses[name].mean for n in at],
                    0.25,
                    yerr=[group[n].losses[name].standard_error for n in at],
                    color=f'C{k}',
                )
            axis.set_xticks(range(len(group)), [r.method for r in group])
            axis.set_title(task)
        first = next(axis for axis in of_metric if axis.get_visible())
        first.set_ylabel(f'{metric}: loss against the oracle')
        first.tick_params(labelleft=True)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc='outside lower center',
        ncols=len(names),
    )
    figures.save(figure, folder, 'tuning')
