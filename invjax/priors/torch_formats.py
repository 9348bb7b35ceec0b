"""The two formats of `torch.save`: a zip file, and before PyTorch 1.6 a stream.

A zip file has one pickle, and raw storages:

    <root>/data.pkl    names, shapes, strides
    <root>/data/<key>  one storage each: plain numbers
    <root>/byteorder   'little' or 'big'; absent before PyTorch 2.1

A stream has five pickles one after another: a number that tells the format, its
version, facts of the machine, the content, and the keys of its storages. These
follow in that order, each as a count of elements in 8 bytes and plain numbers.
"""

import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from invjax.priors.excerpts import excerpt
from invjax.priors.torch_tensors import (
    Storage,
    itemsize,
    read_pickle,
    storage_identifier,
)

_MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


class ByteOrderError(ValueError):
    """The file was written on a big-endian machine."""


def is_zip(head: bytes) -> bool:
    """Whether the first bytes of a file are those of a zip file."""
    return head.startswith(b'PK')


def is_stream(head: bytes) -> bool:
    """Whether the first bytes of a file, at least 32, are those of a stream."""
    # Any protocol of pickles spells the number in this way.
    return b'\x8a\x0a' + _MAGIC.to_bytes(10, 'little') in head[:32]


def open_zip(
    path: str, file: Any, content: np.ndarray
) -> tuple[np.ndarray, Callable[[Any], Storage]]:
    """The pickle of a zip file, and what finds its storages.

    Args:
        path: of the file, which sentences begin with.
        file: the path, or the file's content as a file object.
        content: (num_bytes,) uint8, the same mapped or in memory.

    Returns:
        (num_bytes,) uint8, the pickle, which `read_pickle` takes with the
        second: a function from an identifier to a storage.

    Raises:
        ValueError: it is no zip file of `torch.save`, or it is damaged.
    """
    archive = _Archive(path, file, content)
    pickles = [n for n in archive.infos if re.fullmatch(r'[^/]+/data\.pkl', n)]
    if len(pickles) != 1:
        raise ValueError(
            f'{path} is a zip file but not one of PyTorch: it must have one'
            f' entry <root>/data.pkl, got {len(pickles)}.'
        )
    root = pickles[0].removesuffix('data.pkl')
    if root + 'constants.pkl' in archive.infos:
        load = f"torch.jit.load({path!r}, map_location='cpu').state_dict()"
        raise ValueError(
            f'{path} is a TorchScript program; if you trust it,'
            f' {how_to_resave(load)}'
        )
    if root + 'byteorder' in archive.infos:
        byteorder = archive[root + 'byteorder'].tobytes()
        if byteorder != b'little':
            raise ValueError(
                f"{path}: byteorder must be b'little', got {byteorder[:16]!r};"
                ' save it again on a little-endian machine.'
            )
    storages = _Folder(archive, root + 'data/')

    def storage(pid) -> Storage:
        kind, key, _ = storage_identifier(pid)
        return Storage(kind, key, storages)

    return archive[root + 'data.pkl'], storage


def how_to_resave(load: str) -> str:
    """The end of a sentence: how to save what `load` gives in PyTorch."""
    return (
        're-save it where PyTorch is installed: python -c "import torch;'
        f" torch.save({load}, 'resaved.pt')\""
    )


