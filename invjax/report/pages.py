"""Pages of results: one self-contained HTML file each, by Jinja."""

import base64
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from PIL import Image

from invjax import images

# Of a page; a mail server takes no more as an attachment.
MAX_BYTES = 10 * 2**20

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader('invjax.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
)


class Picture(NamedTuple):
    """A picture on a page.

    Attributes:
        name: above it, and its text where it cannot be shown.
        source: as a `data:` address.
        words: what is said below it.
    """

    name: str
    source: str
    words: str = ''


class Verdict(NamedTuple):
    """A sentence on what may be believed.

    Attributes:
        kind: 'good', 'bad' or 'unknown'.
        text: the sentence.
    """

    kind: str
    text: str


def render(template: str, title: str, **values: Any) -> str:
    """A page from a template of this package."""
    return _ENVIRONMENT.get_template(template).render(
        title=title,
        version=importlib.metadata.version('invjax'),
        date=datetime.date.today().isoformat(),
        **{'subtitle': '', 'aspect': None, **values},
    )


def write(path: str | os.PathLike, page: str) -> pathlib.Path:
    """Write a page; ValueError if it is larger than MAX_BYTES."""
    path = pathlib.Path(path)
    size = len(page.encode())
    if size > MAX_BYTES:
        raise ValueError(
            f'{path} would have {size / 2**20:.1f} MB, and must have at most '
            f'{MAX_BYTES // 2**20}; take fewer images or settings.'
        )
    path.write_text(page)
    return path


def source(x: np.ndarray, lossless: bool = True) -> str:
    """A picture, (H, W, 1 or 3) in [-1, 1], as a `data:` address.

    Args:
        lossless: PNG; else WebP of a tenth of the size, for many of them.
    """
    pixels = images.to_uint8(np.nan_to_num(np.asarray(x)))
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    return _encoded(Image.fromarray(pixels), lossless)


def _encoded(picture: Image.Image, lossless: bool = True) -> str:
    buffer = io.BytesIO()
    if lossless:
        picture.save(buffer, 'PNG', optimize=True)
    else:
        picture.convert('RGB').save(buffer, 'WEBP', quality=90)
    kind = 'png' if lossless else 'webp'
    text = base64.b64encode(buffer.getvalue()).decode()
    return f'data:image/{kind};base64,{text}'


# Magma at eight places; in between it is close to linear.
_COLOURS = np.array(
    [
        [0, 0, 4],
        [40, 17, 89],
        [101, 26, 128],
        [159, 47, 127],
        [217, 70, 107],
        [248, 118, 92],
        [254, 187, 129],
        [252, 253, 191],
    ],
    float,
)
_SCALE_HEIGHT = 4  # pixels of the scale below a map, with a gap as high


def coloured(values: np.ndarray, largest: float) -> str:
    """A map of numbers from 0 to `largest`, with its scale as a strip below."""
    width = values.shape[1]
    strip = np.linspace(0, 1, width)[None].repeat(_SCALE_HEIGHT, axis=0)
    gap = np.full((_SCALE_HEIGHT, width, 3), 255, np.uint8)
    pixels = _colours(np.clip(values / max(largest, 1e-12), 0, 1))
    return _encoded(
        Image.fromarray(np.concatenate([pixels, gap, _colours(strip)]))
    )


