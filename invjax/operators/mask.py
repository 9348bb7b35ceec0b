"""Inpainting and denoising: operators that keep some pixels as they are."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import BaseOperator
from invjax.operators.bounds import check_image_shape, check_number, check_whole
from invjax.types import Spectrum


class Mask(BaseOperator):
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
        num_channels: C.
    """

    mask: jax.Array
    num_channels: int = flax.struct.field(pytree_node=False, default=3)

    @classmethod
    def of(
        cls, observed: jax.typing.ArrayLike, image_shape: tuple[int, int, int]
    ) -> 'Mask':
        """A mask that the user brings.

        Args:
            observed: (H, W) or (H, W, 1), true or 1 where a pixel is observed,
                false or 0 where it is missing.
            image_shape: (H, W, C).

        Raises:
            ValueError: for another shape or other values, or if no pixel is
                observed.
        """
        height, width, num_channels = check_image_shape(image_shape)
        mask = np.asarray(observed)
        if mask.shape not in ((height, width), (height, width, 1)):
            raise ValueError(
                f'a mask for images of shape {tuple(image_shape)} must have '
                f'shape {(height, width)}, got {mask.shape}.'
            )
        if not np.isin(mask, (0, 1)).all() or not mask.any():
            raise ValueError(
                'a mask must be 1 where a pixel is observed, 0 where it is '
                'missing and observe one or more, got values from '
                f'{mask.min()} to {mask.max()}.'
            )
        mask = mask.reshape(height, width, 1)
        return cls(jnp.asarray(mask, jnp.float32), num_channels)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width = self.mask.shape[-3:-1]
        return height, width, self.num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        self.check_image(x)
        return self.mask * x

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T = A."""
        self.check_measurement(y)
        return self.mask * y

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it."""
        self.check_measurement(y)
        return self.mask * y

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
        """What is missing, as plain data: pixels, fraction of all, and where.

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
    if side < 2:
        raise ValueError(
            'box_inpainting needs images of 2 x 2 pixels or more, got '
            f'{height} x {width}.'
        )
    check_whole('box_size', box_size, 1, side)
    check_whole('box_margin', box_margin, 0, side)
    if box_size == height == width:
        raise ValueError(
            f'box_size must leave a pixel of {height} x {width}, got '
            f'{box_size}.'
        )
    if box_size + 2 * box_margin > side:
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
        drop_fraction: of the pixels that are missing, from 0. The count is
            exact, rounded to a whole number of pixels, and leaves one or more.

    Raises:
        ValueError: if the fraction is out of its range or nothing is left.
    """
    check_number('drop_fraction', drop_fraction, 0, 1)
    height, width, num_channels = image_shape
    num_dropped = round(drop_fraction * height * width)
    if num_dropped == height * width:
        raise ValueError(
            f'drop_fraction must leave one or more of {height * width} pixels, '
            f'got {drop_fraction}.'
        )
    order = jax.random.permutation(key, height * width)
    mask = jnp.asarray(order >= num_dropped, jnp.float32)
    return Mask(mask.reshape(height, width, 1), num_channels)


def denoising(key: jax.Array, image_shape: tuple[int, int, int]) -> Mask:
    """Nothing is missing: A is the identity, and only noise is to be removed."""
    del key
    height, width, num_channels = image_shape
    return Mask(jnp.ones((height, width, 1)), num_channels)
