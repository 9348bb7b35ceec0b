"""Tables, curves and the verdict from the folders of finished sweeps.

    python -m experiments.report --results=DIR,DIR,DIR --out=report

Each folder has the cells of one task. Writes `report.md`, a figure of curves a
metric, and one of what choices without the truth cost.
"""

import numpy as np
from absl import flags

from experiments import common, plots
from invjax import metrics, records, tuning, verdict

_RESULTS = flags.DEFINE_list('results', [], 'Folders that sweeps wrote.')

# A score's name, and the sign that makes higher better.
_METRICS = {'psnr': 1.0, 'lpips_alex': -1.0}
_CLAIMS = {
    'tuned ScoreALD does best': (verdict.best_when_tuned, 'score_ald'),
    'untuned DPS is safest': (verdict.safest_untuned, 'dps'),
}
_METHODS = ('sdedit', 'score_ald', 'dps')
_CHOICES = ('fixed', 'discrepancy', 'held_out')


def main():
    if not _RESULTS.value:
        raise ValueError('give --results, folders that sweeps wrote.')
    cells = [cell for name in _RESULTS.value for cell in records.read(name)]
    if not cells:
        raise ValueError(f'{", ".join(_RESULTS.value)} have no cells.')
    out = common.make_folder(common.OUT.value)
    tasks = sorted({cell['protocol']['task'] for cell in cells})
    cells = _complete(cells)
    parts = []
    for task in tasks:
        of_task = _of_task(cells, task)
        parts += [f'## `{task}`', '', *_table(of_task), '']
    parts += ['## Verdict', '', *_verdicts(tasks, cells), '']
    losses = _losses(tasks, cells)
    parts += ['## Tuning without the truth', '', *_table_of_losses(losses)]
    (out / 'report.md').write_text('\n'.join(parts) + '\n')
    _curves(out, tasks, cells)
    _plot_losses(out, tasks, losses)
    print('\n'.join(parts))
    print(f'written: {out}/report.md and the curves beside it')


def _complete(cells) -> list[dict]:
    """Cells of the settings that have all images; the others are named."""
    images = {}
    for cell in cells:
        protocol = cell['protocol']
        group = protocol['task'], *_key(protocol)
        images.setdefault(group, set()).add(protocol['image'])
    num_images = {}
    for (task, *_), found in images.items():
        num_images[task] = max(num_images.get(task, 0), len(found))
    left_out = set()
    for group, found in images.items():
        task, method, setting = group
        if len(found) < num_images[task]:
            left_out.add(group)
            print(
                f'left out: {task}, {method} {_words(setting)}, which has '
                f'{len(found)} of {num_images[task]} images.'
            )
    return [
        cell
        for cell in cells
        if (cell['protocol']['task'], *_key(cell['protocol'])) not in left_out
    ]


def _setting(protocol) -> tuple:
    """A method's hyperparameters: the numbers among its settings."""
    return tuple(
        (name, value)
        for name, value in sorted(protocol['settings'].items())
        if not isinstance(value, str | bool)
    )


def _words(setting) -> str:
    return ', '.join(f'{name} {value:g}' for name, value in setting)


def _key(protocol) -> tuple:
    return protocol['method'], _setting(protocol)


def _of_task(cells, task, hold_out=False) -> list[dict]:
    """A task's cells of whole measurements, or of those in part."""
    return [
        cell
        for cell in cells
        if cell['protocol']['task'] == task
        and ('hold_out' in cell['protocol']) == hold_out
    ]


def _table(cells) -> list[str]:
    summary = records.summarise(cells, _key)
    num_images = len({cell['protocol']['image'] for cell in cells})
    names = list(next(iter(summary.values())))
    order = ['measurement', *_METHODS]
    lines = [
        f'{num_images} images; mean and standard error over them.',
        '',
        f'| method | setting | {" | ".join(names)} |',
        f'| --- | --- |{" --- |" * len(names)}',
    ]
    for method, setting in sorted(
        summary, key=lambda k: (order.index(k[0]), k)
    ):
        numbers = ' | '.join(
            f'{e.mean:.3f} +- {e.standard_error:.3f}'
            for e in summary[method, setting].values()
        )
        lines.append(f'| `{method}` | {_words(setting)} | {numbers} |')
    return lines


def _values(cells, score) -> dict[str, np.ndarray]:
    """Method to (settings, images) of a score, over samples the mean."""
    values = {}
    for cell in cells:
        protocol = cell['protocol']
        if protocol['method'] in _METHODS:
            by_image = values.setdefault(_key(protocol), {})
            samples = by_image.setdefault(protocol['image'], [])
            samples.append(cell['scores'][score])
    found = {}
    for (method, _), by_image in sorted(values.items()):
        row = [np.mean(by_image[image]) for image in sorted(by_image)]
        found.setdefault(method, []).append(row)
    return {method: np.array(rows) for method, rows in found.items()}


def _scores(cells, metric) -> dict[str, np.ndarray]:
    """Method to (settings, images) of a metric, higher is better."""
    sign = _METRICS[metric]
    return {m: sign * values for m, values in _values(cells, metric).items()}


