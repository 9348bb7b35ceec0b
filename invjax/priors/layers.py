"""The few primitives that a diffusion U-Net spends its time in.

Each is written for one image, (H, W, C), and for the CPU as much as for
accelerators, where a plainer form compiles to slow loops (the numbers are
in docs/performance.md).
"""

import jax
import jax.numpy as jnp
from jax import lax

_CONV_DIMENSIONS = ('NHWC', 'HWIO', 'NHWC')


def _conv(x, kernel, stride=1):
    padding = [(size // 2, size // 2) for size in kernel.shape[:2]]
    return lax.conv_general_dilated(
        x[None],
        kernel,
        (stride, stride),
        padding,
        dimension_numbers=_CONV_DIMENSIONS,
    )[0]


@jax.custom_vjp
def conv(x, kernel):
    """A convolution of odd size, zero padded, that keeps height and width.

    Its input gradient is written as what it is, a convolution with the kernel
    turned by 180 degrees and its channels exchanged. XLA's own transpose rule
    describes the same sums by a reversed window, which on a CPU falls out of
    the fast path inside a loop and runs 2 to 22 times slower.

    Args:
        x: (H, W, I).
        kernel: (k, k, I, O), k odd.

    Returns:
        (H, W, O).
    """
    return _conv(x, kernel)


def _conv_forward(x, kernel):
    return _conv(x, kernel), (x, kernel)


def _conv_backward(residuals, cotangent):
    x, kernel = residuals
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    # Only training asks for the kernel's gradient; elsewhere it is dead code.
    (kernel_bar,) = jax.vjp(lambda k: _conv(x, k), kernel)[1](cotangent)
    return _conv(cotangent, turned), kernel_bar


conv.defvjp(_conv_forward, _conv_backward)


def conv_stride_2(x, kernel):
    """A 3 x 3 convolution with stride 2 and padding 1: (H/2, W/2, O)."""
    return _conv(x, kernel, stride=2)


def group_norm_scale_shift(x, scale, bias, num_groups=32, epsilon=1e-5):
    """Group normalisation (Wu and He, 2018) in float32.

    Sums run per channel over the pixels and are combined into groups on the
    small (C,) arrays; the image itself is read twice and multiplied and added
    once. Over a reshaped (H W, groups, C / groups) array the same takes
    several times longer.

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
    channels = x.shape[-1]

    def group_mean(per_channel):
        groups = per_channel.reshape(num_groups, channels // num_groups)
        return jnp.repeat(groups.mean(axis=1), channels // num_groups)

    mean = group_mean(x.mean(axis=(0, 1)))
    variance = group_mean(jnp.square(x - mean).mean(axis=(0, 1)))
    multiplier = scale * lax.rsqrt(variance + epsilon)
    return x * multiplier + (bias - mean * multiplier)


def pointwise(x, kernel):
    """A 1 x 1 convolution as the matrix product that it is.

    Args:
        x: (H, W, I).
        kernel: (1, 1, I, O).

    Returns:
        (H, W, O).
    """
    height, width, channels = x.shape
    out = x.reshape(height * width, channels) @ kernel[0, 0]
    return out.reshape(height, width, -1)


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
