"""Cells of a study on disk: one JSON line and one picture each.

A cell is one image, sample and method. Its protocol, everything that its picture
depends on, is hashed to its name, so that a run that was interrupted, or is
repeated with more settings, computes only what is missing. Each process of a run
appends to a file of its own; readers read them all.

A cell is done when its line is there and its picture can be read. While one is
computed its name is locked, so that several runs into one folder share the work.
The locks of a process that died are free again, since the system holds them.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import pathlib
import shutil
import tempfile
import weakref
import zlib
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, PngImagePlugin

from invjax import images
from invjax.images import files
from invjax.images.pictures import to_pillow
from invjax.strict_json import as_json
from invjax.study.plan import PROTOCOL

_LOG = logging.getLogger('invjax')
# What a picture of several planes says of itself.
_CHANNELS = 'invjax channels'


def cell_id(protocol: dict) -> str:
    """The name of a cell: 16 hexadecimal digits of its protocol's SHA-256."""
    text = json.dumps(
        _canonical(as_json(protocol)), sort_keys=True, allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _checksum(scores: dict, name: str | None = None) -> int:
    """Of scores, which damage could change without a trace.

    Args:
        scores: plain data.
        name: of their cell, whose scores they must be; None as in lines from
            before it was part of the sum.
    """
    text = json.dumps(as_json(scores), sort_keys=True)
    return zlib.crc32(f'{name or ""}{text}'.encode())


def _canonical(data: Any) -> Any:
    """The same numbers written the same: 3.0 and 3 are one setting."""
    if isinstance(data, dict):
        return {name: _canonical(value) for name, value in data.items()}
    if isinstance(data, list):
        return [_canonical(value) for value in data]
    if isinstance(data, float) and data.is_integer():
        return int(data)
    return data


class Store:
    """A folder of cells; what it has written survives a kill.

    Args:
        folder: that is there.
        process: number of this process among those that share the folder.
    """

    def __init__(self, folder: str | os.PathLike, process: int = 0):
        self.folder = pathlib.Path(folder)
        self._lines = self.folder / f'cells-{process}.jsonl'
        self._pictures = self.folder / 'cells'
        self._pictures.mkdir(parents=True, exist_ok=True)
        self._done: set[str] = set()

    def missing(self, names: Iterable[str]) -> list[str]:
        """Those of some names whose cells are not done, by any process."""
        names = list(names)
        doubtful = {n for n in names if n not in self._done}
        # A cell has its picture first: without one there is no need to read.
        if any(self.path(n).exists() for n in doubtful):
            written = {cell['id'] for cell in read(self.folder)}
            self._done |= {
                n for n in doubtful & written if is_picture(self.path(n))
            }
        return [n for n in names if n not in self._done]

    def path(self, name: str) -> pathlib.Path:
        """Where the picture of a cell is."""
        return picture_path(self.folder, name)

    @contextlib.contextmanager
    def claimed(
        self, names: Iterable[str], most: int | None = None
    ) -> Iterator[list[str]]:
        """Lock what is neither done nor being computed by another process.

        Gives the first of the names that are free, and lets go of them at the
        end. A process holds one claim at a time.

        Args:
            names: of cells.
            most: how many to lock; None for all.
        """
        with (self._pictures / 'locks').open('ab') as file:
            free: list[str] = []
            for name in names:
                if len(free) == most:
                    break
                if name not in self._done and _lock(file, _place(name)):
                    free.append(name)
            # Another may have finished some between a look and the lock.
            yield self.missing(free)

    def write(self, protocol: dict, scores: dict, x: np.ndarray) -> None:
        """Add a cell, unless it is done.

        Args:
            protocol: plain data.
            scores: name to number.
            x: (H, W, C) in [-1, 1]; `cells/<name>.png` has its
                `images.planes`, and where these are several, their number.
        """
        name = cell_id(protocol)
        if not self.missing([name]):
            return
        # A cell counts as soon as its line is there, so the picture comes
        # first, and reaches the disk first.
        partial = self._pictures / f'{name}.partial-{os.getpid()}'
        with partial.open('wb') as file:
            about = PngImagePlugin.PngInfo()
            if images.plane_names(x.shape[-1]):
                about.add_text(_CHANNELS, str(x.shape[-1]))
            to_pillow(x).save(file, 'PNG', pnginfo=about)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.path(name))
        cell = {
            'id': name,
            'protocol': protocol,
            'scores': scores,
            'crc32': _checksum(scores, name),
        }
        line = json.dumps(as_json(cell), allow_nan=False)
        with self._lines.open('a+b') as file:
            # Two runs may have a process of this number.
            _lock(file, wait=True)
            _cut(file)
            file.write(line.encode() + b'\n')
            file.flush()
            os.fsync(file.fileno())
        self._done.add(name)


