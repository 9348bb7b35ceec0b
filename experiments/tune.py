"""Choose a method's hyperparameters for one measurement, without its truth.

    python -m experiments.tune --measurement=y.png --mask=m.png \\
        --task=random_inpainting --method=dps --grid=zeta=1.5,3,6
    python -m experiments.tune --image=face.png --task=gaussian_deblur

All settings are restored in one compiled program. By the discrepancy principle
the one is chosen whose residual is nearest to what the noise explains; by
cross-validation, for masks, the one that best foretells measured pixels which
it has not seen; by default, the one that a sweep over other faces found. Which of
them `--by=auto` takes is what lost least on 50 faces (docs/evidence.md).
"""

import time

import numpy as np

from invjax import images
from invjax.commandline import again, groups, measured, progress, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import explorer
from invjax.study import choosing

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS)
groups.define_grid(FLAGS)
FLAGS.choice(
    'by',
    'auto',
    choosing.CRITERIA,
    'Criterion of the choice; auto is what lost least on faces of the task.',
)
FLAGS.number(
    'hold_out',
    0.1,
    'Fraction of the measured pixels that cross-validation holds out.',
    at_least=0.001,
    at_most=0.9,
)
groups.define_lanes(FLAGS)
measured.define(FLAGS)
groups.define_method(FLAGS)


def main(given):
    inputs = measured.check(given)
    groups.check_method(given, given.method)
    grid = groups.grid_of(given)
    values = choosing.grid_of_method(given.method, grid)
    for name, tried in values.items():
        for value in tried:
            groups.check_method(given, given.method, {name: value})
    if not given.noise_std:
        raise ValueError(
            '--noise_std must be above 0: without noise every residual but 0 '
            'is too large.'
        )
    out = record.make_folder(given.out, 'tune')
    record.say_if_replaced(out, 'tune.json')
    start = time.perf_counter()
    prior = groups.load_prior(given, given.max_lanes)
    problem = measured.read(given, prior)
    found = choosing.tune(
        problem,
        prior,
        given.method,
        grid,
        given.num_steps,
        by=given.by,
        hold_out=given.hold_out,
        seed=given.seed,
        max_lanes=given.max_lanes,
        on_progress=progress.Progress(f'{given.method}, {given.task}'),
        **groups.settings_of(given),
    )
    lines = found.table()
    pictures = [np.nan_to_num(x) for x in found.samples]
    images.write_image(out / 'restored.png', pictures[found.chosen])
    titles = [line.partition('  ')[0].replace(' g', '\ng') for line in lines]
    images.sheet([pictures], titles).save(out / 'sheet.png')
    of_run = {
        **found.method.describe(),
        'task': given.task,
        'operator': problem.operator.describe(),
        'noise_std': float(problem.noise_std),
        'by': found.by,
        'chosen': found.setting,
        'rows': found.rows,
        'input_sha256': inputs,
        'prior': prior.card.as_dict(),
        'seconds': time.perf_counter() - start,
        **record.provenance(given),
    }
    record.write_json(out / 'tune.json', of_run)
    print('\n'.join(lines))
    as_flags = ' '.join(f'--{n}={v:g}' for n, v in found.setting.items())
    chosen = f'chosen by {found.by}: {as_flags}'
    title = f'{given.task} by {given.method}'
    explorer.write(
        out / 'report.html',
        f'{title}, tuned',
        [explorer.group_of_choice(found, problem, title)],
        of_run,
        again.command_line('tune', given),
        chosen,
    )
    print(chosen)
    print(f'report: {out / "report.html"}; pictures: {out / "sheet.png"}')


if __name__ == '__main__':
    run(main, FLAGS)