def _losses(tasks, cells) -> list[dict]:
    """What choices by the measurement alone lose against the oracle's.

    A row a task, method and metric: the oracle's mean, and the loss of each
    choice, an Estimate.
    """
    rows = []
    for task in tasks:
        whole, part = _of_task(cells, task), _of_task(cells, task, True)
        chi_squares = _values(whole, 'chi_square')
        held_out = _values(part, 'held_out')
        for metric, sign in _METRICS.items():
            for method, scores in _scores(whole, metric).items():
                chosen = {
                    'fixed': tuning.best_of_the_other_half(scores),
                    'discrepancy': np.argmin(
                        tuning.discrepancy(chi_squares[method]), axis=0
                    ),
                }
                if method in held_out:
                    chosen['held_out'] = np.argmin(held_out[method], axis=0)
                row = {'task': task, 'method': method, 'metric': metric}
                row['oracle'] = sign * scores.max(axis=0).mean()
                for name, indices in chosen.items():
                    row[name] = _loss(scores, indices)
                rows.append(row)
    return rows


def _loss(scores, chosen):
    """Against the best setting of each image: an Estimate."""
    taken = np.take_along_axis(scores, chosen[None], axis=0)[0]
    return metrics.mean_and_standard_error(scores.max(axis=0) - taken)


def _table_of_losses(rows) -> list[str]:
    lines = [
        'What each choice of a setting, image by image, loses against the best '
        'one for that image (the oracle); lower is better. `fixed` is the one '
        'setting that is best on the other half of the images.',
        '',
        f'| task | method | metric | oracle | {" | ".join(_CHOICES)} |',
        '| --- ' * (4 + len(_CHOICES)) + '|',
    ]
    for row in rows:
        numbers = ' | '.join(
            f'{row[name].mean:.3f} +- {row[name].standard_error:.3f}'
            if name in row
            else ''
            for name in _CHOICES
        )
        lines.append(
            f'| `{row["task"]}` | `{row["method"]}` | {row["metric"]} '
            f'| {row["oracle"]:.3f} | {numbers} |'
        )
    return lines


def _plot_losses(out, tasks, rows):
    """Bars: a panel a task and metric, a group a method, a bar a choice."""
    figure, axes = plots.subplots(
        len(_METRICS), len(tasks), 7, 2.0 * len(_METRICS), sharey='row'
    )
    for i, metric in enumerate(_METRICS):
        for j, task in enumerate(tasks):
            axis = axes[i, j]
            group = [
                r for r in rows if r['task'] == task and r['metric'] == metric
            ]
            for k, name in enumerate(_CHOICES):
                at = [n for n, row in enumerate(group) if name in row]
                axis.bar(
                    [n + 0.27 * (k - 1) for n in at],
                    [group[n][name].mean for n in at],
                    0.25,
                    yerr=[group[n][name].standard_error for n in at],
                    label=name,
                )
            axis.set_xticks(range(len(group)), [r['method'] for r in group])
            if i == 0:
                axis.set_title(task)
            if j == 0:
                axis.set_ylabel(f'{metric}: loss against the oracle')
    axes[0, 0].legend()
    plots.save(figure, out, 'tuning')


def _verdicts(tasks, cells) -> list[str]:
    lines = [
        'Paired differences over images, above 0 for the claim; two standard '
        'errors decide.',
        '',
        '| claim | task | metric | difference | rival | outcome |',
        '| --- | --- | --- | --- | --- | --- |',
    ]
    for claim, (decide, method) in _CLAIMS.items():
        for task in tasks:
            of_task = _of_task(cells, task)
            for metric in _METRICS:
                scores = _scores(of_task, metric)
                if method not in scores or len(scores) < 2:
                    continue
                found = decide(scores, method)
                lines.append(
                    f'| {claim} | `{task}` | {metric} '
                    f'| {found.difference.mean:.3f} +- '
                    f'{found.difference.standard_error:.3f} '
                    f'| `{found.rival}` | **{found.word}** |'
                )
    return lines


def _curves(out, tasks, cells):
    """A metric against the hyperparameter, a line a method and a panel a task."""
    for metric in _METRICS:
        figure, axes = plots.subplots(
            len(tasks), len(_METHODS), 7, 1.9 * len(tasks), sharey='row'
        )
        for i, task in enumerate(tasks):
            of_task = _of_task(cells, task)
            summary = records.summarise(of_task, _key)
            for j, method in enumerate(_METHODS):
                axis = axes[i, j]
                points = sorted(k for k in summary if k[0] == method)
                found = [summary[k][metric] for k in points]
                axis.errorbar(
                    [_words(s).replace(', ', '\n') for _, s in points],
                    [e.mean for e in found],
                    [e.standard_error for e in found],
                    marker='o',
                    capsize=3,
                )
                axis.tick_params(labelsize=6)
                if i == 0:
                    axis.set_title(method, fontsize=8)
                if j == 0:
                    axis.set_ylabel(f'{task}\n{metric}', fontsize=7)
        plots.save(figure, out, f'curves_{metric}')


if __name__ == '__main__':
    common.run(main)
