"""From a folder that diffusers saved to a prior.

    model_index.json                the pipeline: which parts there are
    unet/config.json                the network, `UNet2DModel`
    unet/diffusion_pytorch_model.safetensors         or .bin
    scheduler/scheduler_config.json                  the noise levels

Older ones have the files of `unet` and `scheduler` at the top. Everything is
read as data. What is not an unconditional network of images is refused with a
sentence that says what it is.
"""

import json
import logging
import os
import pathlib
import re
from typing import Any

import numpy as np

from invjax import schedule
from invjax.priors import state_dict, torch_file
from invjax.priors.denoiser import Denoiser
from invjax.priors.diffusers_unet import DOWN_BLOCKS, UP_BLOCKS, UNet2D
from invjax.priors.excerpts import excerpt
from invjax.priors.parametrisation import Parametrisation

WEIGHTS = (
    'diffusion_pytorch_model.safetensors',
    'diffusion_pytorch_model.bin',
)
# What a download needs, of a repository that has either layout.
FILES = (
    'model_index.json',
    *(
        f'{folder}{name}'
        for folder in ('', 'unet/')
        for name in ('config.json', *WEIGHTS)
    ),
    'scheduler_config.json',
    'scheduler/scheduler_config.json',
)

# Entries of a config that say nothing about the network's function.
_UNREAD = ('sample_size', 'dropout', 'num_train_timesteps')
_FIELDS = tuple(
    name
    for name in UNet2D.__dataclass_fields__
    if name not in ('parent', 'name', 'dtype', 'remat')
)
_BETA_FIELDS = {
    'beta_schedule': 'schedule',
    'num_train_timesteps': 'num_train_steps',
    'beta_start': 'beta_start',
    'beta_end': 'beta_end',
    'rescale_betas_zero_snr': 'zero_terminal',
}
# The most noise levels that a network was trained at.
_MOST_STEPS = 100_000
# Of a layer, and of levels and their blocks; far above any network's.
_MOST_CHANNELS, _MOST_BLOCKS = 100_000, 30
_OUTPUTS = {'epsilon': 'eps', 'sample': 'x_0', 'v_prediction': 'v'}
# Schedulers that take steps on a table of betas, and differ in the steps alone.
_BETA_SCHEDULERS = re.compile(
    r'(DDPM|DDIM|PNDM|IPNDM|DPMSolver|Euler|Heun|LMS|KDPM2|DEIS|UniPC|SASolver|'
    r'RePaint)\w*Scheduler'
)


def is_folder(path: str | os.PathLike) -> bool:
    """Whether a folder is one that diffusers saved: a pipeline or its unet."""
    path = pathlib.Path(path)
    return any(
        (path / name).is_file()
        for name in ('model_index.json', 'unet/config.json', 'config.json')
    )


def weights_file(folder: str | os.PathLike) -> pathlib.Path:
    """The file of the weights in such a folder.

    Raises:
        ValueError: if there is none that can be read.
    """
    unet = _unet_folder(pathlib.Path(folder))
    for name in WEIGHTS:
        if (unet / name).is_file():
            return unet / name
    others = sorted(
        path.name
        for path in unet.iterdir()
        if path.suffix in ('.safetensors', '.bin', '.msgpack', '.json')
        and path.name != 'config.json'
    )
    raise ValueError(
        f'{unet} must have {" or ".join(WEIGHTS)}, the weights in one piece, '
        f'but it has {", ".join(others) or "no weights"}.'
    )


def files(folder: str | os.PathLike) -> list[pathlib.Path]:
    """The files of such a folder that are read, the weights last.

    Raises:
        ValueError: if one is missing.
    """
    folder = pathlib.Path(folder)
    return [
        _unet_folder(folder) / 'config.json',
        _scheduler_file(folder),
        weights_file(folder),
    ]


