"""Methods x tasks over many faces, each method with its default settings.

    python -m experiments.evaluate --images=DIR --num_images=50 --out=DIR
    python -m experiments.evaluate --images=DIR --num_images=8 --num_samples=9 \\
        --calibration --out=DIR

Cells are kept and continued as by `experiments.sweep`, in a folder a task.
Writes `evaluation.md`: means and standard errors over images. `--calibration`
adds how often central intervals of the samples hold the truth, against how
often they should, as a table and a plot.
"""

import numpy as np
from absl import flags

from experiments import cells, common, plots
from invjax import (
    conditioners,
    defaults,
    images,
    metrics,
    operators,
    records,
    uncertainty,
)

_TASKS = flags.DEFINE_list(
    'tasks',
    ['gaussian_deblur', 'box_inpainting', 'random_inpainting'],
    f'Of {", ".join(operators.OPERATORS)}.',
)
_METHODS = flags.DEFINE_list(
    'methods',
    ['sdedit', 'score_ald', 'dps'],
    f'Of {", ".join(conditioners.CONDITIONERS)}.',
)
_CALIBRATION = flags.DEFINE_bool(
    'calibration', False, 'Coverage of the truth; needs --num_samples above 1.'
)
common.define_images()
common.define_transition()


def main():
    for task in _TASKS.value:
        operators.check_names(task, ())
    for method in _METHODS.value:
        common.check_settings(method)
    if _CALIBRATION.value and cells.NUM_SAMPLES.value < 2:
        raise ValueError(
            '--calibration needs --num_samples of 2 or more, got '
            f'{cells.NUM_SAMPLES.value}.'
        )
    out = common.make_folder(common.OUT.value)
    process, num_processes = common.join_processes()
    data = cells.load()
    found, seconds = {}, {}
    for task in _TASKS.value:
        for method in _METHODS.value:
            plan = cells.Plan(
                task,
                method,
                [defaults.default_settings(data.card['name'], method, task)],
                common.given_settings(),
                [cells.NOISE_STD.value],
            )
            folder = common.make_folder(str(out / task))
            done = cells.compute(folder, plan, data, process, num_processes)
            seconds[f'{task}, {method}'] = done.seconds
            written = {cell['id']: cell for cell in records.read(folder)}
            names = [records.cell_id(p) for p in done.measured + done.cells]
            if any(name not in written for name in names):
                print(f'{task}, {method}: others are at work.')
                continue
            both = [written[name] for name in names]
            found[task, 'measurement'] = both[: len(done.measured)]
            found[task, method] = both[len(done.measured) :]
    lines = _table(found)
    if _CALIBRATION.value:
        coverages = {
            (task, method): _coverage(out / task, of_both, data.truths)
            for (task, method), of_both in found.items()
            if method != 'measurement'
        }
        lines += ['', *_coverage_table(coverages)]
        _plot(out, coverages)
    (out / 'evaluation.md').write_text('\n'.join(lines) + '\n')
    record = {
        'seconds': seconds,
        'prior': data.card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'evaluation.json', record)
    print('\n'.join(lines))
    print(f'written: {out / "evaluation.md"}')


def _table(found) -> list[str]:
    lines = []
    for (task, method), of_both in found.items():
        ((_, scores),) = records.summarise(of_both, lambda _: ()).items()
        if not lines:
            lines = [
                f'| task | method | setting | {" | ".join(scores)} |',
                '| --- ' * (3 + len(scores)) + '|',
            ]
        setting = ', '.join(
            f'{name} {value:g}'
            for name, value in of_both[0]['protocol']['settings'].items()
            if not isinstance(value, str | bool)
        )
        numbers = ' | '.join(map(_words, scores.values()))
        lines.append(f'| `{task}` | `{method}` | {setting} | {numbers} |')
    return lines


def _words(estimate) -> str:
    return f'{estimate.mean:.3f} +- {estimate.standard_error:.3f}'


def _coverage(folder, of_both, truths):
    """Nominal coverage, and the observed one's estimate over images at each."""
    samples = {}
    for cell in of_both:
        x = images.read_exact(
            records.picture_path(folder, cell['id']), truths[0].shape[0]
        )
        samples.setdefault(cell['protocol']['image'], []).append(x)
    by_image = [
        uncertainty.coverage(
            np.stack(xs), truths[image - common.FIRST_IMAGE.value]
        )
        for image, xs in samples.items()
    ]
    observed = np.stack([coverage.observed for coverage in by_image], axis=1)
    return by_image[0].nominal, [
        metrics.mean_and_standard_error(values) for values in observed
    ]


def _coverage_table(coverages) -> list[str]:
    nominal = next(iter(coverages.values()))[0]
    lines = [
        f'| task | method | {" | ".join(f"{n:.0%}" for n in nominal)} |',
        '| --- ' * (2 + len(nominal)) + '|',
    ]
    for (task, method), (_, estimates) in coverages.items():
        numbers = ' | '.join(map(_words, estimates))
        lines.append(f'| `{task}` | `{method}` | {numbers} |')
    return lines


def _plot(out, coverages):
    tasks = [*dict.fromkeys(task for task, _ in coverages)]
    figure, axes = plots.subplots(
        1, len(tasks), 2.2 * len(tasks), 2.2, sharey=True
    )
    for axis, task in zip(axes[0], tasks, strict=True):
        axis.plot([0, 1], [0, 1], color='black', linestyle=':')
        for (of_task, method), (nominal, estimates) in coverages.items():
            if of_task == task:
                axis.errorbar(
                    nominal,
                    [e.mean for e in estimates],
                    [e.standard_error for e in estimates],
                    marker='o',
                    markersize=3,
                    label=method,
                )
        axis.set(title=task, xlabel='nominal coverage', aspect='equal')
    axes[0, 0].set_ylabel('observed coverage')
    axes[0, 0].legend()
    plots.save(figure, out, 'calibration')


if __name__ == '__main__':
    common.run(main)
