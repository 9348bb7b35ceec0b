"""What a step costs, and how near it comes to what the machine can do.

    python -m experiments.benchmark --out=benchmark
    python -m experiments.benchmark --peer=OTHER/bin/python --out=benchmark

Times are medians of `--rounds`, and a DPS or ScoreALD step is timed as the
sampler runs it. The ceiling is a large float32 matrix product in the same
process. With `--peer`, a Python that has PyTorch and deepinv, the same networks
run there in turn with ours (`benchmark_peer.py`): forward against forward, and
a DPS step of ours against the bare gradient of PyTorch's network.

The network of `ffhq256` has random weights. Its compile time and peak memory
are taken in processes of their own.
"""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from invjax.conditioners import make_conditioner

from experiments import common, memory, peer
from invjax import operators, problem, schedule, sweep
from invjax.priors import checkpoint
from invjax.priors.unet import NetworkPrior, UNet

_NETWORKS = flags.DEFINE_list(
    'networks', ['faces64', 'ffhq256'], 'Of faces64 and ffhq256.'
)
_BATCHES = flags.DEFINE_list('batches', ['1', '8'], 'Images at once.')
_ROUNDS = flags.DEFINE_integer('rounds', 5, 'Of each time.', lower_bound=1)
_PEER = flags.DEFINE_string(
    'peer', None, 'A Python that can import torch and deepinv.'
)
_PREPARE = flags.DEFINE_bool(
    'prepare', True, 'On a CPU in float32: convolutions by minimal filtering.'
)
_REMAT = flags.DEFINE_bool(
    'remat', False, 'Recompute blocks in the gradient to save memory.'
)
_STEP_ALONE = flags.DEFINE_bool(
    'step_alone', False, 'Only one DPS step of the first network: as JSON.'
)
# Of the sampler in each timed call; a step of the large one takes seconds.
_STEPS = {'faces64': 10, 'ffhq256': 3}
_CEILING_SIDE = 3072
_T = 500
# The most images of 256 x 256 at once on a CPU.
_LARGEST_ON_CPU = 1


def main():
    for name in _NETWORKS.value:
        if name not in ('faces64', 'ffhq256'):
            raise ValueError(
                f'--networks must be of faces64 and ffhq256, got {name!r}.'
            )
    for batch in _BATCHES.value:
        if not (batch.isdigit() and int(batch)):
            raise ValueError(f'--batches must be 1 or more, got {batch!r}.')
    if _STEP_ALONE.value:
        print(json.dumps(_step_alone(_NETWORKS.value[0])))
        return
    out = common.make_folder(common.OUT.value)
    rows, others = [], []
    with _peer() as ask:
        ceiling = _ceiling()
        for name in _NETWORKS.value:
            prior, seconds = _timed(lambda name=name: _prior(name))
            others.append((f'{name}: load', f'{seconds:.1f} s'))
            for batch in map(int, _BATCHES.value):
                is_cpu = jax.default_backend() == 'cpu'
                if name == 'ffhq256' and is_cpu and batch > _LARGEST_ON_CPU:
                    continue
                for row in _measure(name, prior, batch, ceiling, ask):
                    rows.append(row)
                    print(_line(row), flush=True)
            if name == 'faces64':
                others += _sweep_against_runs(prior)
    if 'ffhq256' in _NETWORKS.value:
        others += _processes()
    lines = _table(rows, others, ceiling)
    record = {
        'ceiling_flops': ceiling,
        'rows': rows,
        'others': dict(others),
        **common.protocol(common.flag_values()),
    }
    (out / 'benchmark.md').write_text('\n'.join(lines) + '\n')
    common.write_json(out / 'benchmark.json', record)
    print('\n'.join(['', *lines]))


def _prior(name: str):
    """The network, with random weights where the real ones are not at hand."""
    dtype = jnp.dtype(common.DTYPE.value)
    if name == 'faces64':
        prior, _ = checkpoint.load_prior(name, dtype=dtype, remat=_REMAT.value)
    else:
        network = UNet(dtype=dtype, remat=_REMAT.value)
        x = jax.ShapeDtypeStruct((256, 256, 3), jnp.float32)
        shapes = jax.eval_shape(network.init, jax.random.key(0), x, 0)
        rng = np.random.default_rng(0)

        def draw(leaf):
            values = rng.standard_normal(leaf.shape, np.float32)
            return jnp.asarray(0.02 * values)

        prior = NetworkPrior(jax.tree.map(draw, shapes['params']), network)
    is_cpu = jax.default_backend() == 'cpu'
    if _PREPARE.value and is_cpu and dtype == jnp.float32:
        prior = prior.prepare()
    return jax.block_until_ready(prior)


