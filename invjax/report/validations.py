"""Errors against known posteriors: tables, and a figure by number of steps."""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from invjax import validation
from invjax.report import figures
from invjax.study.evaluation import setting_words

_LARGEST_SHOWN = 5.0  # error


def _pair(pair) -> str:
    return f'{pair[0]:.3f} +- {pair[1]:.3f}'


def summary(rows: Sequence[dict]) -> list[str]:
    """The median over the cases that a method can do, a line a method."""
    names = validation.Errors._fields
    by_method: dict[str, list[dict]] = {}
    for row in rows:
        by_method.setdefault(row['method'], []).append(row)
    lines = [
        'Medians over the cases that a method can do:',
        '',
        f'| method | cases | {" | ".join(names)} |',
        '| --- ' * (2 + len(names)) + '|',
    ]
    for method, own in by_method.items():
        medians = (np.median([row[name][0] for row in own]) for name in names)
        numbers = ' | '.join(f'{median:.3f}' for median in medians)
        lines.append(f'| `{method}` | {len(own)} | {numbers} |')
    return lines


def table(rows: Sequence[dict]) -> list[str]:
    """Every case, in Markdown."""
    names = validation.Errors._fields
    lines = [
        '',
        'Each case:',
        '',
        f'| prior | task | noise | method | setting | {" | ".join(names)} |',
        '| --- ' * (5 + len(names)) + '|',
    ]
    for row in rows:
        setting = setting_words(row['setting'])
        numbers = ' | '.join(_pair(row[name]) for name in names)
        lines.append(
            f'| {row["prior"]} | `{row["task"]}` | {row["noise_std"]} '
            f'| `{row["method"]}` | {setting} | {numbers} |'
        )
    return lines


def table_of_steps(by_steps: Mapping[str, Mapping[int, dict]]) -> list[str]:
    """Sliced distances by the number of steps, in Markdown."""
    first = next(iter(by_steps.values()))
    row = next(iter(first.values()))
    lines = [
        '',
        f'Sliced distance by the number of steps, {row["prior"]} prior, '
        f'`{row["task"]}`, noise {row["noise_std"]}:',
        '',
        f'| method | {" | ".join(map(str, first))} |',
        '| --- ' * (1 + len(first)) + '|',
    ]
    for method, errors in by_steps.items():
        numbers = ' | '.join(_pair(e['sliced']) for e in errors.values())
        lines.append(f'| `{method}` | {numbers} |')
    return lines


def draw(
    folder: pathlib.Path, by_steps: Mapping[str, Mapping[int, dict]]
) -> None:
    """Draw `validation.pdf` and `.png`: a panel an error, a line a method.

    Args:
        folder: that is there.
        by_steps: see `validating.Validated`.
    """
    figure, axes = figures.subplots(1, 3, 7, 3.0)
    for axis, name in zip(
        axes[0], ('mean', 'covariance', 'sliced'), strict=True
    ):
        for i, (method, errors) in enumerate(by_steps.items()):
            values, deviations = zip(
                *(row[name] for row in errors.values()), strict=True
            )
            axis.errorbar(
                list(errors),
                values,
                deviations,
                label=method,
                **figures.look(i),
            )
        axis.set(
            xscale='log',
            yscale='log',
            xlabel='steps',
            title=f'{name}, relative error',
        )
        # Some methods diverge, and would leave the others no room.
        axis.set_ylim(top=min(axis.get_ylim()[1], _LARGEST_SHOWN))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=7,
    )
    figures.save(figure, folder, 'validation')
