"""Grey slices of made-up bodies, in the manner of Shepp and Logan (1974).

As many as one wants, without data to ship and without a licence: what a prior
of one channel is trained on, and what it is tried on. A slice has, in order,

    body      an ellipse, most of them within a brighter shell, on black
    tissue    two gentle waves over the whole body
    organs    2 to 6 ellipses that add or take brightness, some with an edge as
              blurred as soft tissue has
    fibres    in a third of the slices, fine stripes within one of the organs
    plates    up to 2 rectangles as bright as bone or metal
    holes     up to 4 black discs

Lengths are in units of half the picture's side, and x goes right, y down, both
from -1 to 1. Edges are as soft as pixels are: a pixel's coverage of a shape is
read off its distance to the edge. Image `i` of a seed is the same whichever
others are drawn, on any machine to float32 rounding.
"""

from typing import Any

import numpy as np

NUM_ORGANS = 6
NUM_PLATES = 2
NUM_HOLES = 4
# From here on seeds and numbers would share slices.
_END = 2**32
# So many are drawn at once that their arrays stay in a processor's cache.
_CHUNK = 8


def draw(
    seed: int, num_images: int, first: int = 0, side: int = 64
) -> np.ndarray:
    """Draw slices.

    Args:
        seed: 0 or more; other seeds have other slices.
        num_images: N, 1 or more.
        first: the number of the first one, 0 or more.
        side: H = W in pixels, 8 or more. The same scene at any size.

    Returns:
        (N, side, side, 1) float32 in [-1, 1].

    Raises:
        ValueError: for numbers out of these ranges.
    """
    for name, value, least in (
        ('seed', seed, 0),
        ('num_images', num_images, 1),
        ('first', first, 0),
        ('side', side, 8),
    ):
        if value != int(value) or not least <= value < _END:
            raise ValueError(
                f'{name} must be a whole number of at least {least} and below '
                f'2^32, got {value}.'
            )
    out = np.empty((num_images, side, side, 1), np.float32)
    for start in range(0, num_images, _CHUNK):
        stop = min(start + _CHUNK, num_images)
        scenes = [_scene(seed, first + i) for i in range(start, stop)]
        stacked = {
            name: np.stack([scene[name] for scene in scenes])
            for name in scenes[0]
        }
        out[start:stop, :, :, 0] = _render(stacked, side)
    return out


def _scene(seed: int, number: int) -> dict[str, np.ndarray | float]:
    """What is in a slice, as numbers.

    An ellipse or a rectangle is (x, y, half-length, half-width, angle). What
    the slice does not have is there with no brightness.
    """
    rng = np.random.default_rng([seed, number])
    length = rng.uniform(0.6, 0.92)
    body = np.array(
        [
            *rng.uniform(-0.06, 0.06, 2),
            length,
            length * rng.uniform(0.65, 1.0),
            rng.uniform(0, np.pi),
        ]
    )
    has_shell = rng.random() < 0.75
    tissue = rng.uniform(0.2, 0.5)
    waves = np.stack(
        [
            rng.uniform(1, 5, 2),  # radians in half a side
            rng.uniform(0, 2 * np.pi, 2),  # direction
            rng.uniform(0, 2 * np.pi, 2),  # phase
            rng.uniform(0, 0.05, 2),  # brightness
        ],
        axis=1,
    )

    organs = _placed(rng, body, NUM_ORGANS, 0.75)
    organs[:, 2] = rng.uniform(0.08, 0.38, NUM_ORGANS)
    organs[:, 3] = organs[:, 2] * rng.uniform(0.4, 1, NUM_ORGANS)
    contrast = rng.choice([-1, 1], NUM_ORGANS) * rng.uniform(
        0.08, 0.35, NUM_ORGANS
    )
    contrast *= np.arange(NUM_ORGANS) < rng.integers(2, NUM_ORGANS + 1)
    is_blurred = rng.random(NUM_ORGANS) < 0.25
    blur = np.where(is_blurred, rng.uniform(0.05, 0.15, NUM_ORGANS), 0)

    # The first organ is always there.
    fibres = np.array(
        [
            rng.uniform(12, 30),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0, 2 * np.pi),
            rng.uniform(0.05, 0.15) * (rng.random() < 1 / 3),
        ]
    )

    plates = _placed(rng, body, NUM_PLATES, 0.7)
    plates[:, 2] = rng.uniform(0.12, 0.35, NUM_PLATES)
    plates[:, 3] = rng.uniform(0.03, 0.09, NUM_PLATES)
    density = rng.uniform(0.75, 1, NUM_PLATES)
    has_plate = np.arange(NUM_PLATES) < rng.integers(0, NUM_PLATES + 1)

    holes = _placed(rng, body, NUM_HOLES, 0.8)
    holes[:, 2:4] = rng.uniform(0.04, 0.12, (NUM_HOLES, 1))
    has_hole = np.arange(NUM_HOLES) < rng.integers(0, NUM_HOLES + 1)

    return {
        'body': body,
        'thickness': rng.uniform(0.04, 0.1) * has_shell,
        'shell': rng.uniform(0.7, 1),
        'tissue': tissue,
        'waves': waves,
        'organs': organs,
        'contrast': contrast,
        'blur': blur,
        'fibres': fibres,
        'plates': plates,
        'density': density,
        'has_plate': has_plate,
        'holes': holes,
        'has_hole': has_hole,
    }


