"""Deblurring: Gaussian, separable with reflected edges, and motion.

Motion blur is a convolution with any kernel, with edges that wrap around: then
it is a product in the Fourier basis, and so is all that is derived from it.
"""

import numbers

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage

from invjax.operators.base import Composable
from invjax.operators.separable import Factor, Separable
from invjax.types import Spectrum


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
) -> Separable:
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
    return Separable(
        rows=Factor.from_matrix(rows),
        columns=Factor.from_matrix(columns),
        parameters={
            'blur_size': jnp.asarray(blur_size, jnp.int32),
            'blur_std': jnp.asarray(blur_std, jnp.float32),
        },
        kind='GaussianBlur',
        num_channels=image_shape[-1],
    )


class Convolution(Composable, flax.struct.PyTreeNode):
    """Circular convolution of each channel with one kernel.

    Attributes:
        transfer: (H, W, 1) complex, the kernel's Fourier transform.
        parameters: () each, by name, for records.
        num_channels: C of the images. Static.
    """

    transfer: jax.Array
    parameters: dict[str, jax.Array]
    num_channels: int = flax.struct.field(pytree_node=False, default=3)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width, _ = np.shape(self.transfer)[-3:]
        return height, width, self.num_channels

    @property
    def measurement_shape(self) -> tuple[int, ...]:
        """Shape of y."""
        return self.image_shape

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        return _from_waves(self.transfer * _waves(x))

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T: correlation."""
        return _from_waves(self.transfer.conj() * _waves(y))

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it.

        Waves that are let through by less than a thousandth of the largest
        share count as stopped.
        """
        share = jnp.abs(self.transfer)
        kept = share > 1e-3 * jnp.max(share)
        inverse = kept / jnp.where(kept, self.transfer, 1)
        return _from_waves(inverse * _waves(y))

    def guess(self, y: jax.Array) -> jax.Array:
        """The pseudo-inverse, (H, W, C)."""
        return self.pinv(y)

    def support(self) -> jax.Array:
        """Where a measurement carries data: everywhere, (1, 1, 1)."""
        return jnp.ones((1, 1, 1))

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are waves, (H, W, C) complex."""
        share = jnp.abs(self.transfer)
        phase = self.transfer / jnp.where(share > 0, share, 1)
        return Spectrum(
            of_x=_waves,
            to_x=_from_waves,
            of_y=lambda y: phase.conj() * _waves(y),
            singular=share,
        )

    def describe(self) -> dict:
        """Its kind and parameters as plain data."""
        values = {n: np.asarray(v).item() for n, v in self.parameters.items()}
        return {'kind': 'Convolution', **values}


def _waves(x):
    return jnp.fft.fft2(x, axes=(0, 1), norm='ortho')


def _from_waves(waves):
    return jnp.fft.ifft2(waves, axes=(0, 1), norm='ortho').real


def motion_kernel(key: jax.Array, size: int, intensity: float) -> np.ndarray:
    """The path of a shaken camera, (size, size) float64, sum 1.

    A particle moves with a speed that turns a little at each step; its path is
    centred, drawn by bilinear weights, and smoothed by half a pixel.

    Args:
        key: of the path.
        size: side in pixels, odd.
        intensity: 0 for a straight path, 1 for one that turns at random.
    """
    num_steps = 16 * size
    key_angle, key_turn, key_length = jax.random.split(key, 3)
    turns = np.asarray(jax.random.normal(key_turn, (num_steps,)), np.float64)
    first = 2 * np.pi * float(jax.random.uniform(key_angle))
    angle = first + intensity * np.cumsum(turns) * np.pi / np.sqrt(num_steps)
    path = np.cumsum([np.sin(angle), np.cos(angle)], axis=1)
    path -= (path.min(axis=1) + path.max(axis=1))[:, None] / 2
    # The longer side of the path's box is half to all of the kernel's.
    extent = 0.5 + 0.5 * float(jax.random.uniform(key_length))
    path *= extent * (size - 3) / 2 / max(np.abs(path).max(), 1e-9)
    path += size // 2
    corner = np.floor(path).astype(int)
    share = path - corner
    kernel = np.zeros((size, size))
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - share[0]) * np.abs(1 - j - share[1])
            np.add.at(kernel, (corner[0] + i, corner[1] + j), weight)
    kernel = scipy.ndimage.gaussian_filter(kernel, 0.5, mode='constant')
    return kernel / kernel.sum()


def motion_deblur(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    blur_size: int | None = None,
    intensity: float = 0.5,
) -> Convolution:
    """The picture of a camera that was shaken; edges wrap around.

    Args:
        key: of the path.
        image_shape: (H, W, C).
        blur_size: side of the kernel in pixels, odd. By default in proportion
            to the image: 61 at 256 px, 15 at 64 px.
        intensity: from 0, a straight path, to 1.

    Raises:
        ValueError: if a value is out of its range.
    """
    height, width, _ = image_shape
    side = min(height, width)
    if blur_size is None:
        blur_size = max(2 * (61 * side // 512) + 1, 3)
    if (
        not isinstance(blur_size, numbers.Integral)
        or blur_size % 2 == 0
        or not 3 <= blur_size <= side
    ):
        raise ValueError(
            f'blur_size must be a whole odd number, from 3 to {side} for images '
            f'of {height} x {width}, got {blur_size}.'
        )
    if not 0 <= intensity <= 1:
        raise ValueError(f'intensity must be from 0 to 1, got {intensity}.')
    kernel = motion_kernel(key, blur_size, intensity)
    return convolution(
        kernel, image_shape, {'blur_size': blur_size, 'intensity': intensity}
    )


def convolution(
    kernel: np.ndarray,
    image_shape: tuple[int, int, int],
    parameters: dict[str, float] | None = None,
) -> Convolution:
    """Circular convolution with a kernel, whose centre stays in place.

    Args:
        kernel: (h, w), odd and no larger than the image.
        image_shape: (H, W, C).
        parameters: numbers for records.

    Raises:
        ValueError: if the kernel does not fit.
    """
    height, width, _ = image_shape
    h, w = np.shape(kernel)
    if h % 2 == 0 or w % 2 == 0 or h > height or w > width:
        raise ValueError(
            f'a kernel must be odd and at most {height} x {width}, got {h} x {w}.'
        )
    padded = np.zeros((height, width))
    padded[:h, :w] = kernel
    padded = np.roll(padded, (-(h // 2), -(w // 2)), axis=(0, 1))
    transfer = np.fft.fft2(padded)[..., None]
    return Convolution(
        jnp.asarray(transfer, jnp.complex64),
        {
            n: jnp.asarray(v, jnp.result_type(type(v)))
            for n, v in (parameters or {}).items()
        },
        image_shape[-1],
    )