def _place(name: str) -> int:
    """The byte of the file of locks that stands for a cell."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:15], 16)


def _lock(file: BinaryIO, place: int = 0, wait: bool = False) -> bool:
    """Lock a byte of a file until it is closed; whether that went well.

    On a disk without locks all are free: then what runs twice is computed
    twice, and kept once.
    """
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    try:
        fcntl.lockf(file, how, 1, place)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True
    return True


class PassingFolder:
    """A folder that is there as long as this object, and then removed.

    `tempfile.TemporaryDirectory` is for those who close it: one that is left to
    the end of a result's life warns.

    Attributes:
        path: of the folder.
    """

    def __init__(self):
        self.path = tempfile.mkdtemp()
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def picture_path(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Where the picture of a cell is."""
    return pathlib.Path(folder) / 'cells' / f'{name}.png'


def read_picture(folder: str | os.PathLike, name: str) -> np.ndarray:
    """The picture of a cell, (H, W, C) in [-1, 1]."""
    with Image.open(picture_path(folder, name)) as picture:
        pixels = np.asarray(picture)
        channels = int(picture.info.get(_CHANNELS, 1))
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    return images.to_float(images.from_planes(pixels, channels))


def is_picture(path: pathlib.Path) -> bool:
    """Whether a picture is there and whole."""
    try:
        with Image.open(path) as picture:
            picture.load()
        files.check_png(path)
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def cut_torn_line(path: pathlib.Path) -> None:
    """Take back the end of a file that a kill has left without its newline."""
    if path.is_file():
        with path.open('r+b') as file:
            _cut(file)


def _cut(file: BinaryIO) -> None:
    size = file.seek(0, os.SEEK_END)
    if size == 0:
        return
    file.seek(size - 1)
    if file.read(1) != b'\n':
        file.seek(0)
        file.truncate(file.read().rfind(b'\n') + 1)
    file.seek(0, os.SEEK_END)


def read(folder: str | os.PathLike) -> list[dict]:
    """All cells of a folder, each once: dicts of id, protocol and scores.

    They are in the order of their names, which does not depend on how the work
    was shared or interrupted. Lines that are no cells, or of another protocol,
    are left out with a warning that says where they are.
    """
    cells = {}
    for path in sorted(pathlib.Path(folder).glob('cells-*.jsonl')):
        left_out: dict[str, list[int]] = {}
        with path.open('rb') as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b'\n'):
                    continue  # Being written, or torn by a kill.
                cell = _parse(line)
                if isinstance(cell, str):
                    left_out.setdefault(cell, []).append(number)
                else:
                    cells[cell['id']] = cell
        for what, numbers in left_out.items():
            _warn(path, _ranges(numbers), what)
    return [cells[name] for name in sorted(cells)]


# A run reads its folder many times.
@functools.cache
def _warn(path: pathlib.Path, numbers: str, what: str) -> None:
    _LOG.warning('%s, line %s: %s', path, numbers, what)


def _ranges(numbers: list[int]) -> str:
    """Rising numbers in words, as `1, 4-7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ', '.join('-'.join(map(str, part)) for part in parts)


def _parse(line: bytes) -> dict | str:
    """A cell, or what is wrong with its line."""
    try:
        cell = json.loads(line)
        protocol, scores = cell['protocol'], cell['scores']
        number = protocol.get('protocol', 1)
        if number != PROTOCOL:
            return (
                f'a cell of protocol {str(number)[:20]}, left out; this version '
                f'reads {PROTOCOL}.'
            )
        if cell['id'] != cell_id(protocol):
            return 'its name does not fit its protocol, left out.'
        # Lines of earlier versions have one of the scores alone.
        is_right = (
            cell['crc32'] == _checksum(scores, cell['id'])
            if 'crc32' in cell
            else cell['checksum'] == _checksum(scores)
        )
        if not is_right:
            return 'its scores do not have their checksum, left out.'
    except (KeyError, TypeError, AttributeError):
        return 'no cell, left out.'
    except (ValueError, RecursionError):
        return 'no JSON, left out.'
    return cell
