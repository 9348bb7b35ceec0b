"""From the names and shapes of a PyTorch state dict to a Flax network.

The published checkpoints name their tensors after the modules of OpenAI's
guided-diffusion code (`input_blocks.1.0.in_layers.2.weight`). Our modules carry
the same names, so conversion renames and transposes:

    convolution   (O, I, k, k)  ->  kernel (k, k, I, O)
    linear        (O, I)        ->  kernel (I, O)
    attention     (O, I, 1)     ->  kernel (I, O)
    norm, bias    (C,)          ->  scale, bias (C,)
"""

import collections
import functools
import re

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from invjax.priors.unet import UNet

# Fields of UNet that names and shapes determine; the others have defaults that
# fit the FFHQ checkpoint, and can be overridden.
_INFERRED = (
    'model_channels',
    'channel_mult',
    'num_res_blocks',
    'attention_downsamplings',
    'scale_shift',
    'resample',
    'in_channels',
    'out_channels',
)
OVERRIDES = (
    'image_size',
    'num_heads',
    'head_channels',
    'new_attention_order',
    'dtype',
    'remat',
)


def describe(network: UNet) -> dict:
    """The architecture as plain data, for cards and messages."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name in (
            'image_size',
            *_INFERRED,
            'num_heads',
            'head_channels',
            'new_attention_order',
        )
        for value in [getattr(network, name)]
    }


def network_from_description(description: dict, **overrides) -> UNet:
    """The inverse of `describe`, with other fields of UNet on top."""
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.items()
    }
    return UNet(**fields | overrides)


def infer_architecture(shapes: dict[str, tuple[int, ...]], **overrides) -> UNet:
    """Read the architecture off a state dict's names and shapes.

    Shapes cannot tell the order of attention channels (default: legacy), the
    width of a head (default: 64 channels) or the size of the training images.
    The family attends first at 16 x 16, so the size is taken as 16 times the
    smallest downsampling that has attention, and 256 where none has.

    Args:
        shapes: PyTorch name to shape.
        **overrides: fields of UNet among OVERRIDES. `num_heads` without
            `head_channels` takes the place of the default width.

    Raises:
        ValueError: for an unknown override, names that are not those of a
            guided-diffusion U-Net, or a number or width of heads that does not
            divide the channels at which the network attends.
    """
    unknown = set(overrides) - set(OVERRIDES)
    if unknown:
        raise ValueError(
            f'{", ".join(sorted(unknown))} cannot be overridden; '
            f'choose among {", ".join(OVERRIDES)}.'
        )
    if overrides.get('num_heads') is not None:
        overrides = {'head_channels': None} | overrides
    network = _read_off(shapes).clone(**overrides)
    _check_heads(network)
    return network


def _check_heads(network: UNet) -> None:
    attended = sorted(
        {
            multiple * network.model_channels
            for level, multiple in enumerate(network.channel_mult)
            if 2**level in network.attention_downsamplings
        }
        # The middle attends in any case.
        | {network.channel_mult[-1] * network.model_channels}
    )
    width, number = network.head_channels, network.num_heads
    heads = f'{number} heads' if width is None else f'heads of {width} channels'
    divisor = number if width is None else width
    if divisor < 1 or any(channels % divisor for channels in attended):
        raise ValueError(
            f'{heads} do not divide the {", ".join(map(str, attended))} '
            'channels at which the network attends; override head_channels '
            'with the width that it was trained with, or num_heads with the '
            'number.'
        )


def _read_off(shapes) -> UNet:
    """The architecture, with defaults for what shapes cannot tell."""
    try:
        return UNet(**_infer(shapes))
    except (KeyError, IndexError, ZeroDivisionError):
        some = ', '.join(sorted(shapes)[:3])
        raise ValueError(
            'the names are not those of a guided-diffusion U-Net, which has '
            '`time_embed.0.weight`, `input_blocks.0.0.weight` and so on; this '
            f'file has {len(shapes)} tensors such as {some}.'
        ) from None


def _infer(shapes) -> dict:
    model_channels = shapes['time_embed.0.weight'][1]
    num_blocks = 1 + max(_block_indices(shapes, 'output_blocks'))
    level_ends = [
        i
        for i in range(num_blocks)
        if any(
            f'output_blocks.{i}.{j}.{layer}.weight' in shapes
            for j in (1, 2)
            for layer in ('conv', 'in_layers.2')
        )
    ]
    down_blocks = sorted(
        set(range(num_blocks)) - _block_indices(shapes, 'input_blocks')
    )
    # A level ends where its last block on the way up has one more layer, or,
    # where layers that resample have no parameters, at a gap on the way down.
    if level_ends:
        length = level_ends[0] + 1
        inside = f'output_blocks.{level_ends[0]}.'
        conv = any(
            re.fullmatch(inside + r'\d\.conv\.weight', n) for n in shapes
        )
        resample = 'conv' if conv else 'resblock'
    elif down_blocks:
        length, resample = down_blocks[0], 'plain'
    else:
        length, resample = num_blocks, 'resblock'
    num_levels = num_blocks // length

    channels, attended = [], []
    for level in range(num_levels):
        name = f'input_blocks.{level * length + 1}'
        channels.append(shapes[f'{name}.0.out_layers.3.weight'][0])
        if f'{name}.1.qkv.weight' in shapes:
            attended.append(2**level)
    embedding = shapes['input_blocks.1.0.emb_layers.1.weight'][0]
    return {
        'image_size': 16 * min(attended, default=16),
        'model_channels': model_channels,
        'channel_mult': tuple(c // model_channels for c in channels),
        'num_res_blocks': length - 1,
        'attention_downsamplings': tuple(attended),
        'scale_shift': embedding == 2 * channels[0],
        'resample': resample,
        'in_channels': shapes['input_blocks.0.0.weight'][1],
        'out_channels': shapes['out.2.weight'][0],
    }


def _block_indices(shapes, stem) -> set[int]:
    matches = (re.match(rf'{stem}\.(\d+)\.', name) for name in shapes)
    return {int(match[1]) for match in matches if match}


def torch_name(path: tuple[str, ...]) -> str:
    """The PyTorch name of a leaf of our parameters, given its path."""
    *modules, leaf = path
    module = re.sub(r'_(\d+)', r'.\1', '.'.join(modules))
    return f'{module}.{"bias" if leaf == "bias" else "weight"}'


def _torch_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The PyTorch shape of a leaf of the given name and Flax shape."""
    if len(shape) == 4:
        height, width, inputs, outputs = shape
        return outputs, inputs, height, width
    if re.search(r'\.(qkv|proj_out)\.weight$', name):
        return *shape[::-1], 1
    return shape[::-1]


