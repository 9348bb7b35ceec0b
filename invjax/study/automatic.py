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

For the first two, 0.05 dB and 0.001 count as a tie, which fewer passes decide.

There is no entry for `samples`, whose measure is coverage: that is in
`calibration.toml` of the same folder.
"""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from invjax.operators import OPERATORS
from invjax.priors.card import Card
from invjax.study.plan import MEASUREMENT

# dB below the highest PSNR that `speed` may cost.
SPEED_LOSS = 1.0
# dB and LPIPS that are not worth more passes.
_TIE = {'psnr': 0.05, 'perception': 0.001}


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
    """Aim to the row that serves it best, of those that are finite."""
    rows = [
        row
        for row in rows
        if None not in (_mean(row, 'psnr'), _mean(row, 'lpips_alex'))
    ]
    psnrs = [_mean(row, 'psnr') for row in rows]
    lpips = [_mean(row, 'lpips_alex') for row in rows]
    good_enough = {
        'psnr': [p >= max(psnrs) - _TIE['psnr'] for p in psnrs],
        'perception': [v <= min(lpips) + _TIE['perception'] for v in lpips],
        'speed': [p >= max(psnrs) - SPEED_LOSS for p in psnrs],
    }

    def cost(i, aim):
        value = lpips[i] if aim == 'perception' else -psnrs[i]
        return _evaluations(rows[i]), value

    best = {}
    for aim, are_good in good_enough.items():
        candidates = [i for i, is_good in enumerate(are_good) if is_good]
        best[aim] = rows[min(candidates, key=lambda i: cost(i, aim))]
    return best


def _entry(aim, row, num_runs, found) -> dict[str, Any]:
    return {
        'task': row['task'],
        'aim': aim,
        'method': row['method'],
        # In words, where it has settings of its own: `mmps iterations 2`.
        **_line(row),
        'num_steps': row['num_steps'],
        'settings': row['settings'],
        'psnr': round(_mean(row, 'psnr'), 2),
        'lpips': round(_mean(row, 'lpips_alex'), 4),
        'evaluations': round(_evaluations(row)),
        **_starts(found['flags']),
        'noise_std': found['flags']['noise_std'],
        'of': num_runs,
        'faces': row['num_cells'],
        'date': found['date'][:10],
        'command': _command(found['flags']),
    }


def _line(row) -> dict[str, str]:
    line = row.get('line', row['method'])
    return {} if line == row['method'] else {'line': line}


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


def page(card: Card, results: str) -> str:
    """`docs/choose.md`: the choices of a prior, and how they do on other faces.

    Args:
        card: whose choices.
        results: the text of `docs/results.md`, for `held_against`.
    """
    missing = [t for t in OPERATORS if card.choice(t, 'psnr') is None]
    lines = [
        '# Which method for which need',
        '',
        f'Read off `checkpoints/{card.name}/choices.toml` by '
        '`invjax.study.automatic.page`, not by hand.',
        '`restore --aim=AIM` takes these where no `--method` is given. PSNR in dB, '
        'LPIPS of AlexNet, passes',
        'of the network back and forth; means over tuning faces, which no table '
        'of [results.md](results.md)',
        'reports on. `speed` has the fewest passes within '
        f'{SPEED_LOSS:g} dB of the highest PSNR, `psnr` those within '
        f'{_TIE["psnr"]:g} dB',
        f'of it, and `perception` those within {_TIE["perception"]:g} of the '
        'lowest LPIPS.',
        '',
        f'Not measured: {", ".join(f"`{t}`" for t in missing) or "none"}. There, '
        'and for a prior without such a file, `auto`',
        'takes `wiener` with quad20 where the operator is linear and `daps` with '
        'quad20 where it is not.',
        'For `samples` it takes the method of `calibration.toml` whose measured '
        'coverage is nearest to',
        'nominal, if none of its intervals is off by more than a tenth, and else '
        '`mmps` with `--noising=sample',
        '--iterations=2 --products=2` (`daps` for Fourier magnitudes) and quad20 ([evidence.md](evidence.md#samples-that-may-be-believed)). '
        'The line that it prints says which and why.',
        '',
        '| task | aim | method | steps | PSNR | LPIPS | passes | faces | of |',
        '| --- ' * 9 + '|',
    ]
    for c in card.choices:
        starts = f', {c["starts"]} starts' if 'starts' in c else ''
        lines.append(
            f'| `{c["task"]}` | {c["aim"]} | `{_name(c)}` '
            f'| {c["num_steps"]}{starts} | {c["psnr"]:.2f} | {c["lpips"]:.3f} '
            f'| {c["evaluations"]} | {c["faces"]} | {c["of"]} runs |'
        )
    lines += ['', *held_against(card, results)]
    lines += ['', '## The commands', '', 'Each with its date:', '']
    commands = dict.fromkeys((c['command'], c['date']) for c in card.choices)
    lines += [f'- `{command}` ({date})' for command, date in commands]
    return '\n'.join(lines) + '\n'


def _name(choice: Mapping) -> str:
    return choice.get('line', choice['method'])


# What a choice may lose to the best row: dB, and LPIPS.
_AIMED = {'psnr': ('PSNR, dB', 0.1), 'perception': ('LPIPS alex', 0.002)}


def held_against(card: Card, results: str) -> list[str]:
    """Choices beside the best method on faces that nothing was tuned on.

    Args:
        card: whose choices.
        results: Markdown with a heading `### `task`` above a table of methods,
            as in `docs/results.md`.

    Returns:
        Lines of Markdown: a row a task and aim.
    """
    of_task = _tables(results)
    lines = [
        '## On other faces',
        '',
        'The choices among the methods of [results.md](results.md#twenty-steps), '
        'over its 50 faces, which neither',
        'the prior nor a number above has seen; but which few methods to try for '
        'a task, the column `of`, was decided',
        'with that table known. `behind` is what they lose to the best row '
        'there, and the last column',
        f'whether it is at most {_AIMED["psnr"][1]:g} dB or '
        f'{_AIMED["perception"][1]:g} of LPIPS. A dash: that table lacks the '
        'choice.',
        '',
        '| task | aim | auto | steps | there | best | steps | there | behind '
        '| near |',
        '| --- ' * 10 + '|',
    ]
    near, known = 0, 0
    for c in card.choices:
        rows = of_task.get(c['task'], [])
        if c['aim'] not in _AIMED or not rows:
            continue
        column, most = _AIMED[c['aim']]
        sign = 1 if c['aim'] == 'psnr' else -1
        best = max(rows, key=lambda row: sign * _first(row[column]))
        own = [
            row
            for row in rows
            if (row['method'], row['steps'])
            == (f'`{_name(c)}`', str(c['num_steps']))
        ]
        shown = [
            best['method'],
            best['steps'],
            _plain(best[column]),
        ]
        if own:
            behind = abs(_first(best[column]) - _first(own[0][column]))
            is_near = round(behind, 4) <= most
            near, known = near + is_near, known + 1
            there = _plain(own[0][column])
            end = [f'{behind:.3f}', 'yes' if is_near else 'no']
        else:
            there, end = '-', ['-', '-']
        chosen = [f'`{_name(c)}`', c['num_steps'], there]
        cells = [f'`{c["task"]}`', c['aim'], *map(str, chosen)]
        lines.append(f'| {" | ".join([*cells, *shown, *end])} |')
    lines += ['', f'{near} of {known} are near.']
    return lines


def _tables(text: str) -> dict[str, list[dict[str, str]]]:
    """Task to rows, column to cell, of the tables below headings of tasks."""
    found: dict[str, list[dict[str, str]]] = {}
    task, names = None, None
    for line in text.splitlines():
        if line.startswith('#'):
            task = line.strip('# `') if line.startswith('### `') else None
            names = None
        elif task is not None and line.startswith('|'):
            cells = [cell.strip() for cell in line.strip('|').split('|')]
            if names is None:
                names = cells
            elif set(cells) != {'---'} and cells[0] != f'`{MEASUREMENT}`':
                row = dict(zip(names, cells, strict=True))
                found.setdefault(task, []).append(row)
    return found


def _plain(cell: str) -> str:
    return cell.strip('*')


def _first(cell: str) -> float:
    """The mean of `27.1 +- 0.2`."""
    return float(_plain(cell).split(' ')[0])
