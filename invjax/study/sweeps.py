"""What finished sweeps say: tables, what choices lose, and the verdict.

Cells of several tasks and methods, as `cells.read` gives them; a setting is a
method with its numbers.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from invjax import metrics, tuning
from invjax.methods import METHODS
from invjax.study import summaries, verdict
from invjax.study.evaluation import setting_words, words
from invjax.study.plan import MEASUREMENT

# A score's name, and the sign that makes higher better.
METRICS = {'psnr': 1.0, 'lpips_alex': -1.0, 'lpips_vgg': -1.0}
CLAIMS: dict[str, tuple[Callable, str]] = {
    'tuned ScoreALD does best': (verdict.best_when_tuned, 'score_ald'),
    'untuned DPS is safest': (verdict.safest_untuned, 'dps'),
}
# Ways to choose a setting without the truth.
CHOICES = ('fixed', 'discrepancy', 'held_out')
_ORDER = (MEASUREMENT, *METHODS)


class Setting(NamedTuple):
    """A method with its numbers.

    Attributes:
        method: its name.
        numbers: (name, value) pairs, by name.
    """

    method: str
    numbers: tuple[tuple[str, float], ...]

    def words(self) -> str:
        """The numbers, for a table."""
        return setting_words(dict(self.numbers))


def setting_of(protocol: Mapping[str, Any]) -> Setting:
    """The setting of a cell."""
    numbers = tuple(
        (name, value)
        for name, value in sorted(protocol['settings'].items())
        if not isinstance(value, str | bool)
    )
    return Setting(protocol['method'], numbers)


def _place(setting: Setting) -> tuple:
    method = setting.method
    known = _ORDER.index(method) if method in _ORDER else len(_ORDER)
    return known, setting


def metrics_of(cells: Sequence[dict]) -> dict[str, float]:
    """Those of METRICS that some cell has, name to sign."""
    names = {name for cell in cells for name in cell['scores']}
    return {name: sign for name, sign in METRICS.items() if name in names}


def methods_of(cells: Sequence[dict]) -> list[str]:
    """Names of the methods, in the order of METHODS."""
    found = {setting_of(cell['protocol']) for cell in cells}
    names = [s.method for s in sorted(found, key=_place)]
    return [n for n in dict.fromkeys(names) if n != MEASUREMENT]


def complete(cells: Sequence[dict]) -> tuple[list[dict], list[str]]:
    """Cells of the settings that have all images, and words on the others."""
    images: dict[tuple[str, Setting], set] = {}
    for cell in cells:
        protocol = cell['protocol']
        group = protocol['task'], setting_of(protocol)
        images.setdefault(group, set()).add(protocol['image'])
    num_images: dict[str, int] = {}
    for (task, _), found in images.items():
        num_images[task] = max(num_images.get(task, 0), len(found))
    left_out, sentences = set(), []
    for (task, setting), found in images.items():
        if len(found) < num_images[task]:
            left_out.add((task, setting))
            sentences.append(
                f'left out: {task}, {setting.method} {setting.words()}, which '
                f'has {len(found)} of {num_images[task]} images.'
            )
    kept = [
        cell
        for cell in cells
        if (cell['protocol']['task'], setting_of(cell['protocol']))
        not in left_out
    ]
    return kept, sentences


def of_task(
    cells: Sequence[dict], task: str, hold_out: bool = False
) -> list[dict]:
    """A task's cells of whole measurements, or of those in part."""
    return [
        cell
        for cell in cells
        if cell['protocol']['task'] == task
        and bool(cell['protocol'].get('hold_out')) == hold_out
    ]


def table(cells: Sequence[dict]) -> list[str]:
    """Means with standard errors, a line a setting, in Markdown."""
    summary = summaries.summarise(cells, setting_of)
    number = len({cell['protocol']['image'] for cell in cells})
    names = [*dict.fromkeys(n for scores in summary.values() for n in scores)]
    what = 'image' if number == 1 else 'images; mean and standard error'
    lines = [
        f'{number} {what}.',
        '',
        f'| method | setting | {" | ".join(names)} |',
        '| --- ' * (2 + len(names)) + '|',
    ]
    for setting in sorted(summary, key=_place):
        numbers = ' | '.join(
            words(summary[setting].get(name)) for name in names
        )
        lines.append(f'| `{setting.method}` | {setting.words()} | {numbers} |')
    return lines


def values(cells: Sequence[dict], score: str) -> dict[str, np.ndarray]:
    """Method to (settings, images) of a score, over samples the mean.

    Settings are in the order of `Setting`, images in that of their numbers; a
    method of which a cell lacks the score is left out.
    """
    found: dict[Setting, dict[int, list]] = {}
    for cell in cells:
        protocol = cell['protocol']
        if protocol['method'] != MEASUREMENT:
            by_image = found.setdefault(setting_of(protocol), {})
            value = cell['scores'].get(score)
            by_image.setdefault(protocol['image'], []).append(
                np.nan if value is None else value
            )
    rows: dict[str, list] = {}
    for setting, by_image in sorted(found.items()):
        row = [np.mean(by_image[image]) for image in sorted(by_image)]
        rows.setdefault(setting.method, []).append(row)
    return {
        method: np.array(of_method)
        for method, of_method in rows.items()
        if np.isfinite(of_method).all()
    }


