"""Deblurring: Gaussian, separable with reflected edges, and motion.

Motion blur is a convolution with any kernel, with edges that wrap around: then
it is a product in the Fourier basis, and so is all that is derived from it. A
photograph has no such edges: what lies beside it was blurred into it. There the
pixels count whose light came from inside alone (`inner_convolution`).
"""

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.base import BaseOperator, Composition, compose
from invjax.operators.bounds import check_number, check_sides, check_whole
from invjax.operators.mask import Mask
from invjax.operators.separable import Factor, Separable
from invjax.types import Spectrum

# Pixels; a Gaussian of less is the identity, and of far less 0 / 0.
LEAST_STD = 0.01


def gaussian_kernel(size: int, std: float) -> np.ndarray:
    """The impulse response of a Gaussian filter, (size,) float64, sum 1.

    As the authors of DPS make it: the filter, cut at 4 std, applied to a unit
    impulse of that size. Where the support is shorter than 8 std its tails
    are folded back.
    """
    impulse = np.zeros(size)
    impulse[size // 2] = 1
    return _smoothed(impulse, std, 'symmetric')


def _smoothed(
    x: np.ndarray, std: float, beyond: Literal['constant', 'symmetric']
) -> np.ndarray:
    """A Gaussian filter along the first axis, cut at 4 std, in float64.

    Args:
        x: (N, ...).
        std: above 0, in steps of the axis.
        beyond: what lies beyond the ends, as `np.pad` calls it.
    """
    radius = int(4 * std + 0.5)
    weights = np.exp(-((np.arange(-radius, radius + 1) / std) ** 2) / 2)
    beside = [(0, 0)] * (x.ndim - 1)
    padded = np.pad(x, [(radius, radius), *beside], mode=beyond)
    windows = np.lib.stride_tricks.sliding_window_view(
        padded, len(weights), axis=0
    )
    return windows @ (weights / weights.sum())


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


def default_std(image_shape: tuple[int, int, int]) -> float:
    """Of a Gaussian blur in pixels: 3.0 at 256 px and 1.5 at 64 px.

    By the root of the shorter side, so that small faces keep a task of like
    difficulty.
    """
    return 3.0 * (min(image_shape[:2]) / 256) ** 0.5


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
        blur_std: of the Gaussian in pixels, from 0.01 to the shorter side. By
            default that of `default_std`.

    Raises:
        ValueError: if a value is out of its range.
    """
    del key
    height, width, num_channels = image_shape
    side = min(height, width)
    if blur_size is None:
        blur_size = 2 * (61 * side // 512) + 1
    if blur_std is None:
        blur_std = default_std(image_shape)
    check_sides('gaussian_deblur', image_shape)
    # Reflection reaches no further than the other edge.
    check_whole('blur_size', blur_size, 1, 2 * side - 1, odd=True)
    check_number('blur_std', blur_std, LEAST_STD, side, 'pixels')
    kernel = gaussian_kernel(blur_size, blur_std)
    rows, columns = blur_matrix(kernel, height), blur_matrix(kernel, width)
    return Separable(
        rows=Factor.from_matrix(rows),
        columns=Factor.from_matrix(columns),
        parameters={
            'blur_size': jax.device_put(np.int32(blur_size)),
            'blur_std': jax.device_put(np.float32(blur_std)),
        },
        kind='GaussianBlur',
        num_channels=num_channels,
    )


class Convolution(BaseOperator):
    """Circular convolution of each channel with one kernel.

    Attributes:
        transfer: (H, W, 1) complex, the kernel's Fourier transform.
        parameters: () each, by name, for records.
        num_channels: C.
    """

    transfer: jax.Array
    parameters: dict[str, jax.Array]
    num_channels: int = flax.struct.field(pytree_node=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        height, width = self.transfer.shape[-3:-1]
        return height, width, self.num_channels

    def forward(self, x: jax.Array) -> jax.Array:
        """Map an image, (H, W, C), to its measurement, (H, W, C)."""
        self.check_image(x)
        return _from_fourier(self.transfer * _fourier(x))

    def adjoint(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) back to (H, W, C) by A^T: correlation."""
        self.check_measurement(y)
        return _from_fourier(self.transfer.conj() * _fourier(y))

    def pinv(self, y: jax.Array) -> jax.Array:
        """Map (H, W, C) to the least-norm image that measures to it.

        Waves that are let through by less than a thousandth of the largest
        gain count as stopped.
        """
        self.check_measurement(y)
        gain = jnp.abs(self.transfer)
        kept = gain > 1e-3 * jnp.max(gain)
        inverse = kept / jnp.where(kept, self.transfer, 1)
        return _from_fourier(inverse * _fourier(y))

    def spectrum(self) -> Spectrum:
        """Its decomposition; coefficients are Fourier's, (H, W, C) complex."""
        gain = jnp.abs(self.transfer)
        phase = self.transfer / jnp.where(gain > 0, gain, 1)
        return Spectrum(
            of_x=_fourier,
            to_x=_from_fourier,
            of_y=lambda y: phase.conj() * _fourier(y),
            singular=gain,
        )

    def describe(self) -> dict:
        """Its kind and parameters as plain data."""
        values = {n: np.asarray(v).item() for n, v in self.parameters.items()}
        return {'kind': 'Convolution', **values}


def _fourier(x):
    return jnp.fft.fft2(x, axes=(0, 1), norm='ortho')


def _from_fourier(coefficients):
    return jnp.fft.ifft2(coefficients, axes=(0, 1), norm='ortho').real


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
    offset = path - corner
    kernel = np.zeros((size, size))
    for i in (0, 1):
        for j in (0, 1):
            weight = np.abs(1 - i - offset[0]) * np.abs(1 - j - offset[1])
            np.add.at(kernel, (corner[0] + i, corner[1] + j), weight)
    for _ in range(2):  # Rows, then columns.
        kernel = _smoothed(kernel, 0.5, 'constant').T
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
    if side < 3:
        raise ValueError(
            f'motion_deblur needs images of 3 x 3 pixels or more, got {height} '
            f'x {width}.'
        )
    check_whole('blur_size', blur_size, 3, side, odd=True)
    check_number('intensity', intensity, 0, 1)
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
        ValueError: if the kernel does not fit, is not finite or zero everywhere.
    """
    height, width, num_channels = image_shape
    kernel = np.asarray(kernel, np.float64)
    odd = kernel.ndim == 2 and all(n % 2 == 1 for n in kernel.shape)
    if not odd or kernel.shape[0] > height or kernel.shape[1] > width:
        raise ValueError(
            'a kernel must have two odd sides and at most '
            f'{height} x {width} pixels, got {kernel.shape}.'
        )
    if not np.isfinite(kernel).all() or not kernel.any():
        raise ValueError(
            'a kernel must be finite and not zero everywhere, got values from '
            f'{kernel.min():g} to {kernel.max():g}.'
        )
    h, w = kernel.shape
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
        num_channels,
    )


def inner_convolution(
    kernel: np.ndarray,
    image_shape: tuple[int, int, int],
    parameters: dict[str, float] | None = None,
) -> Composition:
    """Convolution of which only pixels are measured that no edge has reached.

    What lies beyond the edges of a photograph is not known: not what is on the
    other side, and no mirror image either. So the outermost pixels, half a
    kernel wide, are left out of the measurement. It is a circular convolution,
    then a mask.

    Args:
        kernel: (h, w), odd and smaller than the image.
        image_shape: (H, W, C).
        parameters: numbers for records.

    Raises:
        ValueError: as `convolution`, or if no pixel would be left.
    """
    blur = convolution(kernel, image_shape, parameters)
    height, width, _ = image_shape
    rows, columns = (side // 2 for side in np.shape(kernel))
    if 2 * rows >= height or 2 * columns >= width:
        raise ValueError(
            f'a kernel of {np.shape(kernel)} leaves no pixel of {height} x '
            f'{width} that the edges do not reach.'
        )
    observed = np.zeros((height, width))
    observed[rows : height - rows, columns : width - columns] = 1
    return compose(blur, Mask.of(observed, image_shape))
