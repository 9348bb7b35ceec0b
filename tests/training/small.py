"""A network of two numbers and a bit, for tests of what is around a network."""

import os
import pathlib
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp

from invjax.priors.unet import NetworkPrior
from invjax.training import network


class Small(nn.Module):
    """As `UNet` for images of one channel, with little in it."""

    image_size: int = 8
    in_channels: int = 1
    out_channels: int = 2
    hidden: int = 0

    @nn.compact
    def __call__(self, x, t):
        h = nn.Conv(4, (3, 3))(x[None])[0]
        h = nn.silu(h + nn.Dense(4)(jnp.asarray(t, jnp.float32)[None] / 1000))
        for _ in range(2 if self.hidden else 0):
            h = nn.silu(nn.Dense(self.hidden)(h))
        return nn.Dense(self.out_channels)(h)


def prior(seed=0, num_train_steps=50, hidden=0):
    """A prior of it with new parameters."""
    module = Small(hidden=hidden)
    params = module.init(jax.random.key(seed), jnp.zeros((8, 8, 1)), 0)
    return NetworkPrior(
        params['params'], module, num_train_steps=num_train_steps
    )


def prior_for(config):
    """A prior with something for the run's optimiser to move."""
    # Muon takes only a matrix of 8 rows and columns or more.
    return prior(hidden=8 if config.optimizer == 'muon' else 0)


def make_start(config):
    """In place of `network.make_start`."""
    return network.Start(prior_for(config), 'a small network', None)


def environment() -> dict[str, str]:
    """That of a process which finds the same modules as this one."""
    root = pathlib.Path(__file__).parents[2]
    return {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(root), *sys.path]),
    }
