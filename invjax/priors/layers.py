"""The few primitives that a diffusion U-Net spends its time in.

Each is written for one image, (H, W, C), and for the CPU as much as for
accelerators, where a plainer form compiles to slow loops (the numbers are
in docs/performance.md).
"""

import functools
import itertools

import jax
import jax.extend
import jax.numpy as jnp
from jax import lax
from jax.interpreters import ad, batching, mlir

from invjax.priors import winograd

_CONV_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')
# Of the filtering of a batch on a CPU: the size of its tiles, and the fewest images.
_TILE = 4
_LEAST_IMAGES = 4
# A 3 x 3 convolution is summed tap by tap where an image has at most so many pixels
# after it, and with at most so many images where each has somewhat more.
_FEW_PIXELS = 4
_FEW_IMAGES, _PIXELS_OF_FEW = 16, 16


def _plain_conv(x, kernel, stride=1, padding=None):
    """(N, H, W, I) and (k, k, I, O) to (N, H / stride, W / stride, O)."""
    if padding is None:
        padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_CONV_DIMENSIONS,
    )


def conv(x, kernel):
    """A convolution of odd size, zero padded, that keeps height and width.

    A primitive of its own, since XLA's convolution has a gradient that is slow
    on a CPU and a custom gradient (`jax.custom_vjp`) forgets that a batch has
    one kernel:

    -   The input gradient is written as what it is, a convolution with the
        kernel turned by 180 degrees and its channels exchanged. XLA's own rule
        describes the same sums by a reversed window, which on a CPU falls out
        of the fast path inside a loop and runs 2 to 22 times slower.
    -   The kernel gradient of a batch is one convolution over all its images,
        where a custom gradient would make one kernel for each and add them up,
        which takes a training step seven times as long.
    -   On a CPU the convolutions of a batch, and their gradients, are filtered
        (`winograd`), where that is faster.
    -   On a CPU images of few pixels are summed tap by tap, as matrix products:
        XLA's convolution exchanges such an image and its kernel, and takes a
        hundred times as long at 2 x 2.
    -   With a kernel of 1 x 1 it is a matrix product.

    In a `jax.shard_map` it needs `check_vma=False`, for it does not say over which
    axes it varies.

    Args:
        x: (H, W, I).
        kernel: (k, k, I, O), k odd.

    Returns:
        (H, W, O).
    """
    return _conv_p.bind(x[None], kernel, turned=False)[0]


# With `turned` the kernel, (k, k, O, I), is turned first.
_conv_p = jax.extend.core.Primitive('conv')


def _turn(kernel):
    """The kernel of the input gradient: (k, k, I, O) to (k, k, O, I)."""
    return kernel[::-1, ::-1].swapaxes(2, 3)


def _conv(x, kernel, *, turned):
    kernel = _turn(kernel) if turned else kernel
    return x @ kernel[0, 0] if len(kernel) == 1 else _plain_conv(x, kernel)


def _windows(x, stride=1, padding=(1, 1)):
    """What each tap of a 3 x 3 kernel meets: (N, H, W, C) to (9, N, h, w, C)."""
    _, height, width, _ = x.shape
    x = jnp.pad(x, ((0, 0), padding, padding, (0, 0)))
    return jnp.stack(
        [
            x[:, i : i + height : stride, j : j + width : stride]
            for i, j in itertools.product(range(3), repeat=2)
        ]
    )


def _sum_of_taps(windows, kernel, turned=False):
    """(9, N, h, w, I) and (3, 3, I, O), with `turned` (3, 3, O, I): (N, h, w, O)."""
    taps = kernel.reshape(9, *kernel.shape[2:])
    # The small one of both is turned.
    windows = windows[::-1] if turned else windows
    each = lax.dot_general(
        windows.reshape(9, -1, windows.shape[-1]),
        taps,
        (((2,), (2 if turned else 1,)), ((0,), (0,))),
        preferred_element_type=jnp.promote_types(kernel.dtype, jnp.float32),
    )
    out = each.sum(axis=0).astype(kernel.dtype)
    return out.reshape(*windows.shape[1:-1], out.shape[-1])


