"""The same networks in PyTorch, for `invjax/benchmarking.py`.

Runs in an environment of its own with `torch` and `deepinv` (version 0.5). A
question is `{"network", "batch", "kind"}`, and its answer the seconds of one
pass, `forward` or `gradient`, or, for `memory`, the process's peak in bytes
after a gradient. Weights are random. Eager, float32, in evaluation mode; the
parameters ask for no gradients.
"""

import time

import memory
import torch
from answers import serve
from deepinv.models import DiffUNet
from deepinv.models.diffunet import (
    AttentionBlock,
    ResBlock,
    TimestepEmbedSequential,
    timestep_embedding,
)
from torch import nn


class Faces64(nn.Module):
    """The embedded prior's architecture out of deepinv's blocks."""

    def __init__(self, width=32, multipliers=(1, 2, 4, 8), attended=(4, 8)):
        super().__init__()
        self.width = width
        embedded = 4 * width
        self.time = nn.Sequential(
            nn.Linear(width, embedded),
            nn.SiLU(),
            nn.Linear(embedded, embedded),
        )

        def res_block(inputs, outputs, **resample):
            return ResBlock(
                inputs,
                embedded,
                0.0,
                out_channels=outputs,
                use_scale_shift_norm=True,
                **resample,
            )

        def attention(channels):
            return AttentionBlock(channels, num_head_channels=64)

        def block(inputs, outputs, factor, **resample):
            parts = [res_block(inputs, outputs, **resample)]
            if factor in attended and not resample:
                parts.append(attention(outputs))
            return TimestepEmbedSequential(*parts)

        channels = width
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.down, skips = nn.ModuleList(), [width]
        for level, multiplier in enumerate(multipliers):
            if level:
                self.down.append(block(channels, channels, None, down=True))
                skips.append(channels)
            outputs = multiplier * width
            self.down.append(block(channels, outputs, 2**level))
            channels = outputs
            skips.append(channels)
        self.middle = TimestepEmbedSequential(
            res_block(channels, channels),
            attention(channels),
            res_block(channels, channels),
        )
        self.up = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for i in range(2):
                outputs = multiplier * width
                made = block(channels + skips.pop(), outputs, 2**level)
                if level and i == 1:
                    made.append(res_block(outputs, outputs, up=True))
                self.up.append(made)
                channels = outputs
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels),
            nn.SiLU(),
            nn.Conv2d(channels, 6, 3, padding=1),
        )

    def forward(self, x, t):
        embedding = self.time(timestep_embedding(t, self.width))
        h = self.first(x)
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        h = self.middle(h, embedding)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), embedding)
        return self.out(h)


class Ffhq256(nn.Module):
    """deepinv's network, asked for the noise at a timestep."""

    def __init__(self):
        super().__init__()
        self.network = DiffUNet(pretrained=None)

    def forward(self, x, t):
        return self.network(x, t, type_t='timestep')


_NETWORKS = {'faces64': (Faces64, 64), 'ffhq256': (Ffhq256, 256)}
_made: dict[str, torch.nn.Module] = {}


def _network(name):
    if name not in _made:
        torch.manual_seed(0)
        make, side = _NETWORKS[name]
        network = make().eval().requires_grad_(False)
        _made[name] = network, side
    return _made[name]


def _pass(network, x, t, kind):
    if kind == 'forward':
        with torch.no_grad():
            network(x, t)
        return
    x = x.clone().requires_grad_()
    value = network(x, t)[:, :3].square().sum()
    torch.autograd.grad(value, x)


def _answer(question):
    network, side = _network(question['network'])
    x = torch.randn(question['batch'], 3, side, side)
    t = torch.full((question['batch'],), 500)
    if question['kind'] == 'memory':
        _pass(network, x, t, 'gradient')
        return memory.peak_bytes()
    start = time.perf_counter()
    _pass(network, x, t, question['kind'])
    return time.perf_counter() - start


if __name__ == '__main__':
    serve(_answer)
