"""Small drawings as SVG, which a page holds as text and paints in its own colours.

Lines and letters take their colour from the page's style, so that a drawing is
right on white, on black and on paper.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

# Magma at eight places; in between it is close to linear.
COLOURS = np.array(
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
# Blue below 0, white at it, red above.
SIGNED_COLOURS = np.array([[0, 0, 255], [255, 255, 255], [255, 0, 0]], float)

_WIDTH, _HEIGHT = 340, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 18, 10, 34


def colours(unit: np.ndarray, places: np.ndarray = COLOURS) -> np.ndarray:
    """Colours of numbers, (..., 3) uint8.

    Args:
        unit: (...) from 0 to 1.
        places: (N, 3) colours at even distances from 0 to 1.
    """
    at = np.linspace(0, 1, len(places))
    channels = [np.interp(unit, at, places[:, c]) for c in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def ticks(low: float, high: float, number: int = 4) -> list[float]:
    """Round numbers from low to high, about as many as are asked for."""
    span = high - low
    if not (span > 0 and math.isfinite(span)):
        return [low]
    raw = span / number
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, or 1, 2 and 5 times them if few fit."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1,), (1, 2, 5), range(1, 10)):
        found = [
            f * 10.0**p
            for p in powers
            for f in factors
            if low * 0.999 <= f * 10.0**p <= high * 1.001
        ]
        if len(found) >= 3:
            break
    every = -(-len(found) // 5)
    return found[::every] or [low]


def number(value: float) -> str:
    """A number in few letters, such as `0.05`, `1200` or `3e-05`."""
    return f'{value:.3g}' if abs(value) < 1000 else f'{value:,.0f}'


def _svg(
    width: float, height: float, label: str, *parts: str, name: str = 'plot'
) -> Markup:
    return Markup(
        f'<svg class="{name}" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{escape(label)}">{"".join(parts)}</svg>'
    )


def _text(x, y, words, anchor='middle', more='') -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>'
        f'{escape(words)}</text>'
    )


def lines(
    x: np.typing.ArrayLike,
    values: Mapping[str, np.ndarray],
    x_label: str,
    label: str,
    logarithmic: bool = False,
    level: float | None = None,
    rising: bool = False,
) -> Markup:
    """Lines over a common x.

    Args:
        x: N numbers.
        values: name to (N,); what is not finite is left out, as is what is not
            above 0 on a logarithmic axis.
        x_label, label: of the axes.
        logarithmic: whether y is.
        level: of a dotted line across, or None.
        rising: whether x rises from left to right; it falls as the time of a
            reverse process does.
    """
    times = np.asarray(x, float)
    found = {n: np.asarray(v, float) for n, v in values.items()}
    if logarithmic:
        found = {n: np.where(v > 0, v, np.nan) for n, v in found.items()}
    marks = np.concatenate([*found.values(), [np.nan]])
    marks = marks[np.isfinite(marks)]
    if not marks.size:
        return _svg(_WIDTH, _HEIGHT, label, _text(170, 100, 'nothing finite'))
    if level is not None and (level > 0 or not logarithmic):
        marks = np.append(marks, level)
    else:
        level = None
    low, high = float(marks.min()), float(marks.max())
    if logarithmic:
        low, high = low / 1.1, high * 1.1
        at = log_ticks(low, high)
    else:
        pad = 0.05 * (high - low) or 0.5 * abs(high) or 0.5
        low, high = low - pad, high + pad
        at = ticks(low, high)
    turn = math.log10 if logarithmic else float
    span = max(float(times.max() - times.min()), 1e-9)

    def at_x(value):
        far = value - times.min() if rising else times.max() - value
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * far / span

    def at_y(value):
        fraction = (turn(high) - turn(value)) / (turn(high) - turn(low))
        return _TOP + (_HEIGHT - _BOTTOM - _TOP) * fraction

    parts = []
    right = _WIDTH - _RIGHT
    for tick in at:
        y = at_y(tick)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>' + _text(_LEFT - 5, y + 4, number(tick), 'end')
        )
    for tick in ticks(float(times.min()), float(times.max()), 5):
        parts.append(
            _text(at_x(tick), _HEIGHT - _BOTTOM + 15, number(tick)),
        )
    parts.append(_text((_LEFT + right) / 2, _HEIGHT - 4, x_label))
    if level is not None:
        y = at_y(level)
        parts.append(
            f'<line class="level" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" '
            f'y2="{y:.1f}"/>'
        )
    for i, (name, line) in enumerate(found.items()):
        points = [
            f'{at_x(a):.1f},{at_y(b):.1f}'
            for a, b in zip(times, line, strict=True)
            if np.isfinite(b)
        ]
        if len(points) == 1:  # A line of one point would not be seen.
            left, _, top = points[0].partition(',')
            parts.append(
                f'<circle class="c{i % 8}" cx="{left}" cy="{top}" r="3"/>'
            )
        parts.append(
            f'<polyline class="line c{i % 8}" points="{" ".join(points)}">'
            f'<title>{escape(name)}</title></polyline>'
        )
    return _svg(_WIDTH, _HEIGHT, label, *parts)


def legend(names: Sequence[str]) -> Markup:
    """Names with the colours that `lines` gives them, in their order."""
    return Markup(' ').join(
        Markup('<span class="key">{}{}</span>').format(
            Markup(
                '<svg viewBox="0 0 18 8" aria-hidden="true"><line '
                f'class="c{i % 8}" x1="0" x2="18" y1="4" y2="4"/></svg>'
            ),
            name,
        )
        for i, name in enumerate(names)
    )


def scale(
    low: float, high: float, unit: str, places: np.ndarray = COLOURS
) -> Markup:
    """The strip that says what the colours of a map mean.

    Args:
        low, high: numbers at its ends.
        unit: of the numbers, in words.
        places: as in `colours`.
    """
    width, height = 240, 40
    stops = ''.join(
        f'<stop offset="{i / (len(places) - 1):.4f}" '
        f'stop-color="rgb({r:.0f},{g:.0f},{b:.0f})"/>'
        for i, (r, g, b) in enumerate(places)
    )
    # Names in a page are one set, so the gradient's tells what it is.
    name = f'scale{len(places)}'
    middle = (low + high) / 2
    return _svg(
        width,
        height,
        f'colours from {number(low)} to {number(high)} {unit}',
        f'<defs><linearGradient id="{name}">{stops}</linearGradient></defs>'
        f'<rect class="frame" x="1" y="1" width="{width - 2}" height="12" '
        f'style="fill:url(#{name})"/>',
        _text(1, 26, number(low), 'start'),
        _text(width / 2, 26, number(middle)),
        _text(width - 1, 26, number(high), 'end'),
        _text(width / 2, 38, unit, 'middle', ' class="small"'),
        name='plot scale',
    )


def outline(where: np.ndarray) -> str:
    """The border of some pixels, as the path of an SVG whose unit is a pixel.

    Args:
        where: (H, W) bool.

    Returns:
        Of `d`; '' where there is no pixel.
    """
    inside = np.pad(np.asarray(where, bool), 1)
    parts = []
    # Between a row of pixels and the one below lies a run of edges.
    for lines_, is_row in ((inside, True), (inside.T, False)):
        edges = lines_[1:] != lines_[:-1]
        for i in np.flatnonzero(edges.any(axis=1)):
            row = np.pad(edges[i, 1:-1].astype(int), 1)
            starts = np.flatnonzero(np.diff(row) == 1)
            ends = np.flatnonzero(np.diff(row) == -1)
            for start, end in zip(starts, ends, strict=True):
                if is_row:
                    parts.append(f'M{start} {i}h{end - start}')
                else:
                    parts.append(f'M{i} {start}v{end - start}')
    return ''.join(parts)


def gauge(
    values: Sequence[float], low: float, high: float, most: float
) -> Markup:
    """Chi-squares on a logarithmic line, with what is expected as a band.

    Args:
        values: a mark each; those beyond the line stand at its ends.
        low, high: the band of what is expected.
        most: of what still explains the measurement, dotted.
    """
    width, height, edge = 480, 62, 12
    first, last = 0.25, 4.0
    finite = [v for v in values if math.isfinite(v) and v > 0]
    for value in finite:
        first, last = min(first, value / 1.1), max(last, value * 1.1)
    # Beyond this nobody needs to see how far.
    first, last = max(first, 1e-2), min(last, 1e2)

    def at(value):
        value = min(max(value, first), last)
        fraction = math.log(value / first) / math.log(last / first)
        return edge + (width - 2 * edge) * fraction

    narrowest = max(at(high) - at(low), 3)
    centre = (at(low) + at(high)) / 2
    parts = [
        f'<rect class="band" x="{centre - narrowest / 2:.1f}" y="6" '
        f'width="{narrowest:.1f}" height="28"/>',
        f'<line class="axis" x1="{edge}" x2="{width - edge}" y1="34" y2="34"/>',
        f'<line class="level" x1="{at(most):.1f}" x2="{at(most):.1f}" y1="6" '
        'y2="34"/>',
    ]
    for tick in log_ticks(first, last):
        parts.append(
            f'<line class="axis" x1="{at(tick):.1f}" x2="{at(tick):.1f}" '
            'y1="34" y2="39"/>' + _text(at(tick), 51, number(tick))
        )
    for value in finite:
        parts.append(
            f'<circle class="mark" cx="{at(value):.1f}" cy="20" r="5">'
            f'<title>{value:.3f}</title></circle>'
        )
    words = ', '.join(f'{value:.3f}' for value in finite)
    return _svg(
        width,
        height,
        f'chi-square {words}; expected {low:.3f} to {high:.3f}',
        *parts,
    )


def histogram(values: np.ndarray, label: str) -> Markup:
    """How standardised residuals are spread, beside the normal density.

    Args:
        values: any shape, in standard deviations of the noise.
        label: of the x axis.
    """
    reach, number_of_bins = 4.0, 41
    values = np.clip(np.asarray(values, float).ravel(), -reach, reach)
    edges = np.linspace(-reach, reach, number_of_bins + 1)
    counts, _ = np.histogram(values, edges)
    density = counts / max(len(values), 1) / (edges[1] - edges[0])
    at = np.linspace(-reach, reach, 81)
    normal = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)
    top = max(float(density.max()), float(normal.max())) * 1.05
    width, height = _WIDTH, _HEIGHT
    bottom, left, right = height - _BOTTOM, 10, width - 10

    def x(value):
        return left + (right - left) * (value + reach) / (2 * reach)

    def y(value):
        return bottom - (bottom - _TOP) * value / top

    bars = ''.join(
        f'<rect class="bar" x="{x(a):.1f}" y="{y(d):.1f}" '
        f'width="{x(b) - x(a) - 0.5:.1f}" height="{bottom - y(d):.1f}"/>'
        for a, b, d in zip(edges[:-1], edges[1:], density, strict=True)
    )
    curve = ' '.join(
        f'{x(a):.1f},{y(b):.1f}' for a, b in zip(at, normal, strict=True)
    )
    marks = ''.join(
        _text(x(tick), bottom + 15, number(tick)) for tick in range(-4, 5, 2)
    )
    return _svg(
        width,
        height,
        label,
        bars,
        f'<polyline class="normal" points="{curve}"/>',
        f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" '
        f'y2="{bottom}"/>',
        marks,
        _text(width / 2, height - 4, label),
    )
