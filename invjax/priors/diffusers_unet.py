"""The unconditional U-Net of diffusers (`UNet2DModel`) in Flax, for one image.

It has DDPM (Ho et al., 2020) and NCSN++ (Song et al., 2021) as special cases.
Fields are the entries of its `config.json`, and module names are those of its
state dict with dots turned into underscores, but for what is inside of a block
(`invjax/priors/blocks.py`).
"""

import functools
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from invjax.priors import blocks, layers
from invjax.priors.blocks import Attention, Conv, GroupNorm, Resample, ResBlock


class _Kind(NamedTuple):
    """What differs between types of blocks.

    Attributes:
        attends: whether there is attention: after each residual block, or, on
            the way up of a `skip` block, after the last one.
        resample: `conv`, a layer of its own; `resnet`, a residual block; or
            `either`, as the configuration says.
        skip: whether the picture itself, smaller, goes along beside the
            features, as in NCSN++.
    """

    attends: bool = False
    resample: str = 'conv'
    skip: bool = False


DOWN_BLOCKS = {
    'DownBlock2D': _Kind(),
    'AttnDownBlock2D': _Kind(attends=True, resample='either'),
    'ResnetDownsampleBlock2D': _Kind(resample='resnet'),
    'SkipDownBlock2D': _Kind(skip=True),
    'AttnSkipDownBlock2D': _Kind(attends=True, skip=True),
}
UP_BLOCKS = {
    'UpBlock2D': _Kind(),
    'AttnUpBlock2D': _Kind(attends=True, resample='either'),
    'ResnetUpsampleBlock2D': _Kind(resample='resnet'),
    'SkipUpBlock2D': _Kind(skip=True),
    'AttnSkipUpBlock2D': _Kind(attends=True, skip=True),
}


