"""An explorer of a grid of settings: a slider each, pictures and curves."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from invjax import metrics, tuning
from invjax.problem import Problem
from invjax.report import pages, sprites
from invjax.study import summaries
from invjax.study.cells import read_picture
from invjax.study.choosing import Choice
from invjax.study.plan import MEASUREMENT

# A score's name, how it is called, and the sign of better; 0 where 1 is best.
SCORES = {
    'psnr': ('PSNR, dB', 1),
    'ssim': ('SSIM', 1),
    'lpips_alex': ('LPIPS alex', -1),
    'lpips_vgg': ('LPIPS vgg', -1),
    'chi_square': ('chi-square', 0),
    'held_out': ('held-out chi-square', -1),
}
# Of them, those that need no truth.
WITHOUT_TRUTH = ('chi_square', 'held_out')
# What the rest of the page may take.
_FOR_THE_REST = 2 * 2**20
_NUM_STEPS = 'num_steps'
_NOISE_STD = 'noise_std'


class Shot(NamedTuple):
    """One restoration of a grid.

    Attributes:
        setting: name to value, of what is varied.
        image, sample: numbers.
        scores: name to number; what is not finite is NaN or None.
        x: gives the picture, (H, W, C) in [-1, 1].
    """

    setting: Mapping[str, Any]
    image: int
    sample: int
    scores: Mapping[str, Any]
    x: Any


class Group(NamedTuple):
    """What one set of sliders moves through.

    Attributes:
        name: such as a task and a method.
        shots: one or more, of one size of picture.
        references: image to name to picture, such as its truth.
    """

    name: str
    shots: Sequence[Shot]
    references: Mapping[int, Mapping[str, np.ndarray]]


def group_of_cells(
    folder,
    cells: Sequence[Mapping[str, Any]],
    truths: Mapping[int, np.ndarray] | None = None,
    name: str = '',
) -> Group:
    """A group of a sweep's cells, which may hold the measurements too.

    Args:
        folder: of the cells' pictures.
        cells: as `invjax.study.cells.read` gives them, of one task and method.
        truths: image number to the truth, where it is known.
        name: by default the task and the method.
    """
    restored = [c for c in cells if c['protocol']['method'] != MEASUREMENT]
    settings = [_setting(c['protocol']) for c in restored]
    varied = [
        n
        for n in dict.fromkeys(n for s in settings for n in s)
        if len({_key(s.get(n)) for s in settings}) > 1
    ]
    references: dict[int, dict[str, Any]] = {}
    for number, truth in (truths or {}).items():
        references.setdefault(number, {})['truth'] = truth
    for cell in cells:
        protocol = cell['protocol']
        # With several noises there is no one measurement to show.
        if protocol['method'] == MEASUREMENT and _NOISE_STD not in varied:
            references.setdefault(protocol['image'], {})['measurement'] = (
                read_picture(folder, cell['id'])
            )
    shots = [
        Shot(
            {n: setting.get(n) for n in varied},
            cell['protocol']['image'],
            cell['protocol']['sample'],
            cell['scores'],
            lambda cell=cell: read_picture(folder, cell['id']),
        )
        for cell, setting in zip(restored, settings, strict=True)
    ]
    if not name:
        protocol = restored[0]['protocol']
        name = f'{protocol["task"]} by {protocol["method"]}'
    return Group(name, shots, references)


def group_of_choice(found: Choice, problem: Problem, name: str = '') -> Group:
    """A group of what `invjax.tune` tried.

    Args:
        found: what it gave.
        problem: the measurement.
        name: of the group.
    """
    references = {'measurement': problem.as_picture()}
    if problem.truth is not None:
        references['truth'] = np.asarray(problem.truth)
    shots = [
        Shot(
            row['setting'],
            0,
            0,
            {n: v for n, v in row.items() if n != 'setting'},
            lambda x=x: np.clip(np.nan_to_num(x), -1, 1),
        )
        for row, x in zip(found.rows, found.samples, strict=True)
    ]
    return Group(name or found.method.name, shots, {0: references})


def _setting(protocol: Mapping[str, Any]) -> dict[str, Any]:
    found = {
        n: math.inf if v == 'inf' else v
        for n, v in protocol['settings'].items()
    }
    for name in (_NOISE_STD, _NUM_STEPS):
        if name in protocol:
            found[name] = protocol[name]
    return found


def _key(value: Any) -> Any:
    """By which values are sorted: numbers first, by size."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 1, 0.0, str(value)
    return 0, float(value), ''


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f'{value:g}'
    return str(value)


