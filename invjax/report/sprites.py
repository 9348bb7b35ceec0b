"""Many small pictures of one size as a few large ones, for a page."""

import base64
import io
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from invjax import images

# Of a sheet; what decodes it holds 64 MB for a larger one.
_MOST_SIDE = 4096
# Quality of WebP from the best; None is without loss.
QUALITIES = (None, 90, 75, 55)


class Sprites(NamedTuple):
    """Pictures in sheets, row by row.

    Attributes:
        sheets: WebP files.
        columns, per_sheet: pictures in a row of a sheet, and in a sheet.
        width, height: of a picture, in pixels.
    """

    sheets: Sequence[bytes]
    columns: int
    per_sheet: int
    width: int
    height: int

    @property
    def num_bytes(self) -> int:
        """Of all sheets as `data:` addresses."""
        return sum(4 * len(sheet) // 3 + 40 for sheet in self.sheets)

    def layout(self, addresses: Sequence[str]) -> dict:
        """What a page's script needs, as plain data."""
        return {
            'sheets': list(addresses),
            'columns': self.columns,
            'perSheet': self.per_sheet,
            'width': self.width,
            'height': self.height,
        }

    def embedded(self) -> dict:
        """`layout` with the sheets as `data:` addresses."""
        return self.layout(
            [
                'data:image/webp;base64,' + base64.b64encode(sheet).decode()
                for sheet in self.sheets
            ]
        )

    def beside(self, folder: pathlib.Path, name: str) -> dict:
        """`layout` with the sheets written as files, in a folder of a page's.

        Args:
            folder: which is made; its name is a part of the addresses.
            name: what the files' names begin with.
        """
        folder.mkdir(parents=True, exist_ok=True)
        addresses = []
        for i, sheet in enumerate(self.sheets):
            (folder / f'{name}-{i}.webp').write_bytes(sheet)
            addresses.append(f'{folder.name}/{name}-{i}.webp')
        return self.layout(addresses)


def make(pictures: Sequence[np.ndarray], quality: int | None = None) -> Sprites:
    """Put pictures into sheets.

    Args:
        pictures: (H, W, C) in [-1, 1] each, one or more of one shape, of which
            `images.planes` are shown; what is not finite becomes grey.
        quality: of WebP, from 0 to 100; None is without loss.

    Raises:
        ValueError: for pictures of several shapes.
    """
    pictures = [images.planes(x) for x in pictures]
    shapes = {x.shape[:2] for x in pictures}
    if len(shapes) != 1:
        raise ValueError(
            f'sprites must be of one size, got {len(shapes)} of them.'
        )
    ((height, width),) = shapes
    most_columns = max(_MOST_SIDE // width, 1)
    per_sheet = most_columns * max(_MOST_SIDE // height, 1)
    # As near to a square as it can be, so that no side is too long.
    shown = min(len(pictures), per_sheet)
    columns = min(int(np.ceil(np.sqrt(shown))), most_columns)
    sheets = []
    for first in range(0, len(pictures), per_sheet):
        group = pictures[first : first + per_sheet]
        rows = -(-len(group) // columns)
        sheet = np.zeros((rows * height, columns * width, 3), np.uint8)
        for i, x in enumerate(group):
            top, left = i // columns * height, i % columns * width
            sheet[top : top + height, left : left + width] = images.to_uint8(
                np.nan_to_num(x, posinf=0, neginf=0)
            )
        buffer = io.BytesIO()
        kind = {'lossless': True} if quality is None else {'quality': quality}
        Image.fromarray(sheet).save(buffer, 'WEBP', **kind)
        sheets.append(buffer.getvalue())
    return Sprites(sheets, columns, per_sheet, width, height)


def fitting(
    groups: Sequence[Sequence[np.ndarray]], most_bytes: int
) -> list[Sprites] | None:
    """Sprites of several groups, of the best quality at which all fit.

    Args:
        groups: of pictures each.
        most_bytes: of all together, as `data:` addresses.

    Returns:
        One for each group; None where they do not fit at any quality.
    """
    for quality in QUALITIES:
        found = [make(group, quality) for group in groups]
        if sum(one.num_bytes for one in found) <= most_bytes:
            return found
    return None
