"""A table of methods as a page: sorted, filtered, with the same face by two."""

import base64
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, SupportsFloat

import numpy as np

from invjax import metrics
from invjax.report import pages, sprites
from invjax.study import tidy
from invjax.study.cells import read_picture
from invjax.study.evaluation import (
    BETTER,
    COSTS,
    COUNTS,
    CoverageRow,
    Evaluation,
)
from invjax.study.plan import MEASUREMENT
from invjax.study.summaries import setting_words

# What the rest of the page may take.
_FOR_THE_REST = 3 * 2**20
_MOST_IMAGES = 10
_WORDS = {
    'psnr': 'PSNR, dB',
    'ssim': 'SSIM',
    'lpips_alex': 'LPIPS alex',
    'lpips_vgg': 'LPIPS vgg',
    'chi_square': 'chi-square',
    'success': 'success',
    'forward': 'evaluations',
    'backward': 'passes back',
    'seconds': 's an image',
}
_DIGITS = {'psnr': 2, 'seconds': 2, 'forward': 0, 'backward': 0}


class Entry(NamedTuple):
    """A row of the table.

    Attributes:
        task, method, num_steps, settings: in words; the method may be
            `measurement`, which is no rival.
        scores: name to the estimate over images.
        pictures: image number to what gives its picture.
    """

    task: str
    method: str
    num_steps: str
    settings: str
    scores: Mapping[str, metrics.Estimate]
    pictures: Mapping[int, Callable[[], np.ndarray]] = {}


def entries(found: Evaluation) -> list[Entry]:
    """The rows of an evaluation, without those of what a method cannot do."""
    shown = []
    for row in found.rows:
        if not row.cells:
            continue
        pictures = {}
        for cell in row.cells:
            if cell['protocol']['sample'] == 0 and found.folder is not None:
                pictures[cell['protocol']['image']] = (
                    lambda name=cell['id'], task=row.task: read_picture(
                        found.folder / task, name
                    )
                )
        shown.append(
            Entry(
                row.task,
                row.line or row.method,
                row.num_steps,
                setting_words(row.settings, row.method),
                row.scores,
                pictures,
            )
        )
    return shown


def score_names(rows: Sequence[Entry]) -> list[str]:
    """Names of the scores, quality before cost."""
    names = [*dict.fromkeys(n for row in rows for n in row.scores)]
    return [n for n in names if n not in COSTS] + [
        n for n in COSTS if n in names
    ]


def _value(name: str, mean: SupportsFloat) -> float | None:
    """Turned so that larger is better; None for what is not judged."""
    if name in BETTER:
        with np.errstate(divide='ignore', invalid='ignore'):
            value = float(BETTER[name](float(mean)))
        return value if np.isfinite(value) else None
    return None


def is_best(rows: Sequence[Entry]) -> set[tuple[int, str]]:
    """(row, score) of the best methods of each task."""
    best: dict[tuple[str, str], tuple[float, list[int]]] = {}
    for i, row in enumerate(rows):
        for name, estimate in row.scores.items():
            value = _value(name, estimate.mean)
            if value is None or row.method == MEASUREMENT:
                continue
            key = row.task, name
            most, holders = best.get(key, (-np.inf, []))
            if value > most:
                best[key] = value, [i]
            elif value == most:
                holders.append(i)
    return {(i, name) for (_, name), (_, at) in best.items() for i in at}


def _number(name: str, value: SupportsFloat) -> str:
    return f'{float(value):.{_DIGITS.get(name, 3)}f}'


def as_csv(rows: Sequence[Entry]) -> str:
    """The table as CSV, with a column of standard errors beside each mean."""
    names = score_names(rows)
    table = []
    for row in rows:
        of_row: dict[str, Any] = {
            'task': row.task,
            'method': row.method,
            'num_steps': row.num_steps,
            'settings': row.settings,
        }
        for name in names:
            estimate = row.scores.get(name)
            for column, value in (
                (name, None if estimate is None else estimate.mean),
                (
                    f'{name}_standard_error',
                    None if estimate is None else estimate.standard_error,
                ),
            ):
                of_row[column] = (
                    None if value is None or np.isnan(value) else float(value)
                )
        table.append(of_row)
    return tidy.as_csv(table)


_LATEX = {
    '\\': r'\textbackslash{}',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    **{c: f'\\{c}' for c in '&%$#_{}'},
}


def _latex(text: str) -> str:
    return ''.join(_LATEX.get(c, c) for c in text)