def choose(names: list[str]) -> list[list[str]]:
    """Which files of a repository a prior is made of: configurations, weights.

    Args:
        names: of all its files.
    """
    weights = [
        f'{folder}{name}'
        for name in WEIGHTS
        for folder in ('unet/', '')
        if f'{folder}{name}' in names
    ]
    configs = [n for n in names if n in FILES and n.endswith('.json')]
    return [configs, weights[:1]]


def check(folder: str | os.PathLike, with_weights: bool) -> None:
    """Refuse a folder by its configurations, without reading the weights.

    Args:
        folder: see `read`.
        with_weights: whether the file of the weights must be there too.

    Raises:
        ValueError: see `read`.
    """
    _configured(pathlib.Path(folder))
    if with_weights:
        weights_file(folder)


def read(folder: str | os.PathLike) -> tuple[Denoiser, str]:
    """A prior from a folder that diffusers saved.

    Args:
        folder: a saved pipeline, or its `unet` folder with the `scheduler`
            folder beside it, or with `scheduler_config.json` in it.

    Returns:
        The prior, its parameters in NumPy and float32, and a sentence on what a
        user should know of its noise levels, or ''.

    Raises:
        ValueError: if the network or its scheduler is of a kind that is no
            unconditional prior of images, or weights do not fit the config.
    """
    folder = pathlib.Path(folder)
    network, image_shape, how, levels, note = _configured(folder)
    try:
        source = weights_file(folder)
        tensors = torch_file.read_state_dict(source)
        params = convert(tensors, network)
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if str(folder) in message else f'{folder}: {message}'
        ) from None
    if note:
        logging.warning('%s: %s', folder, note)
    return Denoiser(params, network, image_shape, how, levels), note


def _configured(folder: pathlib.Path):
    """(network, image_shape, parametrisation, noise levels, note) of a folder."""
    pipeline = _pipeline(folder)
    config = _read_json(_unet_folder(folder) / 'config.json')
    scheduler = _read_json(_scheduler_file(folder))
    try:
        network, image_shape = network_from_config(config)
        how, levels, note = levels_from_scheduler(scheduler, pipeline)
        _check_variance(network, scheduler)
    except ValueError as error:
        raise ValueError(f'{folder}: {error}') from None
    return network, image_shape, how, levels, note


def convert(tensors: dict[str, np.ndarray], network: UNet2D) -> dict:
    """The parameters of a network from the state dict of a `UNet2DModel`.

    Args:
        tensors: PyTorch name to array. The attention has its names of today
            (`to_q`, `to_out.0`) or those of before (`query`, `proj_attn`).
        network: which it must fit.

    Returns:
        Nested dict of NumPy arrays, float32.

    Raises:
        ValueError: if names or shapes differ from the network's.
    """
    renamed = {_our_name(name): array for name, array in tensors.items()}
    for query in [name for name in renamed if '_to_q.' in name]:
        parts = [query.replace('_to_q.', f'_to_{c}.') for c in 'qkv']
        if all(part in renamed for part in parts):
            # One product in the place of three.
            renamed[query.replace('_to_q.', '_qkv.')] = np.concatenate(
                [renamed.pop(part) for part in parts]
            )
    side = 2 ** (len(network.block_out_channels) - 1)
    return state_dict.to_params(
        renamed, network, (side, side, network.in_channels)
    )


# In order: a later one sees what an earlier one made.
_RENAMED = (
    (r'\.(query|key|value)\.', lambda match: f'.to_{match[1][0]}.'),
    (r'\.(proj_attn|to_out\.0)\.', '.proj_out.'),
    (r'(attentions\.\d+)\.group_norm\.', r'\1.norm.'),
    (r'\.norm1\.', '.in_layers.0.'),
    (r'\.conv1\.', '.in_layers.2.'),
    (r'\.time_emb_proj\.', '.emb_layers.1.'),
    (r'\.norm2\.', '.out_layers.0.'),
    (r'\.conv2\.', '.out_layers.3.'),
    (r'\.conv_shortcut\.', '.skip_connection.'),
    (r'(downsamplers\.\d+)\.conv\.', r'\1.op.'),
    # Of files that were written before the first release.
    (r'^time_proj\.W$', 'time_proj.weight'),
)