class UNet2D(nn.Module):
    """A network of diffusers' `UNet2DModel`.

    Attributes:
        in_channels: channels of the image.
        out_channels: `in_channels`, or twice that with a learned variance.
        center_input_sample: whether the input is doubled, less 1, first.
        time_embedding_type: `positional`, of a timestep; `fourier`, of a noise
            level, by which the output is then divided.
        time_embedding_dim: width of the embedding; None for four times the
            channels of the first level.
        freq_shift: see `blocks.timestep_embedding`.
        flip_sin_to_cos: whether cosines come first there.
        down_block_types: keys of DOWN_BLOCKS, one for each level.
        up_block_types: keys of UP_BLOCKS, one for each level, smallest first.
        mid_block_type: `UNetMidBlock2D`, or None for no middle.
        block_out_channels: channels of each level.
        layers_per_block: residual blocks of each level on the way down.
        mid_block_scale_factor: sums in the middle are divided by it.
        downsample_padding: zeros around what a downsampling convolution sees; 0
            for one row below and one column to the right instead.
        downsample_type, upsample_type: `conv` or `resnet`, of levels that
            attend.
        attention_head_dim: channels of a head; None for one head.
        norm_num_groups: groups of each normalisation, but for those of skip
            blocks, which have 32, or a quarter of the channels if that is less.
            None for that everywhere.
        attn_norm_num_groups: of the middle's attention; None for
            `norm_num_groups` with the `default` shift, and for no normalisation
            with the other.
        norm_eps: added to each variance.
        resnet_time_scale_shift: `default`, the embedding is added; or
            `scale_shift`.
        add_attention: whether the middle attends.
        dtype: of the computation; norms, softmax, and output are float32.
        remat: whether the gradient recomputes each block rather than keep what
            is inside of it (`jax.checkpoint`).
    """

    in_channels: int = 3
    out_channels: int = 3
    center_input_sample: bool = False
    time_embedding_type: str = 'positional'
    time_embedding_dim: int | None = None
    freq_shift: int = 0
    flip_sin_to_cos: bool = True
    down_block_types: tuple[str, ...] = (
        'DownBlock2D',
        *3 * ('AttnDownBlock2D',),
    )
    up_block_types: tuple[str, ...] = (*3 * ('AttnUpBlock2D',), 'UpBlock2D')
    mid_block_type: str | None = 'UNetMidBlock2D'
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)
    layers_per_block: int = 2
    mid_block_scale_factor: float = 1.0
    downsample_padding: int = 1
    downsample_type: str = 'conv'
    upsample_type: str = 'conv'
    attention_head_dim: int | None = 8
    norm_num_groups: int | None = 32
    attn_norm_num_groups: int | None = None
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = 'default'
    add_attention: bool = True
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x, time):
        """The raw output of the network.

        Args:
            x: (H, W, in_channels), the noisy image.
            time: () timestep or noise level, integer or real.

        Returns:
            (H, W, out_channels) float32.
        """
        wrap = nn.remat if self.remat else lambda module: module
        conv = functools.partial(Conv, dtype=self.dtype)
        res_block = functools.partial(
            wrap(ResBlock),
            scale_shift=self.resnet_time_scale_shift == 'scale_shift',
            epsilon=self.norm_eps,
            dtype=self.dtype,
        )

        def groups_of(kind):
            return None if kind.skip else self.norm_num_groups

        def scale_of(kind):
            return 2**-0.5 if kind.skip else 1.0

        def resnet(name, h, features, kind, groups_in=None, **resampled):
            groups = groups_in or groups_of(kind), groups_of(kind)
            block = res_block(
                features,
                groups=groups,
                output_scale=scale_of(kind),
                name=name,
                **resampled,
            )
            return block(h, embedding)

        def attention(name, h, num_groups, output_scale):
            width = self.attention_head_dim or h.shape[-1]
            return wrap(Attention)(
                h.shape[-1] // width,
                True,
                self.dtype,
                num_groups,
                self.norm_eps,
                output_scale,
                name=name,
            )(h)

        def attend(name, h, kind):
            num_groups = 32 if kind.skip else self.norm_num_groups
            return attention(name, h, num_groups, scale_of(kind))

        embedding = self._embed(time)
        if self.center_input_sample:
            x = 2 * x - 1
        picture = x
        h = conv(self.block_out_channels[0], name='conv_in')(x)
        hidden = [h]
        last = len(self.block_out_channels) - 1

        for level, features in enumerate(self.block_out_channels):
            name = f'down_blocks_{level}'
            kind = DOWN_BLOCKS[self.down_block_types[level]]
            for i in range(self.layers_per_block):
                h = resnet(f'{name}_resnets_{i}', h, features, kind)
                if kind.attends:
                    h = attend(f'{name}_attentions_{i}', h, kind)
                hidden.append(h)
            if level == last:
                continue
            if kind.skip:
                h = resnet(
                    f'{name}_resnet_down',
                    h,
                    features,
                    kind,
                    resample=layers.smooth_downsample,
                    project=True,
                )
                picture = layers.smooth_downsample(picture)
                h = h + conv(features, 1, name=f'{name}_skip_conv')(picture)
            elif _resamples_by(kind, self.downsample_type) == 'resnet':
                h = resnet(
                    f'{name}_downsamplers_0',
                    h,
                    features,
                    kind,
                    resample=layers.downsample,
                )
            else:
                padding = (0, 1) if self.downsample_padding == 0 else (1, 1)
                h = Resample(
                    True,
                    True,
                    self.dtype,
                    padding,
                    name=f'{name}_downsamplers_0',
                )(h)
            hidden.append(h)

        if self.mid_block_type is not None:
            middle = functools.partial(
                res_block,
                self.block_out_channels[-1],
                groups=(self.norm_num_groups, self.norm_num_groups),
                output_scale=1 / self.mid_block_scale_factor,
            )
            h = middle(name='mid_block_resnets_0')(h, embedding)
            if self.add_attention:
                h = attention(
                    'mid_block_attentions_0',
                    h,
                    self._middle_groups(),
                    1 / self.mid_block_scale_factor,
                )
            h = middle(name='mid_block_resnets_1')(h, embedding)

        picture = None
        for level, features in enumerate(self.block_out_channels[::-1]):
            name = f'up_blocks_{level}'
            kind = UP_BLOCKS[self.up_block_types[level]]
            for i in range(self.layers_per_block + 1):
                other = hidden.pop()
                groups_in = None
                if kind.skip and kind.attends:
                    # Written without the brackets around the sum there, so it
                    # is 32 at all but the smallest widths.
                    groups_in = min(32, h.shape[-1] + other.shape[-1] // 4)
                h = jnp.concatenate([h, other], axis=-1)
                h = resnet(f'{name}_resnets_{i}', h, features, kind, groups_in)
                if kind.attends and not kind.skip:
                    h = attend(f'{name}_attentions_{i}', h, kind)
            if kind.skip:
                if kind.attends:
                    h = attend(f'{name}_attentions_0', h, kind)
                if picture is not None:
                    picture = layers.smooth_upsample(picture)
            if level == last:
                continue
            if kind.skip:
                shown = GroupNorm(
                    True, None, self.norm_eps, name=f'{name}_skip_norm'
                )(h)
                shown = conv(self.in_channels, name=f'{name}_skip_conv')(shown)
                shown = shown.astype(jnp.float32)
                picture = shown if picture is None else picture + shown
                h = resnet(
                    f'{name}_resnet_up',
                    h,
                    features,
                    kind,
                    resample=layers.smooth_upsample,
                    project=True,
                )
            elif _resamples_by(kind, self.upsample_type) == 'resnet':
                h = resnet(
                    f'{name}_upsamplers_0',
                    h,
                    features,
                    kind,
                    resample=layers.upsample,
                )
            else:
                h = Resample(
                    False, True, self.dtype, name=f'{name}_upsamplers_0'
                )(h)

        h = GroupNorm(
            True, self.norm_num_groups, self.norm_eps, name='conv_norm_out'
        )(h)
        h = conv(self.out_channels, name='conv_out')(h).astype(jnp.float32)
        if picture is not None:
            h = h + picture
        if self.time_embedding_type == 'fourier':
            h = h / time
        return h

    def _embed(self, time):
        """The embedding of the time, for all blocks."""
        first = self.block_out_channels[0]
        if self.time_embedding_type == 'fourier':
            waves = blocks.FourierEmbedding(2 * first, name='time_proj')
            h = waves(jnp.log(time))
        else:
            h = blocks.timestep_embedding(
                time, first, self.freq_shift, self.flip_sin_to_cos
            )
        dense = functools.partial(
            nn.Dense, self.time_embedding_dim or 4 * first, dtype=self.dtype
        )
        h = nn.silu(dense(name='time_embedding_linear_1')(h))
        return dense(name='time_embedding_linear_2')(h)

    def _middle_groups(self):
        if self.attn_norm_num_groups is not None:
            return self.attn_norm_num_groups
        if self.resnet_time_scale_shift == 'default':
            return self.norm_num_groups
        return 0


def _resamples_by(kind, configured):
    return configured if kind.resample == 'either' else kind.resample
