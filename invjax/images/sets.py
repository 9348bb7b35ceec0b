"""Sets of pictures: a folder, or an array in a NumPy file."""

import dataclasses
import os
import pathlib

import numpy as np

from invjax import phantoms
from invjax.images import arrays, files, pictures

# Slices of another seed than those that a prior is trained on.
_PHANTOMS, _SEED = 'phantoms', 1
_MOST_DRAWN = 10_000
_JUNK = ('thumbs.db', 'desktop.ini')


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Some pictures of a set.

    Attributes:
        x: (N, H, W, C) float32 in [-1, 1].
        names: of each one: its path below the folder, or its place in the
            array, such as `images[3]`.
        done: a sentence on what was found and done, for the user to see.
    """

    x: np.ndarray
    names: tuple[str, ...]
    done: str


def read_set(
    name: str,
    image_shape: tuple[int, int, int],
    first: int = 0,
    number: int = 1,
    value_range: tuple[float, float] | None = None,
) -> PictureSet:
    """Read some pictures of a set, numbered from 0.

    - A folder: all files, in folders below it too, that end as `files.SUFFIXES`
      says in any case; hidden ones, `._` files of macOS and `Thumbs.db` are
      passed over. They are ordered by their paths below the folder, part by
      part, by code points: 1, 10, 2, and capitals first. Each is read by
      `pictures.read_picture` in the size of `image_shape`.
    - `FILE.npz:KEY`, `FILE.npz` with one array, or `FILE.npy`: (N, H, W, C),
      (N, C, H, W), (N, H, W) for grey, or one picture as (H, W, C). H and W
      must be those of `image_shape`. Four channels are RGB and opacity, laid
      over white; numbers of any type mean what `read_picture` says.
    - The path of one picture is a set of one.
    - `phantoms`, where no folder is called so: slices of `phantoms.draw`, at
      most 10,000 at once, of seed 1, which no training here has seen.

    Args:
        name: as above.
        image_shape: (H, W, C) of the prior.
        first: the first picture's number, 0 or more.
        number: how many, 1 or more; fewer if the set ends before, which is
            said.
        value_range: see `read_picture`.

    Raises:
        ValueError: in one sentence, if there is no such set or picture in it,
            or a type, a shape or a value is not as above.
    """
    if first < 0 or number < 1:
        raise ValueError(
            'the first picture must be 0 or more and their number 1 or more, '
            f'got {first} and {number}.'
        )
    name = os.fspath(name)
    if name == _PHANTOMS and not os.path.exists(name):
        if value_range is not None:
            raise ValueError(
                'phantoms are drawn from black to white; leave out value_range.'
            )
        return _drawn(image_shape, first, number)
    path, key = _split(name)
    if path is not None:
        return _of_array(path, key, image_shape, first, number, value_range)
    return _of_files(name, image_shape, first, number, value_range)


def _split(name: str) -> tuple[str | None, str | None]:
    """The file and the key of an array; None for pictures."""
    if os.path.isdir(name):
        return None, None
    if name.lower().endswith('.npy'):
        return name, None
    place = name.lower().rfind('.npz:')
    if place >= 0:
        return name[: place + 4], name[place + 5 :]
    if name.lower().endswith('.npz'):
        return name, ''
    return None, None


def _of_files(name, image_shape, first, number, value_range) -> PictureSet:
    if os.path.isdir(name):
        found, passed_over = list_pictures(name)
    elif os.path.isfile(name):
        found, passed_over = [pathlib.Path(name)], {}
    else:
        raise ValueError(
            f'there is no folder {name}; pictures come from a folder, from '
            'FILE.npz:KEY or from FILE.npy.'
        )
    others = ', '.join(f'{n:,} {kind}' for kind, n in passed_over.items())
    if not found:
        raise ValueError(
            f'{name} has no picture'
            + (f', only other files ({others})' if others else '')
            + f'; pictures end in {", ".join(sorted(files.SUFFIXES))}, and '
            'arrays are given as one FILE.npy or FILE.npz:KEY.'
        )
    chosen = _choose(name, len(found), first, number)
    readings = [
        pictures.read_picture(
            found[i], tuple(image_shape[:2]), image_shape[2], value_range
        )
        for i in chosen
    ]
    done = _what(name, len(found), chosen, number)
    if others:
        done += f' Other files were passed over: {others}.'
    done += ''.join(f'\n{reading.done}' for reading in readings)
    names = tuple(
        os.path.relpath(found[i], name)
        if os.path.isdir(name)
        else found[i].name
        for i in chosen
    )
    return PictureSet(np.stack([r.x for r in readings]), names, done)


def _drawn(image_shape, first, number) -> PictureSet:
    height, width, channels = image_shape
    if height != width:
        raise ValueError(
            f'phantoms are squares, got a size of {height} x {width} pixels.'
        )
    if number > _MOST_DRAWN:
        raise ValueError(
            f'at most {_MOST_DRAWN:,} phantoms are drawn at once, got '
            f'{number:,}.'
        )
    x = phantoms.draw(_SEED, number, first, height)
    chosen = range(first, first + number)
    which = f'{first} to {chosen[-1]}' if number > 1 else f'number {first}'
    return PictureSet(
        np.repeat(x, channels, axis=3),
        tuple(f'{_PHANTOMS}[{i}]' for i in chosen),
        f'{_PHANTOMS}: {number:,} slices ({which}) of seed {_SEED}, drawn.',
    )


def list_pictures(folder) -> tuple[list[pathlib.Path], dict[str, int]]:
    """The pictures in a folder, ordered, and the number of others by suffix."""
    found: list[pathlib.Path] = []
    passed_over: dict[str, int] = {}
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        # A link may lead back to where it lies.
        real = os.path.realpath(place)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(
            n for n in folders if not n.startswith('.') and n != '__MACOSX'
        )
        for file in names:
            if file.startswith('.') or file.lower() in _JUNK:
                continue
            suffix = os.path.splitext(file)[1].lower()
            if suffix in files.SUFFIXES:
                found.append(pathlib.Path(place, file))
            else:
                kind = suffix or 'without a suffix'
                passed_over[kind] = passed_over.get(kind, 0) + 1
    found.sort(key=lambda path: path.relative_to(folder).parts)
    return found, dict(sorted(passed_over.items()))


def _choose(name, total: int, first: int, number: int) -> range:
    if first >= total:
        raise ValueError(
            f'{name} has {total:,} pictures, numbered from 0, and so no number '
            f'{first:,}.'
        )
    return range(first, min(first + number, total))


def _what(name, total: int, chosen: range, number: int) -> str:
    last = chosen[-1]
    which = (
        f'number {chosen[0]}' if len(chosen) == 1 else f'{chosen[0]} to {last}'
    )
    fewer = f', not the {number:,} asked for' if len(chosen) < number else ''
    return f'{name}: {len(chosen):,} of {total:,} pictures ({which}){fewer}.'


def _of_array(path, key, image_shape, first, number, value_range) -> PictureSet:
    files.check_is_file(path)
    try:
        if key == '':
            key = _only_key(path)
        elif key is not None and key not in arrays.names(path):
            raise files.Refusal(
                f'{path} has no array {key!r}; it has '
                f'{_list(arrays.names(path))}.'
            )
        label = path if key is None else f'{path}:{key}'
        with arrays.open_array(path, key) as (stream, header):
            full = files.full_range(header.dtype, label)
            layout = _layout(label, header, image_shape)
            chosen = _choose(label, layout.total, first, number)
            if layout.is_one:
                values = arrays.read_rows(stream, header, 0, header.shape[0])
                values = values[None]
            else:
                values = arrays.read_rows(
                    stream, header, chosen[0], chosen[-1] + 1
                )
    except files.Refusal:
        raise
    except arrays.ERRORS as error:
        raise ValueError(
            f'{path} cannot be read as a NumPy file: '
            f'{files.describe_error(error)}.'
        ) from None
    if layout.channels_first:
        values = np.moveaxis(values, 1, -1)
    if layout.channels_missing:
        values = values[..., None]
    # All at once, so that one rule of values goes for all: as one tall picture.
    tall = values.reshape(-1, *values.shape[2:])
    raw = files.of_values(tall, full)
    pixels, notes = pictures.to_channels(
        raw, image_shape[2], value_range, label
    )
    x = pictures.to_signed(pixels).reshape(
        len(chosen), *image_shape[:2], image_shape[2]
    )
    done = _what(label, layout.total, chosen, number)
    done = f'{done[:-1]}; {raw.kind}{"".join(f"; {n}" for n in notes)}.'
    label = pathlib.Path(path).stem if key is None else key
    return PictureSet(x, tuple(f'{label}[{i}]' for i in chosen), done)


def _only_key(path) -> str:
    keys = arrays.names(path)
    if len(keys) != 1:
        raise files.Refusal(
            f'{path} has the arrays {_list(keys)}; name one of them as '
            f'{path}:KEY.'
        )
    return keys[0]


def _list(keys: list[str]) -> str:
    names = ', '.join(k[:40] for k in keys[:12]) or 'none'
    return names + (', ...' if len(keys) > 12 else '')


@dataclasses.dataclass(frozen=True)
class _Layout:
    """How an array holds pictures.

    Attributes:
        total: the number of pictures.
        is_one: whether the array is one picture, without a first axis.
        channels_first: whether channels come before height and width.
        channels_missing: whether there is no axis of channels.
    """

    total: int
    is_one: bool = False
    channels_first: bool = False
    channels_missing: bool = False


def _layout(label, header, image_shape) -> _Layout:
    height, width, channels = image_shape
    counts = {1, 3, 4, channels}
    shape = header.shape
    found = []
    if len(shape) == 4 and shape[1:3] == (height, width) and shape[3] in counts:
        found.append(_Layout(shape[0]))
    if len(shape) == 4 and shape[2:] == (height, width) and shape[1] in counts:
        found.append(_Layout(shape[0], channels_first=True))
    if len(shape) == 3 and shape[:2] == (height, width) and shape[2] in counts:
        found.append(_Layout(1, is_one=True))
    if len(shape) == 3 and shape[1:] == (height, width):
        found.append(_Layout(shape[0], channels_missing=True))
        # Three grey pictures, or the three channels of one.
        if shape[0] == 3:
            found.append(_Layout(1, is_one=True, channels_first=True))
    if shape == (height, width):
        found.append(_Layout(1, is_one=True, channels_missing=True))
    if len(found) == 1:
        return found[0]
    raise files.Refusal(
        f'{label} is {header.dtype} {_shape(shape)}, '
        + ('which can be read in two ways; it' if found else 'but')
        + f' must be (N, {height}, {width}, C) or (N, C, {height}, {width}) '
        f'with {_listed(counts)} channels'
        + f', or (N, {height}, {width}) for grey; arrays are not resized.'
    )


def _listed(counts: set[int]) -> str:
    *some, last = sorted(counts)
    return f'{", ".join(map(str, some))} or {last}'


def _shape(shape) -> str:
    text = str(shape)
    return text if len(text) <= 60 else text[:57] + '...'
