"""Pages of results: one self-contained HTML file each, by Jinja."""

import base64
import datetime
import importlib.metadata
import io
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup
from PIL import Image

from invjax import images
from invjax.report import drawing

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
        key: by which a slider of two pictures offers it; '' if it does not.
            Samples share theirs.
        scale: what its colours mean, a drawing; '' of a photograph.
    """

    name: str
    source: str
    words: str = ''
    key: str = ''
    scale: Markup = Markup()


class Verdict(NamedTuple):
    """A sentence on what may be believed.

    Attributes:
        kind: 'good', 'bad', 'unknown', or 'note' where it judges nothing.
        text: the sentence.
    """

    kind: str
    text: str


def render(template: str, title: str, **values: Any) -> str:
    """A page from a template of this package.

    Args:
        template: name of a file of `templates/`.
        title: of the page.
        **values: what the template asks for; all of it is escaped there but
            what is `Markup`. `beside` lets it load pictures of its own folder.
    """
    return _ENVIRONMENT.get_template(template).render(
        title=title,
        version=_version(),
        date=datetime.date.today().isoformat(),
        **{'subtitle': '', 'beside': False, **values},
    )


def _version() -> str:
    try:
        return importlib.metadata.version('invjax')
    except importlib.metadata.PackageNotFoundError:
        # The source alone, which nobody has installed.
        return 'not installed'


def size(page: str) -> int:
    """Bytes of a page."""
    return len(page.encode())


def write(path: str | os.PathLike, page: str) -> pathlib.Path:
    """Write a page; ValueError if it is larger than MAX_BYTES."""
    path = pathlib.Path(path)
    if size(page) > MAX_BYTES:
        raise ValueError(
            f'{path} would have {size(page) / 2**20:.1f} MB, and must have at most '
            f'{MAX_BYTES // 2**20}; take fewer images or settings.'
        )
    path.write_text(page)
    return path


def source(x: np.ndarray, lossless: bool = True) -> str:
    """The `images.planes` of (H, W, C) in [-1, 1] as a `data:` address.

    Args:
        lossless: PNG; else WebP of a tenth of the size, for many of them.
    """
    pixels = images.to_uint8(np.nan_to_num(images.planes(x)))
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


def mapped(values: np.ndarray, largest: float) -> str:
    """A map of numbers from 0 to `largest`, (H, W); see `drawing.scale`."""
    unit = np.clip(np.nan_to_num(values) / max(largest, 1e-12), 0, 1)
    return _encoded(Image.fromarray(drawing.colours(unit)))


def signed(values: np.ndarray, largest: float) -> str:
    """A map of numbers around 0, (H, W): blue below, white at 0, red above."""
    unit = np.clip(np.nan_to_num(values) / max(largest, 1e-12), -1, 1)
    pixels = drawing.colours((unit + 1) / 2, drawing.SIGNED_COLOURS)
    return _encoded(Image.fromarray(pixels))


def as_text(data: Mapping[str, Any]) -> str:
    """Plain data as indented JSON, for reading."""
    return json.dumps(data, indent=2, default=str)