def _has_few_pixels(size, images, height, width):
    """Whether to sum tap by tap; the bounds are measured (docs/performance.md)."""
    most = _PIXELS_OF_FEW if images <= _FEW_IMAGES else _FEW_PIXELS
    return size == 3 and height * width <= most


def _conv_on_cpu(x, kernel, *, turned):
    if _has_few_pixels(len(kernel), *x.shape[:3]):
        return _sum_of_taps(_windows(x), kernel, turned)
    if not _is_filtered(x, kernel):
        return _conv(x, kernel, turned=turned)
    transformed = winograd.transform_kernel(kernel, _TILE, turned)
    return winograd.convolve(x, transformed, turned)


_jitted_conv = jax.jit(_conv_p.bind, static_argnames='turned')


@_conv_p.def_impl
def _conv_alone(x, kernel, *, turned):
    # Compiled also where a user has turned that off: it would call itself.
    with jax.disable_jit(False):
        return _jitted_conv(x, kernel, turned=turned)


mlir.register_lowering(_conv_p, mlir.lower_fun(_conv, multiple_results=False))
mlir.register_lowering(
    _conv_p,
    mlir.lower_fun(_conv_on_cpu, multiple_results=False),
    platform='cpu',
)


@_conv_p.def_abstract_eval
def _conv_shape(x, kernel, *, turned):
    features = kernel.shape[2 if turned else 3]
    return jax.core.ShapedArray((*x.shape[:3], features), x.dtype)


def _conv_batch(args, axes, *, turned):
    """The rule of `vmap`: images of a batch go where images go already."""
    x, kernel = args
    x_axis, kernel_axis = axes
    if kernel_axis is not None:
        conv = functools.partial(_conv, turned=turned)
        return jax.vmap(conv, axes)(x, kernel), 0
    x = jnp.moveaxis(x, x_axis, 0)
    out = _conv_p.bind(x.reshape(-1, *x.shape[2:]), kernel, turned=turned)
    return out.reshape(*x.shape[:2], *out.shape[1:]), 0


def _input_gradient(cotangent, x, kernel, *, turned):
    del x
    return _conv_p.bind(cotangent, kernel, turned=not turned)


def _kernel_gradient(cotangent, x, kernel, *, turned):
    if turned:
        # It convolves the cotangent of another convolution's output.
        x, cotangent = cotangent, x
    shape = jax.ShapeDtypeStruct(kernel.aval.shape, kernel.aval.dtype)

    def plain(x, cotangent):
        conv = functools.partial(_conv, turned=False)
        return jax.linear_transpose(lambda k: conv(x, k), shape)(cotangent)[0]

    def on_cpu(x, cotangent):
        images, height, width, _ = x.shape
        if shape.shape[0] == 1 and height * width >= max(shape.shape):
            return _pointwise_kernel_gradient(x, cotangent)
        if _has_few_pixels(shape.shape[0], images, height, width):
            return _kernel_gradient_of_few(x, cotangent)
        if _is_filtered(x, shape):
            return winograd.kernel_gradient(x, cotangent, _TILE)
        return plain(x, cotangent)

    return lax.platform_dependent(x, cotangent, cpu=on_cpu, default=plain)


def _kernel_gradient_of_few(x, cotangent):
    """(N, H, W, I) and (N, H, W, O) to (3, 3, I, O), each tap by itself."""
    return lax.dot_general(
        _windows(x), cotangent, (((1, 2, 3), (0, 1, 2)), ((), ()))
    ).reshape(3, 3, x.shape[-1], cotangent.shape[-1])


def _pointwise_kernel_gradient(x, cotangent):
    """(N, H, W, I) and (N, H, W, O) to (1, 1, I, O).

    Image by image: of all at once XLA transposes one of them first, which takes
    longer where there are more pixels than features.
    """
    pixels = (len(x), -1)
    each = lax.dot_general(
        x.reshape(*pixels, x.shape[-1]),
        cotangent.reshape(*pixels, cotangent.shape[-1]),
        (((1,), (1,)), ((0,), (0,))),
    )
    return each.sum(axis=0)[None, None]


