"""What a step costs, and how near it comes to what the machine can do.

Times are medians of several rounds, and a DPS or ScoreALD step is timed as the
sampler runs it. The ceiling is a large float32 matrix product in the same
process. Beside a Python that has PyTorch and deepinv the same networks run in
turn with ours (`comparison/benchmark_peer.py`): forward against forward, and a
DPS step of ours against the bare gradient of PyTorch's network.

The network of `ffhq256` has random weights. Its compile time and peak memory
are taken in processes of their own.

Of `celebahq256` and `edm_ffhq64` the peer writes the file, with random weights, by
the code of their authors (`comparison/written_peer.py`). It is loaded here as any
file is, which is timed, and a pass of it runs in turn with the peer's: forward
against forward, and gradient against gradient.
"""

import contextlib
import dataclasses
import functools
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import batch as batching
from invjax import operators, problem, schedule
from invjax.comparison import memory, peer
from invjax.methods import METHODS
from invjax.priors import checkpoint
from invjax.priors.unet import NetworkPrior, UNet

NETWORKS = ('faces64', 'ffhq256')
# Those of which the peer writes the file.
WRITTEN = ('celebahq256', 'edm_ffhq64')


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """What is measured.

    Attributes:
        networks: of NETWORKS and WRITTEN.
        batches: images at once.
        rounds: of each time.
        peer: a Python that can import torch and deepinv, or for WRITTEN what
            `comparison/written_peer.py` says; or None.
        dtype: of the computation, 'float32' or 'bfloat16'.
        prepare: on a CPU in float32, convolutions by minimal filtering.
        remat: recompute blocks in the gradient to save memory.
        kept: the folder of each of WRITTEN, where it has been loaded.
    """

    networks: Sequence[str] = NETWORKS
    batches: Sequence[int] = (1, 8)
    rounds: int = 5
    peer: str | None = None
    dtype: str = 'float32'
    prepare: bool = True
    remat: bool = False
    kept: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What came out.

    Attributes:
        ceiling: FLOP/s of a large matrix product.
        rows: dicts, one a network, batch and kind of step.
        others: name to what was measured besides, in words.
        dtype: of the computation.
        device: what kind it is.
    """

    ceiling: float
    rows: Sequence[dict]
    others: Sequence[tuple[str, str]]
    dtype: str
    device: str


# Of the sampler in each timed call; a step of the large one takes seconds.
_STEPS = {'faces64': 10, 'ffhq256': 3}
_CEILING_SIDE = 3072
_T = 500
# The most images of 256 x 256 at once on a CPU.
_LARGEST_ON_CPU = 1


def check(asked: Benchmark) -> None:
    """Refuse, with a ValueError, networks that there are not."""
    for name in asked.networks:
        if name not in NETWORKS + WRITTEN:
            raise ValueError(
                f'--networks must be of {", ".join(NETWORKS + WRITTEN)}, got '
                f'{name!r}.'
            )
        if name in WRITTEN and asked.peer is None:
            raise ValueError(f'{name} needs --peer, which writes its file.')


def measure(asked: Benchmark, say: Callable[[str], None] = print) -> Measured:
    """Measure all; `say` is called with a line a row."""
    measured: list[dict] = []
    others: list[tuple[str, str]] = []
    ceiling = ceiling_flops()
    for name in WRITTEN:
        if name in asked.networks:
            measured += _of_written(name, asked, ceiling, others, say)
    ours = [name for name in asked.networks if name in NETWORKS]
    with _peer(asked) if ours else contextlib.nullcontext() as ask:
        for name in ours:
            prior, seconds = _timed(lambda name=name: make_prior(name, asked))
            others.append((f'{name}: load', f'{seconds:.1f} s'))
            for batch in asked.batches:
                is_cpu = jax.default_backend() == 'cpu'
                if name == 'ffhq256' and is_cpu and batch > _LARGEST_ON_CPU:
                    say(f'{name}, batch {batch}: left out on a CPU.')
                    continue
                for found in rows(
                    name,
                    prior,
                    batch,
                    _STEPS[name],
                    asked.rounds,
                    ceiling,
                    ask,
                ):
                    measured.append(found)
                    say(line(found))
            if name == 'faces64':
                others += _sweep_against_runs(prior, asked.rounds)
    if 'ffhq256' in asked.networks:
        others += _processes(asked)
    device = jax.devices()[0].device_kind
    return Measured(ceiling, measured, others, asked.dtype, device)


def make_prior(name: str, asked: Benchmark):
    """The network, with random weights where the real ones are not at hand."""
    dtype = jnp.dtype(asked.dtype)
    if name == 'faces64' or name in asked.kept:
        prior = checkpoint.load_prior(
            asked.kept.get(name, name), dtype=dtype, remat=asked.remat
        )
    else:
        prior = random_prior(UNet(dtype=dtype, remat=asked.remat))
    is_cpu = jax.default_backend() == 'cpu'
    if asked.prepare and is_cpu and dtype == jnp.float32:
        prior = prior.prepare()
    return jax.block_until_ready(prior)


def random_prior(network: UNet) -> NetworkPrior:
    """A prior of that network with random weights, which compute as others."""
    x = jax.ShapeDtypeStruct(
        (network.image_size, network.image_size, 3), jnp.float32
    )
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, 0)
    rng = np.random.default_rng(0)

    def draw(leaf):
        values = rng.standard_normal(leaf.shape, np.float32)
        return jnp.asarray(0.02 * values)

    return NetworkPrior(jax.tree.map(draw, shapes['params']), network)


def _timed(call):
    start = time.perf_counter()
    result = jax.block_until_ready(call())
    return result, time.perf_counter() - start


def ceiling_flops() -> float:
    """FLOP/s of a large float32 matrix product; the best of all rounds."""
    a = jnp.ones((_CEILING_SIDE, _CEILING_SIDE))
    product = jax.jit(jnp.matmul)
    _timed(lambda: product(a, a))
    seconds = [_timed(lambda: product(a, a))[1] for _ in range(10)]
    return 2 * _CEILING_SIDE**3 / min(seconds)


@jax.jit
def forward(prior, x):
    """One pass of the network, on images (B, H, W, C)."""
    return jax.vmap(lambda x: prior(x, _T).eps)(x)


def arguments_of_dps(prior, x) -> tuple:
    """What `bare_dps` takes for images, (B, H, W, C), in a step amid 1,000."""
    steps = schedule.reverse_steps(prior.alpha_bar)
    step = schedule.Steps(*(jnp.asarray(field[_T]) for field in steps))
    of_lanes = jax.random.split(jax.random.key(2), len(x))
    return prior, x, of_lanes, a_problem(prior), step


@jax.jit
def _gradient(prior, x):
    """Of the sum of squares, back to the images."""
    return jax.grad(lambda x: jnp.sum(jnp.square(forward(prior, x))))(x)


@jax.jit
def bare_dps(prior, x, keys, measured, step):
    """The step of DPS alone, as a function that the host calls."""
    dps = METHODS['dps']()
    return jax.vmap(
        lambda key, x: dps.update(key, x, (), step, measured, prior)
    )(keys, x)


def a_problem(prior):
    """An inpainting problem of the prior's size."""
    key = jax.random.key(1)
    operator = operators.make_operator('box_inpainting', key, prior.image_shape)
    x = jax.random.uniform(key, prior.image_shape, minval=-1)
    return problem.measure(key, x, operator)