def higher_is_better(
    cells: Sequence[dict], metric: str
) -> dict[str, np.ndarray]:
    """`values` of a metric, turned so that higher is better."""
    sign = METRICS[metric]
    return {m: sign * found for m, found in values(cells, metric).items()}


class Loss(NamedTuple):
    """What choices by the measurement alone lose against the best setting.

    Attributes:
        task, method, metric: names.
        oracle: the metric's mean with the best setting for each image.
        losses: choice to the estimate of what it loses, 0 or more.
    """

    task: str
    method: str
    metric: str
    oracle: float
    losses: dict[str, metrics.Estimate]


def losses(tasks: Sequence[str], cells: Sequence[dict]) -> list[Loss]:
    """A row a task, metric and method of several settings and images."""
    rows = []
    for task in tasks:
        whole, part = of_task(cells, task), of_task(cells, task, True)
        chi_squares = values(whole, 'chi_square')
        held_out = values(part, 'held_out')
        for metric, sign in metrics_of(whole).items():
            for method, scores in higher_is_better(whole, metric).items():
                if min(scores.shape) < 2:
                    continue  # Nothing to choose from, or no other half.
                chosen = {'fixed': tuning.best_of_the_other_half(scores)}
                if method in chi_squares:
                    chosen['discrepancy'] = np.argmin(
                        tuning.discrepancy(chi_squares[method]), axis=0
                    )
                if held_out.get(method, np.zeros(0)).shape == scores.shape:
                    chosen['held_out'] = np.argmin(held_out[method], axis=0)
                rows.append(
                    Loss(
                        task,
                        method,
                        metric,
                        float(sign * scores.max(axis=0).mean()),
                        {n: loss(scores, c) for n, c in chosen.items()},
                    )
                )
    return rows


def loss(scores: np.ndarray, chosen: np.ndarray) -> metrics.Estimate:
    """What chosen settings lose against the best one of each image.

    Args:
        scores: (settings, images), higher is better.
        chosen: (images,) indices of settings.
    """
    taken = np.take_along_axis(scores, chosen[None], axis=0)[0]
    return metrics.mean_and_standard_error(scores.max(axis=0) - taken)


def table_of_losses(rows: Sequence[Loss]) -> list[str]:
    """`losses` in Markdown, with the choices that some row has."""
    names = [n for n in CHOICES if any(n in row.losses for row in rows)]
    lines = [
        'What each choice of a setting, image by image, loses against the best '
        'one for that image (the oracle); lower is better. `fixed` is the one '
        'setting that is best on the other half of the images.',
        '',
        f'| task | method | metric | oracle | {" | ".join(names)} |',
        '| --- ' * (4 + len(names)) + '|',
    ]
    for row in rows:
        numbers = ' | '.join(
            words(row.losses[name]) if name in row.losses else ''
            for name in names
        )
        lines.append(
            f'| `{row.task}` | `{row.method}` | {row.metric} '
            f'| {row.oracle:.3f} | {numbers} |'
        )
    return lines


def table_of_verdicts(tasks: Sequence[str], cells: Sequence[dict]) -> list[str]:
    """The paper's claims, task by task, in Markdown."""
    lines = [
        'Paired differences over images, above 0 for the claim; two standard '
        'errors decide.',
        '',
        '| claim | task | metric | difference | rival | outcome |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for claim, (decide, method) in CLAIMS.items():
        for task in tasks:
            whole = of_task(cells, task)
            for metric in metrics_of(whole):
                scores = higher_is_better(whole, metric)
                number = min((s.shape[1] for s in scores.values()), default=0)
                # A choice on one half needs two images in the other.
                if method not in scores or len(scores) < 2 or number < 4:
                    continue
                found = decide(scores, method)
                lines.append(
                    f'| {claim} | `{task}` | {metric} '
                    f'| {words(found.difference)} | `{found.rival}` '
                    f'| **{found.word}** |'
                )
    return lines


def report(cells: Sequence[dict]) -> list[str]:
    """All of it in Markdown, without the parts of which there is nothing."""
    tasks = sorted({cell['protocol']['task'] for cell in cells})
    lines: list[str] = []
    for task in tasks:
        lines += [f'## `{task}`', '', *table(of_task(cells, task)), '']
    verdicts = table_of_verdicts(tasks, cells)
    if verdicts[-1].startswith('| tuned') or verdicts[-1].startswith(
        '| untuned'
    ):
        lines += ['## Verdict', '', *verdicts, '']
    rows = losses(tasks, cells)
    if rows:
        lines += ['## Tuning without the truth', '', *table_of_losses(rows), '']
    return lines
