"""The blocks that diffusion U-Nets are made of, in Flax, for one image.

A residual block that reads the noise level, self-attention, and resampling are
the same things in guided-diffusion (Dhariwal and Nichol, 2021), in diffusers
and in EDM's networks (Karras et al., 2022); they differ in numbers, which are
fields here. Names are those of guided-diffusion's checkpoints with dots turned
into underscores; the other families are renamed when they are converted.
"""

import math
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from invjax.priors import layers, winograd


class Conv(nn.Module):
    """A convolution with bias: (H, W, I) to (H, W, O), or half as large.

    Its kernel is read from the collection `prepared` where that has one
    (`prepare`).

    Attributes:
        features: O.
        size: of the kernel, 1 or 3.
        stride: 1, or 2 for half as large.
        padding: zeros before and after, along both axes, for stride 2.
        dtype: of the computation.
    """

    features: int
    size: int = 3
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        x, bias = x.astype(self.dtype), bias.astype(self.dtype)
        if self.size == 3 and self.stride == 1:
            if self.is_mutable_collection('prepared'):
                height, width, inputs = x.shape
                tile = winograd.best_tile(height, width, inputs, self.features)
                if tile is not None:
                    prepared = winograd.prepare(kernel, tile)
                    self.put_variable('prepared', 'kernel', prepared)
            if self.has_variable('prepared', 'kernel'):
                prepared = self.get_variable('prepared', 'kernel')
                return winograd.conv(x, prepared) + bias
        kernel = kernel.astype(self.dtype)
        if self.stride == 2:
            return layers.conv_stride_2(x, kernel, self.padding) + bias
        return layers.conv(x, kernel) + bias


class GroupNorm(nn.Module):
    """Group normalisation, in float32, and what follows it.

    Attributes:
        silu: whether SiLU does.
        num_groups: divides the channels. None is 32, or as many as leave four
            channels to each where the channels are few.
        epsilon: added to the variance.
    """

    silu: bool = False
    num_groups: int | None = 32
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x, factor=0.0, shift=0.0):
        """Normalise (H, W, C), times 1 + factor, plus shift, (C,) each."""
        channels = x.shape[-1]
        num_groups = self.num_groups
        if num_groups is None:
            num_groups = min(32, channels // 4)
        if num_groups < 1 or channels % num_groups:
            raise ValueError(
                f'{channels} channels cannot be normalised in {num_groups} '
                'groups; the number must divide them.'
            )
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        norm = layers.group_norm_silu if self.silu else layers.group_norm
        scale, bias = scale * (1 + factor), bias * (1 + factor) + shift
        return norm(x, scale, bias, num_groups, self.epsilon)


class ResBlock(nn.Module):
    """A residual block that reads the time embedding, resampled or not.

    Attributes:
        features: channels of the output.
        scale_shift: whether the embedding scales and shifts the normalised
            features, or is added before the normalisation.
        resample: None, or what to do with both branches.
        groups: of the normalisation of the input and of the features, each as
            `GroupNorm` has it.
        epsilon: see `GroupNorm`.
        output_scale: the sum of both branches is multiplied by it.
        project: whether the shorter branch has a 1 x 1 convolution even where
            the number of channels stays.
    """

    features: int
    scale_shift: bool
    resample: Callable | None = None
    groups: tuple[int | None, int | None] = (32, 32)
    epsilon: float = 1e-5
    output_scale: float = 1.0
    project: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, embedding):
        groups_in, groups_out = self.groups
        h = GroupNorm(True, groups_in, self.epsilon, name='in_layers_0')(x)
        h = h.astype(self.dtype)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = Conv(self.features, dtype=self.dtype, name='in_layers_2')(h)
        width = 2 * self.features if self.scale_shift else self.features
        shift = nn.Dense(width, dtype=self.dtype, name='emb_layers_1')(
            nn.silu(embedding)
        )
        norm = GroupNorm(True, groups_out, self.epsilon, name='out_layers_0')
        if self.scale_shift:
            # The scale comes first in the checkpoints, then the shift.
            h = norm(h, *jnp.split(shift, 2))
        else:
            h = norm(h + shift)
        h = h.astype(self.dtype)
        h = Conv(self.features, dtype=self.dtype, name='out_layers_3')(h)
        if self.project or x.shape[-1] != self.features:
            x = Conv(
                self.features, size=1, dtype=self.dtype, name='skip_connection'
            )(x)
        return scaled(x + h, self.output_scale)


