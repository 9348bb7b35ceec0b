"""Figures of an evaluation: quality against cost, and calibration."""

import pathlib
from collections.abc import Sequence

from invjax.report import figures
from invjax.study import evaluation

# Scores that are drawn against the costs: label, and the sign of better.
_DRAWN = {
    'psnr': ('PSNR, dB', 1.0),
    'lpips_alex': ('LPIPS alex, lower is better', -1.0),
    'lpips_vgg': ('LPIPS vgg, lower is better', -1.0),
}
_COSTS = {
    'evaluations': ('network evaluations', evaluation.COUNTS),
    'seconds': ('seconds an image', ('seconds',)),
}


def fronts(folder: pathlib.Path, rows: Sequence[evaluation.Row]) -> None:
    """Draw quality against both costs, a line a method over its steps."""
    drawn = [n for n in _DRAWN if any(n in row.scores for row in rows)]
    tasks = [*dict.fromkeys(row.task for row in rows)]
    for name, (label, parts) in _COSTS.items():
        panels = [
            [
                figures.Panel(
                    task,
                    *_DRAWN[score],
                    evaluation.points(rows, task, score, parts),
                )
                for task in tasks
            ]
            for score in drawn
        ]
        if panels:
            figures.fronts(folder, f'fronts_{name}', panels, label)


def calibration(
    folder: pathlib.Path, rows: Sequence[evaluation.CoverageRow]
) -> None:
    """Draw observed against nominal coverage, a panel a task."""
    tasks = [*dict.fromkeys(row.task for row in rows)]
    lines = {(row.shown, row.num_steps) for row in rows}
    figure, axes = figures.subplots(
        1, len(tasks), 2.2 * len(tasks), 2.2 + 0.17 * len(lines), sharey=True
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.plot([0, 1], [0, 1], color='black', linestyle=':')
        for row in rows:
            if row.task == task:
                axis.errorbar(
                    row.nominal,
                    [e.mean for e in row.observed],
                    [e.standard_error for e in row.observed],
                    marker='o',
                    markersize=3,
                    label=f'{row.shown}, {row.num_steps} steps',
                )
        axis.set(title=task, xlabel='nominal coverage', aspect='equal')
    axes[0, 0].set_ylabel('observed coverage')
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc='outside lower center',
        fontsize='small',
    )
    figures.save(figure, folder, 'calibration')
