"""Figures of finished sweeps: curves of each metric, and what choices lose."""

import pathlib
from collections.abc import Sequence

from invjax.report import figures
from invjax.study import summaries, sweeps


def curves(folder: pathlib.Path, cells: Sequence[dict]) -> None:
    """A metric against the setting: a row a task, a column a method.

    Panels of what was not measured are left out.
    """
    tasks = sorted({cell['protocol']['task'] for cell in cells})
    methods = sweeps.methods_of(cells)
    for metric in sweeps.metrics_of(cells):
        figure, axes = figures.subplots(
            len(tasks),
            len(methods),
            max(7.0, 1.7 * len(methods)),
            1.9 * len(tasks),
            sharey='row',
        )
        for i, task in enumerate(tasks):
            summary = summaries.summarise(
                sweeps.of_task(cells, task), sweeps.setting_of
            )
            for j, method in enumerate(methods):
                axis = axes[i, j]
                points = sorted(s for s in summary if s.method == method)
                found = [
                    (s, summary[s][metric])
                    for s in points
                    if metric in summary[s]
                ]
                if not found:
                    axis.set_visible(False)
                    continue
                axis.errorbar(
                    [s.words().replace(', ', '\n') for s, _ in found],
                    [e.mean for _, e in found],
                    [e.standard_error for _, e in found],
                    marker='o',
                    capsize=3,
                )
                axis.tick_params(labelsize=6)
                axis.set_title(method, fontsize=8)
                if j == 0:
                    axis.set_ylabel(f'{task}\n{metric}', fontsize=7)
        figures.save(figure, folder, f'curves_{metric}')


def losses(folder: pathlib.Path, rows: Sequence[sweeps.Loss]) -> None:
    """Bars: a panel a task and metric, a group a method, a bar a choice."""
    tasks = [*dict.fromkeys(row.task for row in rows)]
    metrics = [*dict.fromkeys(row.metric for row in rows)]
    names = [n for n in sweeps.CHOICES if any(n in row.losses for row in rows)]
    figure, axes = figures.subplots(
        len(metrics), len(tasks), 7, 2.0 * len(metrics), sharey='row'
    )
    for i, metric in enumerate(metrics):
        for j, task in enumerate(tasks):
            axis = axes[i, j]
            group = [r for r in rows if (r.task, r.metric) == (task, metric)]
            for k, name in enumerate(names):
                at = [n for n, row in enumerate(group) if name in row.losses]
                axis.bar(
                    [n + 0.27 * (k - 1) for n in at],
                    [group[n].losses[name].mean for n in at],
                    0.25,
                    yerr=[group[n].losses[name].standard_error for n in at],
                    color=f'C{k}',
                    label=name,
                )
            axis.set_xticks(range(len(group)), [r.method for r in group])
            if i == 0:
                axis.set_title(task)
            if j == 0:
                axis.set_ylabel(f'{metric}: loss against the oracle')
    axes[0, 0].legend()
    figures.save(figure, folder, 'tuning')
