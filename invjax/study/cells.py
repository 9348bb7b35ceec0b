"""Cells of a study on disk: one JSON line and one picture each.

A cell is one image, sample and method. Its protocol, everything that its picture
depends on, is hashed to its name, so that a run that was interrupted, or is
repeated with more settings, computes only what is missing. Each process of a run
appends to a file of its own; readers read them all.

A cell is done when its line is there and its picture can be read. While one is
computed, its name is locked, so that two runs into one folder share the work;
the lock of a process that died is free again.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from invjax import images
from invjax.strict_json import as_json
from invjax.study.plan import PROTOCOL

_LOG = logging.getLogger('invjax')


def cell_id(protocol: dict) -> str:
    """The name of a cell: 16 hexadecimal digits of its protocol's SHA-256."""
    text = json.dumps(as_json(protocol), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Store:
    """A folder of cells; what it has written survives a kill.

    Args:
        folder: that is there.
        process: number of this process among those that share the folder.

    Attributes:
        done: names of the cells that are there, of all processes.
    """

    def __init__(self, folder: str | os.PathLike, process: int = 0):
        self.folder = pathlib.Path(folder)
        self._lines = self.folder / f'cells-{process}.jsonl'
        self._pictures = self.folder / 'cells'
        self._pictures.mkdir(parents=True, exist_ok=True)
        cut_torn_line(self._lines)
        self.done: set[str] = set()
        self.look()

    def look(self) -> None:
        """Look what is done by now, by whatever process."""
        self.done |= {
            cell['id']
            for cell in read(self.folder)
            if cell['id'] in self.done or is_picture(self.path(cell['id']))
        }

    def path(self, name: str) -> pathlib.Path:
        """Where the picture of a cell is."""
        return picture_path(self.folder, name)

    @contextlib.contextmanager
    def claimed(self, names: Iterable[str]) -> Iterator[list[str]]:
        """Lock what is neither done nor being computed by another process.

        Gives the names that are free, and lets go of them at the end.
        """
        with contextlib.ExitStack() as stack:
            free = []
            for name in names:
                path = self._pictures / f'{name}.lock'
                file = stack.enter_context(path.open('w'))
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                stack.callback(path.unlink, missing_ok=True)
                free.append(name)
            # Another may have finished some between a look and the lock.
            self.look()
            yield [name for name in free if name not in self.done]

    def write(self, protocol: dict, scores: dict, x: np.ndarray) -> None:
        """Add a cell, unless it is there.

        Args:
            protocol: plain data.
            scores: name to number.
            x: (H, W, 1 or 3) in [-1, 1], written as `cells/<name>.png`.
        """
        name = cell_id(protocol)
        if name in self.done:
            return
        # A cell counts as soon as its line is there, so the picture comes
        # first, and reaches the disk first.
        partial = self._pictures / f'{name}.partial-{os.getpid()}.png'
        images.write_image(partial, x)
        with partial.open('rb') as file:
            os.fsync(file.fileno())
        os.replace(partial, self.path(name))
        cell = {'id': name, 'protocol': protocol, 'scores': scores}
        line = json.dumps(as_json(cell), allow_nan=False)
        with self._lines.open('a') as file:
            file.write(line + '\n')
            file.flush()
            os.fsync(file.fileno())
        self.done.add(name)


def picture_path(folder: str | os.PathLike, name: str) -> pathlib.Path:
    """Where the picture of a cell is."""
    return pathlib.Path(folder) / 'cells' / f'{name}.png'


def is_picture(path: pathlib.Path) -> bool:
    """Whether a picture is there and whole."""
    try:
        with Image.open(path) as picture:
            picture.load()
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def cut_torn_line(path: pathlib.Path) -> None:
    """Take back the end of a file that a kill has left without its newline."""
    if path.is_file():
        content = path.read_bytes()
        whole = content.rfind(b'\n') + 1
        if whole < len(content):
            with path.open('r+b') as file:
                file.truncate(whole)


def read(folder: str | os.PathLike) -> list[dict]:
    """All cells of a folder, each once: dicts of id, protocol and scores.

    They are in the order of their names, which does not depend on how the work
    was shared or interrupted. Lines that are no cells, or of another protocol,
    are left out with a warning that says where they are.
    """
    cells = {}
    for path in sorted(pathlib.Path(folder).glob('cells-*.jsonl')):
        with path.open('rb') as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b'\n'):
                    continue  # Being written, or torn by a kill.
                cell = _parse(line)
                if isinstance(cell, str):
                    _LOG.warning('%s, line %d: %s', path, number, cell)
                else:
                    cells[cell['id']] = cell
    return [cells[name] for name in sorted(cells)]


def _parse(line: bytes) -> dict | str:
    """A cell, or what is wrong with its line."""
    try:
        cell = json.loads(line)
    except (ValueError, RecursionError):
        return 'no JSON, left out.'
    if not (
        isinstance(cell, dict)
        and isinstance(cell.get('protocol'), dict)
        and isinstance(cell.get('scores'), dict)
    ):
        return 'no cell, left out.'
    if cell['protocol'].get('protocol') != PROTOCOL:
        return (
            f'a cell of protocol {cell["protocol"].get("protocol", 1)!r}, left '
            f'out; this version reads {PROTOCOL}.'
        )
    if cell.get('id') != cell_id(cell['protocol']):
        return 'its name does not fit its protocol, left out.'
    return cell
