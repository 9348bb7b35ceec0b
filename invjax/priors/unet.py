"""The guided-diffusion U-Net (Dhariwal and Nichol, 2021) in Flax.

Written for one image, (H, W, C). Module names are those of the published
PyTorch checkpoints with dots turned into underscores, so that conversion is a
renaming (`invjax/priors/convert.py`).
"""

import functools
import math
from collections.abc import Callable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import schedule
from invjax.diffusion import Prediction
from invjax.priors import layers, winograd


class Conv(nn.Module):
    """A convolution with bias: (H, W, I) to (H, W, O), or half as large.

    Its kernel is read from the collection `prepared` where that has one
    (`NetworkPrior.prepare`).
    """

    features: int
    size: int = 3
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        shape = (self.size, self.size, x.shape[-1], self.features)
        kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
        bias = self.param('bias', nn.initializers.zeros, (self.features,))
        x, bias = x.astype(self.dtype), bias.astype(self.dtype)
        if self.size == 3 and self.stride == 1:
            if self.is_mutable_collection('prepared'):
                tile = winograd.best_tile(*x.shape, self.features)
                if tile is not None:
                    prepared = winograd.prepare(kernel, tile)
                    self.put_variable('prepared', 'kernel', prepared)
            if self.has_variable('prepared', 'kernel'):
                prepared = self.get_variable('prepared', 'kernel')
                return winograd.conv(x, prepared) + bias
        convolve = layers.conv if self.stride == 1 else layers.conv_stride_2
        if self.size == 1:
            convolve = layers.pointwise
        return convolve(x, kernel.astype(self.dtype)) + bias


class GroupNorm(nn.Module):
    """Group normalisation over 32 groups, in float32, and what follows it.

    Attributes:
        silu: whether SiLU does.
    """

    silu: bool = False

    @nn.compact
    def __call__(self, x, factor=0.0, shift=0.0):
        """Normalise (H, W, C), times 1 + factor, plus shift, (C,) each."""
        scale = self.param('scale', nn.initializers.ones, x.shape[-1:])
        bias = self.param('bias', nn.initializers.zeros, x.shape[-1:])
        norm = layers.group_norm_silu if self.silu else layers.group_norm
        return norm(x, scale * (1 + factor), bias * (1 + factor) + shift)


class ResBlock(nn.Module):
    """A residual block that reads the time embedding, resampled or not.

    Attributes:
        features: channels of the output.
        scale_shift: whether the embedding scales and shifts the normalised
            features, or is added before the normalisation.
        resample: None, or what to do with both branches.
    """

    features: int
    scale_shift: bool
    resample: Callable | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x, embedding):
        h = GroupNorm(silu=True, name='in_layers_0')(x).astype(self.dtype)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = Conv(self.features, dtype=self.dtype, name='in_layers_2')(h)
        width = 2 * self.features if self.scale_shift else self.features
        shift = nn.Dense(width, dtype=self.dtype, name='emb_layers_1')(
            nn.silu(embedding)
        )
        norm = GroupNorm(silu=True, name='out_layers_0')
        if self.scale_shift:
            # The scale comes first in the checkpoints, then the shift.
            h = norm(h, *jnp.split(shift, 2))
        else:
            h = norm(h + shift)
        h = h.astype(self.dtype)
        h = Conv(self.features, dtype=self.dtype, name='out_layers_3')(h)
        if x.shape[-1] != self.features:
            x = Conv(
                self.features, size=1, dtype=self.dtype, name='skip_connection'
            )(x)
        return x + h


class Attention(nn.Module):
    """Residual self-attention over all pixels."""

    num_heads: int
    new_order: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        height, width, channels = x.shape
        h = GroupNorm(name='norm')(x).reshape(height * width, channels)
        qkv = nn.Dense(3 * channels, dtype=self.dtype, name='qkv')(h)
        h = layers.attention(qkv, self.num_heads, self.new_order)
        h = nn.Dense(channels, dtype=self.dtype, name='proj_out')(h)
        return x + h.reshape(height, width, channels)


