"""A step of training in PyTorch, for `invjax/training/benchmark.py`.

Runs in an environment of its own with `torch`, and with `deepinv` for the network
of `faces64` or `diffusers` for `diffusers64`. A question is `{"network", "batch"}`,
and its answer the seconds of one step, which is that of `invjax/training/step.py`:
timesteps and noise are drawn; the mean square error of the noise, and where the
network learns its variance the variational bound; the gradient, cut to norm 1;
AdamW, of kernels with decay; and two averages of the weights. Eager, in float32,
on all cores, with what PyTorch has that does many tensors at once.

A network that cannot be made is answered by `{"error": sentence}`.
"""

import time

import torch
from answers import serve

_SIDE, _NUM_TRAIN_STEPS, _HALF_LIVES = 64, 1000, (10_000, 100_000)
_LEARNING_RATE, _DECAY, _VARIANCE_WEIGHT = 2e-4, 0.01, 0.001
_HALF_BIN = 1 / 255


def _faces64():
    from benchmark_peer import Faces64

    return Faces64()


def _diffusers64():
    """That of the training example of diffusers, train_unconditional.py."""
    from diffusers import UNet2DModel

    down, up = 6 * ['DownBlock2D'], 6 * ['UpBlock2D']
    down[4], up[1] = 'AttnDownBlock2D', 'AttnUpBlock2D'
    return UNet2DModel(
        sample_size=_SIDE,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=down,
        up_block_types=up,
    )


class _Noise:
    """Columns of the noise levels: a row for each timestep, as (T, 1, 1, 1)."""

    def __init__(self):
        betas = torch.linspace(
            1e-4, 0.02, _NUM_TRAIN_STEPS, dtype=torch.float64
        )
        power = torch.cumprod(1 - betas, 0)
        before = torch.cat([torch.ones(1, dtype=torch.float64), power[:-1]])
        variance = betas * (1 - before) / (1 - power)
        # The last step's own is 0, of which there is no logarithm.
        variance[0] = variance[1]
        columns = {
            'signal': power.sqrt(),
            'noise': (1 - power).sqrt(),
            'of_x_0': betas * before.sqrt() / (1 - power),
            'of_x_t': (1 - betas).sqrt() * (1 - before) / (1 - power),
            'log_beta': betas.log(),
            'log_variance': variance.log(),
        }
        self._columns = {
            name: column.float()[:, None, None, None]
            for name, column in columns.items()
        }

    def at(self, t):
        return {name: column[t] for name, column in self._columns.items()}


def _bound(x_0, x_t, eps, place, at, t):
    """A term of the variational bound for each image, in bits a value."""
    eps = eps.detach()
    x0_hat = (x_t - at['noise'] * eps) / at['signal']
    mean = at['of_x_0'] * x0_hat + at['of_x_t'] * x_t
    true_mean = at['of_x_0'] * x_0 + at['of_x_t'] * x_t
    fraction = (place + 1) / 2
    log_variance = (
        fraction * at['log_beta'] + (1 - fraction) * at['log_variance']
    )
    divergence = 0.5 * (
        log_variance
        - at['log_variance']
        - 1
        + torch.exp(at['log_variance'] - log_variance)
        + (true_mean - mean).square() * torch.exp(-log_variance)
    )
    inverse = torch.exp(-0.5 * log_variance)
    upper = torch.special.ndtr((x_0 + _HALF_BIN - mean) * inverse)
    lower = torch.special.ndtr((x_0 - _HALF_BIN - mean) * inverse)
    upper = torch.where(x_0 > 1 - _HALF_BIN, 1.0, upper)
    lower = torch.where(x_0 < -1 + _HALF_BIN, 0.0, lower)
    nats = torch.where(
        t[:, None, None, None] == 0,
        -(upper - lower).clamp(min=1e-12).log(),
        divergence,
    )
    return nats.mean(dim=(1, 2, 3)) / torch.log(torch.tensor(2.0))


class _Training:
    """A network that is trained; `step` takes a step."""

    def __init__(self, network):
        self._network = network.train()
        self._params = list(network.parameters())
        self._averages = [
            [p.detach().clone() for p in self._params] for _ in _HALF_LIVES
        ]
        self._optimizer = torch.optim.AdamW(
            [
                {'params': [p for p in self._params if p.ndim > 1]},
                {
                    'params': [p for p in self._params if p.ndim < 2],
                    'weight_decay': 0.0,
                },
            ],
            lr=_LEARNING_RATE,
            weight_decay=_DECAY,
            fused=True,
        )
        self._noise = _Noise()
        self._seen = 0

    def _loss(self, x_0):
        t = torch.randint(_NUM_TRAIN_STEPS, (len(x_0),))
        noise = torch.randn_like(x_0)
        at = self._noise.at(t)
        x_t = at['signal'] * x_0 + at['noise'] * noise
        out = self._network(x_t, t)
        out = getattr(out, 'sample', out)
        eps, *place = out.split(3, dim=1)
        loss = (eps - noise).square().mean()
        if place:
            bound = _bound(x_0, x_t, eps, place[0], at, t).mean()
            loss = loss + _VARIANCE_WEIGHT * _NUM_TRAIN_STEPS * bound
        return loss

    def step(self, x_0):
        self._optimizer.zero_grad()
        loss = self._loss(x_0)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._params, 1.0, foreach=True)
        self._optimizer.step()
        self._seen += len(x_0)
        with torch.no_grad():
            for half_life, average in zip(
                _HALF_LIVES, self._averages, strict=True
            ):
                decay = 0.5 ** (len(x_0) / min(half_life, self._seen / 20))
                torch._foreach_lerp_(average, self._params, 1 - decay)
        return loss.item()


_NETWORKS = {'faces64': _faces64, 'diffusers64': _diffusers64}
_made: dict[str, _Training] = {}


def _answer(question):
    name = question['network']
    if name not in _made:
        torch.manual_seed(0)
        try:
            _made[name] = _Training(_NETWORKS[name]())
        except ImportError as error:
            return {
                'error': f'the peer cannot make {name} ({error}); it needs torch '
                'and deepinv for faces64, diffusers for diffusers64.'
            }
    x_0 = 2 * torch.rand(question['batch'], 3, _SIDE, _SIDE) - 1
    start = time.perf_counter()
    _made[name].step(x_0)
    return time.perf_counter() - start


if __name__ == '__main__':
    serve(_answer)
