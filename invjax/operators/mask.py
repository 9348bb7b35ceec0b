"""Inpainting and denoising: operators that keep some pixels as they are."""

import numbers

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import Composable
from invjax.types import Spectrum


@flax.struct.dataclass
class Mask(Composable):
    """Multiplication by a mask.

        y[i, j, c] = mask[i, j] x[i, j, c]

    A is a projection, so A = A^T = A^+. A measurement carries data where the
    mask is 1 and is zero, mid-grey, elsewhere; no noise is added there, so a
    residual's expectation counts the observed pixels alone. The authors of DPS
    add noise everywhere: with 30 % observed at 256 px and noise 0.05 that makes
    the residual's norm 22.2 rather than 12.1, and the same zeta acts
    differently.

    Attributes:
        mask: (H, W, 1), 1 where a pixel is observed, else 0.
        num_channels: C of the images. Static.
    """

    mask: jax.Array
    num_channels: int = flax.struct.field(pytree_node=False, default=3)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, _ = np.shape(self.mask)[-3:]
        return height, width, self.num_channels

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of y."""
        return self.image_shape

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        return self.mask * x

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T = A."""
        return self.mask * y

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it."""
        return self.mask * y

    def guess(self, y: jax.Array) -> jax.Array:
        """The pseudo-inverse, (H, W, C)."""
        return self.pinv(y)

    def support(self) -> jax.Array:
        """Where a measurement carries data, (H, W, 1)."""
        return self.mask

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are the pixels themselves."""
        return Spectrum(
            of_x=lambda x: x,
            to_x=lambda c: c,
            of_y=lambda y: self.mask * y,
            singular=self.mask,
        )

    def mask_of_x(self) -> jax.Array:
        """Which values of x are measured as they are, (H, W, 1)."""
        return self.mask

    def describe(self) -> dict:
        """What is missing, as plain data: pixels, share of all, and where.

        The place is the smallest box around all missing pixels, in pixels from
        the top left corner; bottom and right are the first ones outside.
        """
        missing = np.asarray(self.mask)[..., 0] == 0
        description = {
            'kind': 'Mask',
            'num_missing': int(missing.sum()),
            'missing_fraction': float(missing.mean()),
        }
        if missing.any():
            rows, columns = np.nonzero(missing)
            description['missing_within'] = {
                'top': int(rows.min()),
                'left': int(columns.min()),
                'bottom': int(rows.max()) + 1,
                'right': int(columns.max()) + 1,
            }
        return description


def box_inpainting(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    box_size: int | None = None,
    box_margin: int | None = None,
) -> Mask:
    """A square box is missing, at a random place.

    Args:
        key: of the place.
        image_shape: (H, W, C).
        box_size: side of the box in pixels; by default half the image's.
        box_margin: least distance from the border in pixels; by default a
            sixteenth of the image's side. (DPS: 16 at 256 px. DAPS: 32.)

    Raises:
        ValueError: if a size is no whole number, or the box with its margins
            does not fit the image.
    """
    height, width, num_channels = image_shape
    side = min(height, width)
    box_size = side // 2 if box_size is None else box_size
    box_margin = side // 16 if box_margin is None else box_margin
    for name, value in (('box_size', box_size), ('box_margin', box_margin)):
        if not isinstance(value, numbers.Integral):
            raise ValueError(
                f'{name} must be a whole number of pixels, got {value}.'
            )
    if box_size < 1 or box_margin < 0 or box_size + 2 * box_margin > side:
        raise ValueError(
            'box_size + 2 * box_margin must be at most the side of the image, '
            f'{side}, got {box_size} + 2 * {box_margin}.'
        )
    key_top, key_left = jax.random.split(key)
    # The last place is allowed too, hence the 1.
    last = jnp.array([height, width]) - box_margin - box_size + 1
    top = jax.random.randint(key_top, (), box_margin, last[0])
    left = jax.random.randint(key_left, (), box_margin, last[1])
    rows = jnp.arange(height)[:, None] - top
    columns = jnp.arange(width)[None] - left
    inside = (
        (rows >= 0) & (rows < box_size) & (columns >= 0) & (columns < box_size)
    )
    return Mask(jnp.asarray(~inside, jnp.float32)[..., None], num_channels)


def random_inpainting(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    drop_fraction: float = 0.7,
) -> Mask:
    """Whole pixels, all channels, are missing at random places.

    Args:
        key: of the places.
        image_shape: (H, W, C).
        drop_fraction: of the pixels that are missing, from 0 to 1. The count is
            exact, rounded to a whole number of pixels.

    Raises:
        ValueError: if the fraction is out of its range.
    """
    if not 0 <= drop_fraction <= 1:
        raise ValueError(
            f'drop_fraction must be from 0 to 1, got {drop_fraction}.'
        )
    height, width, num_channels = image_shape
    num_dropped = round(drop_fraction * height * width)
    order = jax.random.permutation(key, height * width)
    mask = jnp.asarray(order >= num_dropped, jnp.float32)
    return Mask(mask.reshape(height, width, 1), num_channels)


def denoising(key: jax.Array, image_shape: tuple[int, int, int]) -> Mask:
    """Nothing is missing: A is the identity, and only noise is to be removed."""
    del key
    height, width, num_channels = image_shape
    return Mask(jnp.ones((height, width, 1)), num_channels)
