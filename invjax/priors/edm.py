"""From the tensors of an EDM network to a prior.

NVIDIA's files hold one of `EDMPrecond`, `VPPrecond` and `VEPrecond` (Karras et
al., 2022, table 1) around a `SongUNet` or a `DhariwalUNet`: the class's name,
the arguments that it was made with, and its tensors. The arguments can be read
off the tensors too, all but which preconditioning it is.
"""

import dataclasses
import re
from typing import Any

import numpy as np

from invjax import schedule
from invjax.priors import state_dict
from invjax.priors.denoiser import Denoiser
from invjax.priors.edm_unet import RESAMPLINGS, EDMUNet
from invjax.priors.parametrisation import Parametrisation

PRECONDITIONINGS = ('EDMPrecond', 'VPPrecond', 'VEPrecond')

_FIELDS = tuple(
    field.name
    for field in dataclasses.fields(EDMUNet)
    if field.name not in ('parent', 'name', 'dtype', 'remat')
)
# What DhariwalUNet has of its own where an argument is not given.
_DHARIWAL = {
    'model_channels': 192,
    'channel_mult': (1, 2, 3, 4),
    'num_blocks': 3,
    'attn_resolutions': (32, 16, 8),
}
_SONG_ONLY = (
    'embedding_type',
    'channel_mult_noise',
    'encoder_type',
    'decoder_type',
    'resample_filter',
)
# Arguments that say nothing of the function at sampling.
_UNREAD = ('dropout', 'label_dropout', 'augment_dim', 'use_fp16')
_LEVELS = ('sigma_min', 'sigma_max')
_OF_PRECONDITIONING = {
    'EDMPrecond': (*_LEVELS, 'sigma_data'),
    'VPPrecond': ('beta_d', 'beta_min', 'M', 'epsilon_t'),
    'VEPrecond': _LEVELS,
}


def denoiser(
    tensors: dict[str, np.ndarray],
    preconditioning: str = 'EDMPrecond',
    arguments: dict[str, Any] | None = None,
) -> Denoiser:
    """A prior from an EDM network's tensors.

    Args:
        tensors: PyTorch name to array, with `model.` in front or not.
        preconditioning: one of PRECONDITIONINGS, the class around the network.
        arguments: that it was made with, by name; None reads those of the
            network off the tensors, and takes the others' defaults.

    Returns:
        The prior, with parameters in NumPy and float32, on 1000 noise levels
        from 0.002 to 80, or as much of that as it was trained for.

    Raises:
        ValueError: for another class, one that needs a class label, arguments
            that are not known, or tensors that do not fit.
    """
    if preconditioning not in PRECONDITIONINGS:
        raise ValueError(
            'an EDM network must be inside of '
            f'{" or ".join(PRECONDITIONINGS)}, got {preconditioning!r}.'
        )
    tensors = {
        name.removeprefix('model.'): array for name, array in tensors.items()
    }
    if 'map_label.weight' in tensors or (arguments or {}).get('label_dim'):
        raise ValueError(
            'the network needs a class label; a prior must be unconditional.'
        )
    if arguments is None:
        arguments = infer_arguments({n: a.shape for n, a in tensors.items()})
    network = network_from_arguments(preconditioning, arguments)
    how, levels = _asked(preconditioning, arguments)
    side = network.img_resolution
    return Denoiser(
        params=convert(tensors, network),
        network=network,
        image_shape=(side, side, network.img_channels),
        parametrisation=how,
        noise_levels=levels,
    )


