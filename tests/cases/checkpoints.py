"""Checkpoints as many code bases save them, without PyTorch.

Weights that are not averaged are 1.5 times the averaged ones, so that taking the
wrong ones shows.
"""

import argparse
import collections
import datetime
import functools
import json
import pathlib
import pickle
import random
import struct
import zipfile
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from invjax.priors import torch_file
from tests.priors.pickle_writer import (
    KINDS,
    NO_HOOKS,
    ORDERED_DICT,
    REBUILD,
    Build,
    Call,
    Global,
    Opcodes,
    Persistent,
    pickle_of,
    stream_of,
    view_of,
)

_WEIGHTS = pathlib.Path(__file__).parents[1] / 'goldens' / 'unet_tiny32.pt'


@functools.cache
def averaged() -> dict[str, np.ndarray]:
    """A network's weights, float32."""
    read = torch_file.read_state_dict(_WEIGHTS)
    return {name: np.float32(array) for name, array in read.items()}


def raw() -> dict[str, np.ndarray]:
    """Those that are not averaged."""
    return {name: np.float32(1.5) * a for name, a in averaged().items()}


class Case(NamedTuple):
    """A file as it is brought.

    Attributes:
        content: nested containers with arrays for tensors.
        key: where the weights to sample with are.
        averaged: whether they are said to be an average.
        form: 'zip', or 'stream' of PyTorch before 1.6.
    """

    content: Any
    key: str = 'top level'
    averaged: bool = False
    form: str = 'zip'


def plain(value) -> Opcodes:
    """What Python's own pickle makes of a value."""
    return Opcodes(pickle.dumps(value, protocol=2)[2:-1])


def write(path: pathlib.Path, content: Any, form: str = 'zip') -> None:
    """Write a checkpoint; each array becomes a tensor with its own storage."""
    storages: dict[str, np.ndarray] = {}

    def with_tensors(value):
        match value:
            case np.ndarray():
                key = str(len(storages))
                # As many equal arrays are one storage, as in PyTorch.
                for name, array in storages.items():
                    if array is value:
                        key = name
                storages[key] = value
                return _tensor(key, value, form)
            case dict():
                return {k: with_tensors(v) for k, v in value.items()}
            case list():
                return [with_tensors(v) for v in value]
            case Build(target, state):
                return Build(target, with_tensors(state))
        return value

    described = with_tensors(content)
    if form == 'stream':
        numbers = {k: (a.size, a.tobytes()) for k, a in storages.items()}
        path.write_bytes(stream_of(described, numbers))
        return
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('archive/data.pkl', pickle_of(described))
        for key, array in storages.items():
            # In the order of memory, whatever the order of the axes.
            numbers = array.ravel(order='K').tobytes()
            file.writestr(f'archive/data/{key}', numbers)