def _sampler(prior, methods, batch, num_steps):
    """A call of the whole sampler on that many lanes at once."""
    measured = a_problem(prior)
    lanes = batching.make_lanes(
        jax.random.key(0), [measured], methods, batch // len(methods)
    )
    return lambda: (
        batching.run_lanes(
            lanes,
            prior,
            num_steps,
            max_lanes=batch,
            stretch=num_steps,
            devices=jax.devices()[:1],
        ).x
    )


class Call(NamedTuple):
    """What is timed.

    Attributes:
        run: () -> something to wait for.
        num_steps: that it takes.
        passes: of the network's arithmetic in a step; back to the input costs
            as much as forward.
        peer_kind: what the peer does meanwhile, or None.
        before: () -> something to wait for, before each time and not timed.
    """

    run: Callable[[], Any]
    num_steps: int
    passes: int
    peer_kind: str | None = None
    before: Callable[[], Any] | None = None


class Timed(NamedTuple):
    """Seconds of a call.

    Attributes:
        first: of the first call, compilation included.
        ours: of a step, in each round.
        theirs: of the peer's pass in the same rounds; nothing without one.
    """

    first: float
    ours: list[float]
    theirs: list[float]


def time_calls(
    calls: Mapping[str, Call],
    rounds: int,
    ask_peer: Callable[[str], float] | None = None,
) -> dict[str, Timed]:
    """Time calls in turn, so that a slow minute of the machine meets all.

    Args:
        calls: by name.
        rounds: of each.
        ask_peer: kind of pass -> the peer's seconds, or None.
    """
    found = {
        what: Timed(_timed(call.run)[1], [], []) for what, call in calls.items()
    }
    if ask_peer is not None:
        for kind in dict.fromkeys(call.peer_kind for call in calls.values()):
            if kind is not None:
                ask_peer(kind)  # Its first pass is slower.
    for _ in range(rounds):
        for what, call in calls.items():
            if call.before is not None:
                jax.block_until_ready(call.before())
            seconds = _timed(call.run)[1]
            found[what].ours.append(seconds / call.num_steps)
            if ask_peer is not None and call.peer_kind is not None:
                found[what].theirs.append(ask_peer(call.peer_kind))
    return found


