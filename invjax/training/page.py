"""What a training run looks like: one page, and the pictures beside it."""

import dataclasses
import datetime
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from invjax import images
from invjax.report import drawing, pages
from invjax.training.config import Config

# Points of the curve of the loss; steps between two are averaged.
_MOST_POINTS = 500
# Sheets of samples that stay on the page.
_MOST_SHEETS = 5
_CELL = 96


@dataclasses.dataclass
class History:
    """What was seen of a run, as plain data.

    Attributes:
        losses: of some steps each, in order: the last `step`, the number of
            steps `count`, and means of `total`, `error`, `bound`, `pooled` and
            `gradient_norm`.
        looks: one each time: `step`, `seconds`, `levels` (of each average
            `Levels.as_dict`), and `best`, which of them is the prior.
        changes: of settings, on the way, in words.
        seconds: that steps took, in all.
    """

    losses: list[dict[str, float]] = dataclasses.field(default_factory=list)
    looks: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    changes: list[str] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def add(self, loss: Mapping[str, float]) -> None:
        """Another step or more; old ones are put together when they are many."""
        self.losses.append(dict(loss))
        if len(self.losses) > 2 * _MOST_POINTS:
            pairs = zip(self.losses[::2], self.losses[1::2], strict=False)
            rest = self.losses[len(self.losses) // 2 * 2 :]
            self.losses = [mean_of(pair) for pair in pairs] + rest

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def mean_of(losses: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Several entries of a history as one."""
    count = sum(loss['count'] for loss in losses)
    means = {
        name: sum(loss[name] * loss['count'] for loss in losses) / count
        for name in losses[0]
    }
    return {**means, 'step': losses[-1]['step'], 'count': count}


def as_picture(x: np.ndarray) -> np.ndarray:
    """(H, W, 1, 2 or 3) to (H, W, 1 or 3); of two channels their magnitude."""
    x = np.nan_to_num(np.asarray(x))
    if x.shape[-1] == 2:
        x = np.minimum(np.linalg.norm(x, axis=-1, keepdims=True), 2) - 1
    return x


def sheet(rows, labels: Sequence[str] = (), titles: Sequence[str] = ()):
    """Pictures of any number of channels side by side."""
    shown = [[as_picture(x) for x in row] for row in rows]
    return images.sheet(shown, titles, labels, cell=_CELL)


def in_rows(x: np.ndarray) -> list:
    """Pictures in rows of a nearly square sheet."""
    columns = math.ceil(math.sqrt(2 * len(x)))
    return [x[i : i + columns] for i in range(0, len(x), columns)]


def write(
    folder: pathlib.Path,
    config: Config,
    history: History,
    facts: Mapping[str, str],
    record: Mapping[str, Any],
    command: str = '',
) -> pathlib.Path:
    """Write `report.html`.

    Args:
        folder: of the run, with `samples-STEP.png` and `restorations.png`.
        config: of the run.
        history: so far.
        facts: in a line at the top, name to value.
        record: all else that is known, shown as text.
        command: the command line; '' for none.
    """
    sheets = sorted(folder.glob('samples-*.png'), reverse=True)[:_MOST_SHEETS]
    restorations = folder / 'restorations.png'
    plots = [_loss_plot(history)]
    looks = _best_levels(history)
    if looks:
        plots += [_levels_plot(looks), _held_out_plot(looks)]
    page = pages.render(
        'training.html',
        title=f'Training {config.prior_name}',
        said=facts.items(),
        drawings=_picture(folder / 'pictures.png', 'pictures trained on'),
        sheets=[
            _picture(path, f'step {int(path.stem.partition("-")[2]):,}')
            for path in sheets
        ],
        restorations=_picture(restorations, 'truth, measurement, restoration'),
        plots=plots,
        table=_table(history),
        record=pages.as_text(record),
        command=command,
    )
    return pages.write(folder / 'report.html', page)


def _picture(path: pathlib.Path, name: str):
    if not path.is_file():
        return None
    with Image.open(path) as picture:
        x = images.to_float(np.asarray(picture.convert('RGB')))
    return pages.Picture(name, pages.source(x, lossless=False))


def _plot(name: str, x_label: str, x, values: Mapping[str, Any]):
    return {
        'name': name,
        'svg': drawing.lines(x, values, x_label, name, True, rising=True),
        'legend': drawing.legend([*values]),
    }


def _loss_plot(history: History):
    losses = {
        name: np.array([loss[name] for loss in history.losses])
        for name in ('total', 'error', 'bound', 'pooled')
    }
    return _plot(
        'loss of the steps',
        'step',
        [loss['step'] for loss in history.losses],
        {name: values for name, values in losses.items() if (values > 0).any()},
    )


def _best_levels(history: History) -> list[tuple[int, dict]]:
    return [
        (look['step'], look['levels'][look['best']])
        for look in history.looks
        if look['levels']
    ]


def _levels_plot(looks: Sequence[tuple[int, dict]]):
    return _plot(
        'held-out error of the noise, by timestep',
        'timestep',
        looks[0][1]['t'],
        {
            f'step {step:,}': levels['error']
            for step, levels in (looks[0], looks[-1])
        },
    )


def _held_out_plot(looks: Sequence[tuple[int, dict]]):
    errors = np.array([levels['error'] for _, levels in looks])
    ratios = errors / errors[0]
    return _plot(
        'held-out error over the first look, over time',
        'step',
        [step for step, _ in looks],
        {
            f't = {looks[0][1]["t"][place]}': ratios[:, place]
            for place in range(0, ratios.shape[1], 2)
        },
    )


def _table(history: History) -> dict[str, Any] | None:
    """The last look, level by level, and what each average has."""
    looks = [look for look in history.looks if look['levels']]
    if not looks:
        return None
    last = looks[-1]
    of_best = last['levels'][last['best']]
    rows = []
    for place, t in enumerate(of_best['t']):
        rows.append(
            [
                f'{t}',
                f'{of_best["noise_std"][place]:.2f}',
                *(f'{levels["error"][place]:.4f}' for levels in last['levels']),
                f'{of_best["psnr"][place]:.1f}',
            ]
        )
    return {'step': f'{last["step"]:,}', 'best': last['best'], 'rows': rows}


def duration(seconds: float) -> str:
    """Seconds in words that fit their size, such as `3:20:05`."""
    return str(datetime.timedelta(seconds=round(seconds)))
