"""Pictures in, batches out: the same ones again after an interruption.

Grain shuffles the numbers of the pictures, each once before any comes again,
and cuts them into batches; a batch is then read as a whole by one of several
threads, ahead of its turn. What is random in it (windows, flips) comes from the
seed and the batch's place in the run. So a place is all that is kept of an
interrupted run, and any number of processes read the same batches between them.
"""

import dataclasses
import hashlib
import os
import pathlib
from typing import Any, Protocol

import grain
import numpy as np

from invjax import images, phantoms
from invjax.images.arrays import ERRORS
from invjax.images.files import full_range
from invjax.images.pictures import scale

CROPS = ('centre', 'random')
FLIPS = ('none', 'horizontal', 'all')
# Weights of red, green and blue in grey (ITU-R BT.601), as in Pillow.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_THREADS = 2
_BATCHES_AHEAD = 4
# Bytes of phantoms that are kept once they are drawn.
_MOST_KEPT = 2**30
_MOST_PHANTOMS = 10**7
# Pictures of an array that are looked at to tell it from others.
_MARKED = 16
# What a file of one array begins with.
_MAGIC = b'\x93NUMPY'


class Pictures(Protocol):
    """Pictures by their numbers.

    Attributes:
        words: a sentence on what they are and what their values mean.
        mark: what tells them from others, which a run must not go on with.
    """

    words: str
    mark: str

    def __len__(self) -> int: ...

    def read(self, number: int) -> np.ndarray:
        """A picture of its own size, (h, w, C) float32 in [-1, 1]."""
        ...


def open_pictures(
    name: str,
    size: tuple[int, int],
    channels: int,
    crop: str = 'centre',
    value_range: tuple[float, float] | None = None,
) -> Pictures:
    """Find pictures, and look at the first one.

    - A folder: every picture in it and in folders below it, as
      `images.list_pictures` finds and `images.read_picture` reads them. By
      `centre` the largest part of the shape of `size` is cut out of the middle
      and resized.
    - `FILE.npz:KEY` or `FILE.npy`: (N, h, w, C), or (N, h, w) for one channel,
      or complex (N, h, w) for two. Values mean what `images.read_picture` says,
      but arrays are not resized.
    - `phantoms:NUMBER`: as many slices of `phantoms.draw` of seed 0, at most
      ten million.

    Colour becomes grey by 0.299 R + 0.587 G + 0.114 B, and grey is repeated for
    colour.

    Args:
        name: as above.
        size: (H, W) of what is cut out of them.
        channels: C.
        crop: one of CROPS.
        value_range: the values that become -1 and 1.

    Raises:
        ValueError: one sentence on what was found and what it must be. Pictures
            of a folder but the first are read when they are trained on, and one
            that cannot be read raises it then.
    """
    if name.startswith('phantoms:'):
        if crop != 'centre' or value_range is not None:
            raise ValueError(
                'phantoms are drawn in their size, from black to white; leave '
                'out crop and value_range.'
            )
        return _Phantoms(name, size, channels)
    if os.path.isdir(name):
        return _Folder(name, size, channels, crop, value_range)
    if name.lower().endswith('.npy') or '.npz:' in name.lower():
        return _Array(name, size, channels, crop, value_range)
    raise ValueError(
        'images must be a folder of pictures, FILE.npz:KEY, FILE.npy or '
        f'phantoms:NUMBER, got {name!r}'
        + (', which is not there.' if not os.path.exists(name) else '.')
    )


class _Folder:
    def __init__(self, name, size, channels, crop, value_range):
        self._paths, _ = images.list_pictures(name)
        if not self._paths:
            raise ValueError(f'{name} has no picture in it.')
        self._size = size
        self._cut = size if crop == 'centre' else None
        self._channels, self._value_range = channels, value_range
        middle = 'the middle of each resized'
        windows = 'windows of them as they are'
        self.words = (
            f'{len(self._paths):,} pictures of the folder '
            f'{pathlib.Path(name).absolute().name}, '
            f'{middle if crop == "centre" else windows}, '
            f'{_range_words(value_range)}'
        )
        below = [path.relative_to(name).as_posix() for path in self._paths]
        self.mark = _digest('\n'.join(below).encode())
        self.read(0)

    def __len__(self):
        return len(self._paths)

    def read(self, number):
        path = self._paths[number]
        reading = images.read_picture(
            path, self._cut, self._channels, self._value_range
        )
        return _fitting(reading.x, self._size, path)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _range_words(value_range) -> str:
    if value_range is None:
        return '-1 for black and 1 for white'
    return f'-1 for {value_range[0]:g} and 1 for {value_range[1]:g}'


