"""A small random network on disk, and pictures of its size, for the binaries."""

import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from invjax import images
from invjax.priors import checkpoint, convert
from invjax.priors.unet import UNet

ROOT = pathlib.Path(__file__).parents[2]
_SIDE = 16


def write(folder: pathlib.Path, num_images: int, side: int = _SIDE) -> None:
    """Write `prior` and `images` into a folder.

    Args:
        side: in pixels; LPIPS needs 31.
    """
    network = UNet(
        image_size=side,
        model_channels=32,
        channel_mult=(1,),
        attention_downsamplings=(),
        head_channels=32,
    )
    x = jnp.zeros((side, side, 3))
    params = jax.jit(network.init)(jax.random.key(0), x, 0)['params']
    card = {
        'name': 'tiny',
        'sha256': '0' * 64,
        'architecture': convert.describe(network),
        'noise_schedule': 'linear',
        'num_train_steps': 1000,
    }
    checkpoint.save_prior(folder / 'prior', params, card)
    rng = np.random.default_rng(0)
    for i in range(num_images):
        picture = rng.uniform(-1, 1, (side, side, 3))
        images.write_image(folder / f'images/{i}.png', picture)


def start(binary: str, folder: pathlib.Path, *arguments) -> subprocess.Popen:
    """Start a binary on the prior of a folder."""
    program = ['-m', f'experiments.{binary}']
    return start_python(*program, f'--prior={folder}/prior', *arguments)


def start_python(*arguments) -> subprocess.Popen:
    """Start Python where it finds the project."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
