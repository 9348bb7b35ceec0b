"""What finished sweeps say: tables, what choices lose, and the verdict.

Cells are of several tasks and methods, as `cells.read` gives them. `tell_apart`
comes first: then a task's name tells measurements of another kind, and priors,
apart, and a setting is a method with all that makes its results other ones.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from invjax import metrics, tuning
from invjax.methods import METHODS
from invjax.study import summaries, verdict
from invjax.study.plan import MEASUREMENT
from invjax.study.summaries import Setting, words

# A score's name, and the sign that makes higher better.
METRICS = {'psnr': 1.0, 'lpips_alex': -1.0, 'lpips_vgg': -1.0}
# Claim to what decides it, the method that it is about, and the least number of
# images: a choice on one half of them needs two in the other.
CLAIMS: dict[str, tuple[Callable, str, int]] = {
    'tuned ScoreALD does best': (verdict.best_when_tuned, 'score_ald', 4),
    'untuned DPS is safest': (verdict.safest_untuned, 'dps', 2),
}
# Ways to choose a setting without the truth.
CHOICES = ('fixed', 'discrepancy', 'held_out')
_ORDER = (MEASUREMENT, *METHODS)
# What a protocol says of a measurement, and of the prior.
_OF_MEASUREMENT = ('task_parameters', 'noise_std', 'noise', 'seed')
_OF_PRIOR = ('prior', 'dtype')
# What a protocol says of a method beside its settings.
_OF_METHOD = ('num_steps', 'version')
# Lines of the table of verdicts before its first row.
_HEAD_OF_VERDICTS = 4


def setting_of(protocol: Mapping[str, Any]) -> Setting:
    """The setting of a cell: its numbers, and choices that are not default."""
    method = protocol['method']
    shown = summaries.shown_settings(protocol['settings'], method)
    return Setting(method, tuple(sorted(shown.items())))


def _place(setting: Setting) -> tuple:
    method = setting.method
    known = _ORDER.index(method) if method in _ORDER else len(_ORDER)
    return known, setting


def tell_apart(cells: Sequence[dict]) -> list[dict]:
    """Cells whose task and settings name what else differs among them.

    Of a task that was measured in several ways (parameters, noise, seed) or
    restored with several priors, each way has a name of its own, such as
    `denoising, noise_std 0.1`; a measurement stands in all that it serves. A
    method of several numbers of steps, or versions, has them among its
    settings.

    Returns:
        Copies, which differ from the cells in `task` and `settings`.

    Raises:
        ValueError: for cells with different fractions of held-out pixels.
    """
    fractions = {c['protocol'].get('hold_out') or 0 for c in cells} - {0}
    if len(fractions) > 1:
        raise ValueError(
            'the sweeps hold out different fractions of the pixels, '
            f'{", ".join(f"{v:g}" for v in sorted(fractions))}; report on one '
            'of them at a time.'
        )
    restored = [c for c in cells if c['protocol']['method'] != MEASUREMENT]
    ways = dict.fromkeys(_way(c['protocol']) for c in restored)
    measured = {_way(c['protocol'], _OF_MEASUREMENT) for c in restored}
    for cell in cells:
        way = _way(cell['protocol'], _OF_MEASUREMENT)
        if way not in measured:
            ways[way] = None
    names = _names_of(ways)
    varied = _varied_of_methods(restored)
    found = []
    for cell in cells:
        protocol = cell['protocol']
        own = _way(protocol)
        if protocol['method'] == MEASUREMENT:
            of_cell = [w for w in ways if set(own) <= set(w)]
        else:
            of_cell = [own]
        more = {n: protocol[n] for n in varied.get(protocol['method'], ())}
        for way in of_cell:
            renamed = {
                **protocol,
                'task': names[way],
                'settings': {**protocol['settings'], **more},
            }
            found.append({**cell, 'protocol': renamed})
    return found


def _way(
    protocol: Mapping[str, Any],
    names: Iterable[str] = (*_OF_MEASUREMENT, *_OF_PRIOR),
) -> tuple[tuple[str, Any], ...]:
    """How a cell's image was measured and restored: (name, value) pairs."""
    found = {'task': protocol['task']}
    for name in names:
        value = protocol.get(name)
        if isinstance(value, Mapping):
            found |= value
        elif value is not None:
            found[name] = value
    return tuple(found.items())


def _names_of(ways: Iterable[tuple]) -> dict[tuple, str]:
    """A name for each way: its task, with what others of the task differ in."""
    by_task: dict[str, list[tuple]] = {}
    for way in ways:
        by_task.setdefault(dict(way)['task'], []).append(way)
    names = {}
    for task, of_task_ in by_task.items():
        pairs = [set(way) for way in of_task_]
        shared = set.intersection(*pairs)
        for way in of_task_:
            words_of = [
                f'{name} {value[:8] if name == "prior" else value}'
                for name, value in way
                if (name, value) not in shared
            ]
            names[way] = ', '.join([task or 'brought', *words_of])
    return names


