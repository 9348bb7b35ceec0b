"""Plots by Matplotlib, for a paper's column: PDF with its text as text, PNG."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from invjax import images

matplotlib.rcParams.update({'pdf.fonttype': 42, 'font.size': 7})


def subplots(rows: int, columns: int, width: float, height: float, **kwargs):
    """A figure of that many inches, and its axes, (rows, columns)."""
    figure = Figure((width, height), layout='constrained')
    return figure, figure.subplots(rows, columns, squeeze=False, **kwargs)


def save(figure: Figure, folder, name: str) -> pathlib.Path:
    """Write NAME.pdf and NAME.png; returns the path of the second."""
    for suffix in ('pdf', 'png'):
        path = pathlib.Path(folder) / f'{name}.{suffix}'
        figure.savefig(path, dpi=200)
    return path


def picture(axis, x) -> None:
    """Show the `images.planes` of (H, W, C) in [-1, 1], without frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    unit = np.clip((images.planes(x) + 1) / 2, 0, 1)
    # Matplotlib would give one channel colours, from its least to its largest.
    axis.imshow(np.broadcast_to(unit, (*unit.shape[:2], 3)))


class Panel(NamedTuple):
    """One plot of quality against cost.

    Attributes:
        title, label: above it, and of its y axis.
        sign: 1 where higher is better, -1 where lower is.
        lines: name to (N, 2), points of cost and quality.
    """

    title: str
    label: str
    sign: float
    lines: Mapping[str, np.ndarray]


_MARKERS = 'osD^vPX'
_MOST_COLUMNS = 4


def look(i: int) -> dict:
    """Of the line of that number; no two of seventy look the same."""
    return {
        'color': f'C{i % 10}',
        'marker': _MARKERS[i % len(_MARKERS)],
        'markersize': 3.5,
        'linewidth': 1,
    }


def fronts(
    folder, name: str, panels: Sequence[Sequence[Panel]], cost: str
) -> pathlib.Path:
    """Draw quality against cost, its axis logarithmic, a line a name.

    What no other point beats in both is joined by a broad grey line. What costs
    nothing has no place on the axis, and is a dotted level with its marker on the
    left edge.

    Args:
        folder, name: see `save`, as for what is returned.
        panels: rows of them, of one length; a row stands in as many rows of the
            figure as it takes, four panels each.
        cost: the label of the x axes.
    """
    names = [*dict.fromkeys(n for row in panels for p in row for n in p.lines)]
    rows = [
        row[i : i + _MOST_COLUMNS]
        for i in range(0, len(panels[0]), _MOST_COLUMNS)
        for row in panels
    ]
    columns = max(map(len, rows))
    legend_columns = max(2 * columns, 3)
    height = 2.2 * len(rows) + 0.17 * (-(-len(names) // legend_columns) + 1)
    figure, axes = subplots(len(rows), columns, max(2.4 * columns, 4.8), height)
    handles: dict[str, Any] = {}
    for of_row, row in zip(axes, rows, strict=True):
        for axis in of_row[len(row) :]:
            axis.set_visible(False)
        for axis, panel in zip(of_row, row, strict=False):
            handles |= _draw(axis, panel, names)
            axis.set(title=panel.title, xlabel=cost, ylabel=panel.label)
    figure.legend(
        handles.values(),
        handles.keys(),
        loc='outside lower center',
        ncols=legend_columns,
    )
    return save(figure, folder, name)


def _draw(axis, panel, names) -> dict:
    """Draw a panel; gives the handles for the legend."""
    handles = {}
    axis.set_xscale('log')
    axis.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5), numticks=9))
    axis.xaxis.set_major_formatter(ticker.FormatStrFormatter('%g'))
    axis.xaxis.set_minor_formatter(ticker.NullFormatter())
    for i, name in enumerate(names):
        points = panel.lines.get(name, np.zeros((0, 2)))
        free = points[:, 0] == 0
        for level in points[free, 1]:
            axis.plot(
                [0, 1],
                [level, level],
                **look(i),
                linestyle=':',
                markevery=[0],
                clip_on=False,
                transform=axis.get_yaxis_transform(),
            )
        (handle,) = axis.plot(*points[~free].T, **look(i), zorder=2)
        if len(points):
            handles[name] = handle
    found = [p for p in panel.lines.values() if len(p)]
    if found:
        best = front(np.concatenate(found), panel.sign)
        best = best[best[:, 0] > 0]
        axis.step(*best.T, where='post', color='0.8', linewidth=4, zorder=0)
    return handles


def front(points: np.ndarray, sign: float) -> np.ndarray:
    """The points that none beats in both cost and quality, the cheapest first.

    Args:
        points: (N, 2) of cost and quality.
        sign: 1 where higher quality is better, -1 where lower is.
    """
    order = np.lexsort((-sign * points[:, 1], points[:, 0]))
    points = points[order]
    best = np.maximum.accumulate(sign * points[:, 1])
    better = np.append(True, best[1:] > best[:-1])
    return points[better]