def row(
    call: Call, timed: Timed, batch: int, flops: float, ceiling: float
) -> dict[str, float]:
    """What a table has of a call.

    Args:
        call, timed: see there.
        batch: images at once.
        flops: of one pass of the network on one image.
        ceiling: FLOP/s of the machine.

    Returns:
        Medians over the rounds: `seconds_per_image` of a step, its
        `share_of_ceiling`, and `peer_seconds_per_image` and the `ratio` of ours
        to it where there is a peer; and `first_call_seconds`.
    """
    seconds = statistics.median(timed.ours)
    found = {
        'seconds_per_image': seconds / batch,
        'first_call_seconds': timed.first,
        'share_of_ceiling': call.passes * flops * batch / seconds / ceiling,
    }
    if timed.theirs:
        ratios = [o / t for o, t in zip(timed.ours, timed.theirs, strict=True)]
        found['peer_seconds_per_image'] = (
            statistics.median(timed.theirs) / batch
        )
        found['ratio'] = statistics.median(ratios)
    return found


def rows(
    name: str, prior, batch: int, num_steps: int, rounds: int, ceiling, ask=None
) -> list[dict]:
    """What each kind of step of a network costs, a row a kind.

    Args:
        name: of the network.
        prior: a `NetworkPrior`.
        batch: images at once.
        num_steps: of the sampler in each timed call, 2 or more.
        rounds: of each time.
        ceiling: FLOP/s of the machine.
        ask: a question -> the peer's answer, or None.
    """
    x = jax.random.normal(jax.random.key(0), (batch, *prior.image_shape))

    def sampler(method):
        methods = [METHODS[method]()]
        return _sampler(prior, methods, batch, num_steps)

    of_a_step = arguments_of_dps(prior, x)
    calls = {
        'forward': Call(lambda: forward(prior, x), 1, 1, 'forward'),
        'unconditional step': Call(sampler('unconditional'), num_steps, 1),
        'ScoreALD step': Call(sampler('score_ald'), num_steps, 1),
        'DPS step': Call(sampler('dps'), num_steps, 2, 'gradient'),
        'bare DPS step': Call(lambda: bare_dps(*of_a_step), 1, 2),
    }
    return _rows(name, prior, x, calls, rounds, ceiling, ask)


