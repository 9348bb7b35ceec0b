"""Cells of an experiment on disk: one JSON line and one picture each.

A cell is one image, sample, method and setting. Its protocol, everything that
its picture depends on, is hashed to its name, so that a run that was
interrupted, or is repeated with more settings, computes only what is missing.
Each process of a run appends to a file of its own; readers read them all.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from invjax import images, metrics


def cell_id(protocol: dict) -> str:
    """The name of a cell: 16 hexadecimal digits of its protocol's SHA-256."""
    text = json.dumps(protocol, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Writer:
    """Appends cells to a folder; what it has written survives a kill.

    Attributes:
        done: names of the cells that the folder has, of all processes.
    """

    def __init__(self, folder: str | os.PathLike, process: int = 0):
        self._folder = pathlib.Path(folder)
        self._lines = self._folder / f'cells-{process}.jsonl'
        cut_torn_line(self._lines)
        self.done = {cell['id'] for cell in read(folder)}

    def write(self, protocol: dict, scores: dict, x: np.ndarray) -> None:
        """Add a cell, unless it is there.

        Args:
            protocol: plain data.
            scores: name to number.
            x: (H, W, 3) in [-1, 1], written as `cells/<name>.png`.
        """
        name = cell_id(protocol)
        if name in self.done:
            return
        picture = picture_path(self._folder, name)
        # A picture counts as soon as its line is there, so it comes first.
        partial = picture.with_suffix('.partial.png')
        images.write_image(partial, x)
        os.replace(partial, picture)
        line = json.dumps({'id': name, 'protocol': protocol, 'scores': scores})
        with self._lines.open('a') as file:
            file.write(line + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.done.add(name)


def picture_path(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Where the picture of a cell is."""
    return pathlib.Path(folder) / 'cells' / f'{name}.png'


def cut_torn_line(path: pathlib.Path) -> None:
    """Take back the end of a file that a kill has left without its newline."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b'\n') + 1
        if whole < len(content):
            with path.open('r+b') as file:
                file.truncate(whole)


def read(folder: str | os.PathLike) -> list[dict]:
    """All cells of a folder, each once: dicts of id, protocol and scores.

    They are in the order of their names, which does not depend on how the work
    was shared or interrupted.
    """
    cells = {}
    for path in sorted(pathlib.Path(folder).glob('cells-*.jsonl')):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith('\n'):
                cell = json.loads(line)
                cells[cell['id']] = cell
    return [cells[name] for name in sorted(cells)]


def choose_samples(
    cells: Sequence[dict], most: float, costs: Sequence[str] = ()
) -> list[dict]:
    """Of each image the sample with the least residual, as one has no truth.

    Args:
        cells: from `read`, with chi_square among their scores.
        most: the largest chi-square of a sample that explains the measurement.
        costs: scores that add up over the samples of an image.

    Returns:
        A cell an image. Its scores have `success` too: the share of the image's
        samples that explain the measurement. A cost that a sample lacks is NaN.
    """
    by_image = {}
    for cell in cells:
        by_image.setdefault(cell['protocol']['image'], []).append(cell)
    chosen = []
    for samples in by_image.values():
        residuals = np.array(
            [_number(c['scores'].get('chi_square')) for c in samples]
        )
        # A sample that is not finite explains nothing, and is taken last.
        best = samples[
            np.argmin(np.where(np.isnan(residuals), np.inf, residuals))
        ]
        added = {
            n: sum(_number(c['scores'].get(n)) for c in samples) for n in costs
        }
        success = {'success': float(np.mean(residuals <= most))}
        chosen.append(
            {**best, 'scores': {**best['scores'], **added, **success}}
        )
    return chosen


def summarise(
    cells: Sequence[dict], key: Callable[[dict], tuple]
) -> dict[tuple, dict[str, metrics.Estimate]]:
    """Mean and standard error over images, of each group of cells.

    Several samples of one image are averaged first: they are not independent
    images.

    Args:
        cells: from `read`.
        key: of a protocol: what the cells of a group share.

    Returns:
        Group to the estimate of each score, groups in order of appearance. A
        score that is not finite, or that some of a group's cells lack, makes
        its group's estimate not finite.
    """
    groups = {}
    for cell in cells:
        group = groups.setdefault(key(cell['protocol']), {})
        image = group.setdefault(cell['protocol']['image'], [])
        image.append(cell['scores'])
    return {
        group: {
            name: metrics.mean_and_standard_error(
                [
                    np.mean([_number(s.get(name)) for s in samples])
                    for samples in by_image.values()
                ]
            )
            for name in dict.fromkeys(
                name
                for samples in by_image.values()
                for scores in samples
                for name in scores
            )
        }
        for group, by_image in groups.items()
    }


def _number(value) -> float:
    return np.nan if value is None else float(value)