def _is_filtered(x, kernel):
    """Whether minimal filtering is faster on a CPU, its transforms included.

    A single image does without, since it takes long to compile. The bounds are
    measured (docs/performance.md).
    """
    num_images, height, width, _ = x.shape
    size, _, inputs, outputs = kernel.shape
    return (
        size == 3
        and min(inputs, outputs) >= 32
        and height % _TILE == 0
        and width % _TILE == 0
        and x.dtype == jnp.float32
        and num_images >= _LEAST_IMAGES
        # Of a few pixels the kernel's transform outweighs the products.
        and num_images * height * width * (inputs + outputs)
        >= 4 * inputs * outputs
    )


batching.primitive_batchers[_conv_p] = _conv_batch
ad.defbilinear(_conv_p, _input_gradient, _kernel_gradient)


def conv_stride_2(x, kernel, padding=(1, 1)):
    """A 3 x 3 convolution with stride 2: (H/2, W/2, O).

    Args:
        x: (H, W, I), H and W even.
        kernel: (3, 3, I, O).
        padding: zeros before and after along both axes, (1, 1) or (0, 1).
    """
    height, width, _ = x.shape
    if height * width <= 4 * _FEW_PIXELS:
        # XLA's input gradient is slow on a CPU here too, see `conv`. How many
        # images a batch has cannot be told.
        return _sum_of_taps(_windows(x[None], 2, padding), kernel)[0]
    return _plain_conv(x[None], kernel, 2, [padding, padding])[0]


def _group_statistics(x, num_groups, epsilon):
    """Mean and 1 / deviation of each channel's group, (C,) float32 each.

    Sums run per channel over the pixels and are combined into groups on the
    small (C,) arrays. Over a reshaped (H W, groups, C / groups) array the same
    takes several times longer.
    """
    mean = _over_groups(jnp.mean, x.mean(axis=(0, 1)), num_groups)
    squares = jnp.square(x - mean).mean(axis=(0, 1))
    variance = _over_groups(jnp.mean, squares, num_groups)
    return mean, lax.rsqrt(variance + epsilon)


def _over_groups(reduce, per_channel, num_groups):
    """Reduce (C,) over the channels of each group, and hand it back to them."""
    groups = per_channel.reshape(num_groups, -1)
    return jnp.repeat(reduce(groups, axis=1), groups.shape[1])


def group_norm(x, scale, bias, num_groups=32, epsilon=1e-5):
    """Group normalisation (Wu and He, 2018) in float32.

    The image is read twice for its statistics, and multiplied and added once.

    Args:
        x: (H, W, C).
        scale: (C,).
        bias: (C,).
        num_groups: divides C.
        epsilon: added to the variance. PyTorch's 1e-5, where Flax has 1e-6.

    Returns:
        (H, W, C) float32.
    """
    x = x.astype(jnp.float32)
    mean, inverse = _group_statistics(x, num_groups, epsilon)
    multiplier = scale * inverse
    return x * multiplier + (bias - mean * multiplier)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def group_norm_silu(x, scale, bias, num_groups=32, epsilon=1e-5):
    """`group_norm`, then SiLU.

    Its gradient is written out: it keeps x alone, and makes the rest of it once
    more in two passes, one for sums per channel and one for the result.

    Args and result are those of `group_norm`.
    """
    return jax.nn.silu(group_norm(x, scale, bias, num_groups, epsilon))


def _group_norm_silu_forward(x, scale, bias, num_groups, epsilon):
    mean, inverse = _group_statistics(
        x.astype(jnp.float32), num_groups, epsilon
    )
    multiplier = scale * inverse
    offset = bias - mean * multiplier
    out = jax.nn.silu(x.astype(jnp.float32) * multiplier + offset)
    return out, (x, scale, offset, mean, inverse)


def _group_norm_silu_backward(num_groups, epsilon, residuals, cotangent):
    del epsilon
    x_given, scale, offset, mean, inverse = residuals
    # Else the compiler finds the forward pass's gate, keeps it, and to that end
    # writes and reads it there too.
    x = lax.optimization_barrier(x_given).astype(jnp.float32)
    multiplier = scale * inverse
    before = x * multiplier + offset
    gate = jax.nn.sigmoid(before)
    # d silu(u) / du = s (1 + u (1 - s))
    slope = cotangent * gate * (1 + before * (1 - gate))
    bias_bar = slope.sum(axis=(0, 1))
    scale_bar = inverse * ((slope * x).sum(axis=(0, 1)) - mean * bias_bar)
    # With n = (x - mean) / deviation, dx is that of n scale + bias less its own
    # mean over the group and its share along n.
    count = x.size // num_groups
    along_one = _over_groups(jnp.sum, scale * bias_bar, num_groups) / count
    along_n = _over_groups(jnp.sum, scale * scale_bar, num_groups) / count
    of_x = -(inverse**2) * along_n
    x_bar = multiplier * slope + of_x * x - (inverse * along_one + of_x * mean)
    return x_bar.astype(x_given.dtype), scale_bar, bias_bar


