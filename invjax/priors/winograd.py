"""3 x 3 convolutions by Winograd's minimal filtering, for the CPU.

XLA's convolution on a CPU multiplies each pixel with each tap. Computed on
tiles of m x m outputs (Lavin and Gray, 2016, F(m x m, 3 x 3)) the same sums
take (m + 2)**2 products a tile in place of 9 m**2, as one batched matrix
product between two cheap transforms. Tiles take 2.25 times the image's memory
where m = 4, so images are convolved some at a time, and large ones in strips, as
many as stay in a processor's cache (`_Parts`). Where a kernel does not change, its
transform is made once, ahead of a loop (`prepare`). Accelerators have tuned
convolutions, and none of this is meant for them.
"""

from typing import NamedTuple

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.interpreters import ad, batching, mlir

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


# Tiles of a part, before and after the product, fill about as much.
_PART_BYTES = 8 * 2**20


class PreparedKernel(NamedTuple):
    """A kernel's transform and that of its transpose.

    Attributes:
        forward: ((m + 2)**2, I, O).
        backward: ((m + 2)**2, O, I), of the kernel turned by 180 degrees with
            its channels exchanged: what the input gradient convolves with.
    """

    forward: jax.Array
    backward: jax.Array


class _Parts(NamedTuple):
    """How some images are cut for the filtering.

    Attributes:
        images: of a part; they divide the number of images.
        rows: of tiles, of a part; they divide those of an image. Fewer than an
            image's only where `images` is 1.
    """

    images: int
    rows: int


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
    backward = transform_kernel(kernel, tile, turned=True).swapaxes(1, 2)
    return PreparedKernel(transform_kernel(kernel, tile), backward)


def transform_kernel(
    kernel: jax.Array, tile: int, turned: bool = False
) -> jax.Array:
    """(3, 3, I, O) to ((m + 2)**2, I, O).

    With `turned` it is that of the kernel turned by 180 degrees, whose channels
    stay as they are: `convolve` exchanges them.
    """
    transform = _KERNEL[tile][:, ::-1] if turned else _KERNEL[tile]
    rows = jnp.stack([_combine(row, list(kernel)) for row in transform])
    # Else XLA fuses both transforms and computes the first one anew for each.
    rows = lax.optimization_barrier(rows)
    columns = list(rows.swapaxes(0, 1))
    out = jnp.stack([_combine(row, columns) for row in transform])
    return out.reshape(-1, *kernel.shape[2:])


def _kernel_transform_adjoint(transformed, tile):
    """((m + 2)**2, I, O) to (3, 3, I, O)."""
    points, transform = tile + 2, _KERNEL[tile]
    columns = transformed.reshape(points, points, *transformed.shape[1:])
    rows = jnp.stack([_combine(c, list(columns)) for c in transform.T], axis=1)
    rows = lax.optimization_barrier(rows)
    return jnp.stack([_combine(column, list(rows)) for column in transform.T])


def _combine(coefficients, parts):
    """The sum of some arrays with small known coefficients, most of them 0."""
    terms = [
        part if c == 1 else -part if c == -1 else np.float32(c) * part
        for c, part in zip(coefficients, parts, strict=True)
        if c != 0
    ]
    return sum(terms[1:], terms[0])


