"""Deep image prior (DIP; Ulyanov et al., 2018): an untrained network.

An image is what a small convolutional network f makes of fixed random numbers,
and its weights are fitted to the one measurement by Adam,

    argmin_theta || y - A(f_theta(code)) ||^2,

from a random start. Such a network takes up an image sooner than noise, so that
all depends on when to stop. We stop by the discrepancy principle (Morozov,
1966): once ||y - A(x)|| <= discrepancy sigma sqrt(m), nothing moves any more. It
needs no truth, and sigma is known here to every method. (The other criterion
without truth, a windowed variance of outputs, of Wang et al., 2021, needs a
window and a patience, which are as hard to choose as a number of iterations.)

The image x is the outputs' exponential average, as in the authors' code, and
its residual is what counts for stopping. That code (DmitryUlyanov/
deep-image-prior) averages more slowly, with a weight of 0.99, adds fresh noise to
the fixed numbers in each iteration, has five levels of 128 channels, and stops
after a number of iterations that is chosen for the picture.

A row of the schedule is `iterations` of Adam; its timestep is not read, nor is
the prior. In Info `prior_step` is how far x moved, and `guidance` the norm of
the gradient of ||y - A(x)||^2 / 2 by x, the pull of the measurement.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from invjax.methods.base import Method, observe
from invjax.settings import (
    Number,
    count,
    fraction,
    not_negative,
    positive,
    size,
)

# Of the random numbers that the network starts from, and of a skip connection;
# the authors' values, as is the range of the numbers.
_CODE_CHANNELS = 32
_CODE_RANGE = 0.1
_SKIP_CHANNELS = 4
_MAX_DEPTH = 3


class _State(NamedTuple):
    """What Adam hands on; the image is the sampler's x."""

    code: jax.Array
    weights: Any
    moments: Any


class DIP(Method):
    """Fit a network to the measurement, and stop before it fits the noise.

    Attributes:
        learning_rate: () of Adam, above 0. All numbers may be traced.
        iterations: () of Adam, a row.
        average: () weight of the old image in the new one, 0 to 1; at 0 it is
            the network's output, and at 1 the first one for ever.
        discrepancy: () of the residual where it stops, in units of its
            expectation; at 0 it goes on.
        channels: of the network, 1 or more.
        transition: not read; the step is the method's own.
    """

    name = 'dip'
    has_own_step = True

    learning_rate: Number = positive(0.01)
    iterations: Number = count(10)
    average: Number = fraction(0.9)
    discrepancy: Number = not_negative(1.0)
    channels: int = size(32)

    def read_of_transition(self):
        return ()

    def start(self, key, problem, steps):
        del steps
        key_code, key_weights = jax.random.split(key)
        import optax

        height, width, _ = problem.image_shape
        code = _CODE_RANGE * jax.random.uniform(
            key_code, (height, width, _CODE_CHANNELS)
        )
        network = _network(problem, self.channels)
        x, weights = network.init_with_output(key_weights, code)
        return x, _State(
            code, weights, optax.adam(self.learning_rate).init(weights)
        )

    def update(self, key, x, state, step, problem, prior):
        import optax

        del key, step, prior
        network = _network(problem, self.channels)
        optimiser = optax.adam(self.learning_rate)
        limit = self.discrepancy * problem.expected_residual_norm()

        def distance(weights):
            output = network.apply(weights, state.code)
            return jnp.sum(problem.residual(output) ** 2), output

        def goes_on(carry):
            i, x, _, _ = carry
            return (i < self.iterations) & (problem.residual_norm(x) > limit)

        def fit(carry):
            i, x, weights, moments = carry
            gradient, output = jax.grad(distance, has_aux=True)(weights)
            change, moments = optimiser.update(gradient, moments)
            x = self.average * x + (1 - self.average) * output
            return i + 1, x, optax.apply_updates(weights, change), moments

        # Once all lanes have stopped, a row costs no pass of the network.
        _, moved, weights, moments = jax.lax.while_loop(
            goes_on, fit, (0, x, state.weights, state.moments)
        )
        pull = jax.grad(lambda x: jnp.sum(problem.residual(x) ** 2) / 2)(moved)
        info = observe(x, moved, moved, pull, problem)
        return moved, state._replace(weights=weights, moments=moments), info


def _network(problem, channels: int) -> nn.Module:
    """The network for a problem's images: at its coarsest, 2 or more pixels."""
    height, width, image_channels = problem.image_shape
    depth = 0
    while (
        depth < _MAX_DEPTH
        and height % 2 ** (depth + 1) == width % 2 ** (depth + 1) == 0
        and min(height, width) >= 2 ** (depth + 2)
    ):
        depth += 1
    return _HourGlass(depth, channels, image_channels)


class _HourGlass(nn.Module):
    """An encoder and decoder with thin skip connections (their Fig. 21).

    Attributes:
        depth: how often both sides are halved.
        channels: of its features.
        image_channels: C of what comes out.
    """

    depth: int
    channels: int
    image_channels: int

    @nn.compact
    def __call__(self, code: jax.Array) -> jax.Array:
        """Map random numbers, (H, W, K), to an image, (H, W, C) in [-1, 1]."""
        x = code
        skips = []
        for _ in range(self.depth):
            skips.append(nn.Dense(_SKIP_CHANNELS)(x))
            height, width, channels = x.shape
            x = x.reshape(height // 2, 2, width // 2, 2, channels)
            x = _Block(self.channels)(x.mean(axis=(1, 3)))
        for skip in reversed(skips):
            shape = (*skip.shape[:2], x.shape[-1])
            x = jax.image.resize(x, shape, 'bilinear')
            x = _Block(self.channels)(jnp.concatenate([x, skip], axis=-1))
        x = _Block(self.channels)(x)
        return jnp.tanh(nn.Dense(self.image_channels)(x))


class _Block(nn.Module):
    """A 3 x 3 convolution, a norm over the pixels and a leaky rectifier."""

    channels: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        height, width, _ = x.shape
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)), mode='edge')
        # As a product of matrices: each lane has its own weights, and with
        # those XLA's convolutions take ten times as long on a CPU.
        neighbours = [
            padded[i : i + height, j : j + width]
            for i in range(3)
            for j in range(3)
        ]
        x = nn.Dense(self.channels)(jnp.concatenate(neighbours, axis=-1))
        x = nn.LayerNorm(reduction_axes=(0, 1), feature_axes=-1)(x)
        return nn.leaky_relu(x, 0.2)
