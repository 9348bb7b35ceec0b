"""Nonlinear degradations: of magnitude, range, compression and light."""

import flax.struct
import jax
import jax.numpy as jnp
import jax.scipy.fft
import numpy as np

from invjax.operators.base import BaseOperator
from invjax.operators.blur import (
    LEAST_STD,
    blur_matrix,
    default_std,
    gaussian_kernel,
)
from invjax.operators.bounds import (
    check_number,
    check_sides,
    check_size,
    check_whole,
)
from invjax.operators.retrieval import best, candidates, four_ways

# Eighths of the side; the measurement is then 17 times as wide as the image.
MOST_OVERSAMPLING = 64.0


class PhaseRetrieval(BaseOperator):
    """Magnitudes of the Fourier transform of the image with a margin.

        y = |F pad(x)|,  F of unit norm

    An image turned by 180 degrees, or of the other sign, measures the same, so
    no method can tell them apart but by the prior; several starts are needed.

    Attributes:
        image_shape: (H, W, C).
        margin: m, pixels of zeros around the image.
    """

    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)
    margin: int = flax.struct.field(pytree_node=False)

    @property
    def measurement_shape(self) -> tuple[int, int, int]:
        """(H + 2 m, W + 2 m, C)."""
        height, width, num_channels = self.image_shape
        return height + 2 * self.margin, width + 2 * self.margin, num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map (H, W, C) to magnitudes, (H + 2 m, W + 2 m, C)."""
        self.check_image(x)
        edge = (self.margin, self.margin)
        waves = jnp.fft.fft2(
            jnp.pad(x, (edge, edge, (0, 0))), axes=(0, 1), norm='ortho'
        )
        # The root has no gradient at zero; the offset is far below any noise.
        return jnp.sqrt(waves.real**2 + waves.imag**2 + 1e-12)

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): that of phase zero."""
        self.check_measurement(y)
        x = jnp.fft.ifft2(y, axes=(0, 1), norm='ortho').real
        height, width, _ = self.image_shape
        return jnp.fft.fftshift(x, axes=(0, 1))[
            self.margin : self.margin + height,
            self.margin : self.margin + width,
        ]

    def guesses(self, key: jax.Array, y: jax.Array) -> jax.Array:
        """An image that explains y, in the four ways that measure the same.

        The best of many starts of hybrid input-output, see `retrieval`.

        Args:
            key: of the starts.
            y: the measurement.

        Returns:
            (4, H, W, C).
        """
        self.check_measurement(y)
        found = candidates(key, y, self.image_shape, self.margin)
        return four_ways(best(found))

    def describe(self) -> dict:
        """Its kind and margin, in pixels, as plain data."""
        return {'kind': 'PhaseRetrieval', 'margin': self.margin}


def phase_retrieval(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    oversampling: float = 2.0,
) -> PhaseRetrieval:
    """Fourier magnitudes, oversampled.

    Args:
        key: unused.
        image_shape: (H, W, C).
        oversampling: as the authors of DPS count it: the margin is that many
            eighths of the side, 64 pixels at 256 px for 2.

    Raises:
        ValueError: if it is out of its range, or the measurement too large.
    """
    del key
    check_number('oversampling', oversampling, 0, MOST_OVERSAMPLING)
    margin = int(oversampling * min(image_shape[:2]) / 8)
    operator = PhaseRetrieval(image_shape, margin)
    check_size(
        f'the measurement of oversampling {oversampling}',
        operator.measurement_shape,
    )
    return operator


class Clipping(BaseOperator):
    """y = clip(gain x, -1, 1): an overexposed picture.

    Attributes:
        gain: (), above 0.
        image_shape: (H, W, C).
    """

    gain: jax.Array
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def forward(self, x: jax.Array) -> jax.Array:
        """Map (H, W, C) to (H, W, C)."""
        self.check_image(x)
        return jnp.clip(self.gain * x, -1, 1)

    def guess(self, y: jax.Array) -> jax.Array:
        """The least image, (H, W, C), that measures to y."""
        self.check_measurement(y)
        return jnp.clip(y, -1, 1) / self.gain

    def describe(self) -> dict:
        """Its kind and gain as plain data."""
        return {'kind': 'Clipping', 'gain': float(self.gain)}


def high_dynamic_range(
    key: jax.Array, image_shape: tuple[int, int, int], *, gain: float = 2.0
) -> Clipping:
    """The range of the camera is smaller than that of the scene.

    Args:
        key: unused.
        image_shape: (H, W, C).
        gain: from 0.001 to 1,000; 2 in the literature.

    Raises:
        ValueError: if it is out of its range.
    """
    del key
    check_number('gain', gain, 1e-3, 1e3)
    return Clipping(jnp.asarray(gain, jnp.float32), image_shape)


# ITU-T T.81, Annex K, tables K.1 and K.2.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float64,
)
_CHROMINANCE = np.full((8, 8), 99.0)
_CHROMINANCE[:4, :4] = [
    [17, 18, 24, 47],
    [18, 21, 26, 66],
    [24, 26, 56, 99],
    [47, 66, 99, 99],
]
# ITU-T T.871: R, G, B to Y, Cb, Cr.
_TO_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168736, -0.331264, 0.5],
        [0.5, -0.418688, -0.081312],
    ]
)
# Luminance is coded as its difference from 128 (T.81, A.3.1), and the middle of
# our range, 0, is 127.5. Colours are differences as they are.
_ZERO = np.array([0.5, 0, 0], np.float32)