def _our_name(name: str) -> str:
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    module, _, leaf = name.rpartition('.')
    return f'{module.replace(".", "_")}.{leaf}'


def network_from_config(
    config: dict[str, Any],
) -> tuple[UNet2D, tuple[int, int, int]]:
    """The network of a `config.json`, and the shape of its images.

    Raises:
        ValueError: for another class, a network that needs more than an image
            and a time, or parts that no unconditional pipeline has.
    """
    kind = config.get('_class_name', 'UNet2DModel')
    if kind != 'UNet2DModel':
        raise ValueError(
            f'the network is a {kind}'
            + (', which is conditional (on a text, say)' * ('Cond' in kind))
            + '; a prior must be an unconditional UNet2DModel.'
        )
    config = {
        name: value
        for name, value in config.items()
        if not name.startswith('_')
    }
    embeds = config.pop('class_embed_type', None)
    number = config.pop('num_class_embeds', None)
    if embeds is not None or number is not None:
        raise ValueError(
            'the network needs a class label '
            f'(class_embed_type {embeds}, num_class_embeds {number}); a prior '
            'must be unconditional.'
        )
    _check_choice(config, 'act_fn', ('silu', 'swish'), 'silu')
    config.pop('act_fn', None)
    fields = {name: config[name] for name in _FIELDS if name in config}
    unknown = {
        name: value
        for name, value in config.items()
        if name not in (*_FIELDS, *_UNREAD) and value not in (None, False)
    }
    if unknown:
        raise ValueError(
            f'the config has entries that are not known here: {unknown}.'
        )
    for name in ('down_block_types', 'up_block_types'):
        if name in fields:
            fields[name] = tuple(
                block.removeprefix('UNetRes') for block in fields[name]
            )
    if 'block_out_channels' in fields:
        fields['block_out_channels'] = tuple(fields['block_out_channels'])
    network = UNet2D(**fields)
    _check_network(network)
    return network, _image_shape(config.get('sample_size'), network)


def _check_network(network: UNet2D) -> None:
    fields = {name: getattr(network, name) for name in _FIELDS}
    _check_choice(fields, 'time_embedding_type', ('positional', 'fourier'))
    _check_choice(fields, 'resnet_time_scale_shift', ('default', 'scale_shift'))
    _check_choice(fields, 'mid_block_type', ('UNetMidBlock2D', None))
    for name in ('downsample_type', 'upsample_type'):
        _check_choice(fields, name, ('conv', 'resnet'))
    _check_choice(fields, 'downsample_padding', (0, 1))
    for blocks, known in (
        (network.down_block_types, DOWN_BLOCKS),
        (network.up_block_types, UP_BLOCKS),
    ):
        others = sorted(set(blocks) - set(known))
        if others:
            raise ValueError(
                f'the network has blocks of type {", ".join(others)}; those of '
                f'an unconditional prior are {", ".join(known)}.'
            )
    levels = len(network.block_out_channels)
    numbers = {
        'block_out_channels': network.block_out_channels,
        'layers_per_block': (network.layers_per_block,),
        'in_channels': (network.in_channels,),
        'out_channels': (network.out_channels,),
    }
    for name, found in numbers.items():
        if not found or not all(
            type(n) is int and 1 <= n <= _MOST_CHANNELS for n in found
        ):
            raise ValueError(
                f'{name} must be whole numbers from 1 to {_MOST_CHANNELS}, got '
                f'{excerpt(str(found))}.'
            )
    if max(levels, network.layers_per_block) > _MOST_BLOCKS:
        raise ValueError(
            f'a network must have at most {_MOST_BLOCKS} levels, and blocks at '
            'each of them.'
        )
    for name in ('down_block_types', 'up_block_types'):
        if len(fields[name]) != levels:
            raise ValueError(
                f'{name} has {len(fields[name])} entries, but '
                f'block_out_channels has {levels}.'
            )
    inputs, outputs = network.in_channels, network.out_channels
    if outputs not in (inputs, 2 * inputs):
        raise ValueError(
            f'the network takes {inputs} channels and gives {outputs}, so it '
            'has other inputs than a noisy image (it is conditional, or of '
            f'latents); a prior must give {inputs}, or {2 * inputs} with a '
            'learned variance.'
        )


