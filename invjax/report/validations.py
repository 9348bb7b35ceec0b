"""Errors against known posteriors, and ranks: tables and figures."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from invjax import calibration, validation
from invjax.report import figures
from invjax.study import calibrating
from invjax.study.evaluation import setting_words

_LARGEST_SHOWN = 5.0  # error
# Of a histogram: counts as a multiple of what is expected.
_MOST_OF_EXPECTED = 4.0
_KINDS = ('pixel', 'mean', 'squared norm', 'projection', calibrating.DENSITY)


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
    """Sliced distances by the number of steps, in Markdown; none of none."""
    if not by_steps:
        return []
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


def table_of_ranks(rows: Sequence[dict]) -> list[str]:
    """What ranks of truths say of each method, and coverage, in Markdown.

    Args:
        rows: from `calibrating.calibrate`; of none there are no lines.
    """
    if not rows:
        return []
    levels = ' | '.join(f'{level:.0%}' for level in calibration.LEVELS)
    lines = [
        '',
        'Ranks of truths among samples given each of '
        f'{rows[0]["num_measurements"]} measurements. p is of all '
        f'{len(calibrating.NAMES)} histograms being uniform (chi-square, '
        'Bonferroni); then which are not, and what they say of the samples; then '
        'how often regions of highest density hold the truth:',
        '',
        f'| prior | task | method | p | samples are | {levels} |',
        '| --- ' * (5 + len(calibration.LEVELS)) + '|',
    ]
    for row in rows:
        lines.append(
            f'| {row["prior"]} | `{row["task"]}` | `{row["method"]}` '
            f'| {" | ".join(_of_ranks(row["ranks"]))} |'
        )
    return lines


def _of_ranks(ranks: Mapping[str, Sequence[int]]) -> list[str]:
    """Cells of a row: p, readings, and coverage at each level."""
    if not ranks:
        return ['', 'not finite', *[''] * len(calibration.LEVELS)]
    counts = {name: np.asarray(of_name) for name, of_name in ranks.items()}
    kinds_of: dict[str, list[str]] = {}
    for name, of_name in counts.items():
        found = calibration.reading(of_name, len(counts))
        if name == calibrating.DENSITY:
            # Where the density is too high, samples are too near to its mode.
            found = {
                calibration.TOO_HIGH: calibration.TOO_SURE,
                calibration.TOO_LOW: calibration.TOO_WIDE,
            }.get(found, found)
        kinds_of.setdefault(found, []).append(_kind(name))
    kinds_of.pop(calibration.UNIFORM, None)
    p = calibration.least_p_value(list(counts.values()))
    readings = '; '.join(
        f'{found} ({_counted(kinds)})' for found, kinds in kinds_of.items()
    )
    coverage = calibration.highest_density_coverage(counts[calibrating.DENSITY])
    return [
        f'{p:.2g}' if p >= 1e-6 else '< 1e-6',
        readings or 'as they should be',
        *(f'{share:.3f}' for share in coverage),
    ]


def _kind(name: str) -> str:
    """What is ranked, without the number that one of several has."""
    return name.rstrip(' 1234')


def _counted(kinds: Sequence[str]) -> str:
    """Each kind once, in the plural where there are several."""
    counts = {kind: kinds.count(kind) for kind in kinds}
    return ', '.join(
        kind if count == 1 else f'{count} {kind}s'
        for kind, count in counts.items()
    )


def draw_ranks(folder: pathlib.Path, rows: Sequence[dict]) -> None:
    """Draw `ranks.pdf` and `.png`: a row a method, a column a case.

    A line is a histogram of ranks; the band holds 99 of 100 counts of a
    histogram that is uniform.

    Args:
        folder: that is there.
        rows: from `calibrating.calibrate`; of none nothing is drawn.
    """
    if not rows:
        return
    from scipy import stats

    cases = list(dict.fromkeys((r['prior'], r['task']) for r in rows))
    methods = list(dict.fromkeys(r['method'] for r in rows))
    figure, axes = figures.subplots(
        len(methods),
        len(cases),
        max(1.7 * len(cases), 5),
        1.1 * len(methods) + 0.6,
        sharex=True,
    )
    handles: dict[str, Any] = {}
    for of_row in axes:
        for axis in of_row:
            axis.set_visible(False)
    for row in rows:
        i = methods.index(row['method'])
        j = cases.index((row['prior'], row['task']))
        axis = axes[i, j]
        axis.set_visible(True)
        axis.set_title(f'{row["method"]}\n{row["prior"]}, {row["task"]}')
        for name, counts in row['ranks'].items():
            number, places = sum(counts), len(counts)
            kind = _kind(name)
            (handles[kind],) = axis.step(
                np.arange(places),
                counts,
                where='mid',
                color=f'C{_KINDS.index(kind)}',
                linewidth=0.7,
                label=kind,
            )
            band = stats.binom.ppf((0.005, 0.995), number, 1 / places)
            axis.axhspan(*band, color='0.9', zorder=0)
            axis.set_ylim(0, _MOST_OF_EXPECTED * number / places)
    for axis in axes[-1]:
        axis.set_xlabel('rank of the truth')
    figure.legend(
        handles.values(), handles.keys(), loc='outside lower center', ncols=5
    )
    figures.save(figure, folder, 'ranks')


def draw(
    folder: pathlib.Path, by_steps: Mapping[str, Mapping[int, dict]]
) -> None:
    """Draw `validation.pdf` and `.png`: a panel an error, a line a method.

    Args:
        folder: that is there.
        by_steps: see `validating.Validated`; of none nothing is drawn.
    """
    if not by_steps:
        return
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