def _parts(shape, outputs, tile, least=0) -> _Parts:
    """As many images, or rows of tiles, as fill `_PART_BYTES`, or `least`."""
    num_images, height, width, inputs = shape
    if height % tile or width % tile:
        raise ValueError(
            f'tiles of {tile} must divide the images, got {height} x {width}.'
        )
    rows = height // tile
    of_row = 4 * (tile + 2) ** 2 * (width // tile) * (inputs + outputs)
    wanted = max(round(max(_PART_BYTES, least) / of_row), 1)
    if wanted < rows:
        return _Parts(1, _nearest_divisor(rows, wanted))
    return _Parts(_nearest_divisor(num_images, wanted // rows), rows)


def _of_kernel(inputs, outputs, tile):
    """The bytes of a transformed kernel."""
    return 4 * (tile + 2) ** 2 * inputs * outputs


def _nearest_divisor(number, wanted):
    """By their ratio. A prime number has but 1 and itself."""
    divisors = (n for n in range(1, number + 1) if number % n == 0)
    return min(divisors, key=lambda n: max(n / wanted, wanted / n))


def _start(i, parts, per_image, tile):
    """Where part `i` starts in (N, H, W, C)."""
    if per_image == 1:
        return i * parts.images, 0, 0, 0
    row = lax.rem(i, per_image) * (parts.rows * tile)
    return lax.div(i, per_image), row, 0, 0


def _cut(x, parts, tile, halo):
    """How to get part `i` of images, (N, H, W, C): () to (n, h, W, C); how many.

    With `halo` a part has a row more above and below, zero outside of the image.
    """
    num_images, height = x.shape[:2]
    size = parts.rows * tile
    per_image = height // size
    rows = (0, 0)
    if halo and per_image > 1:
        x, size = jnp.pad(x, ((0, 0), (1, 1), (0, 0), (0, 0))), size + 2
    elif halo:
        # Padding of a part costs less than a copy of all.
        rows = (1, 1)

    def part(i):
        sizes = parts.images, size, *x.shape[2:]
        start = _start(i, parts, per_image, tile)
        cut = lax.dynamic_slice(x, start, sizes, allow_negative_indices=False)
        # What comes next shall not be computed from `x` value by value.
        cut = lax.optimization_barrier(cut)
        return jnp.pad(cut, ((0, 0), rows, (0, 0), (0, 0)))

    return part, num_images // parts.images * per_image


def _input_tiles(x, m):
    """The input transform: (N, H + 2, W, C) to ((m + 2)**2, N H/m W/m, C).

    The rows come with one more above and below, the columns do not.
    """
    num_images, height, width, channels = x.shape
    points, h, w = m + 2, (height - 2) // m, width // m

    # Row i of all tiles is row i % m of this tile or of the next one. The
    # channels stay an axis of their own: over a merged one, padding and what it
    # is fused with run value by value.
    x = jnp.pad(x, ((0, 0), (0, m - 2), (1, m - 1), (0, 0)))
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


def _output(x, shape, m):
    """The output transform: ((m + 2)**2, N H/m W/m, C) to (N, H, W, C)."""
    num_images, height, width = shape
    points, h, w = m + 2, height // m, width // m
    # Each transform puts its rows or columns where they belong in the image, so
    # that no transposition is left for what comes after to be fused with.
    x = x.reshape(points, points, num_images, h, w, -1)
    x = jnp.stack([_combine(row, list(x)) for row in _OUTPUT[m]], axis=4)
    x = lax.optimization_barrier(x)
    x = jnp.stack([_combine(row, list(x)) for row in _OUTPUT[m]], axis=2)
    return x.reshape(num_images, height, width, -1)


def convolve(
    x: jax.Array, transformed: jax.Array, exchanged: bool = False
) -> jax.Array:
    """Convolve images with a transformed kernel, zero padded.

    Args:
        x: (N, H, W, I), H and W divisible by the tile size.
        transformed: ((m + 2)**2, I, O), see `transform_kernel`.
        exchanged: `transformed` is ((m + 2)**2, O, I).

    Returns:
        (N, H, W, O).
    """
    m = round(len(transformed) ** 0.5) - 2
    num_images, height, width, _ = x.shape
    outputs = transformed.shape[1 if exchanged else 2]
    parts = _parts(x.shape, outputs, m)
    part, number = _cut(x, parts, m, halo=True)
    contracting = ((2,), (2 if exchanged else 1,))

    def convolved(i):
        products = lax.dot_general(
            _input_tiles(part(i), m), transformed, (contracting, ((0,), (0,)))
        )
        return _output(products, (parts.images, parts.rows * m, width), m)

    if number == 1:
        return convolved(0)

    def put(i, out):
        start = _start(i, parts, height // (parts.rows * m), m)
        return lax.dynamic_update_slice(
            out, convolved(i), start, allow_negative_indices=False
        )

    out = jnp.zeros((num_images, height, width, outputs), x.dtype)
    return lax.fori_loop(0, number, put, out)


def conv(x: jax.Array, prepared: PreparedKernel) -> jax.Array:
    """A 3 x 3 convolution, zero padded, with a prepared kernel.

    Its gradient reaches the input alone: a prepared kernel is a constant.

    Args:
        x: (H, W, I), H and W divisible by the tile size.
        prepared: see `prepare`.

    Returns:
        (H, W, O).
    """
    return _prepared_p.bind(x[None], prepared.forward, prepared.backward)[0]


# A primitive, so that the images of a batch are known together, and so that it
# has tangents too.
_prepared_p = jax.extend.core.Primitive('prepared_conv')


def _convolve_prepared(x, forward, backward):
    del backward
    return convolve(x, forward)


_jitted_prepared = jax.jit(_prepared_p.bind)


@_prepared_p.def_impl
def _prepared_alone(*args):
    # Compiled also where a user has turned that off: it would call itself.
    with jax.disable_jit(False):
        return _jitted_prepared(*args)


mlir.register_lowering(
    _prepared_p, mlir.lower_fun(_convolve_prepared, multiple_results=False)
)


@_prepared_p.def_abstract_eval
def _prepared_shape(x, forward, backward):
    del backward
    return jax.core.ShapedArray((*x.shape[:3], forward.shape[2]), x.dtype)


def _prepared_batch(args, axes):
    """The rule of `vmap`: images of a batch go where images go already."""
    if axes[1] is not None or axes[2] is not None:
        # A prepared kernel is a constant here too.
        args = args[0], *lax.stop_gradient(args[1:])
        return jax.vmap(_convolve_prepared, axes)(*args), 0
    x = jnp.moveaxis(args[0], axes[0], 0)
    out = _prepared_p.bind(x.reshape(-1, *x.shape[2:]), *args[1:])
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


def _prepared_tangent(primals, tangents):
    x, *kernels = primals
    out = _prepared_p.bind(x, *kernels)
    if isinstance(tangents[0], ad.Zero):
        return out, jnp.zeros_like(out)
    return out, _prepared_p.bind(tangents[0], *kernels)


def _prepared_transpose(cotangent, x, forward, backward):
    del x
    if isinstance(cotangent, ad.Zero):
        return None, None, None
    return _prepared_p.bind(cotangent, backward, forward), None, None


batching.primitive_batchers[_prepared_p] = _prepared_batch
ad.primitive_jvps[_prepared_p] = _prepared_tangent
ad.primitive_transposes[_prepared_p] = _prepared_transpose


def _cotangent_tiles(x, m):
    """The output transform's adjoint: (N, H, W, C) to (36 or 16, N h w, C)."""
    num_images, height, width, channels = x.shape
    h, w = height // m, width // m
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
    inputs, outputs = x.shape[3], cotangent.shape[3]
    # Each part reads and writes the sum.
    least = _of_kernel(inputs, outputs, tile)
    parts = _parts(x.shape, outputs, tile, least)
    part_of_x, number = _cut(x, parts, tile, halo=True)
    part_of_cotangent, _ = _cut(cotangent, parts, tile, halo=False)

    def add(i, total):
        return total + lax.dot_general(
            _input_tiles(part_of_x(i), tile),
            _cotangent_tiles(part_of_cotangent(i), tile),
            (((1,), (1,)), ((0,), (0,))),
        )

    zeros = jnp.zeros(((tile + 2) ** 2, inputs, outputs), x.dtype)
    if number == 1:
        total = add(0, zeros)
    else:
        total = lax.fori_loop(0, number, add, zeros)
    return _kernel_transform_adjoint(total, tile)
