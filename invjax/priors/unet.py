"""The guided-diffusion U-Net (Dhariwal and Nichol, 2021) in Flax.

Written for one image, (H, W, C). Module names are those of the published
PyTorch checkpoints with dots turned into underscores, so that conversion is a
renaming (`invjax/priors/convert.py`).
"""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import schedule
from invjax.diffusion import Prediction
from invjax.priors import blocks, layers, sizes
from invjax.priors.blocks import Attention, Conv, GroupNorm, Resample, ResBlock
from invjax.priors.card import Card


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
        num_classes: classes of images that it tells apart; None for none.
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
    num_classes: int | None = None
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @property
    def level_channels(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(m * self.model_channels) for m in self.channel_mult)

    @nn.compact
    def __call__(self, x, t, label=None):
        """The raw output of the network.

        Args:
            x: (H, W, in_channels), the noisy image.
            t: () timestep of training, 0 to T - 1, integer or float.
            label: () class, 0 to num_classes - 1; None where there are none.

        Returns:
            (H, W, out_channels) float32.

        Raises:
            ValueError: if there is a label and no classes, or the other way
                round.
        """
        if self.is_initializing() and self.num_classes is not None:
            label = 0
        _check_label(self.num_classes, label)
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
        embedding = blocks.timestep_embedding(t, self.model_channels)
        embedding = nn.silu(dense(name='time_embed_0')(embedding))
        embedding = dense(name='time_embed_2')(embedding)
        if self.num_classes is not None:
            classes = blocks.LabelEmbedding(
                self.num_classes, 4 * self.model_channels, name='label_emb'
            )
            embedding = embedding + classes(label).astype(self.dtype)

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


def _check_label(num_classes, label):
    if num_classes is None and label is not None:
        raise ValueError(
            f'the network tells no classes apart, so it takes no label, got '
            f'{label}.'
        )
    if num_classes is not None and label is None:
        raise ValueError(
            'the network needs the class of the image, a label from 0 to '
            f'{num_classes - 1}; see NetworkPrior.with_label.'
        )


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
        card: what is known of it, where it was loaded. Static.
        label: () int32, the class of the images; None where the network has no
            classes (`with_label`).
        size: (H, W) of the images where it is not that of the network's
            training (`with_size`). Static.
    """

    params: dict
    network: UNet = flax.struct.field(pytree_node=False)
    noise_schedule: str = flax.struct.field(pytree_node=False, default='linear')
    num_train_steps: int = flax.struct.field(pytree_node=False, default=1000)
    prepared: dict = flax.struct.field(default_factory=dict)
    card: Card | None = flax.struct.field(pytree_node=False, default=None)
    label: jax.Array | None = None
    size: tuple[int, int] | None = flax.struct.field(
        pytree_node=False, default=None
    )

    def bare(self) -> 'NetworkPrior':
        """Without its card: priors of one network share compiled programs."""
        return dataclasses.replace(self, card=None)

    def __repr__(self):
        """Two lines, and not the parameters."""
        name = 'no card' if self.card is None else self.card.name
        number = sum(np.size(leaf) for leaf in jax.tree.leaves(self.params))
        height, width, channels = self.image_shape
        return (
            f'NetworkPrior({name}: {height} x {width} x {channels}, '
            f'{number:,} parameters,\n    {self.num_train_steps} timesteps, '
            f'{self.noise_schedule} schedule, '
            f'{jnp.dtype(self.network.dtype).name})'
        )

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of its images."""
        side = self.network.image_size
        return *(self.size or (side, side)), self.network.in_channels

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power at each timestep of training, (T,) float64."""
        betas = schedule.SCHEDULES[self.noise_schedule](self.num_train_steps)
        return schedule.alpha_bars(betas)

    def with_label(self, label: int) -> 'NetworkPrior':
        """The same prior, for images of one class.

        Args:
            label: from 0 to the network's num_classes - 1.

        Raises:
            ValueError: if there is no such class.
        """
        num_classes = self.network.num_classes
        _check_label(num_classes, label)
        assert num_classes is not None  # As was checked.
        if label != int(label) or not 0 <= label < num_classes:
            raise ValueError(
                f'label must be a whole number from 0 to {num_classes - 1}, '
                f'got {label}.'
            )
        return dataclasses.replace(self, label=jnp.int32(label))

    def with_size(self, height: int, width: int) -> 'NetworkPrior':
        """The same prior, for images of another size.

        A network knows pictures of the size that it was trained on best; of
        larger ones it knows the parts.

        Raises:
            ValueError: for a size that the network's levels do not divide.
        """
        sizes.check(height, width, sizes.divisor(self.network))
        return dataclasses.replace(self, size=(height, width), prepared={})

    def prepare(self) -> 'NetworkPrior':
        """The same prior, faster on a CPU, for images of its size.

        Most convolutions then run by `winograd.conv`, to float32 rounding the
        same. It keeps two more copies of those kernels, 1.8 or 4 times as
        large, through which no gradient flows back to the parameters.

        Raises:
            ValueError: if the network does not compute in float32, whose
                rounding the transforms need.
        """
        label = None if self.network.num_classes is None else jnp.int32(0)
        prepared = blocks.prepare(
            self.network, self.params, self.image_shape, label
        )
        return dataclasses.replace(self, prepared=prepared)

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        """Predict the noise in one image, (H, W, C), at a timestep, ()."""
        variables = {'params': self.params, 'prepared': self.prepared}
        labels = () if self.label is None else (self.label,)
        out: Any = self.network.apply(variables, x_t, t, *labels)
        if self.network.out_channels == self.network.in_channels:
            return Prediction(out)
        eps, fraction = jnp.split(out, 2, axis=-1)
        return Prediction(eps, (fraction + 1) / 2)
