"""How results show themselves in a notebook."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np

from invjax.images.pictures import plane_names, to_pillow

_WIDTH = 192  # pixels on the page


def as_html(pictures: Mapping[str, np.ndarray], text: str) -> str:
    """Pictures side by side with their names, and a text below.

    Args:
        pictures: name to (H, W, C) in [-1, 1], shown as `images.planes`; what
            is not finite is grey.
        text: plain.
    """
    figures = ''.join(
        '<figure style="display:inline-block;margin:4px">'
        f'{_image(x)}<figcaption>{html.escape(_caption(name, x))}</figcaption>'
        '</figure>'
        for name, x in pictures.items()
    )
    return f'<div>{figures}<pre>{html.escape(text)}</pre></div>'


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; `**` around one makes it bold."""

    def line(texts: Sequence[str], tag: str) -> str:
        return ''.join(f'<{tag}>{_bold(text)}</{tag}>' for text in texts)

    body = ''.join(f'<tr>{line(row, "td")}</tr>' for row in rows)
    return f'<table><tr>{line(header, "th")}</tr>{body}</table>'


def _bold(text: str) -> str:
    inner = text.removeprefix('**').removesuffix('**')
    escaped = html.escape(inner.replace('`', ''))
    return escaped if inner == text else f'<b>{escaped}</b>'


def _image(x: np.ndarray) -> str:
    picture = to_pillow(np.nan_to_num(np.asarray(x)))
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    data = base64.b64encode(buffer.getvalue()).decode()
    width = _WIDTH * picture.width // np.shape(x)[1]
    return (
        f'<img src="data:image/png;base64,{data}" '
        f'style="width:{width}px;image-rendering:pixelated">'
    )


def _caption(name: str, x: np.ndarray) -> str:
    names = plane_names(np.shape(x)[-1])
    return f'{name}: {names}' if names else name
