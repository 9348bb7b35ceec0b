"""One decoder for every file: its numbers as they are, and what they mean.

Nothing is scaled, resized or brought to other channels here. Pillow reads the
formats of FORMATS; tifffile reads TIFFs that hold more than Pillow keeps, 16
bits of colour or floats of colour; Radiance and NumPy files are read here.
Which of them a file is for is told by its first bytes, not by its suffix.
"""

import contextlib
import dataclasses
import logging
import os
import pathlib
import warnings
import zlib

import numpy as np
from PIL import (
    ExifTags,
    Image,
    ImageCms,
    ImageOps,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from invjax.images import arrays, radiance

# Formats of Pillow that hold pictures. EPS would start another program; of a
# JPEG 2000 that is damaged, its decoder fills what is missing without a word.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'PNG', 'PPM', 'TGA', 'TIFF', 'WEBP')
# fmt: off
# How the names of such files end, in small letters.
SUFFIXES = frozenset((
    '.avif', '.bmp', '.gif', '.hdr', '.jfif', '.jpe', '.jpeg', '.jpg', '.pbm',
    '.pfm', '.pgm', '.png', '.pnm', '.ppm', '.tga', '.tif', '.tiff', '.webp',
))
# fmt: on
# A photograph has at most some hundred million; more would take gigabytes.
MAX_PIXELS = 100_000_000


class Refusal(ValueError):
    """A file that is understood, and refused in a sentence of its own."""


@dataclasses.dataclass(frozen=True)
class Raw:
    """A picture as its file holds it, upright.

    Attributes:
        pixels: (H, W, S), bool, unsigned or signed integers, or floats.
        full: the largest value of the integer type, or of as many bits as the
            file says that it has: white. None for floats.
        alpha: None, or the last of the S samples is opacity: 'straight', or
            'premultiplied', where colours have been multiplied by it.
        source: the format, such as 'PNG'.
        kind: type and colours in words, such as '16-bit grey'.
        notes: what was done on the way, one phrase each.
        reduced: whether the file has more bits than `pixels`.
        linear: whether the numbers are amounts of light, without the curve
            that pictures are stored with.
    """

    pixels: np.ndarray
    full: float | None
    alpha: str | None
    source: str
    kind: str
    notes: tuple[str, ...] = ()
    reduced: bool = False
    linear: bool = False

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.pixels.shape[:2]

    @property
    def colours(self) -> np.ndarray:
        """The samples that are not opacity, (H, W, S or S - 1)."""
        return self.pixels if self.alpha is None else self.pixels[..., :-1]

    @property
    def opacity(self) -> np.ndarray | None:
        """(H, W) from 0, transparent, to 1, as float32; None if all is 1."""
        if self.alpha is None:
            return None
        opacity = self.pixels[..., -1].astype(np.float32)
        return opacity if self.full is None else opacity / self.full


def read_raw(path) -> Raw:
    """Read a picture's numbers.

    - A palette, CMYK, YCbCr and Lab become RGB of 8 bits.
    - Of several frames or pages the first is read, which is noted.
    - The EXIF orientation is respected. A colour profile is not applied.
    - Colour of 16 bits is cut to 8 where the format is not TIFF or NumPy, and
      in TIFFs that are compressed other than by Deflate, PackBits, LZMA or
      Zstandard; this is noted.
    - NumPy files (`.npy`) are (H, W), (H, W, S) or, where only the first axis
      can be channels, (S, H, W). Four channels are RGB and opacity.

    Args:
        path: the file. Its suffix does not matter.

    Raises:
        ValueError: in one sentence that names the file, if it is not there,
            cannot be read to its end, has above MAX_PIXELS pixels, or is no
            picture.
    """
    check_is_file(path)
    path = pathlib.Path(path)
    try:
        with _quiet():
            return _read(path)
    except Refusal:
        raise
    except UnidentifiedImageError:
        raise ValueError(
            f'{path} cannot be read as a picture: it is none of '
            f'{", ".join(FORMATS)}, Radiance or NumPy.'
        ) from None
    except Exception as error:
        # Decoders meet damaged bytes with whatever they stumble over
        # (struct.error, SyntaxError, KeyError, MemoryError, ...).
        raise ValueError(
            f'{path} cannot be read as a picture: {describe_error(error)}.'
        ) from None


def read_numbers(path) -> np.ndarray | None:
    """The array of a NumPy file as it is, or None if it is no such file.

    Raises:
        ValueError: in one sentence that names the file, if it is not there or
            not whole.
    """
    check_is_file(path)
    try:
        with open(path, 'rb') as file:
            if file.read(len(arrays.MAGIC)) != arrays.MAGIC:
                return None
        return arrays.read(path)
    except arrays.ERRORS as error:
        raise ValueError(
            f'{path} cannot be read as a NumPy file: {describe_error(error)}.'
        ) from None


def check_is_file(path) -> None:
    """Refuse, with a ValueError, what is no file that could be opened."""
    if os.path.isdir(path):
        raise ValueError(f'{path} is a folder, but must be a file.')
    # A pipe or a device has no end, and is no file in this sense either.
    if not os.path.isfile(path):
        raise ValueError(f'there is no file {path}.')


def describe_error(error: Exception) -> str:
    """An error as the end of a sentence: one line of at most 100 characters."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    words = ' '.join(str(error).split()) or type(error).__name__
    words = ''.join(c if c.isprintable() else '?' for c in words)
    return words[:100].rstrip('. ')


@contextlib.contextmanager
def _quiet():
    """Keep the decoders' warnings to themselves: refusals say what matters."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            yield
    finally:
        logging.disable(before)


def _read(path: pathlib.Path) -> Raw:
    with path.open('rb') as file:
        start = file.read(16)
    if start.startswith(arrays.MAGIC):
        return _of_array(path)
    if start.startswith(radiance.MAGICS):
        return _of_radiance(path)
    if start[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return _of_tiff(path)
    with _open(path) as image:
        raw = of_pillow(image, path)
    check_png(path)
    return raw


_PNG = b'\x89PNG\r\n\x1a\n'


def check_png(path) -> None:
    """Refuse a PNG whose pixels do not have their checksums.

    Pillow leaves them unread once it has all rows, so pixels that a flipped bit
    has changed would pass. Any other file passes here.

    Raises:
        ValueError: in one sentence that names the file.
    """
    data = pathlib.Path(path).read_bytes()
    if not data.startswith(_PNG):
        return
    at, end = len(_PNG), len(data)
    while at + 12 <= end:
        length = int.from_bytes(data[at : at + 4])
        name = data[at + 4 : at + 8]
        after = at + 8 + length
        checksum = int.from_bytes(data[after : after + 4])
        # Chunks in capitals make the pixels; text and dates do not.
        counts = name[:1].isupper() or name == b'tRNS'
        if counts and zlib.crc32(data[at + 4 : after]) != checksum:
            raise Refusal(
                f'{path} cannot be read as a picture: it is damaged (a checksum '
                'of its PNG does not fit).'
            )
        at = after + 4


def _check_size(path, height: int, width: int) -> None:
    if height < 1 or width < 1:
        raise Refusal(f'{path} has no pixels ({width} x {height}).')
    if height * width > MAX_PIXELS:
        raise Refusal(
            f'{path} is {width:,} x {height:,}, but at most '
            f'{MAX_PIXELS:,} pixels are read.'
        )


def _open(path) -> Image.Image:
    try:
        image = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError:
        raise Refusal(
            f'{path} is too large: at most {MAX_PIXELS:,} pixels are read.'
        ) from None
    _check_size(path, image.height, image.width)
    return image


def of_pillow(image: Image.Image, path) -> Raw:
    """What a picture that Pillow has opened holds."""
    notes = []
    if getattr(image, 'is_animated', False):
        notes.append('the first of its frames')
        image.seek(0)
    # A picture that was made in memory has no tiles.
    tiles = list(getattr(image, 'tile', ()))
    reduced = image.mode in _COLOURS and any(map(_is_deep, tiles))
    if _has_other_profile(image):
        notes.append('its colour profile not applied')
    image.load()
    source = image.format or 'Pillow'
    image, turned = _upright(image)
    if turned:
        notes.append(turned)
    if image.mode in _CONVERTED:
        notes.append(f'{image.mode} converted to RGB')
    pixels, full, alpha = _samples(image, tiles, path)
    hidden = image.info.get('transparency')
    if alpha is None and hidden is not None and full is not None:
        # One colour stands for transparent pixels. Its samples have the bits
        # of the file, so 8 of 16 are cut off here too.
        hidden = np.atleast_1d(hidden) >> (8 if reduced else 0)
        if image.mode == '1':
            hidden = hidden > 0
        opacity = full * np.any(pixels != hidden, axis=-1, keepdims=True)
        pixels = np.append(pixels, opacity.astype(pixels.dtype), axis=-1)
        alpha = 'straight'
    if reduced:
        notes.append('16 bits a channel read as 8')
    return Raw(
        pixels=pixels,
        full=full,
        alpha=alpha,
        source=source,
        kind=_kind(pixels, alpha, mode=image.mode),
        notes=tuple(notes),
        reduced=reduced,
    )


def _samples(image, tiles, path) -> tuple[np.ndarray, float | None, str | None]:
    """Pixels, (H, W, S), with what `Raw` calls `full` and `alpha`."""
    mode = image.mode
    full: float | None = 255.0
    alpha: str | None = None
    if mode in _CONVERTED:
        pixels = np.asarray(_to_rgb(image))
    elif mode in ('P', 'PA'):
        alpha = 'straight' if image.has_transparency_data else None
        pixels = np.asarray(image.convert('RGBA' if alpha else 'RGB'))
    elif mode in ('LA', 'La', 'RGBA', 'RGBa'):
        alpha = 'premultiplied' if mode.endswith('a') else 'straight'
        pixels = np.asarray(image)
    elif mode == 'RGBX':
        pixels = np.asarray(image)[..., :3]
    elif mode in ('1', 'L', 'RGB', 'F') or mode.startswith('I'):
        pixels = np.asarray(image)
        full = _full_of_pillow(mode, tiles)
    else:
        raise Refusal(f'{path} has the mode {mode}, which is not read.')
    return pixels.reshape(image.height, image.width, -1), full, alpha


def _has_other_profile(image) -> bool:
    """Whether colours are to be seen with another profile than sRGB."""
    profile = image.info.get('icc_profile')
    if not profile or image.mode not in ('RGB', 'RGBA', 'P'):
        return False
    # Profiles of version 4 hold their names in UTF-16.
    names = b'sRGB', 'sRGB'.encode('utf-16-be')
    return not any(name in profile for name in names)


# Modes of Pillow in which colours are others than red, green and blue.
_CONVERTED = ('CMYK', 'YCbCr', 'HSV', 'LAB')
# Modes of Pillow in which it keeps 8 bits.
_COLOURS = ('L', 'LA', 'RGB', 'RGBA', 'RGBX', 'RGBa', 'CMYK', 'P')


def _is_deep(tile) -> bool:
    """Whether a part of a file has above 8 bits a sample."""
    if tile.codec_name.startswith('ppm') and isinstance(tile.args, tuple):
        return tile.args[-1] > 255
    return ';16' in str(tile.args)


def _full_of_pillow(mode: str, tiles) -> float | None:
    if mode == 'F':
        return None
    if mode.startswith('I;16'):
        return 4095.0 if 'I;12' in str(tiles) else 65535.0
    # 32-bit integers come from PPM alone, scaled to 16 bits. Those of TIFF are
    # read elsewhere.
    return {'1': 1.0, 'I': 65535.0}.get(mode, 255.0)


def _upright(image) -> tuple[Image.Image, str]:
    """The picture turned as its EXIF says, and a phrase on it."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        # Pillow has turned a TIFF by itself.
        if orientation == 1 or image.format == 'TIFF':
            return image, ''
        return ImageOps.exif_transpose(image), 'turned upright'
    except Exception:
        # Damaged EXIF data say nothing, and the pixels are whole.
        return image, 'its EXIF data cannot be read'


def _to_rgb(image) -> Image.Image:
    if image.mode != 'LAB':
        return image.convert('RGB')
    converted = ImageCms.profileToProfile(
        image,
        ImageCms.createProfile('LAB'),
        ImageCms.createProfile('sRGB'),
        outputMode='RGB',
    )
    assert converted is not None  # As it is only where it works in place.
    return converted


def _kind(pixels, alpha, mode='') -> str:
    """Type and colours in words."""
    samples = pixels.shape[-1] - (alpha is not None)
    colours = {1: 'grey', 3: 'RGB'}.get(samples, f'{samples} channels')
    if mode in ('P', 'PA'):
        colours = 'palette'
    if alpha is not None:
        colours += ' with opacity'
    bits = 1 if pixels.dtype == bool else 8 * pixels.dtype.itemsize
    number = 'float' if pixels.dtype.kind == 'f' else 'bit'
    return f'{bits}-bit {"float " * (number == "float")}{colours}'


# The eight orientations of EXIF and TIFF, for (H, W, S).
_TURNS = {
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x.swapaxes(0, 1)[:, ::-1],
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x.swapaxes(0, 1)[::-1],
}


def _of_tiff(path) -> Raw:
    """By Pillow where it keeps all bits, else by tifffile where that can."""
    image = None
    with contextlib.suppress(Exception):
        image = Image.open(path, formats=('TIFF',))
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return _of_tifffile(path)
    with image:
        _check_size(path, image.height, image.width)
        tags = image.tag_v2
        bits = max(tags.get(TiffImagePlugin.BITSPERSAMPLE, (1,)))
        signed = 2 in tags.get(TiffImagePlugin.SAMPLEFORMAT, ())
        if image.mode == 'CMYK' or (bits <= 8 and not signed):
            return of_pillow(image, path)
        try:
            return _of_tifffile(path)
        except Refusal:
            raise
        except Exception:
            # Compressed as tifffile alone cannot read. But Pillow does not
            # say how wide its wide integers were, nor whether white is 0.
            white_is_0 = (
                tags.get(TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0
            )
            if image.mode == 'I' or white_is_0:
                raise
            return of_pillow(image, path)


def _of_tifffile(path) -> Raw:
    import tifffile

    photometric = tifffile.PHOTOMETRIC
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages.first
        _check_size(path, page.imagelength, page.imagewidth)
        if page.nbytes > 16 * MAX_PIXELS or page.axes not in (
            *('YX', 'YXS', 'SYX'),
        ):
            raise Refusal(
                f'{path} must hold one picture of height, width and channels, '
                f'got {page.shape} ({page.axes}).'
            )
        if page.photometric not in (
            photometric.MINISBLACK,
            photometric.MINISWHITE,
            photometric.RGB,
        ):
            raise Refusal(
                # A number that TIFF does not know has no name.
                f'{path} has more than 8 bits in the colours '
                f'{getattr(page.photometric, "name", page.photometric)}; only '
                'grey and RGB are read.'
            )
        _check_segments(page, path)
        pixels = page.asarray(maxworkers=1)
        notes = ['the first of its pages'] if len(tiff.pages) > 1 else []
        orientation = page.tags.valueof('Orientation', default=1)
        extra = page.extrasamples
        bits = page.bitspersample
        inverted = page.photometric == photometric.MINISWHITE
    if page.axes == 'SYX':
        pixels = np.moveaxis(pixels, 0, -1)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    full = full_range(pixels.dtype, path)
    if full is not None and isinstance(bits, int) and bits < 32:
        signed = pixels.dtype.kind == 'i'
        full = float(2 ** (bits - signed) - 1)
    if inverted:
        if full is None:
            raise Refusal(f'{path} holds floats with white as 0; store black.')
        pixels = (full - pixels.astype(np.float64)).astype(pixels.dtype)
    if orientation != 1:
        pixels = _TURNS.get(orientation, _TURNS[1])(pixels)
        notes.append('turned upright')
    alpha = None
    if extra and extra[-1] in (1, 2) and pixels.shape[-1] in (2, 4):
        alpha = 'premultiplied' if extra[-1] == 1 else 'straight'
    return Raw(
        pixels=pixels,
        full=full,
        alpha=alpha,
        source='TIFF',
        kind=_kind(pixels, alpha),
        notes=tuple(notes),
    )


def _check_segments(page, path) -> None:
    """Refuse a TIFF that is not whole; tifffile would fill what is missing."""
    import tifffile

    end = os.path.getsize(path)
    parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
    is_whole = all(
        offset > 0 and count > 0 and offset + count <= end
        for offset, count in parts
    )
    if page.compression == tifffile.COMPRESSION.NONE:
        bits = page.bitspersample * page.samplesperpixel
        row = -(-page.imagewidth * bits // 8)
        length = sum(count for _, count in parts)
        is_whole = is_whole and length >= row * page.imagelength
    if not is_whole:
        raise Refusal(f'{path} cannot be read as a picture: it is not whole.')


def full_range(dtype: np.dtype, name) -> float | None:
    """The largest value of an integer type, 1 of bool, None of floats.

    Raises:
        ValueError: for types that hold no real numbers.
    """
    if dtype.kind not in 'buif':
        raise Refusal(
            f'{name} holds {dtype}, but must hold bool, integers or floats.'
        )
    if dtype.kind == 'f':
        return None
    return 1.0 if dtype.kind == 'b' else float(np.iinfo(dtype).max)


def _of_array(path) -> Raw:
    pixels = arrays.read(path)
    full = full_range(pixels.dtype, path)
    notes = []
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    elif pixels.ndim == 3 and pixels.shape[-1] > 4 and pixels.shape[0] <= 4:
        pixels = np.moveaxis(pixels, 0, -1)
        notes.append('channels moved from the first axis to the last')
    if pixels.ndim != 3 or not pixels.size:
        raise Refusal(
            f'{path} must hold one picture, (H, W), (H, W, C) or (C, H, W), '
            f'got {pixels.shape}.'
        )
    _check_size(path, *pixels.shape[:2])
    return of_values(pixels, full, tuple(notes))


def of_values(pixels, full: float | None, notes: tuple[str, ...] = ()) -> Raw:
    """A picture from an array, (H, W, S); four channels are RGB and opacity."""
    alpha = 'straight' if pixels.shape[-1] == 4 else None
    return Raw(
        pixels=pixels,
        full=full,
        alpha=alpha,
        source='NumPy',
        kind=_kind(pixels, alpha),
        notes=notes,
    )


def _of_radiance(path) -> Raw:
    height, width, decode = radiance.open_picture(path.read_bytes())
    _check_size(path, height, width)
    pixels = decode()
    return Raw(
        pixels=pixels,
        full=None,
        alpha=None,
        source='Radiance',
        kind=_kind(pixels, None),
        linear=True,
    )
