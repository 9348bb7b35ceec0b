"""3 x 3 convolutions by Winograd's minimal filtering, for the CPU.

XLA's convolution on a CPU multiplies each pixel with each tap. Computed on
tiles of m x m outputs (Lavin and Gray, 2016, F(m x m, 3 x 3)) the same sums
take (m + 2)**2 products a tile in place of 9 m**2, as one batched matrix
product between two cheap transforms. It is the kernel's transform that would
be dear inside of a loop, so it is made once, ahead of it (`prepare`). On
accelerators, which have tuned convolutions, nothing is prepared.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

# Per tile size m: kernel, input and output transforms; the points are 0, 1, -1
# (and 2, -2), and infinity.
_KERNEL = {
    2: np.array(
        [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]
    ),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}
_INPUT = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
}
_OUTPUT = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
    4: np.array(
        [
            [1, 1, 1, 1, 1, 0],
            [0, 1, -1, 2, -2, 0],
            [0, 1, 1, 4, 4, 0],
            [0, 1, -1, 8, -8, 1],
        ]
    ),
}


class PreparedKernel(NamedTuple):
    """A kernel's transform and that of its transpose.

    Attributes:
        forward: ((m + 2)**2, I, O).
        backward: ((m + 2)**2, O, I), of the kernel turned by 180 degrees with
            its channels exchanged: what the input gradient convolves with.
    """

    forward: jax.Array
    backward: jax.Array


def best_tile(height: int, width: int, inputs: int, outputs: int) -> int | None:
    """The tile size that is fastest on a CPU; None for a plain convolution.

    With few channels the transforms outweigh the products. A larger tile has
    fewer products and a larger kernel to read, which pays for itself where
    there are enough pixels. The bounds are measured (docs/performance.md).
    """
    if min(inputs, outputs) < 32 or height % 2 or width % 2:
        return None
    kernel_share = inputs * outputs / (inputs + outputs)
    large = height % 4 == 0 and width % 4 == 0
    return 4 if large and 2 * kernel_share <= height * width else 2


def prepare(kernel: jax.Array, tile: int) -> PreparedKernel:
    """Transform a kernel, (3, 3, I, O), for tiles of `tile` x `tile`."""
    transform = _KERNEL[tile].astype(np.float32)

    def transformed(kernel):
        out = jnp.einsum(
            'ai,bj,ijco->baco',
            transform,
            transform,
            kernel,
            precision=lax.Precision.HIGHEST,
        )
        return out.reshape(-1, *kernel.shape[2:])

    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    return PreparedKernel(transformed(kernel), transformed(turned))


def _combine(coefficients, parts):
    """The sum of some arrays with small known coefficients, most of them 0."""
    terms = [
        part if c == 1 else -part if c == -1 else np.float32(c) * part
        for c, part in zip(coefficients, parts, strict=True)
        if c != 0
    ]
    return sum(terms[1:], terms[0])


def _input_tiles(x, m):
    """The input transform: (N, H, W, C) to ((m + 2)**2, N H/m W/m, C)."""
    num_images, height, width, channels = x.shape
    points, h, w = m + 2, height // m, width // m

    # Row i of all tiles is row i % m of this tile or of the next one.
    x = lax.optimization_barrier(x)
    x = jnp.pad(x, ((0, 0), (1, m - 1), (1, m - 1), (0, 0)))
    # The channels stay an axis of their own: over a merged one, padding and what
    # it is fused with run value by value.
    x = x.reshape(num_images, h + 1, m, w + 1, m, channels)
    rows = [x[:, :h, i] if i < m else x[:, 1:, i - m] for i in range(points)]
    x = jnp.stack([_combine(row, rows) for row in _INPUT[m]])
    # Else XLA fuses both transforms and computes the first one `points` times.
    x = lax.optimization_barrier(x)
    columns = [
        x[:, :, :, :w, j] if j < m else x[:, :, :, 1:, j - m]
        for j in range(points)
    ]
    x = jnp.stack([_combine(row, columns) for row in _INPUT[m]])
    return x.reshape(points**2, num_images * h * w, channels)


def _conv(x, transformed):
    height, width, _ = x.shape
    points = round(len(transformed) ** 0.5)
    m = points - 2
    h, w = height // m, width // m
    x = _input_tiles(x[None], m)
    x = lax.dot_general(x, transformed, (((2,), (1,)), ((0,), (0,))))

    # Each transform puts its rows or columns where they belong in the image, so
    # that no transposition is left for what comes after to be fused with.
    x = x.reshape(points, points, h, w, -1)
    x = jnp.stack([_combine(row, list(x)) for row in _OUTPUT[m]], axis=3)
    x = x.reshape(points, h, -1)
    x = jnp.stack([_combine(row, list(x)) for row in _OUTPUT[m]], axis=1)
    return x.reshape(height, width, -1)


@jax.custom_vjp
def conv(x: jax.Array, prepared: PreparedKernel) -> jax.Array:
    """A 3 x 3 convolution, zero padded, with a prepared kernel.

    Its gradient reaches the input alone: a prepared kernel is a constant.

    Args:
        x: (H, W, I), H and W divisible by the tile size.
        prepared: see `prepare`.

    Returns:
        (H, W, O).
    """
    return _conv(x, prepared.forward)


def _conv_forward(x, prepared):
    return _conv(x, prepared.forward), prepared


def _conv_backward(prepared, cotangent):
    zeros = jax.tree.map(jnp.zeros_like, prepared)
    return _conv(cotangent, prepared.backward), zeros


conv.defvjp(_conv_forward, _conv_backward)


def _cotangent_tiles(x, m):
    """The output transform's adjoint: (N, H, W, C) to (36 or 16, N h w, C)."""
    num_images, height, width, channels = x.shape
    h, w = height // m, width // m
    x = lax.optimization_barrier(x)
    x = x.reshape(num_images, h, m, w, m, channels)
    rows = [x[:, :, i] for i in range(m)]
    x = jnp.stack([_combine(column, rows) for column in _OUTPUT[m].T])
    x = lax.optimization_barrier(x)
    columns = [x[:, :, :, :, j] for j in range(m)]
    x = jnp.stack([_combine(column, columns) for column in _OUTPUT[m].T])
    return x.reshape(-1, num_images * h * w, channels)


def kernel_gradient(x: jax.Array, cotangent: jax.Array, tile: int):
    """What a 3 x 3 convolution of some images hands back to its kernel.

    The filtering is linear in the transformed kernel, so the gradient is the
    adjoint of each of its steps, and costs as many products as the filtering.

    Args:
        x: (N, H, W, I), what went into the convolution.
        cotangent: (N, H, W, O), of what came out.
        tile: m, which divides H and W.

    Returns:
        (3, 3, I, O), the sum over the images.
    """
    transform = _KERNEL[tile].astype(np.float32)
    points = tile + 2
    transformed = lax.dot_general(
        _input_tiles(x, tile),
        _cotangent_tiles(cotangent, tile),
        (((1,), (1,)), ((0,), (0,))),
    )
    return jnp.einsum(
        'ai,bj,baco->ijco',
        transform,
        transform,
        transformed.reshape(points, points, *transformed.shape[1:]),
        precision=lax.Precision.HIGHEST,
    )
