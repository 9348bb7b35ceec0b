"""Networks of diffusers and of EDM in PyTorch, for `invjax/benchmarking.py`.

Runs in an environment of its own with `torch` and `diffusers`, and for EDM with a
clone of NVlabs/edm in PYTHONPATH. A question is `{"network", "kind", ...}`:

    write      a file of random weights, as the authors' code saves it, in `folder`;
               the answer is its path
    forward    the seconds of one pass of `batch` images, eager, in float32
    gradient   the same with the gradient of a sum of squares back to the images
    memory     the process's peak in bytes after a gradient

A network that cannot be made is answered by `{"error": sentence}`.
"""

import pathlib
import pickle
import time

import memory
import torch
from answers import serve


def _celebahq256():
    """That of google/ddpm-ema-celebahq-256."""
    from diffusers import UNet2DModel

    down, up = 6 * ['DownBlock2D'], 6 * ['UpBlock2D']
    down[4], up[1] = 'AttnDownBlock2D', 'AttnUpBlock2D'
    return UNet2DModel(
        sample_size=256,
        down_block_types=down,
        up_block_types=up,
        block_out_channels=[128, 128, 256, 256, 512, 512],
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        norm_eps=1e-6,
    )


def _write_celebahq256(network, folder):
    from diffusers import DDPMPipeline, DDPMScheduler

    DDPMPipeline(network, DDPMScheduler()).save_pretrained(folder)
    return folder


def _edm_ffhq64():
    """That of edm-ffhq-64x64-uncond-vp."""
    from training.networks import EDMPrecond

    return EDMPrecond(
        img_resolution=64,
        img_channels=3,
        model_type='SongUNet',
        embedding_type='positional',
        encoder_type='standard',
        decoder_type='standard',
        channel_mult_noise=1,
        resample_filter=[1, 1],
        model_channels=128,
        channel_mult=[1, 2, 2, 2],
        augment_dim=9,
        dropout=0.05,
    )


def _write_edm_ffhq64(network, folder):
    path = pathlib.Path(folder) / 'network-snapshot-000000.pkl'
    with path.open('wb') as file:
        pickle.dump({'ema': network}, file)
    return str(path)


# How to make it, to write it, its side, and a time as it takes it.
_NETWORKS = {
    'celebahq256': (_celebahq256, _write_celebahq256, 256, 500),
    'edm_ffhq64': (_edm_ffhq64, _write_edm_ffhq64, 64, 1.0),
}
_made: dict[str, torch.nn.Module] = {}


def _network(name):
    if name not in _made:
        torch.manual_seed(0)
        network = _NETWORKS[name][0]().eval().requires_grad_(False)
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
        _made[name] = network
    return _made[name]


def _pass(network, x, times, kind):
    x = x.requires_grad_(kind == 'gradient')
    with torch.set_grad_enabled(kind == 'gradient'):
        out = network(x, times)
        # Of diffusers an object, of EDM a tensor.
        out = getattr(out, 'sample', out)
    if kind == 'gradient':
        torch.autograd.grad(out.square().sum(), x)


def _answer(question):
    name, kind = question['network'], question['kind']
    _, write, side, at = _NETWORKS[name]
    try:
        network = _network(name)
    except ImportError as error:
        return {
            'error': f'the peer cannot make {name} ({error}); it needs torch and '
            'diffusers, and for EDM a clone of NVlabs/edm in PYTHONPATH.'
        }
    if kind == 'write':
        return write(network, question['folder'])
    batch = question['batch']
    x = torch.randn(batch, 3, side, side)
    times = torch.full((batch,), at)
    if kind == 'memory':
        _pass(network, x, times, 'gradient')
        return memory.peak_bytes()
    start = time.perf_counter()
    _pass(network, x, times, kind)
    return time.perf_counter() - start


if __name__ == '__main__':
    serve(_answer)
