"""Restorations, cells and rows that are made by hand, for tests of pages."""

import base64
import html.parser
import io
import json
import re

import numpy as np
from PIL import Image

from invjax import metrics, problem
from invjax.operators import make_operator
from invjax.report import explorer, methods_page, restored, restored_page
from invjax.restoration import Restoration
from invjax.types import Info

HOSTILE = '<script>alert("x")</script>&\'"</pre>'
SIDE = 16


def restoration(
    num_samples=3, task='box_inpainting', noise_std=0.05, channels=3
):
    """Samples around a truth, of a measurement with noise, by no network."""
    import jax

    import invjax

    rng = np.random.default_rng(0)
    truth = rng.uniform(-0.8, 0.8, (SIDE, SIDE, channels)).astype(np.float32)
    operator = make_operator(task, jax.random.key(1), truth.shape)
    measured = problem.measure(
        jax.random.key(0), truth, operator, noise_std
    ).replace(truth=truth, task=task)
    # Differences are in the upper half alone.
    noise = rng.normal(size=(num_samples, SIDE, SIDE, channels)) * 0.3
    noise[:, SIDE // 2 :] = 0
    steps = np.linspace(1, 2, 5)
    info = Info(*(np.tile(steps, (num_samples, 1)) for _ in Info._fields))
    return Restoration(
        np.float32(np.clip(truth + noise, -1, 1)),
        info,
        measured,
        invjax.dps(zeta=3.0),
        'as given',
        5,
        'none',
        np.linspace(0.999, 0.001, 1000),
    )


def restored_page_of(path, **kwargs):
    """A written page of `restoration`, and the restoration."""
    found = restoration(**kwargs)
    part = restored_page.part('a task', found, restored.judge(found))
    restored_page.write(path, 'A title', [part], {'seed': 0}, 'run', 'python')
    return found


def picture(number):
    """A picture of one colour that tells its number."""
    x = np.zeros((SIDE, SIDE, 3))
    x[..., 0] = number % 16 / 8 - 1
    x[..., 1] = number // 16 / 8 - 1
    return x


def group(zetas=(1.0, 3.0), etas=(0.0, 0.5, 1.0), images=(4, 7), name='g'):
    """A grid of settings; its pictures are numbered in the order of shots."""
    shots = []
    for image in images:
        for zeta in zetas:
            for eta in etas:
                number = len(shots)
                scores = {
                    'psnr': 20 + zeta + 2 * eta + image,
                    'chi_square': np.exp(zeta - 1 + eta),
                }
                shots.append(
                    explorer.Shot(
                        {'zeta': zeta, 'eta': eta},
                        image,
                        0,
                        scores,
                        lambda number=number: picture(number),
                    )
                )
    references = {i: {'truth': picture(200 + i)} for i in images}
    return explorer.Group(name, shots, references)


def estimate(mean, error=0.1):
    return metrics.Estimate(np.float64(mean), np.float64(error))


def entries(task='denoising'):
    """Three methods of a task, and its measurement."""
    rows = []
    for i, (name, psnr, forward) in enumerate(
        [
            ('measurement', 30.0, None),
            ('dps', 21.5, 100),
            ('ddrm', 23.25, 20),
            ('wiener', 9.5, 5),
        ]
    ):
        scores = {'psnr': estimate(psnr), 'chi_square': estimate(2.0 / (i + 1))}
        if forward is not None:
            scores |= {
                'forward': estimate(forward, 0),
                'backward': estimate(0, 0),
            }
        rows.append(
            methods_page.Entry(
                task,
                name,
                '' if forward is None else str(forward),
                '',
                scores,
                {0: lambda i=i: picture(i)},
            )
        )
    return rows


class Page(html.parser.HTMLParser):
    """A page, parsed: its elements, and its text.

    Attributes:
        tags: (name, attributes) of each element.
        text: all of it outside of scripts and styles.
        balanced: whether each element that is opened is closed in order.
    """

    _VOID = ('meta', 'link', 'img', 'input', 'br')

    def __init__(self, text):
        super().__init__()
        self.source, self.tags, self.text = text, [], ''
        self._open, self.balanced = [], True
        self.feed(text)
        self.close()
        self.balanced = self.balanced and not self._open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self._open or self._open.pop() != tag:
            self.balanced = False

    def handle_data(self, data):
        if not self._open or self._open[-1] not in ('script', 'style'):
            self.text += data

    def of(self, tag):
        """Attributes of the elements of a name."""
        return [attributes for name, attributes in self.tags if name == tag]

    def constant(self, name):
        """Data that a script of the page begins with."""
        start = re.search(rf'\b{name} = ', self.source).end()
        return json.JSONDecoder().raw_decode(self.source[start:])[0]

    def outside(self):
        """Addresses of elements that would be asked for."""
        found = [
            a[name]
            for _, a in self.tags
            for name in ('src', 'href', 'srcset', 'data', 'action')
            if a.get(name)
        ]
        return [a for a in found if not a.startswith(('data:', '#'))]


def decoded(address):
    """The pixels of a `data:` address, (H, W, 3)."""
    _, _, text = address.partition('base64,')
    with Image.open(io.BytesIO(base64.b64decode(text))) as found:
        return np.asarray(found.convert('RGB'))


def tile(layout, place):
    """The pixels of one of the pictures of a layout of sprites."""
    sheet = decoded(layout['sheets'][place // layout['perSheet']])
    at = place % layout['perSheet']
    top = at // layout['columns'] * layout['height']
    left = at % layout['columns'] * layout['width']
    return sheet[top : top + layout['height'], left : left + layout['width']]