class Jpeg(BaseOperator):
    """The loss of a JPEG file without chroma subsampling.

    Rounding has no useful gradient; the identity's is taken in its place.

    Attributes:
        tables: (8, 8, 3) quantisation steps of Y, Cb and Cr, on 0 to 255.
        quality: () for records.
        image_shape: (H, W, 3).
    """

    tables: jax.Array
    quality: jax.Array
    image_shape: tuple[int, int, int] = flax.struct.field(pytree_node=False)

    def forward(self, x: jax.Array) -> jax.Array:
        """Map (H, W, 3) to what the file would show, (H, W, 3)."""
        self.check_image(x)
        height, width, _ = x.shape
        highest = jax.lax.Precision.HIGHEST
        colours = jnp.matmul(127.5 * x, _TO_YCBCR.T, precision=highest) - _ZERO
        # Sides that 8 does not divide are filled up with their edges.
        missing = ((0, -height % 8), (0, -width % 8), (0, 0))
        colours = jnp.pad(colours, missing, mode='edge')
        rows, columns, _ = colours.shape
        blocks = colours.reshape(rows // 8, 8, columns // 8, 8, 3)
        waves = jax.scipy.fft.dctn(blocks, axes=(1, 3), norm='ortho')
        tables = self.tables[None, :, None]
        scaled = waves / tables
        rounded = scaled + jax.lax.stop_gradient(jnp.round(scaled) - scaled)
        blocks = jax.scipy.fft.idctn(
            rounded * tables, axes=(1, 3), norm='ortho'
        )
        colours = blocks.reshape(rows, columns, 3)[:height, :width] + _ZERO
        inverse = np.linalg.inv(_TO_YCBCR)
        return jnp.matmul(colours, inverse.T, precision=highest) / 127.5

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, 3): the file's own picture."""
        self.check_measurement(y)
        return y

    def describe(self) -> dict:
        """Its kind and quality as plain data."""
        return {'kind': 'Jpeg', 'quality': int(self.quality)}


def jpeg(
    key: jax.Array, image_shape: tuple[int, int, int], *, quality: int = 20
) -> Jpeg:
    """A compressed picture.

    Args:
        key: unused.
        image_shape: (H, W, 3).
        quality: from 1 to 100, as the Independent JPEG Group counts it.

    Raises:
        ValueError: if a value is out of its range.
    """
    del key
    if image_shape[-1] != 3:
        raise ValueError(f'jpeg needs three channels, got {image_shape[-1]}.')
    check_whole('quality', quality, 1, 100)
    # In whole numbers, as the group's code counts.
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = np.stack([_LUMINANCE, _CHROMINANCE, _CHROMINANCE], axis=-1)
    tables = np.clip((tables * scale + 50) // 100, 1, 255)
    return Jpeg(
        jnp.asarray(tables, jnp.float32),
        jnp.asarray(quality, jnp.int32),
        image_shape,
    )


class LightBlur(BaseOperator):
    """A blur of light, seen in a picture whose values are its gamma curve.

        y = f(B f^{-1}(x)),  f^{-1}(x) = ((x + 1) / 2)^2.2

    with B separable and its edges reflected. Lights spread over darks.

    Attributes:
        rows, columns: (H, H) and (W, W).
        std: () of the blur in pixels, for records.
        num_channels: C.
    """

    rows: jax.Array
    columns: jax.Array
    std: jax.Array
    num_channels: int = flax.struct.field(pytree_node=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width = self.rows.shape[-1], self.columns.shape[-1]
        return height, width, self.num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map (H, W, C) to (H, W, C)."""
        self.check_image(x)
        # At black the root's slope is infinite: it begins a little above.
        light = jnp.clip((x + 1) / 2, 1e-3, None) ** 2.2
        light = jnp.einsum(
            'ih,hwc,jw->ijc',
            self.rows,
            light,
            self.columns,
            precision=jax.lax.Precision.HIGHEST,
        )
        return 2 * light ** (1 / 2.2) - 1

    def guess(self, y: jax.Array) -> jax.Array:
        """A guess at the image, (H, W, C): the blurred one."""
        self.check_measurement(y)
        return y

    def describe(self) -> dict:
        """Its kind and width, in pixels, as plain data."""
        return {'kind': 'LightBlur', 'blur_std': float(self.std)}


def nonlinear_deblur(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    blur_std: float | None = None,
) -> LightBlur:
    """Defocus, which blurs light and not pixel values.

    The nonlinear blur of the authors of DPS is a trained network; this one is
    known in closed form.

    Args:
        key: unused.
        image_shape: (H, W, C).
        blur_std: of the Gaussian in pixels, from 0.01 to the shorter side; by
            default that of `default_std`.

    Raises:
        ValueError: if it is out of its range.
    """
    del key
    height, width, num_channels = image_shape
    side = min(height, width)
    if blur_std is None:
        blur_std = default_std(image_shape)
    check_sides('nonlinear_deblur', image_shape)
    check_number('blur_std', blur_std, LEAST_STD, side, 'pixels')
    size = 2 * min(int(4 * blur_std) + 1, side - 1) + 1
    kernel = gaussian_kernel(size, blur_std)
    return LightBlur(
        rows=jnp.asarray(blur_matrix(kernel, height), jnp.float32),
        columns=jnp.asarray(blur_matrix(kernel, width), jnp.float32),
        std=jnp.asarray(blur_std, jnp.float32),
        num_channels=num_channels,
    )
