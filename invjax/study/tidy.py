"""Records of studies as one table for pandas: a row a cell, a column a name."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

_FIRST = ('task', 'method', 'num_steps', 'image', 'sample', 'noise_std')


def rows(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A flat row a cell, of what its protocol and its scores have.

        pandas.DataFrame(tidy.rows(cells.read('out/sweep')))

    Settings stand under `setting.NAME`, parameters of the task under `task.NAME`
    and those of the noise under `noise.NAME`; scores have their own names. What a
    cell does not have is None, and all rows have the same columns.

    Args:
        cells: as `invjax.study.cells.read` gives them.
    """
    found = []
    for cell in cells:
        protocol = cell['protocol']
        row = {name: protocol.get(name) for name in _FIRST}
        for prefix, name in (
            ('setting', 'settings'),
            ('task', 'task_parameters'),
            ('noise', 'noise'),
        ):
            values = protocol.get(name) or {}
            row |= {f'{prefix}.{n}': v for n, v in values.items()}
        row |= {
            n: protocol.get(n) for n in ('seed', 'hold_out', 'prior', 'dtype')
        }
        row |= cell['scores']
        found.append({**row, 'id': cell.get('id')})
    names = [*dict.fromkeys(n for row in found for n in row)]
    return [{n: row.get(n) for n in names} for row in found]


def as_csv(table: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one set of columns as CSV, with a header; '' for no rows.

    What is None is empty, which pandas reads as missing.
    """
    if not table:
        return ''
    text = io.StringIO()
    writer = csv.DictWriter(text, [*table[0]], lineterminator='\n')
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()
