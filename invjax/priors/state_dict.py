"""From a PyTorch state dict to the parameters of a Flax network of ours.

A convolution (O, I, k, k) becomes a kernel (k, k, I, O), a linear layer (O, I)
a kernel (I, O). Each tensor must have one leaf, and each leaf one tensor.
"""

import functools

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from invjax.priors import sizes
from invjax.priors.excerpts import excerpt


def to_params(
    tensors: dict[str, np.ndarray], network: nn.Module, image_shape: tuple
) -> dict:
    """The parameters of a network by the names of its modules.

    Args:
        tensors: arrays by `MODULE.weight` or `MODULE.bias`, where MODULE is the
            path of our module joined by underscores; shapes are PyTorch's.
        network: of an image and a time, ().
        image_shape: (H, W, C) of an image that it can take; parameters do not
            depend on H and W.

    Returns:
        Nested dict of NumPy arrays, float32.

    Raises:
        ValueError: if names or shapes differ from the network's.
    """
    leaves = _expected(network, image_shape)
    fault = _mismatch(tensors, leaves)
    if fault is not None:
        raise ValueError(
            f'the weights do not fit the configuration: {excerpt(fault, 400)}.'
        )
    params = {
        path: _to_flax(tensors[name], shape)
        for name, (path, shape) in leaves.items()
    }
    return flax.traverse_util.unflatten_dict(params)


def flax_shapes(
    network: nn.Module, channels: int
) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path to shape of the leaves of a network's parameters.

    Args:
        network: of an image and a time, ().
        channels: of the image.
    """
    side = sizes.divisor(network)
    return _shapes(network, (side, side, channels))


@functools.lru_cache(maxsize=8)
def _shapes(network, image_shape):
    try:
        variables = jax.eval_shape(
            network.init, jax.random.key(0), jnp.zeros(image_shape), 1.0
        )
    # Numbers of a file that make no network can raise nearly anything.
    except Exception as error:
        raise ValueError(
            'the configuration makes no network '
            f'({excerpt(str(error)) or type(error).__name__}).'
        ) from None
    leaves = flax.traverse_util.flatten_dict(variables['params'])
    return {path: leaf.shape for path, leaf in leaves.items()}


def _expected(network, image_shape):
    """Name to (path of the leaf, its shape)."""
    return {
        f'{"_".join(path[:-1])}.{"bias" if path[-1] == "bias" else "weight"}': (
            path,
            shape,
        )
        for path, shape in _shapes(network, image_shape).items()
    }


def _mismatch(tensors, leaves) -> str | None:
    """One sentence on how tensors differ from what is expected, or None."""
    faults = {
        'missing': sorted(leaves.keys() - tensors.keys()),
        'left over': sorted(tensors.keys() - leaves.keys()),
        'of another shape': [
            f'{name} {tensors[name].shape}, not {expected}'
            for name in sorted(leaves.keys() & tensors.keys())
            for expected in [_torch_shape(leaves[name][1])]
            if _squeezed(tensors[name].shape) != _squeezed(expected)
        ],
    }
    parts = [
        f'{len(names)} {fault} ({", ".join(names[:4])}'
        f'{", ..." if len(names) > 4 else ""})'
        for fault, names in faults.items()
        if names
    ]
    return f'of its tensors, {"; ".join(parts)}' if parts else None


def _torch_shape(shape):
    return *shape[-1:-3:-1], *shape[:-2]


def _squeezed(shape):
    """Without the axes of a 1 x 1 kernel, which some files leave out."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _to_flax(array, shape):
    array = np.asarray(array, np.float32)
    if len(shape) == 4:
        array = array.reshape(_torch_shape(shape)).transpose(2, 3, 1, 0)
    elif len(shape) == 2:
        array = array.reshape(shape[::-1]).T
    return np.ascontiguousarray(array)
