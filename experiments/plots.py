"""Plots by Matplotlib, for a paper's column: PDF with its text as text, PNG."""

import pathlib

import matplotlib
import numpy as np
from matplotlib.figure import Figure

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
    """Show (H, W, 3) in [-1, 1] without ticks and frame."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    axis.imshow(np.clip((np.asarray(x) + 1) / 2, 0, 1))