class Attention(nn.Module):
    """Residual self-attention over all pixels.

    Attributes:
        num_heads: divides the channels.
        new_order: see `layers.attention`.
        num_groups: see `GroupNorm`; 0 for no normalisation.
        epsilon, output_scale: see `ResBlock`.
    """

    num_heads: int
    new_order: bool
    dtype: jnp.dtype = jnp.float32
    num_groups: int | None = 32
    epsilon: float = 1e-5
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x):
        height, width, channels = x.shape
        h = x
        if self.num_groups != 0:
            h = GroupNorm(False, self.num_groups, self.epsilon, name='norm')(x)
        h = h.reshape(height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name='qkv')(h)
        h = layers.attention(qkv, self.num_heads, self.new_order)
        h = nn.Dense(channels, dtype=self.dtype, name='proj_out')(h)
        return scaled(x + h.reshape(height, width, channels), self.output_scale)


class Resample(nn.Module):
    """A resampling layer of its own, with a convolution or without.

    Attributes:
        down: whether to halve the size, or to double it.
        padding: see `Conv`; on the way down.
    """

    down: bool
    convolve: bool
    dtype: jnp.dtype = jnp.float32
    padding: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        if self.down and self.convolve:
            conv = Conv(features, 3, 2, self.padding, self.dtype, name='op')
            return conv(x)
        if self.down:
            return layers.downsample(x)
        x = layers.upsample(x)
        if self.convolve:
            x = Conv(features, dtype=self.dtype, name='conv')(x)
        return x


def scaled(x, factor):
    """A times x, which is x itself, to the last bit, where the factor is 1."""
    return x if factor == 1 else x * factor


def timestep_embedding(t, features, shift=0, cosines_first=True):
    """Sinusoids of the timestep (Ho et al., 2020): () to (features,) float32.

    Args:
        t: () timestep, integer or real.
        features: even.
        shift: 0 for frequencies that would reach 1 / 10000 one step after the
            last; 1 for those that reach it at the last.
        cosines_first: whether cosines come before sines.
    """
    half = features // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / (half - shift))
    angles = jnp.asarray(t, jnp.float32) * frequencies.astype(np.float32)
    waves = [jnp.cos(angles), jnp.sin(angles)]
    return jnp.concatenate(waves if cosines_first else waves[::-1])


class FourierEmbedding(nn.Module):
    """Sines, then cosines, of random frequencies (Song et al., 2021).

    The frequencies are drawn once and are not trained.

    Attributes:
        features: even; half of them frequencies, drawn from N(0, 16^2).
    """

    features: int

    @nn.compact
    def __call__(self, t):
        """Embed the logarithm of a noise level, (): (features,) float32."""
        frequencies = self.param(
            'frequencies', nn.initializers.normal(16.0), (self.features // 2,)
        )
        frequencies = lax.stop_gradient(frequencies)
        angles = jnp.asarray(t, jnp.float32) * frequencies * (2 * np.pi)
        return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class LabelEmbedding(nn.Module):
    """A vector for each class of images."""

    num_classes: int
    features: int

    @nn.compact
    def __call__(self, label):
        """Embed a class, (), from 0: (features,) float32."""
        # Transposed as that of a linear layer, so that it is converted as one.
        kernel = self.param(
            'kernel',
            nn.initializers.normal(),
            (self.features, self.num_classes),
        )
        return kernel[:, label]


def prepare(
    network, params: dict, image_shape: tuple[int, int, int], *others
) -> dict:
    """Kernels for `Conv`, transformed ahead of time, for images of one size.

    Most convolutions then run by `winograd.conv`, to float32 rounding the same
    and faster on a CPU. It takes two more copies of those kernels, 1.8 or 4
    times as large, through which no gradient flows back to the parameters.

    Args:
        network: made of these blocks, with `dtype`; called with an image, a
            time, and others.
        params: its parameters.
        image_shape: (H, W, C).
        *others: what the network is called with besides.

    Returns:
        The collection `prepared` of the network.

    Raises:
        ValueError: if the network does not compute in float32, whose rounding
            the transforms need.
    """
    if network.dtype != jnp.float32:
        raise ValueError(
            'only a network that computes in float32 can be prepared, '
            f'got {jnp.dtype(network.dtype).name}.'
        )

    @jax.jit
    def prepared(params, x, t, *others):
        _, made = network.apply(
            {'params': params}, x, t, *others, mutable=['prepared']
        )
        return made.get('prepared', {})

    return prepared(params, jnp.zeros(image_shape), 1, *others)