def _asked(preconditioning, arguments):
    """The parametrisation and the noise levels (Karras et al., table 1)."""
    lowest = arguments.get('sigma_min', 0.0)
    highest = arguments.get('sigma_max', np.inf)
    if preconditioning == 'EDMPrecond':
        how = Parametrisation(
            'edm',
            'edm',
            'log_sigma',
            time_scale=0.25,
            sigma_data=arguments.get('sigma_data', 0.5),
        )
    elif preconditioning == 'VPPrecond':
        defaults = {'beta_d': 19.9, 'beta_min': 0.1}
        given = {name: arguments.get(name, defaults[name]) for name in defaults}
        if given != defaults:
            raise ValueError(
                f'VPPrecond must have beta_d 19.9 and beta_min 0.1, got {given}.'
            )
        scale = float(arguments.get('M', 1000) - 1)
        how = Parametrisation('eps', 'vp', 'vp', time_scale=scale)
    else:
        how = Parametrisation('scaled_score', 've', 'log_half_sigma')
        lowest = arguments.get('sigma_min', 0.02)
        highest = arguments.get('sigma_max', 100.0)
    levels = schedule.Sigmas(max(0.002, lowest), min(80.0, highest))
    return how, levels


def network_from_arguments(
    preconditioning: str, arguments: dict[str, Any]
) -> EDMUNet:
    """The network that the arguments of a preconditioning make.

    Raises:
        ValueError: for an argument that is not known, or one out of its range.
    """
    model_type = arguments.get(
        'model_type',
        'DhariwalUNet' if preconditioning == 'EDMPrecond' else 'SongUNet',
    )
    song = model_type == 'SongUNet'
    _check_choice('model_type', model_type, ('SongUNet', 'DhariwalUNet'))
    known = {
        *_FIELDS,
        *_UNREAD,
        *_OF_PRECONDITIONING[preconditioning],
        'label_dim',
    } - set(() if song else _SONG_ONLY)
    unknown = {n: v for n, v in arguments.items() if n not in known}
    if unknown:
        raise ValueError(
            f'{preconditioning} with a {model_type} has arguments that are not '
            f'known here: {unknown}.'
        )
    missing = {'img_resolution', 'img_channels'} - set(arguments)
    if missing:
        raise ValueError(
            f'{preconditioning} has no {" and no ".join(sorted(missing))}.'
        )
    given: dict[str, Any] = ({} if song else _DHARIWAL) | {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in arguments.items()
        if name in _FIELDS
    }
    network = EDMUNet(**given | {'model_type': model_type})
    for name, choices in (
        ('embedding_type', ('positional', 'fourier')),
        ('encoder_type', ('standard', 'skip', 'residual')),
        ('decoder_type', ('standard', 'skip')),
        ('resample_filter', tuple(RESAMPLINGS)),
    ):
        _check_choice(name, getattr(network, name), choices)
    factor = 2 ** (len(network.channel_mult) - 1)
    if network.img_resolution < 1 or network.img_resolution % factor:
        raise ValueError(
            f"img_resolution must be a side that the network's levels divide "
            f'(by {factor}), got {network.img_resolution}.'
        )
    return network


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(
            f'{name} must be {" or ".join(map(str, choices))}, got {value!r}.'
        )