class Grid(NamedTuple):
    """A group in order: the plain data that a page has of it.

    Attributes:
        axes: name and values, rising, of each slider.
        images, samples: numbers.
        places: (setting, image, sample) indices to place among the pictures.
        shots: by place.
        settings: index of each axis' value, of each setting.
        scores: name to (settings, images), over samples the mean; NaN where
            there is none.
        means: name to the estimate over images of each setting.
    """

    axes: list[tuple[str, list[Any]]]
    images: list[int]
    samples: list[int]
    places: dict[tuple[int, int, int], int]
    shots: list[Shot]
    settings: list[tuple[int, ...]]
    scores: dict[str, np.ndarray]
    means: dict[str, list[metrics.Estimate]]


def grid(group: Group) -> Grid:
    """Put a group in order."""
    names = [*dict.fromkeys(n for s in group.shots for n in s.setting)]
    axes = [
        (n, sorted({s.setting.get(n) for s in group.shots}, key=_key))
        for n in names
    ]
    index = {
        name: {_key(v): i for i, v in enumerate(values)}
        for name, values in axes
    }

    def place(shot):
        return tuple(index[n][_key(shot.setting.get(n))] for n in names)

    settings = sorted({place(shot) for shot in group.shots})
    images = sorted({shot.image for shot in group.shots})
    samples = sorted({shot.sample for shot in group.shots})
    at = {
        (
            settings.index(place(shot)),
            images.index(shot.image),
            samples.index(shot.sample),
        ): shot
        for shot in group.shots
    }
    ordered = dict(
        sorted(at.items(), key=lambda i: (i[0][1], i[0][0], i[0][2]))
    )
    found = [n for n in SCORES if any(n in s.scores for s in group.shots)]
    scores = {}
    for name in found:
        values = np.full((len(settings), len(images), len(samples)), np.nan)
        for where, shot in ordered.items():
            value = shot.scores.get(name)
            values[where] = np.nan if value is None else value
        there = np.zeros(values.shape, bool)
        for where in ordered:
            there[where] = True
        # A sample that is there and has no number spoils its mean, one that is
        # not there does not.
        total = np.where(there, values, 0).sum(axis=-1)
        number = there.sum(axis=-1)
        scores[name] = np.where(number, total / np.maximum(number, 1), np.nan)
    means = {}
    for name, values in scores.items():
        has = np.array(
            [
                [
                    any((s, i, k) in ordered for k in range(len(samples)))
                    for i in range(len(images))
                ]
                for s in range(len(settings))
            ]
        )
        means[name] = [
            metrics.mean_and_standard_error(row[of_row])
            for row, of_row in zip(values, has, strict=True)
        ]
    return Grid(
        axes,
        images,
        samples,
        {where: i for i, where in enumerate(ordered)},
        list(ordered.values()),
        settings,
        scores,
        means,
    )


class Best(NamedTuple):
    """A setting that a criterion prefers.

    Attributes:
        name: of the criterion, in words.
        needs_truth: whether it does.
        overall: index of the setting for all images together, or None.
        by_image: index for each image, or None.
    """

    name: str
    needs_truth: bool
    overall: int | None
    by_image: list[int | None]


def best(found: Grid) -> list[Best]:
    """The settings that each score prefers, by truth and without it.

    Without the truth these are the discrepancy principle and cross-validation,
    as `invjax.tuning` has them.
    """
    chosen = []
    for name, values in found.scores.items():
        words, sign = SCORES[name]
        if name == 'chi_square':
            values, words = -tuning.discrepancy(values), 'discrepancy'
        else:
            values = sign * values
        if not np.isfinite(values).any():
            continue
        overall = values.mean(axis=1)
        chosen.append(
            Best(
                words,
                name not in WITHOUT_TRUTH,
                _best(overall),
                [_best(values[:, i]) for i in range(values.shape[1])],
            )
        )
    return chosen


