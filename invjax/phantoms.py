"""Grey slices of made-up bodies, in the manner of Shepp and Logan (1974).

As many as one wants, without data to ship and without a licence: what a prior
of one channel is trained on, and what it is tried on. A slice has, in order,

    body      an ellipse, most of them within a brighter shell, on black
    tissue    waves over the whole body, long and strong to short and faint
    organs    1 to 4 ellipses, out of shape as organs are, that add or take
              brightness, with soft edges
    fibres    in a third of the slices, stripes that come and go within one of
              the organs
    plates    up to 2 bars as bright as bone, a little bent and tapered, with
              rounded ends
    holes     up to 3 black discs, out of shape as bubbles are

Organs, plates and holes have room of their own, though their outlines may touch
one another or the shell; one that finds none in `_TRIES` tries is left out.

Lengths are in units of half the picture's side, and x goes right, y down, both
from -1 to 1. A pixel's coverage of a shape is read off its distance to the edge:
those of body and shell are as soft as pixels are, the others softer. Image `i` of a seed is the same whichever
others are drawn, on any machine to float32 rounding.
"""

from typing import Any

import numpy as np

# Raise it with each change of what is drawn: a run of training that was begun on
# other slices does not go on with these.
VERSION = 2
NUM_ORGANS = 4
NUM_PLATES = 2
NUM_HOLES = 3
NUM_WAVES = 8
# From here on seeds and numbers would share slices.
_END = 2**32
# So many are drawn at once that their arrays stay in a processor's cache.
_CHUNK = 8
_TRIES = 20
# How soft the edges of plates and holes are, beside a pixel's own width.
_SOFT = 0.02
# Of a lump, by how often it goes around: the share of the radius, at the most.
_LUMPS = np.array([0.06, 0.06, 0.04])
_AROUND = np.array([2, 3, 4])


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
    length = rng.uniform(0.7, 0.92)
    body = np.array(
        [
            *rng.uniform(-0.06, 0.06, 2),
            length,
            length * rng.uniform(0.7, 1.0),
            rng.uniform(0, np.pi),
        ]
    )
    thickness = rng.uniform(0.06, 0.1) * (rng.random() < 0.75)
    tissue = rng.uniform(0.25, 0.5)
    frequency = np.geomspace(1.5, 20, NUM_WAVES)  # radians in half a side
    frequency *= rng.uniform(0.8, 1.25, NUM_WAVES)
    waves = np.stack(
        [
            frequency,
            *rng.uniform(0, 2 * np.pi, (2, NUM_WAVES)),  # direction, phase
            rng.uniform(0, 0.06, NUM_WAVES) / np.sqrt(frequency),  # brightness
        ],
        axis=1,
    )

    organs = np.zeros((NUM_ORGANS, 5))
    organs[:, 2] = body[3] * rng.uniform(0.25, 0.45, NUM_ORGANS)
    organs[:, 3] = organs[:, 2] * rng.uniform(0.6, 1, NUM_ORGANS)
    contrast = rng.choice([-1, 1], NUM_ORGANS) * rng.uniform(
        0.1, 0.3, NUM_ORGANS
    )
    blur = rng.uniform(0.02, 0.1, NUM_ORGANS)
    # The first organ is always there.
    has_organ = np.arange(NUM_ORGANS) < rng.integers(1, NUM_ORGANS + 1)
    # Two waves, of which the slow one says where the fine one is seen.
    fibres = np.array(
        [
            [rng.uniform(12, 20), *rng.uniform(0, 2 * np.pi, 2), 1],
            [rng.uniform(3, 6), *rng.uniform(0, 2 * np.pi, 2), 1],
        ]
    )
    fibres[0, 3] = rng.uniform(0.05, 0.15) * (rng.random() < 1 / 3)

    plates = np.zeros((NUM_PLATES, 5))
    plates[:, 2] = rng.uniform(0.15, 0.25, NUM_PLATES)
    plates[:, 3] = rng.uniform(0.06, 0.09, NUM_PLATES)
    density = rng.uniform(0.8, 1, NUM_PLATES)
    has_plate = np.arange(NUM_PLATES) < rng.integers(0, NUM_PLATES + 1)
    warp = np.stack(
        [
            rng.uniform(-1, 1, NUM_PLATES),  # bend
            rng.uniform(-0.35, 0.35, NUM_PLATES),  # taper
            plates[:, 3] * rng.uniform(0.3, 0.65, NUM_PLATES),  # of corners
        ],
        axis=1,
    )

    holes = np.zeros((NUM_HOLES, 5))
    holes[:, 2] = rng.uniform(0.05, 0.12, NUM_HOLES)
    holes[:, 3] = holes[:, 2] * rng.uniform(0.8, 1, NUM_HOLES)
    has_hole = np.arange(NUM_HOLES) < rng.integers(0, NUM_HOLES + 1)

    shapes = np.concatenate([organs, plates, holes])
    is_there = np.concatenate([has_organ, has_plate, has_hole])
    # Of a disc as large, or as long as most of a plate.
    radius = np.sqrt(shapes[:, 2] * shapes[:, 3])
    radius[NUM_ORGANS : NUM_ORGANS + NUM_PLATES] = 0.8 * plates[:, 2]
    shapes[:, 4] = rng.uniform(0, np.pi, len(shapes))
    lumps = np.stack(
        [
            _LUMPS * rng.uniform(0, 1, (len(shapes), len(_LUMPS))),
            rng.uniform(0, 2 * np.pi, (len(shapes), len(_LUMPS))),
        ],
        axis=-1,
    )
    x, y = _candidates(rng, body, thickness + radius)
    for i in np.flatnonzero(is_there):
        placed = is_there & (np.arange(len(shapes)) < i)
        between = np.hypot(
            x[i, :, None] - shapes[placed, 0], y[i, :, None] - shapes[placed, 1]
        )
        is_free = (between > radius[i] + radius[placed]).all(axis=1)
        is_there[i] = is_free.any()
        first_free = is_free.argmax()
        shapes[i, :2] = x[i, first_free], y[i, first_free]
    kinds = [NUM_ORGANS, NUM_ORGANS + NUM_PLATES]
    organs, plates, holes = np.split(shapes, kinds)
    has_organ, has_plate, has_hole = np.split(is_there, kinds)
    organ_lumps, _, hole_lumps = np.split(lumps, kinds)

    return {
        'body': body,
        'thickness': thickness,
        'shell': rng.uniform(0.7, 1),
        'tissue': tissue,
        'waves': waves,
        'organs': organs,
        'organ_lumps': organ_lumps,
        'contrast': contrast * has_organ,
        'blur': blur,
        'fibres': fibres,
        'plates': plates,
        'warp': warp,
        'density': density,
        'has_plate': has_plate,
        'holes': holes,
        'hole_lumps': hole_lumps,
        'has_hole': has_hole,
    }


