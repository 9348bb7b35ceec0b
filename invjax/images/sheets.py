"""Contact sheets: pictures in rows and columns, with titles."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from invjax.images.pictures import plane_names, to_pillow

_FONT_SIZE = 13
# Pixels between cells, and around text.
_GAP, _MARGIN = 4, 4
# Pixels, of the text at the left of a row.
_LABEL_WIDTH = 200
_PROBE = ImageDraw.Draw(Image.new('RGB', (1, 1)))


def sheet(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str] = (),
    labels: Sequence[str] = (),
    cell: int = 192,
) -> Image.Image:
    """Pictures in rows and columns, with titles above and at left.

    A picture is never made smaller. It is enlarged by repeating its pixels a
    whole number of times, the largest that fits its cell, and lies in the
    cell's top left corner. Text is broken into lines that fit.

    Args:
        rows: of (H, W, C) images in [-1, 1], of any sizes; other numbers of
            channels than 1 and 3 are shown as `pictures.planes`, which the
            titles then say.
        titles: one a column, or none; lines may be parted by a newline.
        labels: one a row, or none.
        cell: side of a cell in pixels, where no picture is larger than that;
            cells fit closely around the largest picture.
    """
    tiles = [[to_pillow(x) for x in row] for row in rows]
    names = plane_names(max(np.shape(x)[-1] for row in rows for x in row))
    if names:
        titles = [f'{title}\n{names}' for title in titles] or [names]
    every = [tile for row in tiles for tile in row]
    largest = [max(tile.size[i] for tile in every) for i in (0, 1)]
    scale = max(1, cell // max(largest))
    width, height = (scale * side for side in largest)
    titles = [_wrap(title, width - 2 * _MARGIN) for title in titles]
    labels = [_wrap(label, _LABEL_WIDTH) for label in labels]
    top = max((_text_size(title)[1] for title in titles), default=0)
    left = max((_text_size(label)[0] for label in labels), default=0)
    heights = [
        max(height, _text_size(labels[i])[1] if i < len(labels) else 0)
        for i in range(len(tiles))
    ]
    columns = max(len(titles), *(len(row) for row in tiles))
    size = (
        left + columns * (width + _GAP) - _GAP,
        top + sum(heights) + (len(tiles) - 1) * _GAP,
    )
    picture = Image.new('RGB', size, 'white')
    for j, title in enumerate(titles):
        _write(picture, (left + j * (width + _GAP), 0), title)
    y = top
    for i, row in enumerate(tiles):
        if i < len(labels):
            _write(picture, (0, y), labels[i])
        for j, tile in enumerate(row):
            times = min(width // tile.width, height // tile.height)
            tile = tile.resize(
                (times * tile.width, times * tile.height),
                Image.Resampling.NEAREST,
            )
            picture.paste(tile, (left + j * (width + _GAP), y))
        y += heights[i] + _GAP
    return picture


def _font():
    return ImageFont.load_default(_FONT_SIZE)


def _width(line: str) -> float:
    return _PROBE.textlength(line, font=_font())


def _wrap(text: str, width: float) -> str:
    """Break lines at spaces so that they fit, and words that are too long."""
    lines = []
    for paragraph in text.split('\n'):
        line = ''
        for word in paragraph.split(' '):
            longer = f'{line} {word}' if line else word
            if _width(longer) <= width:
                line = longer
                continue
            if line:
                lines.append(line)
            line = word
            while _width(line) > width and len(line) > 1:
                number = len(line) - 1
                while number > 1 and _width(line[:number]) > width:
                    number -= 1
                lines.append(line[:number])
                line = line[number:]
        lines.append(line)
    return '\n'.join(lines)


def _text_size(text: str) -> tuple[int, int]:
    """Width and height in pixels, with a margin around."""
    if not text:
        return 0, 0
    box = _PROBE.multiline_textbbox((0, 0), text, font=_font())
    return round(box[2]) + 2 * _MARGIN, round(box[3]) + 2 * _MARGIN


def _write(picture, place, text) -> None:
    x, y = place
    ImageDraw.Draw(picture).multiline_text(
        (x + _MARGIN, y + _MARGIN), text, 'black', font=_font()
    )
