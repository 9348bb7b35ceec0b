"""Gaussian deblurring.

The kernel is separable and an image has edges, so the operator is two small
matrices with the edges' treatment in them,

    y[:, :, c] = R x[:, :, c] C^T,

whose transpose is the true adjoint, whose pseudo-inverse is that of R and of C,
and which cost next to nothing beside a network.
"""

import numbers

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage


@flax.struct.dataclass
class SeparableBlur:
    """Blur by one matrix along columns and one along rows.

    Attributes:
        rows: (H, H), R; each row sums to 1.
        columns: (W, W), C; each row sums to 1.
        rows_pinv, columns_pinv: their pseudo-inverses.
        size, std: () of the kernel in pixels. They only say what the matrices
            are; as leaves, so that another width is no other program.
    """

    rows: jax.Array
    columns: jax.Array
    rows_pinv: jax.Array
    columns_pinv: jax.Array
    size: jax.Array
    std: jax.Array

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        return _apply(self.rows, self.columns, x)

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T."""
        return _apply(self.rows.T, self.columns.T, y)

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it.

        Singular values of R or C under a thousandth of the largest count as
        zero, since float32 cannot carry their inverse.
        """
        return _apply(self.rows_pinv, self.columns_pinv, y)

    def support(self) -> jax.Array:
        """Where a measurement carries data: everywhere, (1, 1, 1)."""
        return jnp.ones((1, 1, 1))

    def describe(self) -> dict:
        """Its kind and its kernel, in pixels, as plain data."""
        return {
            'kind': 'SeparableBlur',
            'blur_size': int(self.size),
            'blur_std': float(self.std),
        }


def _apply(rows, columns, x):
    return jnp.einsum(
        'ih,hwc,jw->ijc', rows, x, columns, precision=jax.lax.Precision.HIGHEST
    )


def gaussian_kernel(size: int, std: float) -> np.ndarray:
    """The impulse response of a Gaussian filter, (size,) float64, sum 1.

    As the authors of DPS make it: the filter, cut at 4 std, applied to a unit
    impulse of that size. Where the support is shorter than 8 std its tails
    are folded back.
    """
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    return scipy.ndimage.gaussian_filter1d(impulse, std)


def blur_matrix(kernel: np.ndarray, length: int) -> np.ndarray:
    """(length, length) float64: correlation with reflection at both ends.

    Reflection does not repeat the edge pixel, as in PyTorch's ReflectionPad.
    """
    radius = len(kernel) // 2
    padded = np.pad(np.eye(length), ((radius, radius), (0, 0)), mode='reflect')
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, len(kernel), axis=0
    )
    return windows @ kernel


def gaussian_deblur(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    blur_size: int | None = None,
    blur_std: float | None = None,
) -> SeparableBlur:
    """The deconvolution task.

    Args:
        key: unused; the blur is the same for all images.
        image_shape: (H, W, C).
        blur_size: side of the kernel in pixels, odd. By default in proportion
            to the image: 61 at 256 px, 15 at 64 px.
        blur_std: of the Gaussian in pixels. By default 3.0 at 256 px and 1.5 at
            64 px, in between and beyond by the root of the side, so that small
            faces keep a task of like difficulty.

    Raises:
        ValueError: if a value is out of its range.
    """
    del key
    height, width, _ = image_shape
    side = min(height, width)
    if blur_size is None:
        blur_size = 2 * (61 * side // 512) + 1
    if blur_std is None:
        blur_std = 3.0 * (side / 256) ** 0.5
    if (
        not isinstance(blur_size, numbers.Integral)
        or blur_size % 2 == 0
        or not 1 <= blur_size < 2 * side
    ):
        raise ValueError(
            f'blur_size must be a whole odd number, from 1 to {2 * side - 1} for images of '
            f'{height} x {width}, got {blur_size}.'
        )
    if not 0 < blur_std < np.inf:
        raise ValueError(
            f'blur_std must be above 0 pixels and finite, got {blur_std}.'
        )
    kernel = gaussian_kernel(blur_size, blur_std)
    rows, columns = blur_matrix(kernel, height), blur_matrix(kernel, width)
    return SeparableBlur(
        *(
            jnp.asarray(matrix, jnp.float32)
            for matrix in (
                rows,
                columns,
                np.linalg.pinv(rows, rcond=1e-3),
                np.linalg.pinv(columns, rcond=1e-3),
            )
        ),
        size=jnp.asarray(blur_size, jnp.int32),
        std=jnp.asarray(blur_std, jnp.float32),
    )
