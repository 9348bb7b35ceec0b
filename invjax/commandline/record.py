"""The folder of a run, and where its results come from."""

import datetime
import importlib.metadata
import os
import pathlib
import platform
from typing import Any

import jax

from invjax.commandline.flags import Given
from invjax.strict_json import write_json

__all__ = ['make_folder', 'provenance', 'say_if_replaced', 'write_json']


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