class _Archive(Mapping):
    """The entries of a zip file as views of the mapped file, (num_bytes,) uint8.

    Compressed entries are refused: torch.save writes none. An entry is checked
    against its checksum when it is first asked for. Entries that overlap are
    refused, so that those that are read have no more bytes than the file.

    Attributes:
        infos: what the zip directory says of each entry, by name.
    """

    def __init__(self, path: str, file: Any, content: np.ndarray):
        self._path = path
        try:
            with zipfile.ZipFile(file) as archive:
                self.infos = {info.filename: info for info in archive.filelist}
        # Damaged directories raise nearly anything.
        except Exception as error:
            raise ValueError(
                f'{path} begins like a zip file but is cut short or damaged'
                f' ({excerpt(str(error))}); download it again.'
            ) from None
        self._bytes = content
        self._views: dict[str, np.ndarray] = {}
        self._unread = self._bytes.size

    def __len__(self):
        return len(self.infos)

    def __iter__(self):
        return iter(self.infos)

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._views:
            view = self._view(name)
            self._unread -= view.size
            if self._unread < 0:
                raise ValueError(
                    f'{self._path}: entries of the zip file overlap; download'
                    ' the file again.'
                )
            self._check(name, view)
            self._views[name] = view
        return self._views[name]

    def _view(self, name: str) -> np.ndarray:
        info = self.infos.get(name)
        if info is None:
            raise ValueError(f"{self._path} lacks its entry '{excerpt(name)}'.")
        encrypted = info.flag_bits & 1
        if info.compress_type != zipfile.ZIP_STORED or encrypted:
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' must be neither"
                ' compressed nor encrypted; unzip the file and zip it again'
                ' with: zip -0 -r'
            )
        # Only the entry's own header says how long its name and padding are.
        header = self._bytes[info.header_offset :][:30].tobytes()
        if len(header) < 30 or not header.startswith(b'PK\3\4'):
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' is not where the zip"
                ' directory says; download the file again.'
            )
        start = info.header_offset + 30 + sum(struct.unpack('<26x2H', header))
        return self._bytes[start : start + info.file_size]

    def _check(self, name: str, view: np.ndarray) -> None:
        # PyTorch can be told to leave checksums out, and then writes 0.
        checksum = self.infos[name].CRC
        if checksum not in (0, zlib.crc32(view.data)):
            raise ValueError(
                f"{self._path}: entry '{excerpt(name)}' is damaged: its bytes"
                ' do not have the checksum that is kept with them; download'
                ' the file again.'
            )


class _Folder(Mapping):
    """The entries of an archive whose names begin alike, without that."""

    def __init__(self, archive: _Archive, prefix: str):
        self._archive = archive
        self._prefix = prefix

    def __getitem__(self, name: str) -> np.ndarray:
        return self._archive[self._prefix + name]

    def __iter__(self):
        names = (n for n in self._archive if n.startswith(self._prefix))
        return (name.removeprefix(self._prefix) for name in names)

    def __len__(self):
        return sum(1 for _ in self)


def read_stream(content: np.ndarray) -> Any:
    """What a stream holds, with notes of its tensors.

    Args:
        content: (num_bytes,) uint8, the whole stream. Storages are views of it.

    Raises:
        UnsafeFileError: a global is named that weights do not need.
        ByteOrderError: it was written on a big-endian machine.
        Exception: of nearly any kind, where it is damaged.
    """
    magic, at = read_pickle(content, 0)
    version, at = read_pickle(content, at)
    machine, at = read_pickle(content, at)
    if magic != _MAGIC or version != _VERSION:
        raise ValueError('the stream has another version')
    if machine['little_endian'] is not True:
        raise ByteOrderError
    noted: dict[str, tuple] = {}
    storages: dict[str, np.ndarray] = {}

    def storage(pid):
        if pid[0] == 'module':
            # A class, and its source text, which stays text.
            return pid[1]
        kind, key, more = storage_identifier(pid)
        _, count, *part = more
        if noted.setdefault(key, (kind, count)) != (kind, count):
            raise ValueError('a storage is said to be two')
        if not part or part[0] is None:
            return Storage(kind, key, storages)
        _, start, part_count = part[0]
        if not all(type(n) is int and n >= 0 for n in (start, part_count)):
            raise TypeError('a part of a storage has a start and a count')
        return Storage(kind, key, storages, start, part_count)

    value, at = read_pickle(content, at, storage)
    keys, at = read_pickle(content, at)
    if sorted(keys) != sorted(noted):
        raise ValueError('it has other storages than its tensors have')
    for key in keys:
        kind, count = noted[key]
        if int.from_bytes(content[at : at + 8].tobytes(), 'little') != count:
            raise ValueError('a storage has another length than is said of it')
        end = at + 8 + count * itemsize(kind)
        if end > content.size:
            raise EOFError('it is cut short')
        storages[key] = content[at + 8 : end]
        at = end
    return value