def _varied_of_methods(cells: Iterable[dict]) -> dict[str, list[str]]:
    """Method to the names, of _OF_METHOD, that have several values."""
    values: dict[str, dict[str, set]] = {}
    for cell in cells:
        protocol = cell['protocol']
        of_method = values.setdefault(protocol['method'], {})
        for name in _OF_METHOD:
            if name in protocol:
                of_method.setdefault(name, set()).add(protocol[name])
    return {
        method: [name for name, found in of_method.items() if len(found) > 1]
        for method, of_method in values.items()
    }


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
    """Cells of the settings that have all images, and words on the others.

    All images of a task are those of the setting that has most of them.
    """
    images: dict[tuple, dict[Setting, set]] = {}
    for cell in cells:
        protocol = cell['protocol']
        by_setting = images.setdefault(_part_of(protocol), {})
        found = by_setting.setdefault(setting_of(protocol), set())
        found.add(protocol['image'])
    every, left_out, sentences = {}, set(), []
    for part, by_setting in images.items():
        # A measurement serves all settings, and does not say which count.
        restored = {s: f for s, f in by_setting.items() if s[0] != MEASUREMENT}
        every[part] = max((restored or by_setting).values(), key=len)
        for setting, found in restored.items():
            if not found >= every[part]:
                left_out.add((part, setting))
                sentences.append(
                    f'left out: {part[0]}, {setting.method} {setting.words()}, '
                    f'which has {len(found & every[part])} of '
                    f'{len(every[part])} images.'
                )
    kept = [
        cell
        for cell in cells
        for part in [_part_of(cell['protocol'])]
        if (part, setting_of(cell['protocol'])) not in left_out
        and cell['protocol']['image'] in every[part]
    ]
    return kept, sentences


def _part_of(protocol: Mapping[str, Any]) -> tuple[str, bool]:
    """The task, and whether pixels were held out."""
    return protocol['task'], bool(protocol.get('hold_out'))


def of_task(
    cells: Sequence[dict], task: str, hold_out: bool = False
) -> list[dict]:
    """A task's cells of whole measurements, or of those in part."""
    return [
        cell for cell in cells if _part_of(cell['protocol']) == (task, hold_out)
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


def _by_setting(
    cells: Sequence[dict], score: str
) -> dict[Setting, dict[int, float]]:
    """Setting to image to a score, over samples the mean."""
    found: dict[Setting, dict[int, list]] = {}
    for cell in cells:
        protocol = cell['protocol']
        if protocol['method'] != MEASUREMENT:
            by_image = found.setdefault(setting_of(protocol), {})
            value = cell['scores'].get(score)
            by_image.setdefault(protocol['image'], []).append(
                np.nan if value is None else value
            )
    return {
        setting: {
            image: float(np.mean(by_image[image])) for image in sorted(by_image)
        }
        for setting, by_image in sorted(found.items(), key=lambda i: i[0])
    }


def values(cells: Sequence[dict], score: str) -> dict[str, np.ndarray]:
    """Method to (settings, images) of a score, over samples the mean.

    Settings are in the order of `Setting`, images in that of their numbers; a
    method of which a cell has no finite score is left out.
    """
    rows: dict[str, list] = {}
    for setting, by_image in _by_setting(cells, score).items():
        rows.setdefault(setting.method, []).append([*by_image.values()])
    return {
        method: np.array(of_method)
        for method, of_method in rows.items()
        if np.isfinite(of_method).all()
    }


def left_out_of_choices(
    tasks: Sequence[str], cells: Sequence[dict]
) -> list[str]:
    """Sentences on the methods that `values` leaves out."""
    sentences = []
    for task in tasks:
        whole = of_task(cells, task)
        for metric in metrics_of(whole):
            missing = [
                f'`{method}`'
                for method in methods_of(whole)
                if method not in values(whole, metric)
            ]
            if missing:
                sentences.append(
                    f'`{task}`: {", ".join(missing)} stand in no comparison by '
                    f'{metric}, which is not finite in some of their cells.'
                )
    return sentences


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
        for metric, sign in metrics_of(whole).items():
            for method, scores in higher_is_better(whole, metric).items():
                if min(scores.shape) < 2:
                    continue  # Nothing to choose from, or no other half.
                chosen = {'fixed': tuning.best_of_the_other_half(scores)}
                chi_squares = _as_in(whole, whole, method, 'chi_square')
                if chi_squares is not None:
                    chosen['discrepancy'] = np.argmin(
                        tuning.discrepancy(chi_squares), axis=0
                    )
                held_out = _as_in(whole, part, method, 'held_out')
                if held_out is not None:
                    chosen['held_out'] = np.argmin(held_out, axis=0)
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


def _as_in(
    whole: Sequence[dict], part: Sequence[dict], method: str, score: str
) -> np.ndarray | None:
    """A score of a method in `part`, (settings, images) as `whole` has them.

    None where some are missing, or not finite.
    """
    found = _by_setting(part, score)
    rows = [
        [found.get(setting, {}).get(image, np.nan) for image in by_image]
        for setting, by_image in _by_setting(whole, score).items()
        if setting.method == method
    ]
    return np.array(rows) if np.isfinite(rows).all() else None


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
        'errors decide. Lower is better for LPIPS, and its sign is turned.',
        '',
        '| claim | task | metric | difference | rival | outcome |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for claim, (decide, method, least) in CLAIMS.items():
        for task in tasks:
            whole = of_task(cells, task)
            for metric in metrics_of(whole):
                scores = higher_is_better(whole, metric)
                number = min((s.shape[1] for s in scores.values()), default=0)
                if method not in scores or len(scores) < 2 or number < least:
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
        shown = of_task(cells, task) or of_task(cells, task, True)
        lines += [f'## `{task}`', '', *table(shown), '']
    verdicts = table_of_verdicts(tasks, cells)
    if len(verdicts) > _HEAD_OF_VERDICTS:
        lines += ['## Verdict', '', *verdicts, '']
    rows = losses(tasks, cells)
    if rows:
        lines += ['## Tuning without the truth', '', *table_of_losses(rows), '']
    return lines + left_out_of_choices(tasks, cells)