class _Array:
    def __init__(self, name, size, channels, crop, value_range):
        self._values = _load(name)
        self._name, self._channels = name, channels
        shape, kind = self._values.shape, self._values.dtype.kind
        if (
            (kind == 'c' and (channels != 2 or len(shape) != 3))
            or kind not in 'buifc'
            or len(shape) not in (3, 4)
            or (len(shape) == 4 and shape[3] not in (1, 2, 3))
        ):
            raise ValueError(
                f'{name} is {self._values.dtype} {shape}, but must be numbers '
                '(N, H, W, 1 to 3), (N, H, W) for grey, or complex (N, H, W) '
                'for 2 channels.'
            )
        if shape[0] == 0:
            raise ValueError(f'{name} has no picture in it.')
        if crop == 'centre' and shape[1:3] != tuple(size):
            raise ValueError(
                f'{name} has pictures of {shape[1]} x {shape[2]}, but must have '
                f'{size[0]} x {size[1]}; arrays are not resized, but '
                'crop=random takes windows of larger ones.'
            )
        self._low, self._high = _range(self._values, value_range, name)
        self._size = size
        self.words = (
            f'{shape[0]:,} pictures of {pathlib.Path(name).name} '
            f'({self._values.dtype}), '
            f'{_range_words((self._low, self._high))}'
        )
        # A few of them, since the array may be larger than the memory.
        some = np.linspace(0, shape[0] - 1, min(shape[0], _MARKED)).astype(int)
        self.mark = _digest(
            f'{self._values.dtype} {shape}'.encode(),
            *(np.ascontiguousarray(self._values[i]).tobytes() for i in some),
        )
        self.read(0)

    def __len__(self):
        return len(self._values)

    def read(self, number):
        # In float32 from the start, where that is exact: pictures are read as
        # fast as an accelerator trains.
        kind = 'float32' if self._values.dtype.itemsize <= 2 else 'float64'
        x = _real(self._values[number]).astype(kind)
        # Python's numbers leave the type as it is.
        x = (x - self._low) * (2 / (self._high - self._low)) - 1
        x = np.asarray(x, np.float32)
        x = x if x.ndim == 3 else x[..., None]
        x = _to_channels(x, self._channels, self._name)
        return _fitting(x, self._size, self._name)