def _check_choice(fields, name, choices, default=None):
    value = fields.get(name, default)
    if value not in choices:
        raise ValueError(
            f'{name} must be {" or ".join(map(str, choices))}, got {value!r}.'
        )


def _image_shape(sample_size, network):
    sizes = sample_size if isinstance(sample_size, list) else 2 * [sample_size]
    factor = 2 ** (len(network.block_out_channels) - 1)
    if len(sizes) != 2 or not all(
        isinstance(size, int) and size > 0 and size % factor == 0
        for size in sizes
    ):
        raise ValueError(
            'sample_size must be a side, or a height and a width, that the '
            f"network's levels divide (by {factor}), got {sample_size}."
        )
    return *sizes, network.in_channels


def levels_from_scheduler(
    scheduler: dict[str, Any], pipeline: str | None = None
) -> tuple[Parametrisation, Any, str]:
    """What a network was trained to say, and at which noise levels.

    Args:
        scheduler: entries of `scheduler_config.json`.
        pipeline: the class of the pipeline, or None.

    Returns:
        The parametrisation, the noise levels, and a sentence for the user where
        something was left out, or ''.

    Raises:
        ValueError: for a scheduler of another kind, or one whose last level has
            no signal, for a network that predicts the noise.
    """
    kind = scheduler.get('_class_name', 'DDPMScheduler')
    num_steps = scheduler.get('num_train_timesteps', 1000)
    # Before tables of that length are made.
    if type(num_steps) is not int or not 2 <= num_steps <= _MOST_STEPS:
        raise ValueError(
            f'num_train_timesteps must be a number from 2 to {_MOST_STEPS}, got '
            f'{excerpt(str(num_steps))}.'
        )
    if kind == 'ScoreSdeVeScheduler':
        levels = schedule.Sigmas(
            # Its pipeline's images are in [0, 1], ours twice as wide.
            sigma_min=2 * scheduler.get('sigma_min', 0.01),
            sigma_max=2 * scheduler.get('sigma_max', 1348.0),
            num_levels=scheduler.get('num_train_timesteps', 2000),
            rho=None,
        )
        how = Parametrisation('score', 've', 'sigma', data_range=(0.0, 1.0))
        return how, levels, ''
    if kind.startswith('FlowMatch'):
        if scheduler.get('use_dynamic_shifting'):
            raise ValueError(
                'the scheduler shifts its times by the size of the image '
                '(use_dynamic_shifting), which a prior cannot.'
            )
        steps = scheduler.get('num_train_timesteps', 1000)
        how = Parametrisation('velocity', 'flow', 'flow', time_scale=steps)
        times = schedule.FlowTimes(steps, scheduler.get('shift', 1.0))
        return how, times, ''
    if kind.startswith('EDM'):
        return *_edm_levels(scheduler), ''
    if _BETA_SCHEDULERS.fullmatch(kind):
        return _beta_levels(scheduler)
    raise ValueError(
        f'the scheduler is a {kind}'
        + (f' of a {pipeline}' if pipeline else '')
        + '; a prior must have been trained on betas (DDPMScheduler and those '
        'that sample for it), ScoreSdeVeScheduler, FlowMatch or EDM ones.'
    )