def infer_arguments(shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Read a network's arguments off the names and shapes of its tensors.

    Args:
        shapes: PyTorch name, without `model.`, to shape.

    Raises:
        ValueError: if names are not those of an EDM network.
    """
    try:
        return _infer(shapes)
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        some = ', '.join(sorted(shapes)[:3])
        raise ValueError(
            'the names are not those of an EDM network, which has '
            '`enc.64x64_conv.weight`, `map_layer0.weight` and so on; there are '
            f'{len(shapes)} tensors such as {some}.'
        ) from None


def _infer(shapes):
    found = (re.match(r'enc\.(\d+)x\1_', name) for name in shapes)
    sides = sorted({int(match[1]) for match in found if match}, reverse=True)
    song = 'out_norm.weight' not in shapes
    width, channels = shapes[f'enc.{sides[0]}x{sides[0]}_conv.weight'][:2]
    embedding, features = shapes['map_layer0.weight']
    model_channels = width if song else features
    arguments = {
        'model_type': 'SongUNet' if song else 'DhariwalUNet',
        'img_resolution': sides[0],
        'img_channels': channels,
        'model_channels': model_channels,
        'channel_mult': tuple(
            shapes[f'enc.{side}x{side}_block0.conv0.weight'][0]
            // model_channels
            for side in sides
        ),
        'channel_mult_emb': embedding // model_channels,
        'num_blocks': sum(
            re.fullmatch(rf'enc\.{sides[0]}x\d+_block\d+\.norm0\.weight', name)
            is not None
            for name in shapes
        ),
        'attn_resolutions': tuple(
            side
            for side in sides
            if f'enc.{side}x{side}_block0.qkv.weight' in shapes
        ),
    }
    if not song:
        return arguments
    encoders = [
        kind
        for kind in ('skip', 'residual')
        if any(f'_aux_{kind}.weight' in name for name in shapes)
    ]
    outputs = [name for name in shapes if name.endswith('_aux_conv.weight')]
    taps = {
        shape[-1]: taps
        for taps in RESAMPLINGS
        for name, shape in shapes.items()
        if name.endswith('resample_filter') and shape[-1] == len(taps)
    }
    return arguments | {
        'embedding_type': (
            'fourier' if 'map_noise.freqs' in shapes else 'positional'
        ),
        'channel_mult_noise': features // model_channels,
        'encoder_type': (encoders or ['standard'])[0],
        'decoder_type': 'skip' if len(outputs) > 1 else 'standard',
        # A network of one level has no filter.
        'resample_filter': next(iter(taps.values()), (1, 1)),
    }


def convert(tensors: dict[str, np.ndarray], network: EDMUNet) -> dict:
    """The parameters of a network from its state dict.

    Args:
        tensors: PyTorch name, without `model.`, to array. What is read in
            training alone (`map_augment`) is left out.
        network: which it must fit.

    Returns:
        Nested dict of NumPy arrays, float32.

    Raises:
        ValueError: if names, shapes or filters differ from the network's.
    """
    renamed = {}
    for name, array in tensors.items():
        if name.startswith('map_augment.'):
            continue
        if name.endswith('.resample_filter'):
            _check_filter(name, array, network)
            continue
        if '.qkv.' in name:
            array = _heads_of_parts(array, network)
        renamed[_our_name(name)] = array
    side = 2 ** (len(network.channel_mult) - 1)
    return state_dict.to_params(
        renamed, network, (side, side, network.img_channels)
    )


_RENAMED = (
    (r'\.norm0\.', '.in_layers_0.'),
    (r'\.conv0\.', '.in_layers_2.'),
    (r'\.affine\.', '.emb_layers_1.'),
    (r'\.norm1\.', '.out_layers_0.'),
    (r'\.conv1\.', '.out_layers_3.'),
    (r'\.skip\.', '.skip_connection.'),
    (r'\.norm2\.', '_attention.norm.'),
    (r'\.qkv\.', '_attention.qkv.'),
    (r'\.proj\.', '_attention.proj_out.'),
    (r'^map_noise\.freqs$', 'map_noise.weight'),
)


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    module, _, leaf = name.rpartition('.')
    return f'{module.replace(".", "_")}.{leaf}'


def _heads_of_parts(array, network):
    """From heads of channels of (q, k, v) to heads of q, k, v of channels."""
    channels = len(array) // 3
    heads = 1 if network.model_type == 'SongUNet' else max(1, channels // 64)
    if len(array) % (3 * heads):
        return array  # Of a wrong shape, which is said with the others.
    parts = array.reshape(heads, -1, 3, *array.shape[1:])
    return parts.swapaxes(1, 2).reshape(array.shape)


def _check_filter(name, array, network):
    taps = np.asarray(network.resample_filter, np.float64)
    expected = np.outer(taps, taps) / taps.sum() ** 2
    found = np.asarray(array, np.float64).squeeze()
    if found.shape != expected.shape or not np.allclose(found, expected):
        raise ValueError(
            f'{name} must be the filter {network.resample_filter} of the '
            f'arguments, got one of shape {found.shape} that differs.'
        )