def _timed(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def _ceiling() -> float:
    """FLOP/s of a large float32 matrix product; the best of all rounds."""
    a = jnp.ones((_CEILING_SIDE, _CEILING_SIDE))
    product = jax.jit(jnp.matmul)
    _timed(lambda: product(a, a))
    seconds = [_timed(lambda: product(a, a))[1] for _ in range(10)]
    return 2 * _CEILING_SIDE**3 / min(seconds)


@jax.jit
def _forward(prior, x):
    return jax.vmap(lambda x: prior(x, _T).eps)(x)


@jax.jit
def _bare_dps(prior, x, keys, measured, step):
    """The step of DPS alone, as a function that the host calls."""
    conditioner = make_conditioner('dps')
    return jax.vmap(
        lambda key, x: conditioner.update(key, x, (), step, measured, prior)
    )(keys, x)


def _measured(prior):
    key = jax.random.key(1)
    operator = operators.make_operator('box_inpainting', key, prior.image_shape)
    x = jax.random.uniform(key, prior.image_shape, minval=-1)
    return problem.measure(key, x, operator)


def _sampler(prior, method, batch, num_steps, settings=({},)):
    """A call of the whole sampler on that many lanes at once."""
    measured = _measured(prior)
    num_samples = batch // len(settings)
    lanes = sweep.make_lanes(
        jax.random.key(0), [measured], settings, num_samples
    )
    return lambda: (
        sweep.run_lanes(
            lanes,
            prior,
            method,
            num_steps,
            max_lanes=batch,
            stretch=num_steps,
            devices=jax.devices()[:1],
        ).x
    )


def _measure(name, prior, batch, ceiling, ask):
    """Rows of one network and batch."""
    x = jax.random.normal(jax.random.key(0), (batch, *prior.image_shape))
    num_steps = _STEPS[name]
    steps = schedule.reverse_steps(prior.alpha_bar, num_steps)
    step = schedule.Steps(*(jnp.asarray(field[1]) for field in steps))
    keys, measured = (
        jax.random.split(jax.random.key(2), batch),
        _measured(prior),
    )
    flops = _flops(prior, x)
    # What: the call, how many steps it takes, how many passes of the network's
    # arithmetic a step has (back to the input costs as much as forward), and
    # what the peer does meanwhile.
    calls = {
        'forward': (lambda: _forward(prior, x), 1, 1, 'forward'),
        'unconditional step': (
            _sampler(prior, 'unconditional', batch, num_steps),
            num_steps,
            1,
            None,
        ),
        'ScoreALD step': (
            _sampler(prior, 'score_ald', batch, num_steps),
            num_steps,
            1,
            None,
        ),
        'DPS step': (
            _sampler(prior, 'dps', batch, num_steps),
            num_steps,
            2,
            'gradient',
        ),
        'bare DPS step': (
            lambda: _bare_dps(prior, x, keys, measured, step),
            1,
            2,
            None,
        ),
    }
    times = {what: [] for what in calls}
    peers = {what: [] for what in calls}
    first = {what: _timed(call[0])[1] for what, call in calls.items()}
    for kind in ('forward', 'gradient'):
        if ask is not None:
            # Its first pass is slower.
            ask(network=name, batch=batch, kind=kind)
    # In turn, so that a slow minute of the machine meets all of them.
    for _ in range(_ROUNDS.value):
        for what, (call, number, _, kind) in calls.items():
            times[what].append(_timed(call)[1] / number)
            if ask is not None and kind is not None:
                answer = ask(network=name, batch=batch, kind=kind)
                peers[what].append(answer)
    for what, (_, _, passes, _) in calls.items():
        seconds = statistics.median(times[what])
        row = {
            'network': name,
            'batch': batch,
            'what': what,
            'seconds_per_image': seconds / batch,
            'first_call_seconds': first[what],
            'share_of_ceiling': passes * flops * batch / seconds / ceiling,
        }
        if peers[what]:
            row['peer_seconds_per_image'] = (
                statistics.median(peers[what]) / batch
            )
            row['ratio'] = statistics.median(
                ours / theirs
                for ours, theirs in zip(times[what], peers[what], strict=True)
            )
        yield row


def _flops(prior, x) -> float:
    """Of one pass on one image, by direct convolutions, before compilation."""
    plain = prior.replace(prepared={})
    return _forward.lower(plain, x[:1]).cost_analysis()['flops']


def _sweep_against_runs(prior):
    """Nine lanes of DPS at once, and one after the other."""
    settings = [{'zeta': float(zeta)} for zeta in range(1, 10)]
    num_steps = _STEPS['faces64']
    together = _sampler(prior, 'dps', 9, num_steps, settings)
    alone = _sampler(prior, 'dps', 1, num_steps)
    ratios = []
    for call in (together, alone):
        _timed(call)
    for _ in range(_ROUNDS.value):
        seconds = _timed(together)[1]
        ratios.append(seconds / sum(_timed(alone)[1] for _ in range(9)))
    return [('9 lanes / 9 single runs', f'{statistics.median(ratios):.2f}')]


def _step_alone(name: str) -> dict:
    """In a process of its own: seconds of the first call, peak memory."""
    call = _sampler(_prior(name), 'dps', 1, num_steps=1)
    first, second = _timed(call)[1], _timed(call)[1]
    return {
        'compile_seconds': first - second,
        'step_seconds': second,
        'peak_bytes': _peak_bytes(),
    }


def _peak_bytes() -> int:
    # Of a GPU, its own memory; of a CPU, the whole process.
    statistics_of_device = jax.devices()[0].memory_stats() or {}
    if 'peak_bytes_in_use' in statistics_of_device:
        return statistics_of_device['peak_bytes_in_use']
    return memory.peak_bytes()


def _processes():
    """Compile time and peak memory of a step of `ffhq256`, each in a process.

    Memory is that of a second process, which finds the program compiled.
    """
    found = []
    theirs = None
    if _PEER.value:
        with _peer() as ask:
            theirs = ask(network='ffhq256', batch=1, kind='memory')
        found.append(('peak memory, peer', f'{theirs / 2**30:.2f} GiB'))
    for label, chosen in (
        ('prepared', []),
        ('plain', ['--noprepare']),
        ('rematerialised', ['--noprepare', '--remat']),
    ):
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (_child(cache, chosen) for _ in range(2))
        peak = f'{warm["peak_bytes"] / 2**30:.2f} GiB'
        if theirs is not None:
            peak += f', {warm["peak_bytes"] / theirs:.2f} of the peer'
        found += [
            (
                f'ffhq256, {label}: compile, first / with the cache',
                f'{cold["compile_seconds"]:.1f} s / '
                f'{warm["compile_seconds"]:.1f} s',
            ),
            (f'ffhq256, {label}: step', f'{warm["step_seconds"]:.1f} s'),
            (f'ffhq256, {label}: peak memory', peak),
        ]
    return found


def _child(cache: str, chosen: list[str]) -> dict:
    command = [
        sys.executable,
        '-m',
        'experiments.benchmark',
        '--step_alone',
        '--networks=ffhq256',
        f'--dtype={common.DTYPE.value}',
        *chosen,
    ]
    environment = {**os.environ, 'JAX_COMPILATION_CACHE_DIR': cache}
    done = subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
    )
    return json.loads(done.stdout)