class Resample(nn.Module):
    """A resampling layer of its own, with a convolution or without."""

    down: bool
    convolve: bool
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        features = x.shape[-1]
        if self.down and self.convolve:
            return Conv(features, stride=2, dtype=self.dtype, name='op')(x)
        if self.down:
            return layers.downsample(x)
        x = layers.upsample(x)
        if self.convolve:
            x = Conv(features, dtype=self.dtype, name='conv')(x)
        return x


class UNet(nn.Module):
    """A noise prediction network of the guided-diffusion family.

    Attributes:
        image_size: side that it was trained on, in pixels. Other sides that are
            divisible by 2**(levels - 1) work as far as the training carries.
        model_channels: channels of the first level, divisible by 32.
        channel_mult: channels of each level over `model_channels`; half of them
            at the first level of the family's largest network.
        num_res_blocks: residual blocks of each level on the way down.
        attention_downsamplings: downsampling factors at which blocks attend.
        num_heads: heads of each attention, where `head_channels` is None.
        head_channels: channels of a head, or None.
        new_attention_order: see `layers.attention`.
        scale_shift: see `ResBlock`.
        resample: `resblock` (inside residual blocks), `conv` (own layers with
            a convolution) or `plain` (own layers without).
        in_channels: channels of the image.
        out_channels: `in_channels`, or twice that with a learned variance.
        timestep_scale: what its timesteps are multiplied by. Networks that were
            trained with `rescale_timesteps` have 1000 / T here.
        dtype: of the computation; norms, softmax, and output are float32.
        remat: whether the gradient recomputes each block rather than keep what
            is inside of it (`jax.checkpoint`).
    """

    image_size: int = 256
    model_channels: int = 128
    channel_mult: tuple[float, ...] = (1, 1, 2, 2, 4, 4)
    num_res_blocks: int = 1
    attention_downsamplings: tuple[int, ...] = (16,)
    num_heads: int = 4
    head_channels: int | None = 64
    new_attention_order: bool = False
    scale_shift: bool = True
    resample: str = 'resblock'
    in_channels: int = 3
    out_channels: int = 6
    timestep_scale: float = 1.0
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(m * self.model_channels) for m in self.channel_mult)

    @nn.compact
    def __call__(self, x, t):
        """The raw output of the network.

        Args:
            x: (H, W, in_channels), the noisy image.
            t: () timestep of training, 0 to T - 1, integer or float.

        Returns:
            (H, W, out_channels) float32.
        """
        wrap = nn.remat if self.remat else lambda module: module
        res_block = functools.partial(
            wrap(ResBlock), scale_shift=self.scale_shift, dtype=self.dtype
        )
        attend = wrap(Attention)

        def attention(name, h):
            heads = self.num_heads
            if self.head_channels is not None:
                heads = h.shape[-1] // self.head_channels
            order = self.new_attention_order
            return attend(heads, order, self.dtype, name=name)(h)

        def block(name, h, level):
            features = self.level_channels[level]
            h = res_block(features, name=f'{name}_0')(h, embedding)
            if 2**level in self.attention_downsamplings:
                h = attention(f'{name}_1', h)
            return h

        def resample(name, h, down):
            if self.resample == 'resblock':
                layer = layers.downsample if down else layers.upsample
                block = res_block(h.shape[-1], resample=layer, name=name)
                return block(h, embedding)
            convolve = self.resample == 'conv'
            return Resample(down, convolve, self.dtype, name=name)(h)

        dense = functools.partial(
            nn.Dense, 4 * self.model_channels, dtype=self.dtype
        )
        t = self.timestep_scale * t
        embedding = timestep_embedding(t, self.model_channels)
        embedding = nn.silu(dense(name='time_embed_0')(embedding))
        embedding = dense(name='time_embed_2')(embedding)

        conv = functools.partial(Conv, dtype=self.dtype)
        h = conv(self.level_channels[0], name='input_blocks_0_0')(x)
        skips = [h]
        levels = range(len(self.channel_mult))
        for level in levels:
            if level > 0:
                h = resample(f'input_blocks_{len(skips)}_0', h, down=True)
                skips.append(h)
            for _ in range(self.num_res_blocks):
                h = block(f'input_blocks_{len(skips)}', h, level)
                skips.append(h)

        h = res_block(h.shape[-1], name='middle_block_0')(h, embedding)
        h = attention('middle_block_1', h)
        h = res_block(h.shape[-1], name='middle_block_2')(h, embedding)

        names = (f'output_blocks_{i}' for i in range(len(skips)))
        for level in reversed(levels):
            for _ in range(self.num_res_blocks + 1):
                name = next(names)
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(name, h, level)
            if level > 0:
                # In the checkpoints this layer is the last of its block.
                attended = 2**level in self.attention_downsamplings
                h = resample(f'{name}_{1 + attended}', h, down=False)

        h = GroupNorm(silu=True, name='out_0')(h)
        h = conv(self.out_channels, name='out_2')(h)
        return h.astype(jnp.float32)