def _candidates(rng, body, margins) -> tuple[np.ndarray, np.ndarray]:
    """x and y of `_TRIES` places in the body a shape, (len(margins), _TRIES).

    They are even over the ellipse whose half-axes are the body's less a margin.
    """
    size = len(margins), _TRIES
    radius = np.sqrt(rng.random(size))
    direction = rng.uniform(0, 2 * np.pi, size)
    along = radius * np.cos(direction) * (body[2] - margins[:, None])
    across = radius * np.sin(direction) * (body[3] - margins[:, None])
    cos, sin = np.cos(body[4]), np.sin(body[4])
    x = body[0] + cos * along - sin * across
    y = body[1] + sin * along + cos * across
    return x, y


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

    x = scene['tissue']
    for i in range(NUM_WAVES):
        x = x + _waves(grid, scene['waves'][:, i])
    fibres = _waves(grid, scene['fibres'][:, 0])
    fibres = fibres * (0.5 + 0.5 * _waves(grid, scene['fibres'][:, 1]))
    for i in range(NUM_ORGANS):
        distance = _to_ellipse(
            grid, scene['organs'][:, i], scene['organ_lumps'][:, i]
        )
        coverage = _coverage(distance, pixel + scene['blur'][:, i])
        x += coverage * (scene['contrast'][:, i] + (fibres if i == 0 else 0))
    for i in range(NUM_PLATES):
        distance = _to_bar(grid, scene['plates'][:, i], scene['warp'][:, i])
        coverage = _coverage(distance, pixel + _SOFT)
        coverage = coverage * scene['has_plate'][:, i]
        x += coverage * (scene['density'][:, i] - x)
    for i in range(NUM_HOLES):
        distance = _to_ellipse(
            grid, scene['holes'][:, i], scene['hole_lumps'][:, i]
        )
        coverage = _coverage(distance, pixel + _SOFT)
        x *= 1 - coverage * scene['has_hole'][:, i]
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


def _to_ellipse(grid, shape, lumps=None):
    """The distance to an ellipse's edge, to first order; negative inside.

    With f = |(x / a, y / b)| it is (f - 1) / |grad f|, where lumps, of (size,
    phase), put 1 + sum size cos(k angle + phase) in the place of 1.
    """
    along, across = _turned(grid, shape)
    along, across = along / shape[:, 2], across / shape[:, 3]
    f_squared = along * along + across * across
    edge = np.float32(1)
    if lumps is not None:
        angle = np.arctan2(across, along)
        for i, k in enumerate(_AROUND):
            edge = edge + lumps[:, i, 0] * np.cos(k * angle + lumps[:, i, 1])
    along, across = along / shape[:, 2], across / shape[:, 3]
    # Only the sign and the neighbourhood of the edge count, so that the centre,
    # where both are 0, is kept from a division by 0.
    slope = np.sqrt(along * along + across * across) + np.float32(1e-6)
    return (f_squared - edge * np.sqrt(f_squared)) / slope


def _to_bar(grid, shape, warp):
    """The distance to a bar's edge, to first order; negative inside.

    A rectangle, bent along a parabola, wider at one end than at the other, with
    rounded corners: `warp` is (bend, taper, radius of the corners).
    """
    along, across = _turned(grid, shape)
    bend, taper, radius = np.moveaxis(warp, 1, 0)
    length, width = shape[:, 2], shape[:, 3]
    across = across - bend * (along * along - length * length / 3)
    width = width * (1 + taper * np.clip(along / length, -1, 1))
    beyond_end = np.abs(along) - length + radius
    beyond_side = np.abs(across) - width + radius
    outside = np.hypot(np.maximum(beyond_end, 0), np.maximum(beyond_side, 0))
    inside = np.minimum(np.maximum(beyond_end, beyond_side), 0)
    return outside + inside - radius


def _coverage(distance, width):
    """How much of a pixel lies inside, with an edge as soft as `width`."""
    return np.clip(0.5 - distance / width, 0, 1)
