"""NumPy files, read row by row and without trust in what they say of size."""

import contextlib
import os
import pathlib
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np

MAGIC = b'\x93NUMPY'
# Of a part of a stream that is passed over.
_PART = 2**20


class Header(NamedTuple):
    """What a NumPy file says of its array."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool

    @property
    def num_bytes(self) -> int:
        """Of all values together."""
        return _product(self.shape) * self.dtype.itemsize


def read(path) -> np.ndarray:
    """The whole array of a `.npy` file.

    Raises:
        ValueError: if its header or its length is not right, or it holds
            anything but numbers.
    """
    with open_array(path) as (stream, header):
        return _read_all(stream, header)


def read_rows(stream: IO, header: Header, first: int, last: int) -> np.ndarray:
    """Rows first to last - 1 along axis 0; the stream is read to its end.

    Reading to the end costs time, but only there a zip file's sum is checked.
    """
    if header.fortran and len(header.shape) > 1:
        return _read_all(stream, header)[first:last]
    row = _product(header.shape[1:]) * header.dtype.itemsize
    _pass_over(stream, first * row)
    data = _read_exactly(stream, (last - first) * row)
    _pass_over(stream, header.num_bytes - last * row)
    stream.read(1)
    return np.frombuffer(data, header.dtype).reshape(
        last - first, *header.shape[1:]
    )


@contextlib.contextmanager
def open_array(path, key: str | None = None) -> Iterator[tuple[IO, Header]]:
    """The values of a `.npy` file, or of one array of an `.npz`, as a stream.

    Args:
        path: the file.
        key: the array's name in an `.npz` file; None for `.npy`.

    Raises:
        ValueError: if the header is not right, or says more than there is.
    """
    path = pathlib.Path(path)
    with contextlib.ExitStack() as stack:
        if key is None:
            stream = stack.enter_context(path.open('rb'))
            length = os.path.getsize(path)
        else:
            archive = stack.enter_context(zipfile.ZipFile(path))
            entry = archive.getinfo(f'{key}.npy')
            stream = stack.enter_context(archive.open(entry))
            length = entry.file_size
        header = _read_header(stream)
        if header.dtype.kind not in 'buif':
            raise ValueError(
                f'it holds {_short(header.dtype)}, but must hold bool, '
                'integers or floats'
            )
        there = length - stream.tell()
        if header.num_bytes != there:
            raise ValueError(
                f'its header says {header.num_bytes:,} bytes of values, and '
                f'{there:,} follow'
            )
        yield stream, header


def names(path) -> list[str]:
    """The names of the arrays in an `.npz` file."""
    with zipfile.ZipFile(path) as archive:
        return [
            name.removesuffix('.npy')
            for name in archive.namelist()
            if name.endswith('.npy')
        ]


# What damaged NumPy and zip files raise on the way.
ERRORS = (
    *(ValueError, OSError, EOFError, KeyError, MemoryError, TypeError),
    *(RuntimeError, NotImplementedError, SyntaxError, zlib.error),
    zipfile.BadZipFile,
)


def _read_header(stream) -> Header:
    version = np.lib.format.read_magic(stream)
    read_header = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read_header is None:
        raise ValueError(f'version {version} of NumPy files is not read')
    try:
        shape, fortran, dtype = read_header(stream)
    except tokenize.TokenError as error:
        # NumPy parses what is no literal of Python a second time.
        raise ValueError(f'its header cannot be read: {error}') from None
    if any(length < 0 for length in shape):
        raise ValueError(f'its header has the shape {_short(shape)}')
    return Header(shape, dtype, fortran)


def _read_all(stream, header) -> np.ndarray:
    data = _read_exactly(stream, header.num_bytes)
    stream.read(1)
    values = np.frombuffer(data, header.dtype)
    if header.fortran:
        return values.reshape(header.shape[::-1]).T
    return values.reshape(header.shape)


def _read_exactly(stream, number: int) -> bytes:
    data = stream.read(number)
    if len(data) != number:
        raise ValueError('it ends too early')
    return data


def _pass_over(stream, number: int) -> None:
    while number > 0:
        number -= len(_read_exactly(stream, min(number, _PART)))


def _product(shape) -> int:
    # In Python's integers, which do not wrap around.
    number = 1
    for length in shape:
        number *= int(length)
    return number


def _short(thing) -> str:
    text = str(thing)
    return text if len(text) <= 60 else text[:57] + '...'
