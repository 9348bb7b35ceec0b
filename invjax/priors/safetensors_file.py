"""Reads safetensors files: a table in JSON, then plain numbers.

8 bytes     N, the length of the table
N bytes     {name: {dtype, shape, data_offsets: [begin, end]}, ...}
the rest    the numbers; tensors lie there one after another, without gaps
"""

import json
import math
import pathlib

import ml_dtypes
import numpy as np

from invjax.priors.excerpts import excerpt

_DTYPES = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': ml_dtypes.bfloat16,
    'F8_E4M3': ml_dtypes.float8_e4m3fn,
    'F8_E5M2': ml_dtypes.float8_e5m2,
    'I64': np.int64,
    'I32': np.int32,
    'I16': np.int16,
    'I8': np.int8,
    'U64': np.uint64,
    'U32': np.uint32,
    'U16': np.uint16,
    'U8': np.uint8,
    'BOOL': np.bool_,
}
_MAX_DIMENSIONS = 8
# Of the table. A thousand tensors take 100 kB.
_MAX_TABLE = 10_000_000


def is_one(head: bytes) -> bool:
    """Whether the first bytes of a file, at least 9, are those of this kind."""
    return head[8:9] == b'{'


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Read all tensors, as read-only views of the mapped file.

    Raises:
        ValueError: the file is damaged or cut short, or holds numbers of a type
            that NumPy lacks.
    """
    content = np.memmap(path, np.uint8, mode='r').view(np.ndarray)
    try:
        table, numbers = _split(content)
        _check_layout(table, numbers.size)
    # Damaged tables raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{path} begins like a safetensors file but is cut short or damaged'
            f' ({type(error).__name__}); download it again.'
        ) from None
    if not table:
        raise ValueError(f'{path} has no tensors.')
    for name, entry in table.items():
        if entry['dtype'] not in _DTYPES:
            raise ValueError(
                f"{path}: tensor '{excerpt(name, 60)}' has numbers of type"
                f' {excerpt(entry["dtype"], 20)}, which cannot be read; save it'
                ' as F32 or F16.'
            )
    return {
        name: _view(f"{path}: tensor '{excerpt(name, 60)}'", entry, numbers)
        for name, entry in table.items()
    }


def _split(content: np.ndarray) -> tuple[dict, np.ndarray]:
    length = int.from_bytes(content[:8].tobytes(), 'little')
    if length > min(content.size - 8, _MAX_TABLE):
        raise ValueError('the table is longer than the file')
    text = content[8 : 8 + length].tobytes().decode()
    table = json.loads(text, object_pairs_hook=_without_twins)
    table.pop('__metadata__', None)
    return table, content[8 + length :]


def _without_twins(pairs: list) -> dict:
    items = dict(pairs)
    if len(items) != len(pairs):
        raise ValueError('a name is there twice')
    return items


def _check_layout(table: dict, num_bytes: int) -> None:
    """Refuse gaps, overlaps, and what is not of the form above."""
    for entry in table.values():
        counts = [*entry['shape'], *entry['data_offsets']]
        if not (
            isinstance(entry['dtype'], str)
            and len(entry['shape']) <= _MAX_DIMENSIONS
            and len(entry['data_offsets']) == 2
            and all(type(n) is int and 0 <= n < 2**48 for n in counts)
        ):
            raise ValueError('an entry of the table cannot be right')
    end = 0
    for begin, next_end in sorted(e['data_offsets'] for e in table.values()):
        if begin != end or next_end < end:
            raise ValueError('tensors overlap or have gaps between them')
        end = next_end
    if end != num_bytes:
        raise ValueError('the numbers are not as long as the table says')


def _view(where: str, entry: dict, numbers: np.ndarray) -> np.ndarray:
    begin, end = entry['data_offsets']
    dtype = np.dtype(_DTYPES[entry['dtype']])
    if math.prod(entry['shape']) * dtype.itemsize != end - begin:
        raise ValueError(
            f'{where} does not have as many numbers as its shape says; download'
            ' the file again.'
        )
    return numbers[begin:end].view(dtype).reshape(entry['shape'])
