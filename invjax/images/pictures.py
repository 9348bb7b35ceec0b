"""Pictures and measurements: files to float32 (H, W, C) in [-1, 1] and back."""

import dataclasses
import pathlib

import numpy as np
from PIL import Image, ImageOps

from invjax.images import files

# Weights of red, green and blue in grey (ITU-R BT.601), as in Pillow.
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
# Enlarging and shrinking overshoots at edges, in 8 bits and above.
_RESAMPLING = Image.Resampling.LANCZOS


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a file gave.

    Attributes:
        x: the numbers, as the function that returns them says.
        done: a sentence on what the file held and what was done to it, with
            its name, for the user to see.
    """

    x: np.ndarray
    done: str


def read_picture(
    path,
    size: tuple[int, int] | None = None,
    channels: int = 3,
    value_range: tuple[float, float] | None = None,
) -> Reading:
    """Read a picture, upright, and bring it to a given size.

    Black and white are found by rule:

    - integers go from 0 to the largest value of their type, or of the bits that
      a TIFF declares. With above 8 bits, a picture that uses only the lowest
      quarter of that range may be one of 10, 12 or 14 bits: it is refused, as
      is one of 8 bits that holds only 0 and 1, unless `value_range` says what
      is meant;
    - floats go from 0 to 1, and are refused outside, unless `value_range` says
      what is meant. Those of Radiance files are amounts of light, and go
      through the curve of sRGB afterwards.

    Transparent pixels are laid over white. For 3 channels grey is repeated, and
    for 1 channel colour becomes 0.299 R + 0.587 G + 0.114 B. See
    `files.read_raw` for what is read and how.

    Args:
        path: a picture, or a `.npy` file.
        size: (H, W) in pixels; the largest part of that shape is cut out of the
            centre and resized (Lanczos). None keeps the size.
        channels: C; other numbers than 1 and 3 must be those of the file, a
            TIFF or `.npy`, where all are data.
        value_range: the values that are black and white; others lie between
            them.

    Returns:
        (H, W, C) float32 in [-1, 1].

    Raises:
        ValueError: in one sentence that names the file, for what the rules
            above refuse, values that are not finite, a picture that is
            transparent all over, and files that cannot be read.
    """
    raw = files.read_raw(path)
    pixels, notes = to_channels(raw, channels, value_range, path)
    height, width = raw.size
    if size is not None and (height, width) != size:
        pixels = _fit(pixels, *size)
        part = 'square' if size[0] == size[1] else 'part'
        notes.append(f'centre {part} resized to {size[1]} x {size[0]}')
    return Reading(to_signed(pixels), _done(path, raw, notes))


def read_measurement(
    path,
    shape: tuple[int, ...],
    is_picture: bool = True,
    value_range: tuple[float, float] | None = None,
    support: np.ndarray | float = 1.0,
) -> Reading:
    """Read a measurement, which must have its size already.

    One that is a picture is read as `read_picture` says, but that values may
    lie outside a `value_range` that is given, since noise may take them there.
    Any other, such as the magnitudes of phase retrieval, is read from `.npy`
    alone and as it is, in the operator's own units: a picture file would have
    cut and scaled its values.

    Args:
        path: the file.
        shape: that the operator measures: (h, w, c), or any other for one that
            is no picture.
        is_picture: whether y has -1 for black and 1 for white.
        value_range: see `read_picture`.
        support: broadcasts to y; 0 where the operator observes nothing. There a
            value that is not finite is allowed, and read as 0.

    Returns:
        float32 in that shape.

    Raises:
        ValueError: in one sentence that names the file, if it has another
            shape, since resizing would change how a measurement came about, or
            as for `read_picture`.
    """
    if not is_picture:
        return _read_numbers(path, shape, value_range, support)
    raw = files.read_raw(path)
    if raw.size != tuple(shape[:2]):
        raise ValueError(
            f'{path} is {raw.size[1]} x {raw.size[0]}, but must be '
            f'{shape[1]} x {shape[0]}; a measurement is not resized.'
        )
    raw = _without_unseen(raw, shape, support)
    pixels, notes = to_channels(
        raw, shape[2], value_range, path, bounded=value_range is None
    )
    return Reading(to_signed(pixels), _done(path, raw, notes))


def _without_unseen(raw, shape, support) -> files.Raw:
    """Zero for what is not finite where nothing is observed."""
    if raw.full is not None:
        return raw
    seen = np.broadcast_to(support, shape) != 0
    if raw.pixels.shape != tuple(shape):
        seen = seen.any(axis=-1, keepdims=True)
    pixels = np.where(np.isfinite(raw.pixels) | seen, raw.pixels, 0)
    return dataclasses.replace(raw, pixels=pixels)


def _read_numbers(path, shape, value_range, support) -> Reading:
    expected = ' x '.join(map(str, shape))
    y = files.read_numbers(path)
    if y is None:
        raise ValueError(
            f'{path} is no .npy file, but the measurement of this task is no '
            'picture: its values would have been cut and scaled; give them as '
            f'they are in a .npy file, {expected}.'
        )
    if value_range is not None:
        raise ValueError(
            f'a value range is for pictures, but {path} must hold the '
            'measurement as it is, in the units of the operator.'
        )
    if y.shape != tuple(shape):
        raise ValueError(
            f'{path} is {" x ".join(map(str, y.shape))}, but must be '
            f'{expected}.'
        )
    kind = y.dtype
    with np.errstate(over='ignore'):
        y = y.astype(np.float32)
    unseen = np.broadcast_to(support, shape) == 0
    y = np.where(unseen & ~np.isfinite(y), np.float32(0), y)
    _check_finite(y, path)
    return Reading(
        y,
        f'{path}: {expected}, {kind} values from {y.min():.4g} to '
        f'{y.max():.4g}, as they are.',
    )


def scale(
    values: np.ndarray,
    full: float | None,
    value_range: tuple[float, float] | None,
    name,
    bounded: bool = True,
) -> np.ndarray:
    """Numbers of any type to [0, 1] by the rules of `read_picture`.

    Args:
        values: of any shape.
        full: the largest value of an integer type; None for floats.
        value_range: the values that become 0 and 1, or None.
        name: whose they are, for a refusal.
        bounded: whether values outside [0, 1] are refused.

    Returns:
        float32 in the shape of `values`.

    Raises:
        ValueError: as `read_picture` says.
    """
    _check_finite(values, name)
    least, largest = (float(values.min()), float(values.max()))
    low, high = (0.0, 1.0 if full is None else full)
    found = f'{name} has values from {least:.6g} to {largest:.6g}'
    ask = 'give the range of black and white as value_range'
    if value_range is not None:
        low, high = map(float, value_range)
        if not (np.isfinite([low, high]).all() and low < high):
            raise ValueError(
                f'value_range must be two numbers, the lower one first, got '
                f'{value_range}.'
            )
        ask = f'and the value_range given is {low:.6g}, {high:.6g}'
    elif full is not None and _is_dark(least, largest, full):
        full_too = f', or 0,{full:.0f} if it is meant so'
        raise ValueError(
            f'{found}, of {full:.6g} that its type holds, and would be almost '
            f'black; {ask}, such as {_guess_range(largest)}'
            f'{full_too if full < 2**16 else ""}.'
        )
    if bounded and not (low <= least and largest <= high):
        if value_range is None:
            ask = f'but must be from 0 to {high:.6g}; {ask}, such as ' + (
                '-1,1' if -1 <= least < 0 else _guess_range(largest, least)
            )
        raise ValueError(f'{found}, {ask}.')
    if values.dtype.itemsize > 2 or values.dtype.kind == 'f':
        values = values.astype(np.float64)
    return ((values - low) / (high - low)).astype(np.float32)


def _is_dark(least: float, largest: float, full: float) -> bool:
    """Whether integers look like those of a type with fewer bits."""
    if least < 0 or largest == 0:
        return False
    # 14 bits or fewer in 16; or 1 in 8.
    return largest <= full / 4 if full > 255 else largest == 1 < full


def _guess_range(largest: float, least: float = 0.0) -> str:
    """The range of as many bits as the largest value needs."""
    if least < 0:
        return f'{least:.6g},{largest:.6g}'
    for bits in (8, 10, 12, 14, 16):
        if 15 < largest <= 2**bits - 1:
            return f'0,{2**bits - 1}'
    return f'0,{largest:.6g}'


def _check_finite(values, name) -> None:
    if not np.isfinite(values).all():
        wrong = np.size(values) - np.isfinite(values).sum()
        raise ValueError(
            f'{name} has {wrong:,} values that are not finite (NaN or '
            'infinite).'
        )


def to_channels(
    raw: files.Raw,
    channels: int,
    value_range: tuple[float, float] | None,
    path,
    bounded: bool = True,
) -> tuple[np.ndarray, list[str]]:
    """Scale a picture's values, lay it over white, bring it to its channels.

    Args:
        raw: the picture as its file holds it.
        channels: C.
        value_range: as for `read_picture`.
        path: its name, for a refusal.
        bounded: whether values outside the range are refused.

    Returns:
        (H, W, C), uint8 or float32 in [0, 1], and a phrase for each thing that
        was done.

    Raises:
        ValueError: as `read_picture` says.
    """
    notes = []
    if channels not in (1, 3) and raw.alpha is not None:
        notes.append('opacity taken as data')
    raw = _with_channels(raw, channels, path)
    _check_bits(raw, value_range, path)
    if raw.alpha is None and raw.full == 255 and value_range is None:
        # Stays in 8 bits, as other programs resize it.
        colours = raw.pixels
        scale(colours, raw.full, None, path)
    else:
        colours = scale(raw.colours, raw.full, value_range, path, bounded)
    if value_range is not None:
        black, white = value_range
        notes.append(f'{black:.6g} as black and {white:.6g} as white')
    if raw.alpha is not None:
        colours, note = _over_white(raw, colours, path)
        notes.append(note)
    if raw.linear:
        colours = _srgb(colours)
        notes.append('light brought to the curve of sRGB')
    found = colours.shape[-1]
    if found == 1 and channels == 3:
        colours = np.repeat(colours, 3, axis=-1)
    elif found == 3 and channels == 1:
        if colours.dtype == np.uint8:
            colours = colours / np.float32(255)
        colours = (colours @ _LUMA)[..., None]
        notes.append('colour became grey')
    return colours, notes


def _with_channels(raw, channels, path) -> files.Raw:
    """The picture if it can be brought to so many channels."""
    if channels not in (1, 3):
        found = raw.pixels.shape[-1]
        if found != channels or raw.source not in ('NumPy', 'TIFF'):
            raise ValueError(
                f'{path} is {raw.kind}, but must have {channels} channels, in '
                'a TIFF or .npy file.'
            )
        return dataclasses.replace(raw, alpha=None)
    found = raw.colours.shape[-1]
    if found not in (1, 3):
        raise ValueError(
            f'{path} has {found} channels, but must have {channels}.'
        )
    return raw


def _check_bits(raw, value_range, path) -> None:
    """Refuse a picture of which reading kept too few bits."""
    if value_range is not None and raw.alpha == 'premultiplied':
        raise ValueError(
            f'{path} has colours that were multiplied by their opacity, for '
            'which a value_range has no meaning.'
        )
    if not raw.reduced:
        return
    if value_range is not None:
        raise ValueError(
            f'{path} has colours of more than 8 bits, which are cut to 8 in '
            'reading; for a value_range save it as an uncompressed TIFF or as '
            '.npy.'
        )
    if 0 < raw.colours.max() < 64:
        raise ValueError(
            f'{path} has 16 bits, but uses the lowest quarter of their range '
            'and would be almost black; save it with the full range, or as an '
            'uncompressed TIFF or .npy file, for which value_range can be '
            'given.'
        )


def _srgb(light: np.ndarray) -> np.ndarray:
    """Light to values of a picture, both in [0, 1] (IEC 61966-2-1)."""
    curved = 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055
    return np.where(light <= 0.0031308, 12.92 * light, curved)


def _over_white(raw, colours, path) -> tuple[np.ndarray, str]:
    opacity = raw.opacity
    if not (opacity.min() >= 0 and opacity.max() <= 1):
        raise ValueError(
            f'{path} has opacities from {opacity.min():.6g} to '
            f'{opacity.max():.6g}, but they must be from 0 to 1.'
        )
    if opacity.max() == 0:
        raise ValueError(f'{path} is transparent all over.')
    opacity = opacity[..., None]
    shown = colours if raw.alpha == 'premultiplied' else colours * opacity
    through = (opacity < 1).sum()
    note = (
        f'{through:,} transparent pixels laid over white'
        if through
        else 'opaque all over'
    )
    laid = shown + (1 - opacity)
    # Colours that were multiplied and rounded may add up to a little more.
    return np.minimum(laid, 1) if raw.alpha == 'premultiplied' else laid, note


def _fit(pixels, height: int, width: int) -> np.ndarray:
    """The largest centre part of that shape, resized; (height, width, C)."""

    def fit(image):
        return np.asarray(
            ImageOps.fit(image, (width, height), method=_RESAMPLING)
        )

    channels = pixels.shape[-1]
    if pixels.dtype == np.uint8 and channels in (1, 3):
        resized = fit(
            Image.fromarray(pixels.squeeze(-1) if channels == 1 else pixels)
        )
        return resized.reshape(height, width, channels)
    planes = np.moveaxis(pixels.astype(np.float32), -1, 0)
    resized = np.stack(
        [fit(Image.fromarray(np.ascontiguousarray(p))) for p in planes], -1
    )
    return np.clip(resized, 0, 1)


def to_signed(pixels: np.ndarray) -> np.ndarray:
    """uint8, or floats in [0, 1], to float32 in [-1, 1]."""
    if pixels.dtype == np.uint8:
        return to_float(pixels)
    return 2 * pixels - 1


def _done(path, raw, notes) -> str:
    height, width = raw.size
    notes = [*raw.notes, *notes] or ['as it is']
    return f'{path}: {width} x {height}, {raw.kind}; {"; ".join(notes)}.'


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 0 to 255 to float32 in [-1, 1]."""
    return (pixels / 127.5 - 1).astype(np.float32)


