"""Results as files: the folder of a run, and its record as strict JSON."""

import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from invjax.commandline.flags import Given


def make_folder(name: str | None, binary: str) -> pathlib.Path:
    """The output folder, made now, so that a long run does not end in vain.

    Args:
        name: of the folder; None for a new one, `out/BINARY-DATE-TIME`.
        binary: what writes into it.

    Raises:
        ValueError: if it cannot be written.
    """
    if name is None:
        now = datetime.datetime.now().strftime('%Y%m%d-%H%M%S')
        name = f'out/{binary}-{now}'
    folder = pathlib.Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.writable-{os.getpid()}'
        probe.write_text('')
        probe.unlink()
    except OSError as error:
        raise ValueError(
            f'--out must be a folder that can be written, got {name!r} '
            f'({error.strerror}).'
        ) from None
    return folder


def say_if_replaced(folder: pathlib.Path, *names: str) -> None:
    """Say which results of an earlier run will be replaced."""
    there = [name for name in names if (folder / name).exists()]
    if there:
        print(f'{folder} has {", ".join(there)}, which will be replaced.')


def provenance(given: Given) -> dict[str, Any]:
    """What a result needs to be made again: flags, versions, device, time."""
    packages = ('jax', 'jaxlib', 'flax', 'numpy', 'invjax')
    return {
        'flags': given.as_dict(),
        'versions': {
            'python': platform.python_version(),
            **{name: _version(name) for name in packages},
        },
        'device': str(jax.devices()[0].device_kind),
        'num_cpus': os.cpu_count(),
        'date': datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds'),
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'not installed'


def as_json(data: Any) -> Any:
    """Plain data that JSON can hold: a number that is not finite is null."""
    if isinstance(data, Mapping):
        return {str(name): as_json(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return [as_json(value) for value in data]
    if isinstance(data, np.ndarray | jax.Array):
        return as_json(np.asarray(data).tolist())
    if isinstance(data, bool | np.bool_):
        return bool(data)
    if isinstance(data, int | np.integer):
        return int(data)
    if isinstance(data, float | np.floating):
        return float(data) if math.isfinite(data) else None
    return data


def write_json(path: pathlib.Path, data: Mapping[str, Any]) -> None:
    """Write a record, strict JSON; an interruption leaves no half of it."""
    text = json.dumps(as_json(data), indent=2, allow_nan=False, default=str)
    partial = path.with_name(f'.{path.name}-{os.getpid()}')
    partial.write_text(text + '\n')
    os.replace(partial, path)