group_norm_silu.defvjp(_group_norm_silu_forward, _group_norm_silu_backward)


def upsample(x):
    """Nearest-neighbour upsampling: (H, W, C) to (2 H, 2 W, C)."""
    height, width, channels = x.shape
    blocks = jnp.broadcast_to(
        x[:, None, :, None], (height, 2, width, 2, channels)
    )
    return blocks.reshape(2 * height, 2 * width, channels)


def downsample(x):
    """The mean over 2 x 2 blocks: (H, W, C) to (H/2, W/2, C)."""
    height, width, channels = x.shape
    blocks = x.reshape(height // 2, 2, width // 2, 2, channels)
    return blocks.mean(axis=(1, 3))


def smooth_upsample(x):
    """Upsampling with the filter (1, 3, 3, 1): (H, W, C) to (2 H, 2 W, C).

    The filter is that of NCSN++ (Song et al., 2021, after StyleGAN2), along
    both axes; beyond the image there are zeros.
    """
    return _smooth_double(_smooth_double(x).swapaxes(0, 1)).swapaxes(0, 1)


def smooth_downsample(x, padding=1):
    """Downsampling with the filter (1, 3, 3, 1) / 8: (H/2, W/2, C).

    Args:
        x: (H, W, C), or as much more as the padding says.
        padding: zeros around the image. The filter reaches one pixel over
            each side, so 0 is for an image that has that pixel already.
    """
    x = jnp.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    return _smooth_halve(_smooth_halve(x).swapaxes(0, 1)).swapaxes(0, 1)


def _smooth_double(x):
    """The rows, (H, W, C), twice as many; each from its two nearest."""
    height, width, channels = x.shape
    before = jnp.pad(x[:-1], ((1, 0), (0, 0), (0, 0)))
    after = jnp.pad(x[1:], ((0, 1), (0, 0), (0, 0)))
    pairs = jnp.stack([(before + 3 * x) / 4, (3 * x + after) / 4], axis=1)
    return pairs.reshape(2 * height, width, channels)


def _smooth_halve(x):
    """The rows, (H + 2, W, C), half as many: H / 2, each from four."""
    height, width, channels = x.shape
    pairs = x.reshape(height // 2, 2, width, channels)
    first, second = pairs[:, 0], pairs[:, 1]
    return (first[:-1] + 3 * (second[:-1] + first[1:]) + second[1:]) / 8


def attention(qkv, num_heads, new_order):
    """Multi-head self-attention over the pixels, softmax in float32.

    Args:
        qkv: (P, 3 C), queries, keys and values of P pixels.
        num_heads: divides C.
        new_order: whether the channels are cut into q, k, v first and heads
            second. The legacy order has the heads outermost.

    Returns:
        (P, C), heads outermost.
    """
    pixels, channels = qkv.shape[0], qkv.shape[1] // 3
    width = channels // num_heads
    # Heads outermost before the products: each is then a plain matrix product,
    # where a CPU would go through strided heads value by value.
    if new_order:
        qkv = qkv.reshape(pixels, 3, num_heads, width).transpose(1, 2, 0, 3)
    else:
        qkv = qkv.reshape(pixels, num_heads, 3, width).transpose(2, 1, 0, 3)
    q, k, v = lax.optimization_barrier(qkv)
    # q and k are scaled each, which keeps half-precision products in range.
    scale = width**-0.25
    logits = jnp.einsum('hpd,hqd->hpq', q * scale, k * scale)
    weights = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    out = jnp.einsum('hpq,hqd->hpd', weights.astype(v.dtype), v)
    out = out.swapaxes(0, 1)
    return out.reshape(pixels, channels)
