"""Outputs of PyTorch networks, whose weights are a recipe in their names."""

import json
import pathlib
import zlib

import jax
import jax.numpy as jnp
import numpy as np

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens'
# Of the largest value. Two float32 implementations of some hundred layers.
TOLERANCE = 2e-4
# What runs once takes longer to optimise than to run.
QUICK_TO_COMPILE = {'xla_backend_optimization_level': 0}


def load(name):
    """A golden's arrays and its configuration."""
    with np.load(GOLDENS / f'{name}.npz') as golden:
        golden = dict(golden)
    return golden, json.loads(str(golden['config']))


def recipe_weight(name, shape):
    """The weight that the goldens were made with, by its name and shape."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    n = rng.standard_normal(shape, dtype=np.float32)
    if len(shape) >= 2:
        return n / np.float32(np.sqrt(np.prod(shape[1:])))
    return 1 + 0.1 * n if name.endswith('.weight') else 0.1 * n


def recipe_state_dict(golden):
    """The state dict of a golden that lists names and shapes."""
    return {
        str(name): recipe_weight(str(name), tuple(json.loads(str(shape))))
        for name, shape in zip(golden['keys'], golden['shapes'], strict=True)
    }


def images(array):
    """From PyTorch's (B, C, H, W) to ours, (B, H, W, C)."""
    return np.asarray(array).transpose(0, 2, 3, 1)


def outputs_and_gradients(function, params, *arguments):
    """The outputs, (B, H, W, C), and the gradients of their squares' sums.

    Args:
        function: of parameters, one image and what else there is for each.
        params: a pytree, for all images.
        *arguments: with a leading axis B.
    """

    def loss(x, params, *others):
        out = function(params, x, *others)
        return jnp.sum(jnp.square(out)), out

    axes = (0, None, *(len(arguments) - 1) * (0,))
    both = jax.vmap(jax.value_and_grad(loss, has_aux=True), axes)
    x, *others = arguments
    with jax.default_matmul_precision('highest'):
        compiled = jax.jit(both, compiler_options=QUICK_TO_COMPILE)
        (_, out), gradient = compiled(x, params, *others)
    return out, gradient


def relative_error(actual, expected):
    """The largest error over the largest value."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    return np.abs(actual - expected).max() / np.abs(expected).max()
