"""Which method for which need: a table of choices, made from evaluations.

    from invjax.study import automatic
    text = automatic.table(paths)       of `evaluation.json` files

makes `choices.toml` of a prior's folder, which `restore(..., 'auto', aim=...)`
reads. An entry is a task and an aim, with what was chosen for them: method,
steps, settings, scores, costs, the number of faces, the date, and the command.

    psnr         the highest PSNR
    perception   the lowest LPIPS of AlexNet
    speed        the fewest passes of the network, back and forth, among the runs
                 whose PSNR is at most 1 dB below the highest

There is no entry for `samples`, whose measure is coverage, which these files do
not hold.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from invjax.priors.card import Card
from invjax.study.plan import MEASUREMENT

# dB below the highest PSNR that `speed` may cost.
SPEED_LOSS = 1.0


def table(paths: Sequence[str | os.PathLike]) -> str:
    """`choices.toml` of `evaluation.json` files, as text.

    Args:
        paths: of files that `evaluate` wrote with `--lpips=alex`, each of other
            tasks.

    Raises:
        ValueError: for a task that is in two files, or a file without PSNR or
            LPIPS.
    """
    entries: list[dict[str, Any]] = []
    seen: set[str] = set()
    for path in paths:
        with open(path) as file:
            found = json.load(file)
        rows = [
            row
            for row in found['rows']
            if row['method'] != MEASUREMENT and row['can_do']
        ]
        tasks = [*dict.fromkeys(row['task'] for row in rows)]
        for task in tasks:
            if task in seen:
                raise ValueError(f'{task} is in two of the files.')
            seen.add(task)
            of_task = [row for row in rows if row['task'] == task]
            for aim, row in _best(of_task).items():
                entries.append(_entry(aim, row, len(of_task), found))
    return _HEAD + '\n'.join(map(_as_toml, entries))


_HEAD = """\
# What `--method=auto` takes, by task and aim; made by
# invjax.study.automatic.table from evaluations over tuning faces.

"""


def _mean(row: Mapping, name: str) -> float:
    if name not in row['scores']:
        raise ValueError(f'{row["task"]} by {row["method"]} has no {name}.')
    return row['scores'][name]['mean']


def _evaluations(row: Mapping) -> float:
    return _mean(row, 'forward') + _mean(row, 'backward')


def _best(rows: Sequence[Mapping]) -> dict[str, Mapping]:
    """Aim to the row that serves it best."""
    best = max(rows, key=lambda row: _mean(row, 'psnr'))
    near = [
        row
        for row in rows
        if _mean(row, 'psnr') >= _mean(best, 'psnr') - SPEED_LOSS
    ]
    return {
        'psnr': best,
        'perception': min(rows, key=lambda row: _mean(row, 'lpips_alex')),
        'speed': min(
            near, key=lambda row: (_evaluations(row), -_mean(row, 'psnr'))
        ),
    }


def _entry(aim, row, num_runs, found) -> dict[str, Any]:
    return {
        'task': row['task'],
        'aim': aim,
        'method': row['method'],
        'num_steps': row['num_steps'],
        'settings': row['settings'],
        'psnr': round(_mean(row, 'psnr'), 2),
        'lpips': round(_mean(row, 'lpips_alex'), 4),
        'evaluations': round(_evaluations(row)),
        **_starts(found['flags']),
        'seconds': round(_mean(row, 'seconds'), 2),
        'noise_std': found['flags']['noise_std'],
        'of': num_runs,
        'faces': row['num_cells'],
        'date': found['date'][:10],
        'command': _command(found['flags']),
    }


def _starts(flags) -> dict[str, int]:
    """Of how many starts the scores are those of the least residual."""
    if not flags.get('choose_sample'):
        return {}
    return {'starts': int(flags['num_samples'])}


# What of an evaluation's flags its command has, in this order.
_SHOWN = (
    'images',
    'first_image',
    'num_images',
    'num_samples',
    'choose_sample',
    'num_steps',
    'tasks',
    'methods',
    'steps',
    'noise_std',
    'seed',
    'lpips',
)


def _command(flags: Mapping[str, Any]) -> str:
    """The command of an evaluation, without where its images lie."""
    shown = {name: flags[name] for name in _SHOWN if flags.get(name)}
    shown['images'] = os.path.basename(shown['images'])
    words = [
        f'--{name}'
        if v is True
        else f'--{name}={",".join(map(str, v)) if isinstance(v, list) else v}'
        for name, v in shown.items()
    ]
    return ' '.join(['python -m experiments.evaluate', *words])


def _as_toml(entry: Mapping[str, Any]) -> str:
    lines = ['[[choice]]']
    for name, value in entry.items():
        lines.append(f'{name} = {_value(value)}')
    return '\n'.join(lines) + '\n'


def _value(value) -> str:
    if isinstance(value, Mapping):
        inner = ', '.join(f'{n} = {_value(v)}' for n, v in value.items())
        return f'{{ {inner} }}'
    # Numbers, truth values and quoted text are the same in JSON and TOML.
    return json.dumps(value)


def page(card: Card) -> str:
    """`docs/choose.md`: the table of choices of a prior, in Markdown."""
    lines = [
        '# Which method for which need',
        '',
        f'Read off `checkpoints/{card.name}/choices.toml` by '
        '`invjax.study.automatic.page`, not by hand.',
        '`restore --method=auto --aim=AIM` takes these. PSNR in dB, LPIPS of '
        'AlexNet, passes of the',
        'network back and forth, seconds an image in a batch while other work ran; means over '
        'tuning faces, which no',
        'table of [results.md](results.md) reports on. `speed` has the fewest '
        'passes within '
        f'{SPEED_LOSS:g} dB of the highest',
        'PSNR. No choice was measured for `samples`: coverage needs many '
        'samples of an image, for which',
        '[evidence.md](evidence.md) has what is known.',
        '',
        '| task | aim | method | steps | PSNR | LPIPS | passes | seconds '
        '| faces | of |',
        '| --- ' * 10 + '|',
    ]
    for c in card.choices:
        lines.append(
            f'| `{c["task"]}` | {c["aim"]} | `{c["method"]}` '
            f'| {c["num_steps"]} | {c["psnr"]:.2f} | {c["lpips"]:.3f} '
            f'| {c["evaluations"]} | {c["seconds"]:.2f} | {c["faces"]} '
            f'| {c["of"]} methods |'
        )
    lines += ['', 'The commands, each with its date:', '']
    commands = dict.fromkeys((c['command'], c['date']) for c in card.choices)
    lines += [f'- `{command}` ({date})' for command, date in commands]
    return '\n'.join(lines) + '\n'