def _placed(rng, body, number: int, reach: float) -> np.ndarray:
    """Shapes with a centre in the body and an angle; (number, 5)."""
    radius = reach * np.sqrt(rng.random(number))
    direction = rng.uniform(0, 2 * np.pi, number)
    along, across = radius * np.cos(direction), radius * np.sin(direction)
    along, across = along * body[2], across * body[3]
    cos, sin = np.cos(body[4]), np.sin(body[4])
    shapes = np.zeros((number, 5))
    shapes[:, 0] = body[0] + cos * along - sin * across
    shapes[:, 1] = body[1] + sin * along + cos * across
    shapes[:, 4] = rng.uniform(0, np.pi, number)
    return shapes


def _render(scene: dict[str, Any], side: int) -> np.ndarray:
    """(N, side, side) in [-1, 1] of N stacked scenes."""
    scene = {
        name: values.astype(np.float32)[..., None, None]
        for name, values in scene.items()
    }
    centres = ((np.arange(side) + 0.5) / side * 2 - 1).astype(np.float32)
    grid = centres, centres[:, None]
    pixel = 2 / side

    body = scene['body']
    outer = _coverage(_to_ellipse(grid, body), pixel)
    within = body.copy()
    within[:, 2:4] -= scene['thickness'][:, None]
    inner = _coverage(_to_ellipse(grid, within), pixel)

    x = scene['tissue'] + _waves(grid, scene['waves'][:, 0])
    x += _waves(grid, scene['waves'][:, 1])
    for i in range(NUM_ORGANS):
        distance = _to_ellipse(grid, scene['organs'][:, i])
        coverage = _coverage(distance, pixel + scene['blur'][:, i])
        added = scene['contrast'][:, i]
        if i == 0:
            added = added + _waves(grid, scene['fibres'])
        x += coverage * added
    for i in range(NUM_PLATES):
        distance = _to_rectangle(grid, scene['plates'][:, i])
        coverage = _coverage(distance, pixel) * scene['has_plate'][:, i]
        x += coverage * (scene['density'][:, i] - x)
    for i in range(NUM_HOLES):
        distance = _to_ellipse(grid, scene['holes'][:, i])
        x *= 1 - _coverage(distance, pixel) * scene['has_hole'][:, i]
    # Where there is no shell, `inner` is `outer`.
    x = inner * x + (outer - inner) * scene['shell']
    return 2 * np.clip(x, 0, 1) - 1


def _waves(grid, wave):
    """A plane wave, (N, side, side), of (frequency, direction, phase, size)."""
    x, y = grid
    frequency, direction, phase, size = np.moveaxis(wave, 1, 0)
    along = np.cos(direction) * x + np.sin(direction) * y
    return size * np.cos(frequency * along + phase)


def _turned(grid, shape):
    """Coordinates along and across a shape, from its centre."""
    x, y = grid
    left, top, _, _, angle = np.moveaxis(shape, 1, 0)
    cos, sin = np.cos(angle), np.sin(angle)
    x, y = x - left, y - top
    return cos * x + sin * y, cos * y - sin * x


def _to_ellipse(grid, shape):
    """The distance to an ellipse's edge, to first order; negative inside.

    With f = |(x / a, y / b)| it is (f - 1) / |grad f|.
    """
    along, across = _turned(grid, shape)
    along, across = along / shape[:, 2], across / shape[:, 3]
    f_squared = along * along + across * across
    along, across = along / shape[:, 2], across / shape[:, 3]
    # Only the sign and the neighbourhood of the edge count, so that the centre,
    # where both are 0, is kept from a division by 0.
    slope = np.sqrt(along * along + across * across) + np.float32(1e-6)
    return (f_squared - np.sqrt(f_squared)) / slope


def _to_rectangle(grid, shape):
    """The distance to a rectangle's edge; negative inside."""
    along, across = _turned(grid, shape)
    return np.maximum(np.abs(along) - shape[:, 2], np.abs(across) - shape[:, 3])


def _coverage(distance, width):
    """How much of a pixel lies inside, with an edge as soft as `width`."""
    return np.clip(0.5 - distance / width, 0, 1)
