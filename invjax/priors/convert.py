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
import re

import flax.traverse_util
import numpy as np

from invjax.priors.excerpts import excerpt, listing
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
    'num_classes',
)
OVERRIDES = (
    'image_size',
    'num_heads',
    'head_channels',
    'new_attention_order',
    'dtype',
    'remat',
)

# The side of the images by `channel_mult`, as the authors' codes choose it:
# guided-diffusion's, and improved-diffusion's for 32.
_SIDES = {
    (1, 2, 2, 2): 32,
    (1, 2, 3, 4): 64,
    (1, 1, 2, 3, 4): 128,
    (1, 1, 2, 2, 4, 4): 256,
    (0.5, 1, 1, 2, 2, 4, 4): 512,
}
# Beyond any network of this family; a file can claim more.
_MAX_LEVELS = 10
_MAX_BLOCKS = 200
_MAX_SIDE = 8192


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
    """The inverse of `describe`, with other fields of UNet on top.

    Raises:
        ValueError: for a field that `describe` does not give, or numbers that
            no network of this family has.
    """
    unknown = set(description) - set(describe(UNet()))
    if unknown:
        raise ValueError(
            f'an architecture has no field {excerpt(str(min(unknown)))!r}.'
        )
    fields = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in description.items()
    }
    network = UNet(**fields | overrides)
    counts = (
        network.model_channels,
        network.in_channels,
        network.out_channels,
        network.image_size,
        network.num_res_blocks,
        network.num_heads,
        len(network.channel_mult),
        len(network.attention_downsamplings),
        network.num_classes or 0,
    )
    if not (
        all(isinstance(n, int) and 0 <= n <= 2**16 for n in counts)
        and all(0 < multiple <= 100 for multiple in network.channel_mult)
        and len(network.channel_mult) <= _MAX_LEVELS
        and network.num_res_blocks <= _MAX_BLOCKS
    ):
        raise ValueError(
            'an architecture must have counts of up to '
            f'{_MAX_LEVELS} levels and {_MAX_BLOCKS} blocks.'
        )
    return network


def infer_architecture(shapes: dict[str, tuple[int, ...]], **overrides) -> UNet:
    """Read the architecture off a state dict's names and shapes.

    Shapes cannot tell the order of attention channels (default: legacy), the
    width of a head (default: 64 channels) or the size of the training images.
    For the channel multipliers that the authors' codes use, the size is the one
    that they use them for. With others the family attends at 8, 16 and 32
    pixels where it attends at three levels, and at 8 and 16 or at 16 where at
    fewer; the size follows from the smallest downsampling that has attention,
    and is 256 where none has (`usual_side` is None).

    Args:
        shapes: PyTorch name to shape.
        **overrides: fields of UNet among OVERRIDES. `num_heads` without
            `head_channels` takes the place of the default width.

    Raises:
        ValueError: for an unknown override, names that are not those of a
            guided-diffusion U-Net, a number or width of heads that does not
            divide the channels at which the network attends, or a size of
            images that the network cannot have.
    """
    unknown = set(overrides) - set(OVERRIDES)
    if unknown:
        raise ValueError(
            f'{", ".join(sorted(unknown))} cannot be overridden; '
            f'choose among {", ".join(OVERRIDES)}.'
        )
    if overrides.get('num_heads') is not None:
        overrides = {'head_channels': None} | overrides
    for name in ('num_heads', 'head_channels'):
        if not isinstance(overrides.get(name), int | None):
            raise ValueError(
                f'{name} must be a number, got {overrides[name]!r}.'
            )
    network = _read_off(shapes)
    side = usual_side(network) or network.image_size
    network = network.clone(**{'image_size': side} | overrides)
    _check_channels(network)
    _check_heads(network)
    _check_side(network)
    return network


def usual_side(network: UNet) -> int | None:
    """The side of the images of such networks; None where nothing tells it."""
    attended = network.attention_downsamplings
    if network.channel_mult in _SIDES:
        return _SIDES[network.channel_mult]
    if not 1 <= len(attended) <= 3:
        return None
    # Attention is at sides of 8 and 16, and at 32 where at three levels.
    return (32 if len(attended) == 3 else 16) * min(attended)


def _check_side(network: UNet) -> None:
    side, num_levels = network.image_size, len(network.channel_mult)
    smallest = 2 ** (num_levels - 1)
    is_count = isinstance(side, int) and 1 <= side <= _MAX_SIDE
    if not is_count or side % smallest:
        raise ValueError(
            f'image_size must be from {smallest} to {_MAX_SIDE} pixels and '
            f'divisible by {smallest} for its {num_levels} levels, got {side}.'
        )


def _check_channels(network: UNet) -> None:
    inputs, outputs = network.in_channels, network.out_channels
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f'a prior predicts the noise in its input, and may predict its '
            f'variance, but this network has {outputs} output channels for '
            f'{inputs} of its input.'
        )
    widths = (2 * network.model_channels, *network.level_channels)
    if any(width < 32 or width % 32 for width in widths):
        raise ValueError(
            'the channels of each level must be divisible by 32, the number '
            f'of groups of a normalisation, got {widths[1:]}.'
        )