def _tensor(key, array, form):
    kind = KINDS[array.dtype.name]
    stride = tuple(s // array.itemsize for s in array.strides)
    if form == 'zip':
        return view_of(key, kind, 0, array.shape, stride)
    # Here a storage has its size, and may be a view of another one.
    pid = ('storage', Global('torch', kind), key, 'cpu', array.size, None)
    args = (Persistent(pid), 0, array.shape, stride, False, NO_HOOKS)
    return Call(REBUILD, args)


# Names of NumPy's types in safetensors files.
_SAFETENSORS = {
    'float32': 'F32',
    'float16': 'F16',
    'bfloat16': 'BF16',
    'float8_e4m3fn': 'F8_E4M3',
}


def write_safetensors(path, arrays, metadata=None) -> None:
    """Write a safetensors file, of types that its own library lacks too."""
    table, parts, end = {}, [], 0
    if metadata is not None:
        table['__metadata__'] = metadata
    for name, array in arrays.items():
        parts.append(array.tobytes())
        table[name] = {
            'dtype': _SAFETENSORS[array.dtype.name],
            'shape': list(array.shape),
            'data_offsets': [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(table).encode()
    path.write_bytes(struct.pack('<Q', len(text)) + text + b''.join(parts))


def prefixed(prefix: str, weights=None) -> dict[str, np.ndarray]:
    """Weights with something in front of each name."""
    weights = averaged() if weights is None else weights
    return {prefix + name: array for name, array in weights.items()}


def as_type(dtype) -> dict[str, np.ndarray]:
    """The weights in another type."""
    return {name: a.astype(dtype) for name, a in averaged().items()}


def _module(weights) -> Build:
    """A pickled module, in which modules hold modules."""

    def empty():
        return Build(
            Opcodes(b'cmy.code\nNet\n)\x81'),
            {'training': True, '_parameters': {}, '_modules': {}},
        )

    root = empty()
    for name, array in weights.items():
        *parts, last = name.split('.')
        at = root
        for part in parts:
            at = at.state['_modules'].setdefault(part, empty())
        at.state['_parameters'][last] = array
    return root


def _optimizer() -> dict:
    first = next(iter(averaged().values()))
    moments = {'step': 1, 'exp_avg': 0 * first, 'exp_avg_sq': 0 * first}
    return {
        'state': {0: moments},
        'param_groups': [{'lr': 1e-4, 'params': [0]}],
    }


def _schedule(prefix='') -> dict[str, np.ndarray]:
    betas = np.linspace(1e-4, 0.02, 1000, dtype=np.float32)
    return {
        f'{prefix}betas': betas,
        f'{prefix}alphas_cumprod': np.cumprod(1 - betas),
    }


def _with_channels(inputs: int, outputs: int) -> dict[str, np.ndarray]:
    weights = dict(averaged())
    first = weights['input_blocks.0.0.weight'].mean(axis=1, keepdims=True)
    weights['input_blocks.0.0.weight'] = np.repeat(first, inputs, axis=1)
    for name in ('out.2.weight', 'out.2.bias'):
        weights[name] = np.repeat(weights[name][:1], outputs, axis=0)
    return weights


_SCALAR = np.array(9, np.int64)

# Keys under which code bases keep weights, and averages of them.
_KEYS = (
    *('unet', 'unet_state_dict', 'model_state', 'state', 'weights', 'G'),
    *('diffusion', 'score', 'network', 'denoiser', 'model_dict'),
    'diffusion_model',
)
_AVERAGES = (
    *('ema_model_state_dict', 'ema_params', 'ema_state', 'ema_unet', 'net_ema'),
    *('model_ema_state_dict', 'ema_weights', 'params_ema'),
)


def cases() -> dict[str, Case]:
    """All that give the averaged weights, by name."""
    average, other = averaged(), raw()
    listed = [*average.values()]
    own = {
        'initted': np.array(True),
        'step': _SCALAR,
        **prefixed('online_model.', other),
        **prefixed('ema_model.'),
    }
    lit = {
        'model_ema.decay': np.array(0.9999, np.float32),
        'model_ema.num_updates': _SCALAR,
        **{
            'model_ema.' + f'diffusion_model.{name}'.replace('.', ''): array
            for name, array in average.items()
        },
    }
    lightning = {
        'epoch': 1,
        'global_step': 5,
        'pytorch-lightning_version': '2.2.0',
        'callbacks': {},
        'optimizer_states': [_optimizer()],
        'lr_schedulers': [],
        'hyper_parameters': {'lr': 1e-4},
    }
    swa = {'n_averaged': _SCALAR, **prefixed('module.')}
    now = plain(datetime.datetime(2026, 1, 2, 3, 4, 5))
    beside = {
        'namespace': plain(argparse.Namespace(lr=1e-4, out='x')),
        'path': Call(Global('pathlib', 'PosixPath'), ('/', 'x')),
        'losses': plain(np.zeros(4)),
        'numbers': plain({'epoch': np.int64(3), 'best': np.float64(0.1)}),
        'numpy_state': plain(np.random.RandomState(0).get_state()),
        'python_state': plain(random.Random(0).getstate()),
        'history': plain(collections.defaultdict(list, {'a': [1.0]})),
        'counter': plain(collections.Counter([2, 3])),
        'date': now,
        'dtype': Global('torch', 'float16'),
        'device': Call(Global('torch', 'device'), ('cpu',)),
        'size': Call(Global('torch', 'Size'), ((1, 2),)),
        'others': plain([complex(1, 2), b'abc', {1, 2}]),
        'ordered': Call(ORDERED_DICT, ()),
        'optimizer': _optimizer(),
    }
    found = {
        'plain': Case(average),
        'stream': Case(average, form='stream'),
        'float16': Case(as_type(np.float16)),
        'float64': Case(as_type(np.float64)),
        'averaged_model': Case(swa, averaged=True),
        'averaged_in_a_checkpoint': Case(
            {'epoch': 3, 'model': other, 'model_ema': swa}, 'model_ema', True
        ),
        'data_parallel': Case(prefixed('module.')),
        'compiled': Case(prefixed('_orig_mod.')),
        'compiled_inside': Case(
            {
                name.replace('middle_block.', 'middle_block._orig_mod.'): a
                for name, a in average.items()
            }
        ),
        'fsdp': Case(prefixed('_fsdp_wrapped_module.')),
        'recomputed_inside': Case(
            {
                name.replace(
                    '.0.in_layers', '.0._checkpoint_wrapped_module.in_layers'
                ): array
                for name, array in average.items()
            }
        ),
        'deep_prefix': Case(prefixed('ddpm.module.model.'), 'ddpm.model'),
        'score_sde': Case(
            {
                'optimizer': _optimizer(),
                'model': prefixed('module.', other),
                'ema': {'decay': 0.9999, 'shadow_params': listed},
                'step': 5,
            },
            'ema.shadow_params',
            True,
        ),
        'ema_pytorch': Case(own, 'ema_model', True),
        'lucidrains': Case(
            {'step': 1, 'model': other, 'ema': own, 'scaler': None},
            'ema.ema_model',
            True,
        ),
        'lightning': Case(
            {**lightning, 'state_dict': prefixed('model.')},
            'state_dict.model',
        ),
        'lightning_two': Case(
            {
                **lightning,
                'state_dict': prefixed('model.', other) | prefixed('ema.'),
            },
            'state_dict.ema',
            True,
        ),
        'latent_diffusion': Case(
            {
                'state_dict': {
                    **_schedule(),
                    **prefixed('model.diffusion_model.', other),
                    **lit,
                }
            },
            'state_dict.model_ema',
            True,
        ),
        'palette': Case(prefixed('denoise_fn.') | _schedule(), 'denoise_fn'),
        'buffers': Case(
            {'state_dict': prefixed('module.') | _schedule()}, 'state_dict'
        ),
        'nested': Case({'ema_model': {'module': average}}, 'ema_model', True),
        'prefix_that_says_averaged': Case(
            {'state_dict': prefixed('ema_model.')},
            'state_dict.ema_model',
            True,
        ),
        'list': Case([average, {'step': 3}], '0'),
        'ddim': Case(
            [prefixed('module.', other), {}, 3, 4, prefixed('module.')],
            '4',
            True,
        ),
        'whole_module': Case(_module(average)),
        'channels_last': Case(
            {
                name: a.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
                if a.ndim == 4
                else a
                for name, a in average.items()
            }
        ),
        'attention_as_convolution': Case(
            {
                name: a[..., None]
                if 'qkv.weight' in name or 'proj_out.weight' in name
                else a
                for name, a in average.items()
            }
        ),
    }
    for name, value in beside.items():
        content = {'model': average, name: value}
        found[f'beside_{name}'] = Case(content, 'model')
    for key in (*_KEYS, *_AVERAGES):
        is_average = key in _AVERAGES
        found[f'wrap_{key}'] = Case({key: average, 'epoch': 1}, key, is_average)
        if is_average:
            content = {'state_dict': other, key: average, 'epoch': 1}
            found[f'both_{key}'] = Case(content, key, True)
    return found


def refused() -> dict[str, tuple[Any, str]]:
    """Content that is no prior, and the sentence that says why."""
    nan = dict(averaged())
    nan['input_blocks.0.0.weight'] = nan['input_blocks.0.0.weight'].copy()
    nan['input_blocks.0.0.weight'].flat[0] = np.nan
    halves = {
        f'half.{i}': a for i, a in enumerate(averaged().values()) if i % 2
    }
    return {
        'conditioned': (_with_channels(6, 3), '3 output channels for 6 of its'),
        'nan': (nan, 'NaN or infinite weights are in 1 of its 144 tensors'),
        'two_averages': (
            {'ema_0.999': averaged(), 'ema_0.9999': raw()},
            '2 averaged networks of different weights; set weights_key',
        ),
        'half_an_average': (
            {'model': raw(), 'ema': halves},
            "looks like averaged weights, 'ema', in a form that is not known",
        ),
        'latent': (
            prefixed('model.diffusion_model.')
            | {'first_stage_model.x.weight': averaged()['out.2.weight']},
            'is a latent diffusion model',
        ),
    }


SAFETENSORS = {
    'metadata': (np.float32, {'format': 'pt', 'steps': '1000'}, 0),
    'bfloat16': (ml_dtypes.bfloat16, None, 2**-8),
    'float16': (np.float16, None, 2**-10),
    # Three bits after the point, and 2**-9 the least.
    'float8': (ml_dtypes.float8_e4m3fn, None, 2**-4),
}
CHANNELS = ((1, 2), (1, 1), (4, 4), (4, 8))
with_channels = _with_channels