def _colours(unit: np.ndarray) -> np.ndarray:
    places = np.linspace(0, 1, len(_COLOURS))
    channels = [np.interp(unit, places, _COLOURS[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def signed(values: np.ndarray, largest: float) -> str:
    """A map of numbers around 0: blue below, white at 0, red above."""
    unit = np.clip(values / max(largest, 1e-12), -1, 1)
    fade = 1 - np.abs(unit)
    red = np.where(unit > 0, 1, fade)
    blue = np.where(unit < 0, 1, fade)
    pixels = np.stack([red, fade, blue], axis=-1) * 255
    return _encoded(Image.fromarray(pixels.round().astype(np.uint8)))


def outlined(x: np.ndarray, where: np.ndarray, scale: int) -> str:
    """A picture enlarged by a whole number, with a line around some pixels.

    Args:
        x: (H, W, C) in [-1, 1].
        where: (H, W) bool.
        scale: pixels of the result for each of x; 3 or more.
    """
    pixels = images.to_uint8(np.nan_to_num(np.asarray(x)))
    pixels = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
    large = pixels.repeat(scale, axis=0).repeat(scale, axis=1).copy()
    inside = np.pad(where, 1)
    for axis, step in ((0, -1), (0, 1), (1, -1), (1, 1)):
        edge = inside & ~np.roll(inside, -step, axis=axis)
        rows, columns = np.nonzero(edge[1:-1, 1:-1])
        for i, j in zip(rows, columns, strict=True):
            block = large[
                i * scale : (i + 1) * scale, j * scale : (j + 1) * scale
            ]
            side = slice(-1, None) if step > 0 else slice(0, 1)
            place = (side, slice(None)) if axis == 0 else (slice(None), side)
            block[place] = (255, 220, 0)
    return _encoded(Image.fromarray(large))


def plot(
    x: Sequence[float],
    lines: Sequence[np.ndarray],
    label: str,
    logarithmic: bool = False,
    level: float | None = None,
) -> str:
    """Lines over a common x as an SVG, x falling from left to right.

    Args:
        x: N numbers.
        lines: of N numbers each; what is not finite is left out.
        label: of x.
        logarithmic: whether y is.
        level: of a dotted line across.
    """
    width, height, left, bottom, top = 320, 190, 46, 30, 8
    values = np.array(lines, float)
    if logarithmic:
        values = np.log10(np.where(values > 0, values, np.nan))
        if level is not None:
            level = float(np.log10(level)) if level > 0 else None
    finite = values[np.isfinite(values)]
    if not finite.size:
        return '<svg viewBox="0 0 320 190"><text x="60" y="95">nothing finite</text></svg>'
    marks = [*finite, *([level] if level is not None else [])]
    low, high = float(np.min(marks)), float(np.max(marks))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    x = np.asarray(x, float)
    span = max(float(x.max() - x.min()), 1e-9)

    def at_x(v):
        return left + (width - left - 8) * (x.max() - v) / span

    def at_y(v):
        return top + (height - bottom - top) * (high - v) / (high - low)

    parts = []
    for tick in np.linspace(low, high, 4):
        y = at_y(tick)
        text = f'{10**tick:.2g}' if logarithmic else f'{tick:.2g}'
        parts.append(
            f'<line class="grid" x1="{left}" x2="{width - 8}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/><text x="{left - 4}" y="{y + 4:.1f}" '
            f'text-anchor="end">{text}</text>'
        )
    for tick in np.linspace(x.max(), x.min(), 4):
        parts.append(
            f'<text x="{at_x(tick):.1f}" y="{height - bottom + 14}" '
            f'text-anchor="middle">{tick:.0f}</text>'
        )
    parts.append(
        f'<text x="{(left + width) / 2}" y="{height - 3}" '
        f'text-anchor="middle">{label}</text>'
    )
    if level is not None:
        y = at_y(level)
        parts.append(
            f'<line x1="{left}" x2="{width - 8}" y1="{y:.1f}" y2="{y:.1f}" '
            'stroke="currentColor" stroke-dasharray="2 3"/>'
        )
    for i, line in enumerate(values):
        points = ' '.join(
            f'{at_x(a):.1f},{at_y(b):.1f}'
            for a, b in zip(x, line, strict=True)
            if np.isfinite(b)
        )
        hue = 210 + 47 * i
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="hsl({hue % 360} '
            '70% 50%)" stroke-width="1.3"/>'
        )
    body = ''.join(parts)
    return f'<svg viewBox="0 0 {width} {height}" role="img">{body}</svg>'


def as_text(data: Mapping[str, Any]) -> str:
    """Plain data as indented JSON, for reading."""
    return json.dumps(data, indent=2, default=str)
