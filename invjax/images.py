"""Pictures: files to float32 (H, W, C) in [-1, 1] and back, and sheets."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError


def read_image(path, side: int | None = None) -> tuple[np.ndarray, str]:
    """Read a picture as RGB, upright, and bring it to a square of given side.

    Args:
        path: any file that Pillow reads. Its EXIF orientation is respected and
            grey becomes RGB.
        side: pixels; the centre square is cut out and resized (Lanczos). None
            keeps the size.

    Returns:
        (H, W, 3) float32 in [-1, 1], and a sentence on what was done to it.

    Raises:
        ValueError: if the file is not there or is no picture.
    """
    picture = _open(path).convert('RGB')
    before = f'{picture.width} x {picture.height}'
    done = f'{path}: {before}, as it is'
    if side is not None and picture.size != (side, side):
        picture = ImageOps.fit(
            picture, (side, side), method=Image.Resampling.LANCZOS
        )
        done = f'{path}: {before}, centre square resized to {side} x {side}'
    return to_float(np.asarray(picture)), done


def read_exact(path, side: int, mode: str = 'RGB') -> np.ndarray:
    """Read a measurement or a mask, which must have the size already.

    Args:
        path: any file that Pillow reads.
        side: the height and the width that it must have, in pixels.
        mode: `'RGB'` or `'L'` (one grey channel).

    Returns:
        (side, side, 3 or 1) float32 in [-1, 1].

    Raises:
        ValueError: if it has another size. A measurement is never resized,
            since that would change how it came about.
    """
    picture = _open(path).convert(mode)
    if picture.size != (side, side):
        raise ValueError(
            f'{path} is {picture.width} x {picture.height}, but must be '
            f'{side} x {side}; a measurement or mask is not resized.'
        )
    pixels = np.asarray(picture).reshape(side, side, -1)
    return to_float(pixels)


def read_kernel(path) -> np.ndarray:
    """Read a blur kernel, a picture that is white where light goes.

    Args:
        path: any file that Pillow reads; colours become grey, and grey values
            count as they are, without a gamma curve.

    Returns:
        (h, w) float64, 0 or more, with sum 1.

    Raises:
        ValueError: if a side is even, so that there is no centre, or the
            picture is black.
    """
    picture = _open(path)
    # Conversion to 8 bits would cut off what 16 bits hold above 255.
    if not picture.mode.startswith(('I', 'F')):
        picture = picture.convert('L')
    kernel = np.asarray(picture, np.float64)
    height, width = kernel.shape
    if height % 2 == 0 or width % 2 == 0:
        raise ValueError(
            f'a kernel must have odd sides, and {path} is {width} x {height}.'
        )
    if not (kernel.min() >= 0 and 0 < kernel.sum() < np.inf):
        raise ValueError(
            f'a kernel must have light in it, and {path} is black.'
        )
    return kernel / kernel.sum()


def _open(path) -> Image.Image:
    try:
        return ImageOps.exif_transpose(Image.open(path))
    except FileNotFoundError:
        raise ValueError(f'there is no file {path}.') from None
    except (UnidentifiedImageError, OSError, SyntaxError) as error:
        raise ValueError(
            f'{path} cannot be read as a picture: {error}'
        ) from None


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


def write_image(path, x: np.ndarray) -> pathlib.Path:
    """Write (H, W, 3) in [-1, 1] as PNG, its folder too; returns the path."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_uint8(x)).save(path)
    return path


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    labels: Sequence[str] = (),
    cell: int = 192,
) -> Image.Image:
    """Images of one size in rows and columns, with titles above and at left.

    Args:
        rows: of (H, W, 3) images in [-1, 1].
        titles: one a column, or none; lines are parted by a newline.
        labels: one a row, or none.
        cell: side of a cell in pixels; images are enlarged by repetition.
    """
    lines = max((title.count('\n') + 1 for title in titles), default=0)
    top, left = 16 * lines + 6 if titles else 0, 150 if labels else 0
    gap, columns = 4, max(len(row) for row in rows)
    size = (
        left + columns * (cell + gap) - gap,
        top + len(rows) * (cell + gap) - gap,
    )
    picture = Image.new('RGB', size, 'white')
    draw = ImageDraw.Draw(picture)
    for j, title in enumerate(titles):
        place = (left + j * (cell + gap) + 4, 4)
        draw.multiline_text(place, title, 'black', font_size=13)
    for i, row in enumerate(rows):
        y = top + i * (cell + gap)
        if labels:
            draw.multiline_text((4, y + 4), labels[i], 'black', font_size=13)
        for j, x in enumerate(row):
            tile = Image.fromarray(to_uint8(x)).resize(
                (cell, cell), Image.Resampling.NEAREST
            )
            picture.paste(tile, (left + j * (cell + gap), y))
    return picture
