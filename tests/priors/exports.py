"""The embedded face prior as diffusers would have saved it.

Its blocks are those of a `UNet2DModel` too, under other names. So what is read
from this folder must denoise as `faces64` does.
"""

import json
import pathlib

import numpy as np
import safetensors.numpy

from invjax.comparison import peer
from invjax.priors.unet import NetworkPrior, UNet

_HEAD = 64  # channels
_LAYERS = {
    'norm': 'group_norm',
    'proj_out': 'to_out.0',
    'in_layers.0': 'norm1',
    'in_layers.2': 'conv1',
    'emb_layers.1': 'time_emb_proj',
    'out_layers.0': 'norm2',
    'out_layers.3': 'conv2',
    'skip_connection': 'conv_shortcut',
}


def _places(network: UNet) -> dict[str, str]:
    """Module of guided-diffusion to that of diffusers."""
    levels = len(network.channel_mult)
    places = {
        'time_embed.0': 'time_embedding.linear_1',
        'time_embed.2': 'time_embedding.linear_2',
        'input_blocks.0.0': 'conv_in',
        'middle_block.0': 'mid_block.resnets.0',
        'middle_block.1': 'mid_block.attentions.0',
        'middle_block.2': 'mid_block.resnets.1',
        'out.0': 'conv_norm_out',
        'out.2': 'conv_out',
    }
    number = 1
    for level in range(levels):
        if level > 0:
            down = f'down_blocks.{level - 1}.downsamplers.0'
            places[f'input_blocks.{number}.0'] = down
            number += 1
        for i in range(network.num_res_blocks):
            block, down = f'input_blocks.{number}', f'down_blocks.{level}'
            places[f'{block}.0'] = f'{down}.resnets.{i}'
            places[f'{block}.1'] = f'{down}.attentions.{i}'
            number += 1
    number = 0
    for level in reversed(range(levels)):
        up = f'up_blocks.{levels - 1 - level}'
        attends = 2**level in network.attention_downsamplings
        for i in range(network.num_res_blocks + 1):
            block = f'output_blocks.{number}'
            places[f'{block}.0'] = f'{up}.resnets.{i}'
            if attends:
                places[f'{block}.1'] = f'{up}.attentions.{i}'
            number += 1
        if level > 0:
            places[f'{block}.{1 + attends}'] = f'{up}.upsamplers.0'
    return places


def _parts(prior: NetworkPrior):
    """(module of diffusers, layer in a block, leaf, array) of each tensor."""
    places = _places(prior.network)
    for name, array in peer.state_dict(prior.params, prior.network).items():
        module = max(
            (place for place in places if name.startswith(place + '.')), key=len
        )
        layer, leaf = name.removeprefix(module)[1:].rpartition('.')[::2]
        yield places[module], layer, leaf, np.ascontiguousarray(array)


def write_diffusers(folder: pathlib.Path, prior: NetworkPrior) -> None:
    """Write a prior like `faces64` as diffusers saves a pipeline."""
    network = prior.network
    tensors = {}
    for place, layer, leaf, array in _parts(prior):
        if layer == 'qkv':
            rows = array.reshape(-1, 3, _HEAD, *array.shape[1:2])
            for i, part in enumerate(('to_q', 'to_k', 'to_v')):
                own = rows[:, i].reshape(-1, *array.shape[1:2])
                tensors[f'{place}.{part}.{leaf}'] = np.ascontiguousarray(own)
            continue
        if layer == 'proj_out':
            array = array.reshape(array.shape[:2])
        tensors[
            '.'.join(filter(None, (place, _LAYERS.get(layer, layer), leaf)))
        ] = array
    attended = [
        2**level in network.attention_downsamplings
        for level in range(len(network.channel_mult))
    ]
    kinds = ['Attn' if attends else 'Resnet' for attends in attended]
    downs = [k + ('Down' if k == 'Attn' else 'Downsample') for k in kinds]
    ups = [k + ('Up' if k == 'Attn' else 'Upsample') for k in kinds]
    config = {
        '_class_name': 'UNet2DModel',
        'sample_size': network.image_size,
        'in_channels': network.in_channels,
        'out_channels': network.out_channels,
        'block_out_channels': list(network.level_channels),
        'layers_per_block': network.num_res_blocks,
        'down_block_types': [f'{name}Block2D' for name in downs],
        'up_block_types': [f'{name}Block2D' for name in reversed(ups)],
        'downsample_type': 'resnet',
        'upsample_type': 'resnet',
        'attention_head_dim': _HEAD,
        'norm_num_groups': 32,
        'attn_norm_num_groups': 32,
        'norm_eps': 1e-5,
        'resnet_time_scale_shift': 'scale_shift',
        'time_embedding_type': 'positional',
        'flip_sin_to_cos': True,
        'freq_shift': 0,
    }
    scheduler = {
        '_class_name': 'DDPMScheduler',
        'beta_schedule': 'linear',
        'num_train_timesteps': 1000,
        'beta_start': 1e-4,
        'beta_end': 0.02,
        'prediction_type': 'epsilon',
        'variance_type': 'learned_range',
    }
    index = {
        '_class_name': 'DDPMPipeline',
        'unet': ['diffusers', 'UNet2DModel'],
        'scheduler': ['diffusers', 'DDPMScheduler'],
    }
    for name, content in (
        ('model_index.json', index),
        ('unet/config.json', config),
        ('scheduler/scheduler_config.json', scheduler),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content))
    safetensors.numpy.save_file(
        tensors, folder / 'unet' / 'diffusion_pytorch_model.safetensors'
    )
