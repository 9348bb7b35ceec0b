"""Phases for Fourier magnitudes, by projections: no prior, no network.

A real image that lies within a margin of zeros is, in most cases, settled by the
magnitudes of its Fourier transform up to a turn by 180 degrees and its sign
(Hayes, 1982). To find it, two corrections take turns:

    P_M   puts the measured magnitudes in place of the image's own, and keeps its
          phases,
    P_S   sets the margin to zero, and clips the image to [-1, 1].

Alternating them, error reduction, soon stands still. Fienup's hybrid
input-output (1982, eq. 44) goes on, with u the input and beta 0.9,

    u  <-  P_M(u)                          where P_S leaves P_M(u) as it is,
           u - beta (P_M(u) - P_S(P_M(u)))   elsewhere,

and error reduction ends it. It is run from many random images, each channel by
itself. Those that explain their channel best are then tried on the others, as
the shapes in an image are much the same in all of its channels, and the one whose
channels come out most alike is taken. Shapes that differ between channels, or
that are dark in one where they are light in another, mislead it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Fienup's range is 0.5 to 1.
_BETA = 0.9
# Random starts of each channel, and steps of hybrid input-output from each.
_NUM_STARTS = 32
_NUM_STEPS = 500
# Of each channel so many are tried on the others, with so many steps more.
_NUM_KEPT = 4
_NUM_STEPS_ON_OTHERS = 100
# Of error reduction, after either.
_NUM_LAST = 30
# Random images at once: that bounds the memory, and on a CPU they stay in its
# cache.
_AT_ONCE = 8


class Candidates(NamedTuple):
    """Images that may explain a measurement.

    Attributes:
        x: (N, H, W, C), each turned and signed at random as a whole, but with
            channels that agree.
        residual: (N,) root mean square of what they leave of the magnitudes.
    """

    x: jax.Array
    residual: jax.Array


def candidates(
    key: jax.Array, y: jax.Array, image_shape: tuple[int, int, int], margin: int
) -> Candidates:
    """Images by hybrid input-output from random ones.

    Args:
        key: of the random images.
        y: (H + 2 m, W + 2 m, C) magnitudes, of a transform of unit norm; below
            zero by noise alone.
        image_shape: (H, W, C).
        margin: m, pixels of zeros around the image.

    Returns:
        Four times as many candidates as channels, of least residual first.
    """
    height, width, num_channels = image_shape
    frame = y.shape[:2]
    edges = ((margin, margin), (margin, margin))
    inside = jnp.pad(jnp.ones((height, width)), edges)
    # The transform of a real image has the same magnitude at k and -k, so their
    # mean has less noise, and half of them are enough.
    opposite = jnp.roll(y[::-1, ::-1], (1, 1), (0, 1))
    y = jnp.maximum((y + opposite) / 2, 0)[:, : frame[1] // 2 + 1]
    y = jnp.moveaxis(y, -1, 0)

    def waves(u):
        return jnp.fft.rfft2(u, norm='ortho')

    def with_magnitudes(u, y):
        found = waves(u)
        # A wave of zero has no phase, and stays zero.
        found = found * (y / jnp.maximum(jnp.abs(found), 1e-12))
        return jnp.fft.irfft2(found, s=frame, norm='ortho')

    def within(u):
        return inside * jnp.clip(u, -1, 1)

    def improve(u, y, num_steps):
        def hybrid(_, u):
            output = with_magnitudes(u, y)
            allowed = within(output)
            back = u - _BETA * (output - allowed)
            return jnp.where(output == allowed, output, back)

        def reduce_error(_, u):
            return within(with_magnitudes(u, y))

        u = jax.lax.fori_loop(0, num_steps, hybrid, u)
        u = jax.lax.fori_loop(0, _NUM_LAST, reduce_error, within(u))
        return u, jnp.mean((jnp.abs(waves(u)) - y) ** 2)

    def of_channel(args):
        key, y = args
        u = jax.random.uniform(
            key, (_NUM_STARTS, *frame), minval=-1.0, maxval=1.0
        )
        found, error = jax.lax.map(
            lambda u: improve(u, y, _NUM_STEPS), inside * u, batch_size=_AT_ONCE
        )
        return found[jnp.argsort(error)[:_NUM_KEPT]]

    def on_all(u):
        """An image of one channel, tried on each of them."""
        mean = u.sum() / (height * width)
        detail = inside * (u - mean)

        def on_one(y):
            # The sign of a channel's mean is not that of another's.
            size = y[0, 0] * jnp.sqrt(frame[0] * frame[1]) / (height * width)
            tried, error = jax.vmap(
                lambda mean: improve(
                    detail + mean * inside, y, _NUM_STEPS_ON_OTHERS
                )
            )(jnp.array([size, -size]))
            best = jnp.argmin(error)
            return tried[best], error[best]

        return jax.vmap(on_one)(y)

    keys = jax.random.split(key, num_channels)
    kept = jax.lax.map(of_channel, (keys, y)).reshape(-1, *frame)
    found, errors = jax.lax.map(on_all, kept)
    found = found[:, :, margin : margin + height, margin : margin + width]
    x = jax.vmap(_agreeing)(jnp.moveaxis(found, 1, -1))
    residual = jnp.sqrt(jnp.mean(errors, axis=1))
    order = jnp.argsort(residual)
    return Candidates(x[order], residual[order])


def best(found: Candidates) -> jax.Array:
    """The candidate, (H, W, C), whose channels are most alike.

    By residual they hardly differ, since noise is fitted too, but what is wrong
    in a channel is not in the others. Of one channel, the least residual.
    """
    return found.x[jnp.argmax(jax.vmap(agreement)(found.x))]


def _agreeing(x: jax.Array) -> jax.Array:
    """Channels turned and signed so that they agree, (H, W, C).

    Each one measures the same in four ways. The channel of most contrast stays,
    and the others are taken as they are most alike to it.
    """
    contrast = x - x.mean(axis=(0, 1))
    leader = jnp.argmax(jnp.sum(contrast**2, axis=(0, 1)))
    leader = jnp.take(contrast, leader, axis=-1)

    def agreeing(channel):
        options = four_ways(channel)
        likeness = jnp.sum(
            (options - options.mean((1, 2), keepdims=True)) * leader, (1, 2)
        )
        return options[jnp.argmax(likeness)]

    return jax.vmap(agreeing, in_axes=-1, out_axes=-1)(x)


def agreement(x: jax.Array) -> jax.Array:
    """The mean correlation of two channels, (): 1 where all have one shape."""
    num_channels = x.shape[-1]
    contrast = (x - x.mean(axis=(0, 1))).reshape(-1, num_channels)
    length = jnp.linalg.norm(contrast, axis=0)
    contrast = contrast / jnp.maximum(length, 1e-12)
    together = jnp.sum(jnp.sum(contrast, axis=1) ** 2)
    return (together - num_channels) / max(num_channels * (num_channels - 1), 1)


def four_ways(x: jax.Array) -> jax.Array:
    """(4, ...): what measures the same as x: turned, of the other sign, both."""
    turned = x[::-1, ::-1]
    return jnp.stack([x, turned, -x, -turned])
