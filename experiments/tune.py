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
from absl import flags
from invjax.conditioners import check_settings, hyperparameters, split_settings

from experiments import common, measured
from invjax import defaults, images, sweep, tuning
from invjax.operators.mask import Mask

_METHOD = common.define_method()
_GRID = common.define_grid()
_BY = flags.DEFINE_enum(
    'by',
    'auto',
    ['auto', 'default', 'discrepancy', 'held_out'],
    'Criterion of the choice; auto is what lost least on faces of the task.',
)
_HOLD_OUT = flags.DEFINE_float(
    'hold_out',
    0.1,
    'Share of the measured pixels that cross-validation holds out.',
    lower_bound=0.001,
    upper_bound=0.9,
)
_MAX_LANES = flags.DEFINE_integer(
    'max_lanes', 8, 'The most lanes at once.', lower_bound=1
)
# What the defaults were found for (docs/defaults.md); the task's own size too.
_DEFAULT_NOISE_STD = 0.05
_DEFAULT_NUM_STEPS = '100'


def main():
    task, method = measured.TASK.value, _METHOD.value
    input_sha256 = measured.check_flags()
    if not measured.NOISE_STD.value:
        raise ValueError(
            '--noise_std must be above 0: without noise every residual but 0 '
            'is too large.'
        )
    grid = common.parse_grid(_GRID.value) or defaults.GRIDS.get(method)
    if grid is None:
        raise ValueError(f'{method} has nothing to tune; give --grid.')
    check_settings(method, grid)
    common.check_settings(method)
    out = common.make_folder(common.OUT.value)

    start = time.perf_counter()
    prior, card = common.load_prior(_MAX_LANES.value)
    truth, inverse_problem = measured.read(prior)
    is_mask = isinstance(inverse_problem.operator, Mask)
    default = defaults.default_settings(
        card['name'], method, task, common.NUM_STEPS.value
    )
    if default.keys() != grid.keys():
        default = {}
    by = _BY.value
    if by == 'auto':
        by = _least_loss(default)
    if by == 'default' and not default:
        raise ValueError(
            f'--by=default needs default values of {", ".join(grid)} for '
            f'{method} on {task} with {card["name"]}; there are none.'
        )
    _, key_held, key = common.keys()
    problems = [inverse_problem]
    if is_mask:
        kept, held = tuning.hold_out(key_held, inverse_problem, _HOLD_OUT.value)
        problems.append(kept)
    elif by == 'held_out':
        raise ValueError(f'--by=held_out needs a task with a mask, not {task}.')
    settings = sweep.grid(**grid)
    if default and default not in settings:
        settings.append(default)
    numbers, choices = split_settings(
        method, {**hyperparameters(method), **common.given_settings()}
    )
    settings = [{**numbers, **setting} for setting in settings]
    result = sweep.run_lanes(
        sweep.make_lanes(key, problems, settings),
        prior,
        method,
        common.NUM_STEPS.value,
        max_lanes=_MAX_LANES.value,
        on_progress=common.Progress(f'{method}, {task}'),
        **choices,
    )
    restored = result.x.reshape(
        len(problems), len(settings), *prior.image_shape
    )
    rows = []
    for i, setting in enumerate(settings):
        x = restored[0, i]
        row = {
            'setting': {name: setting[name] for name in grid},
            'chi_square': float(tuning.chi_square(x, inverse_problem)),
        }
        if is_mask:
            row['held_out'] = float(tuning.chi_square(restored[1, i], held))
        if truth is not None:
            row['psnr'] = measured.scores(x, truth, inverse_problem)['psnr']
        rows.append(row)
    chosen = _choose(rows, by, default)
    _write(out, restored[0], rows, chosen)
    record = {
        **measured.protocol(inverse_problem, input_sha256),
        'method': method,
        'by': by,
        'chosen': rows[chosen]['setting'],
        'rows': rows,
        'prior': card,
        'seconds': time.perf_counter() - start,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'tune.json', record)
    flags_of_choice = ' '.join(
        f'--{name}={value:g}' for name, value in rows[chosen]['setting'].items()
    )
    print(f'chosen by {by}: {flags_of_choice}')
    print(f'pictures: {out / "sheet.png"}')


def _least_loss(default) -> str:
    """The criterion that lost least on 50 faces (docs/evidence.md)."""
    as_there = (
        measured.NOISE_STD.value == _DEFAULT_NOISE_STD
        and common.NUM_STEPS.value == _DEFAULT_NUM_STEPS
        and not common.given_task_parameters()
    )
    if default and as_there:
        return 'default'
    if measured.TASK.value == 'random_inpainting':
        return 'held_out'
    return 'discrepancy'


def _choose(rows, by, default) -> int:
    """The row that a criterion prefers; what is not finite never is."""
    if by == 'default':
        (chosen,) = [i for i, r in enumerate(rows) if r['setting'] == default]
        return chosen
    values = np.array(
        [row['chi_square' if by == 'discrepancy' else by] for row in rows]
    )
    if by == 'discrepancy':
        values = tuning.discrepancy(values)
    if not np.isfinite(values).any():
        raise ValueError(
            'no setting gave a finite restoration; try smaller steps.'
        )
    return int(np.argmin(np.where(np.isfinite(values), values, np.inf)))


def _write(out, restored, rows, chosen):
    """Print the table; write the chosen restoration and a sheet of all."""
    titles = []
    for i, row in enumerate(rows):
        setting = ' '.join(f'{n} {v:g}' for n, v in row['setting'].items())
        numbers = '  '.join(
            f'{name} {value:.3f}'
            for name, value in row.items()
            if name != 'setting'
        )
        print(f'{"*" if i == chosen else " "} {setting:<24} {numbers}')
        titles.append(
            ('* ' if i == chosen else '') + setting.replace(' g', '\ng')
        )
    pictures = [np.nan_to_num(x) for x in restored]
    images.write_image(out / 'restored.png', pictures[chosen])
    images.sheet([pictures], titles).save(out / 'sheet.png')


if __name__ == '__main__':
    common.run(main)
