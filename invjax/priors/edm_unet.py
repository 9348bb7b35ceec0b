"""The networks of EDM (Karras et al., 2022) in Flax, for one image.

`SongUNet` has DDPM++ and NCSN++ (Song et al., 2021) as special cases, and
`DhariwalUNet` is that of guided-diffusion (Dhariwal and Nichol, 2021). Fields
are the arguments that those classes take, and module names are those of their
state dicts with dots turned into underscores, but for what is inside of a block
(`invjax/priors/blocks.py`).
"""

import functools

import flax.linen as nn
import jax.numpy as jnp

from invjax.priors import blocks, layers
from invjax.priors.blocks import Attention, Conv, GroupNorm, ResBlock

# How an image is made smaller and larger, by the filter's taps.
RESAMPLINGS = {
    (1, 1): (layers.downsample, layers.upsample),
    (1, 3, 3, 1): (layers.smooth_downsample, layers.smooth_upsample),
}


class EDMUNet(nn.Module):
    """A network of the EDM code, inside of its preconditioning.

    Attributes:
        model_type: `SongUNet` or `DhariwalUNet`. The latter scales and shifts
            by the embedding, adds without a factor, attends in every block of a
            level with heads of 64 channels, and has positional embeddings, a
            plain encoder and decoder and the filter (1, 1).
        img_resolution: side that it was trained on, in pixels.
        img_channels: channels of the image.
        model_channels: channels of the first level over its multiple.
        channel_mult: channels of each level over `model_channels`.
        channel_mult_emb: width of the embedding over `model_channels`.
        num_blocks: residual blocks of each level on the way down.
        attn_resolutions: sides at which blocks attend.
        embedding_type: `positional` or `fourier`, of the time.
        channel_mult_noise: features of the time over `model_channels`.
        encoder_type: `standard`; `skip` or `residual` for the picture itself,
            smaller, added to the features of each level.
        decoder_type: `standard`, or `skip` for a picture made at each level.
        resample_filter: a key of RESAMPLINGS.
        dtype: of the computation; norms, softmax, and output are float32.
        remat: whether the gradient recomputes each block rather than keep what
            is inside of it (`jax.checkpoint`).
    """

    model_type: str = 'SongUNet'
    img_resolution: int = 64
    img_channels: int = 3
    model_channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    channel_mult_emb: int = 4
    num_blocks: int = 4
    attn_resolutions: tuple[int, ...] = (16,)
    embedding_type: str = 'positional'
    channel_mult_noise: int = 1
    encoder_type: str = 'standard'
    decoder_type: str = 'standard'
    resample_filter: tuple[int, ...] = (1, 1)
    dtype: jnp.dtype = jnp.float32
    remat: bool = False

    @nn.compact
    def __call__(self, x, time):
        """The raw output of the network.

        Args:
            x: (H, W, img_channels), the noisy image times c_in.
            time: () what the preconditioning makes of the noise level, c_noise.

        Returns:
            (H, W, img_channels) float32.
        """
        song = self.model_type == 'SongUNet'
        down, up = RESAMPLINGS[self.resample_filter]
        epsilon = 1e-6 if song else 1e-5
        output_scale = 0.5**0.5 if song else 1.0
        wrap = nn.remat if self.remat else lambda module: module
        conv = functools.partial(Conv, dtype=self.dtype)
        norm = functools.partial(GroupNorm, True, None, epsilon)
        res_block = functools.partial(
            wrap(ResBlock),
            scale_shift=not song,
            groups=(None, None),
            epsilon=epsilon,
            output_scale=output_scale,
            dtype=self.dtype,
        )

        def block(name, h, features, attends=False):
            h = res_block(features, name=name)(h, embedding)
            heads = 1 if song else features // 64
            if not attends or heads == 0:
                return h
            return wrap(Attention)(
                heads,
                False,
                self.dtype,
                None,
                epsilon,
                output_scale,
                name=f'{name}_attention',
            )(h)

        def resampled(name, h, resample):
            layer = res_block(
                h.shape[-1], resample=resample, project=song, name=name
            )
            return layer(h, embedding)

        embedding = self._embed(time)
        sides = [
            self.img_resolution >> i for i in range(len(self.channel_mult))
        ]
        names = [f'{side}x{side}' for side in sides]
        widths = [m * self.model_channels for m in self.channel_mult]
        attended = [side in self.attn_resolutions for side in sides]

        first = self.model_channels if song else widths[0]
        h = conv(first, name=f'enc_{names[0]}_conv')(x)
        hidden = [h]
        picture = x
        for level, features in enumerate(widths):
            name = f'enc_{names[level]}'
            if level > 0:
                h = resampled(f'{name}_down', h, down)
                if self.encoder_type == 'skip':
                    picture = down(picture)
                    seen = conv(h.shape[-1], 1, name=f'{name}_aux_skip')
                    h = h + seen(picture)
                elif self.encoder_type == 'residual':
                    seen = conv(h.shape[-1], name=f'{name}_aux_residual')
                    picture = (h + self._down_after(seen, picture)) * 0.5**0.5
                    h = picture
                hidden.append(h)
            for i in range(self.num_blocks):
                h = block(f'{name}_block{i}', h, features, attended[level])
                hidden.append(h)

        h = block(f'dec_{names[-1]}_in0', h, h.shape[-1], attends=True)
        h = block(f'dec_{names[-1]}_in1', h, h.shape[-1])
        picture = None
        for level in reversed(range(len(widths))):
            name = f'dec_{names[level]}'
            if level < len(widths) - 1:
                h = resampled(f'{name}_up', h, up)
            for i in range(self.num_blocks + 1):
                # On the way up, a SongUNet attends in a level's last block.
                attends = attended[level] and (not song or i == self.num_blocks)
                h = jnp.concatenate([h, hidden.pop()], axis=-1)
                h = block(f'{name}_block{i}', h, widths[level], attends)
            if song and (level == 0 or self.decoder_type == 'skip'):
                shown = norm(name=f'{name}_aux_norm')(h)
                shown = conv(self.img_channels, name=f'{name}_aux_conv')(shown)
                shown = shown.astype(jnp.float32)
                picture = shown if picture is None else shown + up(picture)
        if song:
            return picture
        h = norm(name='out_norm')(h)
        return conv(self.img_channels, name='out_conv')(h).astype(jnp.float32)

    def _down_after(self, layer, picture):
        """Half of what a 3 x 3 convolution makes of the picture.

        The convolution is evaluated on as much around the picture as the filter
        reads, where it sees the picture's border; that is not zero.
        """
        if self.resample_filter == (1, 1):
            return layers.downsample(layer(picture))
        picture = jnp.pad(picture, ((1, 1), (1, 1), (0, 0)))
        return layers.smooth_downsample(layer(picture), padding=0)

    def _embed(self, time):
        """The embedding of the time, for all blocks."""
        features = self.channel_mult_noise * self.model_channels
        if self.embedding_type == 'fourier':
            h = blocks.FourierEmbedding(features, name='map_noise')(time)
        elif self.model_type == 'SongUNet':
            h = blocks.timestep_embedding(
                time, features, shift=1, cosines_first=False
            )
        else:
            h = blocks.timestep_embedding(time, features)
        dense = functools.partial(
            nn.Dense,
            self.channel_mult_emb * self.model_channels,
            dtype=self.dtype,
        )
        h = nn.silu(dense(name='map_layer0')(h))
        return dense(name='map_layer1')(h)