def _best(values: np.ndarray) -> int | None:
    if not np.isfinite(values).any():
        return None
    return int(np.argmax(np.where(np.isfinite(values), values, -np.inf)))


def as_data(found: Grid) -> dict[str, Any]:
    """A grid as the plain data that the page's script reads."""

    def numbers(values):
        return [
            None if not np.isfinite(v) else float(f'{v:.5g}') for v in values
        ]

    return {
        'axes': [
            {'name': name, 'values': [_words(v) for v in values]}
            for name, values in found.axes
        ],
        'images': found.images,
        'samples': found.samples,
        'settings': found.settings,
        'places': [[*where, i] for where, i in found.places.items()],
        'scores': [
            {
                'name': name,
                'words': SCORES[name][0],
                'sign': SCORES[name][1],
                'values': [numbers(row) for row in found.scores[name]],
                'means': numbers([e.mean for e in found.means[name]]),
                'errors': numbers(
                    [e.standard_error for e in found.means[name]]
                ),
            }
            for name in found.scores
        ],
        'best': [
            {
                'name': b.name,
                'needsTruth': b.needs_truth,
                'overall': b.overall,
                'byImage': b.by_image,
            }
            for b in best(found)
        ],
    }


def write(
    path,
    title: str,
    groups: Sequence[Group],
    record: Mapping[str, Any],
    command: str = '',
    chosen: str = '',
) -> pathlib.Path:
    """Write the explorer of one or several groups.

    Pictures are sprites in the page, of the best quality that fits into
    `pages.MAX_BYTES`. Where none does, they lie in a folder of the page's name
    beside it, an image a file, and are loaded as they are looked at.

    Args:
        path: of the page.
        title: of it.
        groups: one or more.
        record: plain data of where it comes from.
        command: the command line; '' for none.
        chosen: a sentence on what was chosen; '' for none.
    """
    path = pathlib.Path(path)
    grids = [grid(group) for group in groups]
    parts, lists = [], []
    for group, found in zip(groups, grids, strict=True):
        names = [
            *dict.fromkeys(
                n for of_image in group.references.values() for n in of_image
            )
        ]
        data = {**as_data(found), 'name': group.name, 'references': names}
        # A list of pictures an image: its references, then its restorations.
        data['sprites'] = []
        places = []
        for i, number in enumerate(found.images):
            references = group.references.get(number, {})
            there = [n for n in names if n in references]
            wanted = [w for w in found.places if w[1] == i]
            pictures = [references[n] for n in there]
            pictures += [found.shots[found.places[w]].x() for w in wanted]
            lists.append(pictures)
            places += [[*w, len(there) + k] for k, w in enumerate(wanted)]
            data['sprites'].append(
                {'references': there, 'list': len(lists) - 1}
            )
        data['places'] = places
        parts.append(data)
    fit = sprites.fitting(lists, pages.MAX_BYTES - _FOR_THE_REST)
    if fit is None:
        folder = path.with_suffix('')
        layouts = [
            sprites.make(pictures).beside(folder, str(i))
            for i, pictures in enumerate(lists)
        ]
    else:
        layouts = [one.embedded() for one in fit]
    page = pages.render(
        'explorer.html',
        title,
        parts=parts,
        layouts=layouts,
        beside=fit is None,
        record=pages.as_text(record),
        command=command,
        chosen=chosen,
        table=_table(grids[0]) if len(grids) == 1 else None,
    )
    return pages.write(path, page)


def _table(found: Grid) -> dict[str, Any]:
    """Means with standard errors, for paper and for who has no script."""
    return {
        'names': [*(n for n, _ in found.axes)],
        'scores': [SCORES[n][0] for n in found.scores],
        'rows': [
            {
                'values': [
                    _words(values[i])
                    for (_, values), i in zip(found.axes, setting, strict=True)
                ],
                'scores': [
                    summaries.words(found.means[n][k]) for n in found.scores
                ],
            }
            for k, setting in enumerate(found.settings)
        ],
    }