def _check_heads(network: UNet) -> None:
    attended = sorted(
        {
            channels
            for level, channels in enumerate(network.level_channels)
            if 2**level in network.attention_downsamplings
        }
        # The middle attends in any case.
        | {network.level_channels[-1]}
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
    except (
        IndexError,
        KeyError,
        TypeError,
        ValueError,
        ZeroDivisionError,
    ):
        raise ValueError(
            'the names are not those of a guided-diffusion U-Net, which has '
            '`time_embed.0.weight`, `input_blocks.0.0.weight` and so on; this '
            f'file has {len(shapes)} tensors such as '
            f'{listing(sorted(shapes)[:3], 32)} instead.'
        ) from None


def _infer(shapes) -> dict:
    _, model_channels = shapes['time_embed.0.weight']
    num_blocks = 1 + max(_block_indices(shapes, 'output_blocks'), default=-1)
    if not 1 <= num_blocks <= min(len(shapes), _MAX_BLOCKS):
        raise KeyError('output_blocks')
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
        inside = rf'output_blocks\.{level_ends[0]}\.\d\.conv\.weight'
        conv = any(re.fullmatch(inside, name) for name in shapes)
        resample = 'conv' if conv else 'resblock'
    elif down_blocks:
        length, resample = down_blocks[0], 'plain'
    else:
        length, resample = num_blocks, 'resblock'
    num_levels = num_blocks // length
    if num_levels > _MAX_LEVELS:
        raise KeyError('input_blocks')

    channels, attended = [], []
    for level in range(num_levels):
        name = f'input_blocks.{level * length + 1}'
        channels.append(shapes[f'{name}.0.out_layers.3.weight'][0])
        if f'{name}.1.qkv.weight' in shapes:
            attended.append(2**level)
    embedding = shapes['input_blocks.1.0.emb_layers.1.weight'][0]
    num_classes, *_ = shapes.get('label_emb.weight', (None,))
    return {
        'model_channels': model_channels,
        'channel_mult': tuple(_multiple(c, model_channels) for c in channels),
        'num_res_blocks': length - 1,
        'attention_downsamplings': tuple(attended),
        'scale_shift': embedding == 2 * channels[0],
        'resample': resample,
        'in_channels': shapes['input_blocks.0.0.weight'][1],
        'out_channels': shapes['out.2.weight'][0],
        'num_classes': num_classes,
    }


def _multiple(channels: int, model_channels: int) -> int | float:
    """An integer where it is one: 0.5 is the only other that is in use."""
    whole, rest = divmod(channels, model_channels)
    return whole if rest == 0 else channels / model_channels


def _block_indices(shapes, stem) -> set[int]:
    # Five digits are more than enough, and thousands cannot be converted.
    matches = (re.match(rf'{stem}\.(\d{{1,5}})\.', name) for name in shapes)
    return {int(match[1]) for match in matches if match}


def torch_name(path: tuple[str, ...]) -> str:
    """The PyTorch name of a leaf of our parameters, given its path."""
    *modules, leaf = path
    module = re.sub(r'_(\d+)', r'.\1', '.'.join(modules))
    return f'{module}.{"bias" if leaf == "bias" else "weight"}'


def _path(name: str, shape: tuple[int, ...]) -> tuple[str, ...]:
    """The path of a leaf, given its PyTorch name and shape."""
    module, _, leaf = name.rpartition('.')
    if leaf == 'weight':
        leaf = 'scale' if len(shape) == 1 else 'kernel'
    return *re.sub(r'\.(\d+)', r'_\1', module).split('.'), leaf


def expected_shapes(network: UNet) -> dict[str, tuple[int, ...]]:
    """PyTorch name to shape for a network, without tracing it.

    A file can claim any architecture, and to trace a large one takes minutes.
    """
    shapes = {}

    def layer(name, *weight):
        shapes[f'{name}.weight'] = weight
        shapes[f'{name}.bias'] = weight[:1]

    def res_block(name, inputs, outputs):
        width = 2 * outputs if network.scale_shift else outputs
        layer(f'{name}.in_layers.0', inputs)
        layer(f'{name}.in_layers.2', outputs, inputs, 3, 3)
        layer(f'{name}.emb_layers.1', width, embedding)
        layer(f'{name}.out_layers.0', outputs)
        layer(f'{name}.out_layers.3', outputs, outputs, 3, 3)
        if inputs != outputs:
            layer(f'{name}.skip_connection', outputs, inputs, 1, 1)

    def attention(name, channels):
        layer(f'{name}.norm', channels)
        layer(f'{name}.qkv', 3 * channels, channels, 1)
        layer(f'{name}.proj_out', channels, channels, 1)

    def block(name, inputs, level):
        res_block(f'{name}.0', inputs, widths[level])
        if 2**level in network.attention_downsamplings:
            attention(f'{name}.1', widths[level])
        return widths[level]

    def resample(name, channels, down):
        if network.resample == 'resblock':
            res_block(name, channels, channels)
        elif network.resample == 'conv':
            layer(
                f'{name}.{"op" if down else "conv"}', channels, channels, 3, 3
            )

    widths = network.level_channels
    embedding = 4 * network.model_channels
    layer('time_embed.0', embedding, network.model_channels)
    layer('time_embed.2', embedding, embedding)
    if network.num_classes is not None:
        shapes['label_emb.weight'] = (network.num_classes, embedding)
    layer('input_blocks.0.0', widths[0], network.in_channels, 3, 3)
    channels, skips = widths[0], [widths[0]]
    for level in range(len(widths)):
        if level > 0:
            resample(f'input_blocks.{len(skips)}.0', channels, down=True)
            skips.append(channels)
        for _ in range(network.num_res_blocks):
            channels = block(f'input_blocks.{len(skips)}', channels, level)
            skips.append(channels)
    res_block('middle_block.0', channels, channels)
    attention('middle_block.1', channels)
    res_block('middle_block.2', channels, channels)
    names = (f'output_blocks.{i}' for i in range(len(skips)))
    for level in reversed(range(len(widths))):
        for _ in range(network.num_res_blocks + 1):
            name = next(names)
            channels = block(name, channels + skips.pop(), level)
        if level > 0:
            attended = 2**level in network.attention_downsamplings
            resample(f'{name}.{1 + attended}', channels, down=False)
    layer('out.0', channels)
    layer('out.2', network.out_channels, channels, 3, 3)
    return shapes


def expected_leaves(network: UNet) -> dict[str, tuple[tuple, tuple]]:
    """PyTorch name to (path of the leaf, PyTorch shape) for a network."""
    return {
        name: (_path(name, shape), shape)
        for name, shape in expected_shapes(network).items()
    }


def flax_shapes(network: UNet) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path to shape of the leaves of a network's parameters."""
    leaves = expected_leaves(network).values()
    return {path: _flax_shape(shape) for path, shape in leaves}


def _flax_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Our shape of what PyTorch keeps in this shape; see the module's table."""
    kernel = shape[2:] if len(shape) == 4 else ()
    return *kernel, *shape[1::-1]


def mismatch(shapes: dict[str, tuple[int, ...]], network: UNet) -> str | None:
    """One sentence on how names and shapes differ from a network's, or None."""
    expected = expected_shapes(network)
    both = sorted(expected.keys() & shapes.keys())
    missing = sorted(expected.keys() - shapes.keys())
    left_over = sorted(shapes.keys() - expected.keys())
    misshapen = [
        f'{name} {excerpt(str(shapes[name]), 16)}, not {expected[name]}'
        for name in both
        if _squeezed(shapes[name]) != _squeezed(expected[name])
    ]
    # Of what a file says, a message repeats no more than 100 characters.
    faults = (
        (missing, 'missing', _first(4, missing)),
        (left_over, 'left over', listing(left_over, 40)),
        (misshapen, 'of another shape', _first(2, misshapen)),
    )
    parts = [
        f'{len(names)} {fault} ({shown})'
        for names, fault, shown in faults
        if names
    ]
    return f'of its tensors, {"; ".join(parts)}' if parts else None


def _first(count: int, names: list[str]) -> str:
    return ', '.join(names[:count]) + (', ...' if len(names) > count else '')


def _squeezed(shape):
    """Attention may be stored as 1 x 1 convolutions or as linear layers."""
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


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
            of a network that is given, for weights that are no numbers or not
            finite, and see `infer_architecture`.
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
        path: _to_flax(_as_float32(name, state_dict[name]).reshape(shape))
        for name, (path, shape) in expected_leaves(network).items()
    }
    refuse_nonfinite(leaves)
    return flax.traverse_util.unflatten_dict(leaves), network


def _as_float32(name: str, array: np.ndarray) -> np.ndarray:
    # Kind V is that of bfloat16 and float8.
    if array.dtype.kind not in 'fV':
        raise ValueError(
            f'the weights {name} must be floating-point numbers, got '
            f'{array.dtype}.'
        )
    with np.errstate(over='ignore'):
        return array.astype(np.float32)


def refuse_nonfinite(leaves: dict[tuple[str, ...], np.ndarray]) -> None:
    """Raise a ValueError if some weights are NaN or infinite."""
    bad = [
        torch_name(path)
        for path, leaf in leaves.items()
        if not np.isfinite(leaf).all()
    ]
    if bad:
        raise ValueError(
            f'NaN or infinite weights are in {len(bad)} of its {len(leaves)} '
            f'tensors ({_first(4, bad)}), so this is no prior.'
        )


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
    tensors: collections.Counter[str] = collections.Counter()
    parameters: collections.Counter[str] = collections.Counter()
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        part = re.sub(r'_\d.*', '', path[0])
        tensors[part] += 1
        parameters[part] += leaf.size
    return [(part, tensors[part], parameters[part]) for part in tensors]