def as_latex(rows: Sequence[Entry], protocol: str) -> str:
    r"""A table of each task, for `\usepackage{booktabs}`; the best in bold.

    Args:
        rows: one or more.
        protocol: how it was measured, a sentence for the captions.
    """
    best = is_best(rows)
    tables = []
    for task in dict.fromkeys(row.task for row in rows):
        of_task = [(i, r) for i, r in enumerate(rows) if r.task == task]
        names = score_names([r for _, r in of_task])
        lines = [
            r'\begin{table}',
            r'\centering',
            rf'\caption{{{_latex(task)}. {_latex(protocol)}}}',
            rf'\begin{{tabular}}{{ll{"r" * len(names)}}}',
            r'\toprule',
            ' & '.join(
                ['method', 'steps', *(_latex(_WORDS.get(n, n)) for n in names)]
            )
            + r' \\',
            r'\midrule',
        ]
        for i, row in of_task:
            cells = [_latex(row.method), _latex(row.num_steps)]
            for name in names:
                estimate = row.scores.get(name)
                if estimate is None or np.isnan(estimate.mean):
                    cells.append('--')
                    continue
                text = _number(name, estimate.mean)
                if (i, name) in best:
                    text = rf'\mathbf{{{text}}}'
                error = estimate.standard_error
                if name not in COUNTS and not np.isnan(error):
                    text += rf' \pm {_number(name, error)}'
                cells.append(f'${text}$')
            lines.append(' & '.join(cells) + r' \\')
        lines += [r'\bottomrule', r'\end{tabular}', r'\end{table}']
        tables.append('\n'.join(lines))
    return '\n\n'.join(tables) + '\n'


def _address(text: str, kind: str) -> str:
    encoded = base64.b64encode(text.encode()).decode()
    return f'data:{kind};charset=utf-8;base64,{encoded}'


def write(
    path,
    title: str,
    rows: Sequence[Entry],
    record: Mapping[str, Any],
    *,
    truths: Mapping[int, np.ndarray] | None = None,
    protocol: str = '',
    command: str = '',
    coverage: Sequence[CoverageRow] = (),
) -> pathlib.Path:
    """Write the page.

    The pictures are those of the first images, as many as fit.

    Args:
        path: of the page.
        title: of it.
        rows: one or more.
        record: plain data of where it comes from.
        truths: image number to the truth.
        protocol: how it was measured, in a sentence.
        command: the command line; '' for none.
        coverage: how often intervals hold the truth, where it was measured.
    """
    names = score_names(rows)
    best = is_best(rows)
    numbers = sorted({n for row in rows for n in row.pictures})[:_MOST_IMAGES]
    faces, fit = [], None
    while numbers and fit is None:
        faces = [_face(rows, truths or {}, n) for n in numbers]
        fit = sprites.fitting(
            [pictures for _, pictures, _ in faces],
            pages.MAX_BYTES - _FOR_THE_REST,
        )
        if fit is None:
            numbers = numbers[: len(numbers) // 2]
    shown = [
        {
            'image': number,
            'truth': has_truth,
            'places': places,
            'layout': layout.embedded(),
        }
        for number, (places, _, has_truth), layout in zip(
            numbers, faces, fit or [], strict=True
        )
    ]
    page = pages.render(
        'methods.html',
        title,
        tasks=[*dict.fromkeys(row.task for row in rows)],
        methods=[
            *dict.fromkeys(
                row.method for row in rows if row.method != MEASUREMENT
            )
        ],
        names=[(n, _WORDS.get(n, n)) for n in names],
        rows=[
            {
                'entry': row,
                'rival': row.method != MEASUREMENT,
                'cost': _cost(row),
                'cells': [_cell(i, row, n, best) for n in names],
            }
            for i, row in enumerate(rows)
        ],
        costs=sorted({cost for cost in map(_cost, rows) if cost is not None}),
        faces=shown,
        protocol=protocol,
        coverage=[
            {
                'row': row,
                'nominal': [f'{n:.0%}' for n in row.nominal],
                'observed': [
                    f'{e.mean:.3f}'
                    + (
                        ''
                        if np.isnan(e.standard_error)
                        else f' ± {e.standard_error:.3f}'
                    )
                    for e in row.observed
                ],
            }
            for row in coverage
        ],
        csv=_address(as_csv(rows), 'text/csv'),
        latex=_address(as_latex(rows, protocol), 'text/x-tex'),
        record=pages.as_text(record),
        command=command,
    )
    return pages.write(path, page)


def _cost(row: Entry) -> int | None:
    """Evaluations of the network and passes back, or None."""
    found = [row.scores[n].mean for n in COUNTS if n in row.scores]
    if not found or not np.isfinite(found).all():
        return None
    return round(float(sum(found)))


def _cell(i: int, row: Entry, name: str, best) -> dict[str, Any]:
    estimate = row.scores.get(name)
    if estimate is None or np.isnan(estimate.mean):
        return {
            'text': '–',
            'error': '',
            'sort': '',
            'value': '',
            'best': False,
        }
    value = _value(name, estimate.mean)
    error = estimate.standard_error
    return {
        'text': _number(name, estimate.mean),
        'error': ''
        if name in COUNTS or np.isnan(error)
        else _number(name, error),
        'sort': repr(float(estimate.mean)),
        'value': '' if value is None else repr(value),
        'best': (i, name) in best,
    }


def _face(rows, truths, number):
    """Row to place of its picture, the pictures, and whether 0 is the truth."""
    pictures, places = [], {}
    if number in truths:
        pictures.append(truths[number])
    for i, row in enumerate(rows):
        if number in row.pictures:
            places[i] = len(pictures)
            pictures.append(row.pictures[number]())
    return places, pictures, number in truths