# One conversion asks several times, and tracing takes a second at FFHQ's size.
@functools.lru_cache(maxsize=8)
def expected_leaves(network: UNet) -> dict[str, tuple[tuple, tuple]]:
    """PyTorch name to (path of the leaf, PyTorch shape) for a network."""
    side = 2 ** (len(network.channel_mult) - 1)
    image = jnp.zeros((side, side, network.in_channels))
    # Shapes do not depend on the heads, and one head divides all channels.
    network = network.clone(head_channels=None, num_heads=1)
    variables = jax.eval_shape(network.init, jax.random.key(0), image, 0)
    leaves = flax.traverse_util.flatten_dict(variables['params'])
    names = {path: torch_name(path) for path in leaves}
    return {
        names[path]: (path, _torch_shape(names[path], leaf.shape))
        for path, leaf in leaves.items()
    }


def mismatch(shapes: dict[str, tuple[int, ...]], network: UNet) -> str | None:
    """One sentence on how names and shapes differ from a network's, or None."""
    expected = {n: shape for n, (_, shape) in expected_leaves(network).items()}
    both = expected.keys() & shapes.keys()
    faults = {
        'missing': sorted(expected.keys() - shapes.keys()),
        'left over': sorted(shapes.keys() - expected.keys()),
        'of another shape': [
            f'{name} {shapes[name]}, not {expected[name]}'
            for name in sorted(both)
            if _squeezed(shapes[name]) != _squeezed(expected[name])
        ],
    }
    parts = [
        f'{len(names)} {fault} ({", ".join(names[:4])}'
        f'{", ..." if len(names) > 4 else ""})'
        for fault, names in faults.items()
        if names
    ]
    return f'of its tensors, {"; ".join(parts)}' if parts else None


def _squeezed(shape):
    """Attention may be stored as 1 x 1 convolutions or as linear layers."""
    return shape[:-1] if len(shape) == 3 and shape[-1] == 1 else shape


def convert(
    state_dict: dict[str, np.ndarray], network: UNet | None = None, **overrides
) -> tuple[dict, UNet]:
    """Turn a PyTorch state dict into parameters of a UNet.

    Args:
        state_dict: PyTorch name to array.
        network: the architecture that it must be; None infers it.
        **overrides: fields of UNet among OVERRIDES, where it is inferred.

    Returns:
        Nested dict of NumPy arrays, float32, and the network they fit.

    Raises:
        ValueError: if names or shapes differ from the network's; the message
            lists them and the architecture that would fit. Also for overrides
            of a network that is given, and see `infer_architecture`.
    """
    shapes = {name: array.shape for name, array in state_dict.items()}
    if network is None:
        network = infer_architecture(shapes, **overrides)
    elif overrides:
        raise ValueError(
            f'{", ".join(overrides)} cannot be overridden, since the '
            'architecture is given.'
        )
    fault = mismatch(shapes, network)
    if fault is not None:
        raise ValueError(
            f'the checkpoint does not fit {_brief(network)}: {fault}; '
            f'{_what_fits(shapes)}'
        )
    leaves = {
        path: _to_flax(np.asarray(state_dict[name], np.float32))
        for name, (path, _) in expected_leaves(network).items()
    }
    return flax.traverse_util.unflatten_dict(leaves), network


def _what_fits(shapes) -> str:
    """How a sentence on shapes that do not fit an architecture ends."""
    try:
        nearest = _read_off(shapes)
    except ValueError as error:
        return str(error)
    if mismatch(shapes, nearest) is None:
        return f'it fits {_brief(nearest)}.'
    return f'the nearest architecture of this family is {_brief(nearest)}.'


def _brief(network: UNet) -> str:
    fields = describe(network)
    return f'UNet({", ".join(f"{n}={fields[n]}" for n in _INFERRED)})'


def _to_flax(array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim >= 2:
        array = array.reshape(array.shape[:2]).T
    return np.ascontiguousarray(array)


def summary(params: dict) -> list[tuple[str, int, int]]:
    """(part, tensors, parameters) of a network, for a reader."""
    counts = collections.defaultdict(lambda: [0, 0])
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        part = re.sub(r'_\d.*', '', path[0])
        counts[part][0] += 1
        counts[part][1] += leaf.size
    return [(part, *count) for part, count in counts.items()]
