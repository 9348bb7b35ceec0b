"""Tables, curves and the verdict from the folders of finished sweeps.

    python -m experiments.report --results=DIR,DIR,DIR --out=report

Each folder has the cells of one task. Writes `report.md` and a figure of
curves a metric. Needs the extra `figures` (Matplotlib).
"""

import numpy as np
from absl import flags

from experiments import common
from invjax import records, verdict

_RESULTS = flags.DEFINE_list('results', [], 'Folders that sweeps wrote.')

# A score's name, and the sign that makes higher better.
_METRICS = {'psnr': 1.0, 'lpips_alex': -1.0}
_CLAIMS = {
    'tuned ScoreALD does best': (verdict.best_when_tuned, 'score_ald'),
    'untuned DPS is safest': (verdict.safest_untuned, 'dps'),
}
_METHODS = ('sdedit', 'score_ald', 'dps')


def main():
    if not _RESULTS.value:
        raise ValueError('give --results, folders that sweeps wrote.')
    cells = [cell for name in _RESULTS.value for cell in records.read(name)]
    if not cells:
        raise ValueError(f'{", ".join(_RESULTS.value)} have no cells.')
    out = common.make_folder(common.OUT.value)
    tasks = sorted({cell['protocol']['task'] for cell in cells})
    parts = []
    for task in tasks:
        of_task = [c for c in cells if c['protocol']['task'] == task]
        parts += [f'## `{task}`', '', *_table(of_task), '']
    parts += ['## Verdict', '', *_verdicts(tasks, cells)]
    (out / 'report.md').write_text('\n'.join(parts) + '\n')
    _curves(out, tasks, cells)
    print('\n'.join(parts))
    print(f'written: {out}/report.md and the curves beside it')


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


def _scores(cells, metric) -> dict[str, np.ndarray]:
    """Method to (settings, images), over images that all settings have."""
    values = {}
    for cell in cells:
        protocol = cell['protocol']
        if protocol['method'] in _METHODS:
            by_image = values.setdefault(_key(protocol), {})
            samples = by_image.setdefault(protocol['image'], [])
            samples.append(_METRICS[metric] * cell['scores'][metric])
    if not values:
        return {}
    common_images = sorted(set.intersection(*map(set, values.values())))
    scores = {}
    for (method, _), by_image in sorted(values.items()):
        row = [np.mean(by_image[image]) for image in common_images]
        scores.setdefault(method, []).append(row)
    return {method: np.array(rows) for method, rows in scores.items()}


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
            of_task = [c for c in cells if c['protocol']['task'] == task]
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
    try:
        import matplotlib
    except ImportError:
        raise ValueError(
            "curves need Matplotlib: pip install 'invjax[figures]'."
        ) from None
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    for metric in _METRICS:
        figure, axes = plt.subplots(
            len(tasks),
            len(_METHODS),
            figsize=(7, 1.9 * len(tasks)),
            sharey='row',
            squeeze=False,
            layout='constrained',
        )
        for i, task in enumerate(tasks):
            of_task = [c for c in cells if c['protocol']['task'] == task]
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
        for suffix in ('pdf', 'png'):
            figure.savefig(out / f'curves_{metric}.{suffix}', dpi=150)
        plt.close(figure)


if __name__ == '__main__':
    common.run(main)