def _peer():
    """A context: question -> the other Python's answer; None without one."""
    if _PEER.value is None:
        return contextlib.nullcontext()
    return peer.start(_PEER.value, 'benchmark_peer.py')


def _line(row) -> str:
    text = (
        f'{row["network"]}, batch {row["batch"]}, {row["what"]}: '
        f'{1000 * row["seconds_per_image"]:.1f} ms an image, '
        f'{row["share_of_ceiling"]:.0%} of the ceiling'
    )
    if 'ratio' in row:
        text += f', {row["ratio"]:.2f} of the peer'
    return text


def _table(rows, others, ceiling) -> list[str]:
    lines = [
        f'Ceiling: {ceiling / 1e9:.0f} GFLOP/s on '
        f'{jax.devices()[0].device_kind}, {common.DTYPE.value}.',
        '',
        '| network | batch | what | ms an image | share of ceiling | '
        'first call, s | peer, ms | ours / peer |',
        '| --- ' * 8 + '|',
    ]
    for row in rows:
        peer = '| |'
        if 'ratio' in row:
            milliseconds = 1000 * row['peer_seconds_per_image']
            peer = f'{milliseconds:.1f} | {row["ratio"]:.2f} |'
        lines.append(
            f'| {row["network"]} | {row["batch"]} | {row["what"]} '
            f'| {1000 * row["seconds_per_image"]:.1f} '
            f'| {row["share_of_ceiling"]:.0%} '
            f'| {row["first_call_seconds"]:.1f} | {peer}'
        )
    lines += ['', '| | |', '| --- | --- |']
    for (network, batch), group in _groups(rows).items():
        inside = group['unconditional step'] / group['forward'] - 1
        against = group['DPS step'] / group['bare DPS step']
        lines += [
            f'| {network}, batch {batch}: sampler beyond the network '
            f'| {inside:.1%} |',
            f'| {network}, batch {batch}: DPS step in the sampler / bare '
            f'| {against:.2f} |',
        ]
    return lines + [f'| {name} | {value} |' for name, value in others]


def _groups(rows) -> dict:
    groups = {}
    for row in rows:
        group = groups.setdefault((row['network'], row['batch']), {})
        group[row['what']] = row['seconds_per_image']
    return groups


if __name__ == '__main__':
    common.run(main)
