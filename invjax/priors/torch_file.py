"""Reads PyTorch weight files without PyTorch, and without trusting them.

A file of `torch.save` holds a pickle, which names and describes tensors, and
raw storages with their numbers (`torch_formats.py`). A pickle can call whatever
it can import, so here it is read as data (`pickled.py`). Reading takes only
notes of tensors (`torch_tensors.py`), among which the weights are found
(`find_weights.py`); their notes become arrays, views of the mapped file.
"""

import contextlib
import hashlib
import os
import pathlib
from typing import Any

import numpy as np

from invjax.priors import find_weights, safetensors_file, torch_formats
from invjax.priors.excerpts import excerpt
from invjax.priors.find_weights import Weights
from invjax.priors.pickled import CostlyFileError, UnsafeFileError
from invjax.priors.torch_tensors import Tensor, read_pickle, to_array

__all__ = [
    'UnsafeFileError',
    'Weights',
    'file_sha256',
    'read_state_dict',
    'read_weights',
    'refusals',
]


def read_weights(
    path: str | os.PathLike[str], weights_key: str | None = None
) -> Weights:
    """Read a network's weights from a PyTorch or safetensors file.

    The content decides on the format, not the name. In a checkpoint the weights
    are found by their structure (`find_weights.py`); averaged ones win.

    Args:
        path: the file. Do not overwrite it while the arrays are in use.
        weights_key: takes the weights there rather than averaged ones: the keys
            that lead to them, joined by dots.

    Returns:
        The weights, arrays by name in the file's order and with its dtypes.
        They are read-only views of the mapped file. Of a safetensors file or a
        stream a number is read from disk when it is used, and tied weights
        share memory.

    Raises:
        FileNotFoundError: there is no such file.
        UnsafeFileError: the file asks for a global that weights do not need.
            Nothing of it was executed.
        ValueError: the file has another format, is damaged, or has no weights
            or several to choose from.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist.')
    if not path.is_file():
        raise ValueError(f'{path} must be a file, not a directory or device.')
    with path.open('rb') as file:
        head = file.read(512)
    content: Any
    tensor_type: type
    if torch_formats.is_zip(head):
        content, tensor_type = _read_zip(path), Tensor
    elif torch_formats.is_stream(head):
        content, tensor_type = _read_stream(path), Tensor
    elif safetensors_file.is_one(head):
        content, tensor_type = safetensors_file.read(path), np.ndarray
    else:
        raise ValueError(f'{path} {_what_else(path, head)}')
    load = _Loader(path)
    try:
        found = find_weights.find(content, tensor_type, load, weights_key)
    except find_weights.NotFoundError as error:
        raise ValueError(f'{path} {error}') from None
    arrays = {name: load(name, note) for name, note in found.tensors.items()}
    # A small file could ask for any number of elements, if tensors share them.
    if sum(array.size for array in arrays.values()) > path.stat().st_size:
        raise ValueError(
            f'{path} must have a byte or more for each of its weights, but'
            f' some of its {len(arrays)} tensors share them.'
        )
    return found._replace(tensors=arrays)


def read_state_dict(
    path: str | os.PathLike[str], weights_key: str | None = None
) -> dict[str, np.ndarray]:
    """The tensors of `read_weights` alone."""
    return read_weights(path, weights_key).tensors


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()


class _Loader:
    """From a tensor's name and note to its numbers.

    What it gives in all is bounded, since tensors can share numbers.
    """

    def __init__(self, path: pathlib.Path):
        self._path = path
        self._num_bytes = 40 * path.stat().st_size

    def __call__(self, name: str, tensor: Any) -> np.ndarray:
        if type(tensor) is Tensor:
            where = f"{self._path}: tensor '{excerpt(name, 40)}'"
            tensor = to_array(where, tensor)
        self._num_bytes -= tensor.nbytes
        if self._num_bytes < 0:
            raise ValueError(
                f'{self._path} has many tensors that share their numbers.'
            )
        return tensor


def _what_else(path: pathlib.Path, head: bytes) -> str:
    """Say what a file is that we do not read, and what to do about it."""
    if not head:
        return 'is empty; download it again.'
    if head[257:262] == b'ustar':
        load = f"torch.load({str(path)!r}, map_location='cpu'"
        return (
            'is in the tar format from before PyTorch 0.1.10; if you trust it,'
            ' for this can run code from it, '
            + torch_formats.how_to_resave(f'{load}, weights_only=False)')
        )
    if head.startswith(b'version https://git-lfs'):
        return 'is a git-lfs pointer; fetch the file itself with: git lfs pull'
    if head.lstrip().startswith(b'<'):
        return (
            'is a web page saved in place of the weights; open it in a browser'
            ' to see why, and download again.'
        )
    return (
        'must be a PyTorch zip file or safetensors, but it begins with'
        f' {head[:16]!r}.'
    )


def _read_zip(path: pathlib.Path) -> Any:
    data, storage = torch_formats.open_zip(str(path), path, mapped(path))
    with refusals(path, f'{path}: data.pkl'):
        return read_pickle(data, 0, storage)[0]


def _read_stream(path: pathlib.Path) -> Any:
    with refusals(path, str(path)):
        return torch_formats.read_stream(mapped(path))


def mapped(path: str | os.PathLike[str]) -> np.ndarray:
    """A file's bytes, (num_bytes,) uint8, read from disk when they are used."""
    return np.memmap(path, np.uint8, mode='r').view(np.ndarray)


@contextlib.contextmanager
def refusals(path: str | os.PathLike[str], part: str):
    """Give a sentence to whatever is raised while a pickle is read.

    Args:
        path: of the file.
        part: what is damaged, if it is.
    """
    try:
        yield
    except UnsafeFileError as error:
        raise UnsafeFileError(
            f"{path} asks for '{excerpt(str(error))}', which weights do not"
            ' need, so nothing was loaded; if you trust the file, re-save its'
            ' weights alone, as by torch.save(model.state_dict(), path).'
        ) from None
    except CostlyFileError as error:
        raise ValueError(
            f'{path} takes {error} to read, more than weights need; re-save'
            ' its weights alone, as by torch.save(model.state_dict(), path).'
        ) from None
    except torch_formats.ByteOrderError:
        raise ValueError(
            f'{path} was written on a big-endian machine; save it again on a'
            ' little-endian one.'
        ) from None
    # Damaged bytes can raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{part} is damaged ({type(error).__name__}); download the file'
            ' again.'
        ) from None