def _rows(name, prior, x, calls, rounds, ceiling, ask) -> list[dict]:
    """A row a call, of a network on images x, (B, H, W, C)."""
    batch, ask_peer = len(x), None
    if ask is not None:
        ask_peer = functools.partial(_ask, ask, name, batch)
    timed = time_calls(calls, rounds, ask_peer)
    flops = flops_of_pass(prior, x)
    return [
        {
            'network': name,
            'batch': batch,
            'what': what,
            **row(call, timed[what], batch, flops, ceiling),
        }
        for what, call in calls.items()
    ]


def _ask(ask, name, batch, kind) -> float:
    return ask(network=name, batch=batch, kind=kind)


def flops_of_pass(prior, x) -> float:
    """Of one pass on one image, by direct convolutions, before compilation.

    Args:
        prior: with a network.
        x: (B, H, W, C), or its shape and type.
    """
    plain = prior.replace(prepared={})
    # Compilers of GPUs do not count them.
    try:
        (cpu, *_) = jax.local_devices(backend='cpu')
    except RuntimeError:  # JAX_PLATFORMS may leave it out.
        return math.nan
    with jax.default_device(cpu):
        one = jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype)
        shapes = jax.eval_shape(lambda *args: args, plain, one)
        costs = forward.lower(*shapes).cost_analysis()
    return math.nan if costs is None else costs['flops']


def _of_written(
    name: str, asked: Benchmark, ceiling, others: list, say
) -> list[dict]:
    """Rows of a network whose file the peer writes; adds to `others`."""
    python = asked.peer
    assert python is not None, '`check` refuses it.'
    found = []
    with (
        tempfile.TemporaryDirectory() as folder,
        peer.start(python, 'written_peer.py', 'torch') as ask,
    ):
        path = ask(network=name, kind='write', folder=folder)
        keep = pathlib.Path(folder) / 'kept'
        loads = [
            _in_a_process('load_alone', path, keep=str(keep)) for _ in range(2)
        ]
        (kept,) = keep.iterdir()
        asked = dataclasses.replace(asked, kept={name: str(kept)})
        prior = make_prior(name, asked)
        for batch in asked.batches:
            x = jax.random.normal(
                jax.random.key(0), (batch, *prior.image_shape)
            )
            calls = {
                kind: Call(
                    functools.partial(function, prior, x), 1, passes, kind
                )
                for kind, function, passes in (
                    ('forward', forward, 1),
                    ('gradient', _gradient, 2),
                )
            }
            found += _rows(name, prior, x, calls, asked.rounds, ceiling, ask)
            for made in found[-len(calls) :]:
                say(line(made))
        with peer.start(python, 'written_peer.py', 'torch') as fresh:
            theirs = fresh(network=name, batch=1, kind='memory')
        with tempfile.TemporaryDirectory() as cache:
            plain = dataclasses.replace(asked, prepare=False)
            _, step = (step_in_a_process(name, plain, cache) for _ in range(2))
    first, again = (f'{load["seconds"]:.1f} s' for load in loads)
    peaks = [load['peak_bytes'] / 2**30 for load in loads]
    others += [
        (f'{name}: load its file / what is kept of it', f'{first} / {again}'),
        (
            f'{name}: peak memory of these',
            ' / '.join(f'{peak:.2f} GiB' for peak in peaks),
        ),
        (
            f'{name}: peak memory of a DPS step, plain',
            f'{step["peak_bytes"] / 2**30:.2f} GiB, '
            f'{step["peak_bytes"] / theirs:.2f} of the peer with a gradient',
        ),
    ]
    return found