def _edm_levels(scheduler):
    _check_choice(scheduler, 'prediction_type', ('epsilon',), 'epsilon')
    sigma_schedule = scheduler.get('sigma_schedule', 'karras')
    how = Parametrisation(
        'edm',
        'edm',
        'log_sigma',
        time_scale=0.25,
        sigma_data=scheduler.get('sigma_data', 0.5),
    )
    levels = schedule.Sigmas(
        sigma_min=scheduler.get('sigma_min', 0.002),
        sigma_max=scheduler.get('sigma_max', 80.0),
        num_levels=scheduler.get('num_train_timesteps', 1000),
        rho=None
        if sigma_schedule == 'exponential'
        else scheduler.get('rho', 7.0),
    )
    return how, levels


def _beta_levels(scheduler):
    _check_choice(scheduler, 'prediction_type', tuple(_OUTPUTS), 'epsilon')
    _check_choice(scheduler, 'timestep_type', ('discrete',), 'discrete')
    predicts = scheduler.get('prediction_type', 'epsilon')
    fields = {
        ours: scheduler[theirs]
        for theirs, ours in _BETA_FIELDS.items()
        if theirs in scheduler
    }
    trained = scheduler.get('trained_betas')
    if trained is not None:
        fields |= {
            'trained_betas': tuple(map(float, trained)),
            'num_train_steps': len(trained),
        }
    levels = schedule.Betas(**fields)
    note = ''
    left_out = levels.num_train_steps - len(levels.alpha_bar)
    if left_out:
        if predicts == 'epsilon':
            raise ValueError(
                'the last noise level of the scheduler has no signal, where a '
                'network that predicts the noise says nothing of the image; '
                'a prior of that kind must keep some signal, or predict v or '
                'the sample.'
            )
        note = (
            f'the last {left_out} of {levels.num_train_steps} noise levels has '
            'no signal and is left out.'
        )
    return Parametrisation(_OUTPUTS[predicts]), levels, note


def _check_variance(network, scheduler):
    variance = scheduler.get('variance_type', 'fixed_small')
    if network.out_channels != network.in_channels and (
        variance != 'learned_range'
    ):
        raise ValueError(
            f'the network gives {network.out_channels} channels for images of '
            f'{network.in_channels}, which needs the variance_type '
            f"'learned_range', got {variance!r}."
        )


def _pipeline(folder: pathlib.Path) -> str | None:
    """The class of the pipeline, refused where it is no prior of images."""
    for place in (folder, folder.parent if folder.name == 'unet' else folder):
        if (place / 'model_index.json').is_file():
            index = _read_json(place / 'model_index.json')
            break
    else:
        return None
    kind = index.get('_class_name')
    parts = {name for name in index if not name.startswith('_')}
    others = sorted(
        name
        for name in parts - {'unet', 'scheduler'}
        if index[name] not in (None, [None, None])
    )
    if 'unet' not in parts or others:
        what = ', '.join(others) or 'no unet'
        kinds = 'conditional, or of latents' if others else 'of another kind'
        raise ValueError(
            f'{folder} is a {kind} with {what}, so it is {kinds}; a prior must '
            'be a pipeline of a unet and a scheduler alone.'
        )
    return kind


def _unet_folder(folder: pathlib.Path) -> pathlib.Path:
    for place in (folder / 'unet', folder):
        if (place / 'config.json').is_file():
            return place
    raise ValueError(
        f'{folder} must have unet/config.json or config.json, as diffusers '
        'saves it.'
    )


def _scheduler_file(folder: pathlib.Path) -> pathlib.Path:
    name = 'scheduler_config.json'
    places = [folder / 'scheduler' / name, folder / name]
    if folder.name == 'unet':
        places.append(folder.parent / 'scheduler' / name)
    for place in places:
        if place.is_file():
            return place
    raise ValueError(
        f'{folder} must have scheduler/{name}, or the unet folder {name}, which '
        'says at which noise levels the network was trained.'
    )


def _read_json(path: pathlib.Path) -> dict:
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise ValueError(
            f'{path} is no JSON that can be read: {error}.'
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} must be a JSON object.')
    return content