def to_uint8(x: np.ndarray) -> np.ndarray:
    """[-1, 1], clipped, to uint8 0 to 255, rounded.

    Raises:
        ValueError: if a value is not finite; it would become a black pixel.
    """
    x = np.asarray(x)
    if not np.isfinite(x).all():
        raise ValueError('the image has values that are not finite.')
    return np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)


def planes(x: np.ndarray) -> np.ndarray:
    """What is shown of (H, W, C): itself where C is 1 or 3, else its planes.

    Channels that are neither grey nor red, green and blue have no colours, so
    each is a grey picture, (H, W); `plane_names` says which is which.

    Args:
        x: (H, W, C) of any numbers.

    Returns:
        (H, W, 1 or 3), or (H, C W, 1): channel 0 at the left.

    Raises:
        ValueError: for another number of axes, or no channels.
    """
    x = np.asarray(x)
    if x.ndim != 3 or x.shape[-1] < 1:
        raise ValueError(
            f'a picture has one or more channels, (H, W, C), got {x.shape}.'
        )
    if x.shape[-1] in (1, 3):
        return x
    height, width, channels = x.shape
    return np.moveaxis(x, -1, 1).reshape(height, channels * width, 1)


def from_planes(shown: np.ndarray, channels: int) -> np.ndarray:
    """The inverse of `planes`, given the number of channels; (H, W, C)."""
    if channels in (1, 3):
        return shown
    height, width, _ = shown.shape
    return np.moveaxis(
        shown.reshape(height, channels, width // channels), 1, -1
    )


def plane_names(channels: int) -> str:
    """What `planes` shows, for a caption; '' for grey and for RGB."""
    if channels in (1, 3):
        return ''
    numbers = ', '.join(map(str, range(channels)))
    return f'channels {numbers} from left to right'


def root_mean_square(values: np.ndarray) -> np.ndarray:
    """A map of the `planes` of (H, W, C), whose channels are averaged.

    Returns:
        (H, W); or (H, C W) for channels that are neither grey nor RGB, which
        measure different things.
    """
    return np.sqrt(np.mean(planes(np.asarray(values) ** 2), axis=-1))


def to_pillow(x: np.ndarray) -> Image.Image:
    """The `planes` of (H, W, C) in [-1, 1] as a picture of 8 bits."""
    x = planes(x)
    return Image.fromarray(to_uint8(x[..., 0] if x.shape[-1] == 1 else x))


def write_image(path, x: np.ndarray) -> pathlib.Path:
    """Write the `planes` of (H, W, C) in [-1, 1] as PNG, its folder too.

    Returns:
        The path.
    """
    picture = to_pillow(x)
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return path


def read_image(path, side: int | None = None) -> tuple[np.ndarray, str]:
    """`read_picture` of a square in RGB, as a pair."""
    reading = read_picture(path, None if side is None else (side, side))
    return reading.x, reading.done


def read_exact(path, side: int, mode: str = 'RGB') -> np.ndarray:
    """`read_measurement` of a square picture, `'RGB'` or `'L'`, (H, W, C)."""
    return read_measurement(path, (side, side, 3 if mode == 'RGB' else 1)).x