def timestep_embedding(t, features):
    """Sinusoids of the timestep, cosines first: () to (features,) float32."""
    half = features // 2
    frequencies = np.exp(-math.log(10_000) * np.arange(half) / half)
    angles = jnp.asarray(t, jnp.float32) * frequencies.astype(np.float32)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


@flax.struct.dataclass
class NetworkPrior:
    """A trained U-Net as a prior: a pytree whose leaves are its parameters.

    Attributes:
        params: nested dict of arrays, as `UNet.init(...)['params']`.
        network: the architecture, static.
        noise_schedule: a name of `schedule.SCHEDULES`, static: the one that the
            network was trained with, over `num_train_steps`.
        num_train_steps: T, static.
        prepared: what `prepare` made of the parameters, or nothing.
    """

    params: dict
    network: UNet = flax.struct.field(pytree_node=False)
    noise_schedule: str = flax.struct.field(pytree_node=False, default='linear')
    num_train_steps: int = flax.struct.field(pytree_node=False, default=1000)
    prepared: dict = flax.struct.field(default_factory=dict)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of the images that it was trained on."""
        side = self.network.image_size
        return side, side, self.network.in_channels

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power at each timestep of training, (T,) float64."""
        betas = schedule.SCHEDULES[self.noise_schedule](self.num_train_steps)
        return schedule.alpha_bars(betas)

    def prepare(self) -> 'NetworkPrior':
        """The same prior, faster on a CPU, for images of its size.

        Most convolutions then run by `winograd.conv`, to float32 rounding the
        same. It keeps two more copies of those kernels, 1.8 or 4 times as
        large, through which no gradient flows back to the parameters.

        Raises:
            ValueError: if the network does not compute in float32, whose
                rounding the transforms need.
        """
        if self.network.dtype != jnp.float32:
            raise ValueError(
                'only a network that computes in float32 can be prepared, '
                f'got {jnp.dtype(self.network.dtype).name}.'
            )

        @jax.jit
        def prepared(params, x, t):
            _, made = self.network.apply(
                {'params': params}, x, t, mutable=['prepared']
            )
            return made.get('prepared', {})

        x = jnp.zeros(self.image_shape)
        return self.replace(prepared=prepared(self.params, x, 0))

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in one image, (H, W, C), at a timestep, ()."""
        variables = {'params': self.params, 'prepared': self.prepared}
        out = self.network.apply(variables, x_t, t)
        if self.network.out_channels == self.network.in_channels:
            return Prediction(out)
        eps, fraction = jnp.split(out, 2, axis=-1)
        return Prediction(eps, (fraction + 1) / 2)