class _Phantoms:
    def __init__(self, name, size, channels):
        number = name.partition(':')[2]
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ValueError(
                'images must say how many phantoms there are, as in '
                f'phantoms:100000, got {name!r}.'
            )
        if int(number) > _MOST_PHANTOMS:
            raise ValueError(
                f'there are at most {_MOST_PHANTOMS:,} phantoms, got {name!r}.'
            )
        if channels != 1 or size[0] != size[1]:
            raise ValueError(
                f'phantoms are square and grey, got a size of {size[0]} x '
                f'{size[1]} and {channels} channels.'
            )
        self._number, self._side = int(number), size[0]
        self.mark = f'phantoms {self._number}, version {phantoms.VERSION}'
        # Drawing takes longer than an accelerator trains on a picture, so those
        # that there is room for are drawn once. Memory that is not written to
        # takes no room.
        kept = min(self._number, _MOST_KEPT // (4 * self._side**2))
        self._drawn = np.zeros((kept, *size, 1), np.float32)
        self._is_drawn = np.zeros(kept, bool)
        self.words = (
            f'the first {int(number):,} slices of phantoms.draw, seed 0, -1 for '
            'black and 1 for white'
        )

    def __len__(self):
        return self._number

    def read(self, number):
        if number < len(self._is_drawn) and self._is_drawn[number]:
            return self._drawn[number]
        drawn = phantoms.draw(0, 1, number, self._side)[0]
        if number < len(self._is_drawn):
            self._drawn[number] = drawn
            self._is_drawn[number] = True
        return drawn


def _load(name: str) -> np.ndarray:
    """An array of a file; one of `.npy` stays on the disk."""
    place = name.lower().rfind('.npz:')
    path, key = (
        (name, None) if place < 0 else (name[: place + 4], name[place + 5 :])
    )
    if not os.path.isfile(path):
        raise ValueError(f'there is no file {path}.')
    try:
        with open(path, 'rb') as file:
            is_one = file.read(len(_MAGIC)) == _MAGIC
            if is_one and key is not None:
                raise ValueError(f'it has one array, so leave out {key!r}')
            if not is_one:
                file.seek(0)
                with np.load(file) as arrays:
                    names = ', '.join(arrays)
                    if key in arrays:
                        return arrays[key]
        if is_one:
            return np.load(path, mmap_mode='r')
    except ERRORS as error:
        raise ValueError(
            f'{path} cannot be read as a NumPy file: {error}'
        ) from None
    if key is None:
        raise ValueError(
            f'{path} has several arrays ({names}) and must be called '
            'FILE.npz:KEY.'
        )
    raise ValueError(f'{path} has no array {key!r}; it has {names}.')


def _real(values: np.ndarray) -> np.ndarray:
    """Complex numbers as two channels, real and imaginary part."""
    if values.dtype.kind != 'c':
        return values
    return np.stack([values.real, values.imag], axis=-1)


def _range(values, value_range, name) -> tuple[float, float]:
    """The values that become -1 and 1; ValueError as `images.read_picture`."""
    least, largest = [], []
    # Part by part, since the array may be larger than the memory.
    for start in range(0, len(values), 1024):
        part = _real(values[start : start + 1024])
        if part.dtype.kind == 'f' and not np.isfinite(part).all():
            raise ValueError(
                f'{name} has values that are not finite (NaN or infinite).'
            )
        least.append(part.min())
        largest.append(part.max())
    full = None
    if values.dtype.kind != 'c':
        full = full_range(values.dtype, name)
    # The rules are about the least and the largest value.
    scale(np.stack([np.min(least), np.max(largest)]), full, value_range, name)
    if value_range is not None:
        return float(value_range[0]), float(value_range[1])
    return 0.0, 1.0 if full is None else float(full)


def _to_channels(x, channels: int, name) -> np.ndarray:
    found = x.shape[-1]
    if found == channels:
        return x
    if (found, channels) == (1, 3):
        return np.repeat(x, 3, axis=-1)
    if (found, channels) == (3, 1):
        return (x @ _LUMA)[..., None]
    raise ValueError(
        f'{name} has {found} channels, but channels is {channels}.'
    )


def _fitting(x, size, name) -> np.ndarray:
    if x.shape[0] < size[0] or x.shape[1] < size[1]:
        raise ValueError(
            f'{name} is {x.shape[0]} x {x.shape[1]}, too small for windows of '
            f'{size[0]} x {size[1]}.'
        )
    return x


def vary(
    x: np.ndarray, size: tuple[int, int], flips: str, rng: np.random.Generator
) -> np.ndarray:
    """A window at a random place, flipped at random: (h, w, C) to (H, W, C).

    Args:
        x: of `size` or larger.
        size: (H, W).
        flips: one of FLIPS; `all` is for squares.
        rng: draws the same numbers of random ones whatever they are for.
    """
    top, left = (
        int(rng.random() * (have - want + 1))
        for have, want in zip(x.shape[:2], size, strict=True)
    )
    across, down, turn = rng.random(3) < 0.5
    x = x[top : top + size[0], left : left + size[1]]
    if flips != 'none' and across:
        x = x[:, ::-1]
    if flips == 'all' and down:
        x = x[::-1]
    if flips == 'all' and turn:
        x = x.swapaxes(0, 1)
    return x


@dataclasses.dataclass(frozen=True)
class Split:
    """Which pictures are trained on, and which are not.

    Attributes:
        trained: numbers of pictures, ascending.
        held_out: the others.
    """

    trained: np.ndarray
    held_out: np.ndarray


def split(number: int, held_out: float, seed: int) -> Split:
    """Hold out a fraction of the pictures, by chance.

    Args:
        number: of pictures.
        held_out: the fraction, rounded up to a whole number of pictures.
        seed: of the chance.

    Raises:
        ValueError: if none would be left to train on.
    """
    count = int(np.ceil(number * held_out))
    if count >= number:
        raise ValueError(
            f'{number} pictures, of which {count} are held out, leave none to '
            'train on; give more, or a smaller held_out.'
        )
    order = np.random.default_rng([seed, 1]).permutation(number)
    return Split(np.sort(order[count:]), np.sort(order[:count]))


def middle_windows(
    pictures: Pictures, numbers: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """The middle window of each, (N, H, W, C)."""
    cut = []
    for number in numbers:
        x = pictures.read(int(number))
        top, left = (
            (n - m) // 2 for n, m in zip(x.shape[:2], size, strict=True)
        )
        cut.append(x[top : top + size[0], left : left + size[1]])
    return np.stack(cut)


class Batches:
    """An endless iterator over batches, (B, H, W, C) float32.

    With several processes each has its own rows of the batch, (B / processes,
    H, W, C).

    Args:
        pictures: to read.
        numbers: of those that are trained on.
        batch: B, of all processes together.
        size, flips: see `vary`.
        seed: of order, windows and flips.
        process, num_processes: which rows.
    """

    def __init__(
        self,
        pictures: Pictures,
        numbers: np.ndarray,
        batch: int,
        size: tuple[int, int],
        flips: str,
        seed: int,
        process: int = 0,
        num_processes: int = 1,
    ):
        count = batch // num_processes
        rows = slice(process * count, (process + 1) * count)

        def read(numbers: np.ndarray, rng: np.random.Generator) -> np.ndarray:
            # All rows have a seed, so that those of one process do not depend
            # on how many there are. Children of `rng` would depend on what it
            # was used for before: Grain has a few that it uses again.
            seeds = rng.integers(2**63, size=len(numbers))
            return np.stack(
                [
                    vary(
                        pictures.read(int(number)),
                        size,
                        flips,
                        np.random.default_rng(seed),
                    )
                    for number, seed in zip(
                        numbers[rows], seeds[rows], strict=True
                    )
                ]
            )

        self._iterator: grain.DatasetIterator[np.ndarray] = iter(
            grain.MapDataset.source(numbers)
            .seed(seed)
            .shuffle()
            .repeat()
            .batch(batch)
            .random_map(read)
            .to_iter_dataset(
                grain.ReadOptions(
                    num_threads=_THREADS, prefetch_buffer_size=_BATCHES_AHEAD
                )
            )
        )

    def __next__(self) -> np.ndarray:
        return next(self._iterator)

    def state(self) -> dict[str, Any]:
        """Where it is, as plain data."""
        return self._iterator.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from where another one was."""
        self._iterator.set_state(state)
