"""What a whole step of training costs, beside PyTorch.

A step is that of a run: timesteps, noise, loss, gradient, optimiser and averages,
compiled by `step.compile_step`. A Python that has PyTorch takes the same in turn
with it, some steps each (`comparison/training_peer.py`).
"""

import contextlib
import functools
import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from invjax import benchmarking, schedule
from invjax.comparison import peer
from invjax.priors.denoiser import Denoiser
from invjax.priors.diffusers_unet import UNet2D
from invjax.priors.parametrisation import Parametrisation
from invjax.priors.unet import NetworkPrior
from invjax.training import network
from invjax.training import step as steps
from invjax.training.config import Config

# That of the embedded prior, and that of the training example of diffusers
# (train_unconditional.py).
NETWORKS = ('faces64', 'diffusers64')
_SIDE = 64
# Steps of one side that are timed before it is the other's turn. They follow each
# other, as in a run. One before them is not timed: it has to find anew the memory
# that was given back during the other's turn.
STEPS_IN_A_ROW = 5
_DOWN, _UP = 6 * ['DownBlock2D'], 6 * ['UpBlock2D']
_DOWN[4], _UP[1] = 'AttnDownBlock2D', 'AttnUpBlock2D'
DIFFUSERS64 = UNet2D(
    block_out_channels=(128, 128, 256, 256, 512, 512),
    down_block_types=tuple(_DOWN),
    up_block_types=tuple(_UP),
)


def check(asked: benchmarking.Benchmark) -> None:
    """Refuse, with a ValueError, networks that there are not."""
    for name in asked.networks:
        if name not in NETWORKS:
            raise ValueError(
                f'--networks must be of {", ".join(NETWORKS)} with --training, '
                f'got {name!r}.'
            )


def measure(
    asked: benchmarking.Benchmark, say: Callable[[str], None] = print
) -> benchmarking.Measured:
    """Time a step of each network and batch; `say` is called with a line a row.

    Args:
        asked: its `prepare` has no meaning, since kernels change in each step.
        say: what prints a line.
    """
    rows, others = [], []
    ceiling = benchmarking.ceiling_flops()
    with _peer(asked) as ask:
        for name in asked.networks:
            for batch in asked.batches:
                row, words = _row(name, batch, asked, ceiling, ask)
                rows.append(row)
                others += [(f'{name}, batch {batch}: {n}', v) for n, v in words]
                say(benchmarking.line(row))
    load = ', '.join(f'{value:.1f}' for value in os.getloadavg())
    others.append(('load of the machine at the end: 1, 5, 15 minutes', load))
    kind = jax.devices()[0].device_kind
    return benchmarking.Measured(ceiling, rows, others, asked.dtype, kind)


def _peer(asked):
    if asked.peer is None:
        return contextlib.nullcontext()
    return peer.start(asked.peer, 'training_peer.py', 'torch')


def make_prior(name: str, config: Config) -> NetworkPrior | Denoiser:
    """The network, with new parameters."""
    if name == 'faces64':
        return network.make_start(config).prior
    module = DIFFUSERS64.clone(
        dtype=jnp.dtype(config.dtype), remat=config.remat
    )
    return Denoiser(
        network.first_parameters(module, config.image_shape, config.seed),
        module,
        config.image_shape,
        Parametrisation(),
        schedule.Betas(),
    )


def _row(name, batch, asked, ceiling, ask):
    """A row of the table, and what else there is to say, (name, words)."""
    config = Config(
        images='none',
        out='none',
        size=(_SIDE, _SIDE),
        batch=batch,
        dtype=asked.dtype,
        remat=asked.remat,
    )
    prior = make_prior(name, config)
    mesh = steps.make_mesh(config)
    compiled = steps.compile_step(config, prior, mesh)
    state = jax.device_put(
        steps.first_state(config, prior.params), steps.replicated(mesh)
    )
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (batch, *config.image_shape))
    images = jax.device_put(images.astype(np.float32), steps.sharded(mesh))

    def run(number):
        nonlocal state
        for _ in range(number):
            # The old state is given up.
            state, metrics = compiled.run(state, images)
        return state, metrics

    what = 'training step'
    call = benchmarking.Call(
        functools.partial(run, STEPS_IN_A_ROW),
        STEPS_IN_A_ROW,
        # Forward, and back to the activations and to the kernels.
        passes=3,
        peer_kind='step',
        before=functools.partial(run, 1),
    )
    ask_peer = None
    if ask is not None:
        ask_peer = functools.partial(_ask, ask, name, batch)
    (timed,) = benchmarking.time_calls(
        {what: call}, asked.rounds, ask_peer
    ).values()
    flops = benchmarking.flops_of_pass(
        prior, jax.ShapeDtypeStruct((1, *config.image_shape), jnp.float32)
    )
    row = {
        'network': name,
        'batch': batch,
        'what': what,
        **benchmarking.row(call, timed, batch, flops, ceiling),
    }
    words = [('memory', compiled.words)]
    for whose, seconds in (('ours', timed.ours), ('peer', timed.theirs)):
        if seconds:
            words.append(
                (
                    f'{whose}, s, each round',
                    ', '.join(f'{value:.2f}' for value in seconds),
                )
            )
    return row, words


def _ask(ask, name, batch, kind) -> float:
    del kind  # There is one.
    _, *each = [
        ask(network=name, batch=batch) for _ in range(1 + STEPS_IN_A_ROW)
    ]
    return sum(each) / STEPS_IN_A_ROW