def load_alone(path: str) -> dict:
    """In a process of its own: seconds to load a prior, peak memory."""
    _, seconds = _timed(lambda: checkpoint.load_prior(path, check=False))
    return {'seconds': seconds, 'peak_bytes': _peak_bytes()}


def _sweep_against_runs(prior, rounds):
    """Nine lanes of DPS at once, and one after the other."""
    methods = [
        METHODS['dps'].of({'zeta': float(zeta)}) for zeta in range(1, 10)
    ]
    num_steps = _STEPS['faces64']
    together = _sampler(prior, methods, 9, num_steps)
    alone = _sampler(prior, methods[:1], 1, num_steps)
    ratios = []
    for call in (together, alone):
        _timed(call)
    for _ in range(rounds):
        seconds = _timed(together)[1]
        ratios.append(seconds / sum(_timed(alone)[1] for _ in range(9)))
    return [('9 lanes / 9 single runs', f'{statistics.median(ratios):.2f}')]


def step_alone(name: str, asked: Benchmark) -> dict:
    """In a process of its own: seconds of the first call, peak memory."""
    call = _sampler(make_prior(name, asked), [METHODS['dps']()], 1, num_steps=1)
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


def _processes(asked: Benchmark):
    """Compile time and peak memory of a step of `ffhq256`, each in a process.

    Memory is that of a second process, which finds the program compiled.
    """
    found = []
    theirs = None
    if asked.peer:
        with _peer(asked) as ask:
            theirs = ask(network='ffhq256', batch=1, kind='memory')
        found.append(('peak memory, peer', f'{theirs / 2**30:.2f} GiB'))
    for label, prepare, remat in (
        ('prepared', asked.prepare, asked.remat),
        ('plain', False, asked.remat),
        ('rematerialised', False, True),
    ):
        child = dataclasses.replace(asked, prepare=prepare, remat=remat)
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = (
                step_in_a_process('ffhq256', child, cache) for _ in range(2)
            )
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


# Where this process found the package, so that another has the same code.
_ROOT = pathlib.Path(__file__).parents[1]
_CHILD = """
import json, sys
from invjax import benchmarking
function, name, fields = json.loads(sys.argv[1])
asked = [benchmarking.Benchmark(**fields)] if fields else []
print(json.dumps(getattr(benchmarking, function)(name, *asked)))
"""


def step_in_a_process(name: str, asked: Benchmark, cache: str) -> dict:
    """`step_alone` in a process of its own.

    Args:
        name: of the network.
        asked: how it is computed.
        cache: folder of compiled programs.
    """
    return _in_a_process('step_alone', name, dataclasses.asdict(asked), cache)


def _in_a_process(function, name, fields=None, cache=None, keep=None) -> dict:
    """What a function of this module answers in a process of its own."""
    question = json.dumps([function, name, fields])
    environment = {
        **os.environ,
        'PYTHONPATH': os.pathsep.join([str(_ROOT), *filter(None, sys.path)]),
        **({'JAX_COMPILATION_CACHE_DIR': cache} if cache else {}),
        **({'INVJAX_CHECKPOINTS': keep} if keep else {}),
    }
    done = subprocess.run(
        [sys.executable, '-c', _CHILD, question],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout)


def _peer(asked: Benchmark):
    """A context: question -> the other Python's answer; None without one."""
    if asked.peer is None:
        return contextlib.nullcontext()
    return peer.start(asked.peer, 'benchmark_peer.py')


def line(row: Mapping[str, Any]) -> str:
    """A row in a line, for a terminal."""
    text = (
        f'{row["network"]}, batch {row["batch"]}, {row["what"]}: '
        f'{1000 * row["seconds_per_image"]:.1f} ms an image, '
        f'{row["share_of_ceiling"]:.0%} of the ceiling'
    )
    if 'ratio' in row:
        text += f', {row["ratio"]:.2f} of the peer'
    return text
