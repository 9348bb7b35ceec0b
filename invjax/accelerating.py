"""What an accelerator can do, in a few minutes.

Passes and DPS steps of the networks in several precisions and batches, whole
restorations, a sweep, and the same networks in PyTorch. Each part has a time and
leaves out, with a word, what it does not come to; each number is handed over as it
is measured, so that a card that is lent for minutes leaves what there is. What does
not fit into memory ends its row alone.

FLOPs are those of direct convolutions, counted before compilation
(`benchmarking`); back to the image costs as much as forward.
"""

import contextlib
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import batch as batching
from invjax import benchmarking
from invjax.comparison import peer
from invjax.methods import METHODS
from invjax.priors.unet import UNet

# Of matrix products without sparsity, FLOP/s, by the makers' data sheets; the
# first name that a card's kind has in it.
_PEAKS = {
    'H100 PCIe': {'bfloat16': 756e12, 'tf32': 378e12, 'float32': 51e12},
    'H100': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12},
    'H200': {'bfloat16': 989e12, 'tf32': 495e12, 'float32': 67e12},
    'A100': {'bfloat16': 312e12, 'tf32': 156e12, 'float32': 19.5e12},
    'L40S': {'bfloat16': 362e12, 'tf32': 183e12, 'float32': 91.6e12},
    'L4': {'bfloat16': 121e12, 'tf32': 60e12, 'float32': 30.3e12},
}
# As `jax.default_matmul_precision` calls them; it says how convolutions are
# computed, too.
_PRECISIONS = {
    'bfloat16': 'default',
    'tf32': 'tensorfloat32',
    'float32': 'float32',
}
_SETTINGS = 27
# A timed call is repeated so often, or as long.
_MOST_REPEATS, _MOST_SECONDS = 20, 1.5


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured, and how long it may take.

    Attributes:
        networks: of 'faces64', 'ffhq256' (random weights) and 'tiny'.
        precisions: keys of _PRECISIONS, what matters most first.
        batches: images at once, in passes and steps.
        batch: images at once, in whole restorations.
        wiener_steps, dps_steps, sweep_steps: of whole restorations.
        seconds: by part, in their order.
    """

    networks: Sequence[str] = ('ffhq256', 'faces64')
    precisions: Sequence[str] = ('bfloat16', 'tf32', 'float32')
    batches: Sequence[int] = (16, 1, 64, 4)
    batch: int = 16
    wiener_steps: int = 20
    dps_steps: int = 1000
    sweep_steps: int = 100
    seconds: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: {
            'networks': 200,
            'restorations': 130,
            'sweep': 40,
            'PyTorch': 80,
        }
    )


# For a first look at a CPU, which shows that the script runs and no more.
SMALL = Plan(
    networks=('tiny',),
    precisions=('float32', 'bfloat16'),
    batches=(2, 1),
    batch=2,
    wiener_steps=4,
    dps_steps=20,
    sweep_steps=2,
)


class Item(NamedTuple):
    """One thing that is measured.

    Attributes:
        labels: what it is.
        measure: (seconds that it may take) -> numbers.
    """

    labels: Mapping[str, Any]
    measure: Callable[[float], Mapping[str, Any]]


def peak_flops(device_kind: str, precision: str) -> float | None:
    """FLOP/s of matrix products by the data sheet; None where it is not known."""
    for name, peaks in _PEAKS.items():
        if name in device_kind:
            return peaks[precision]
    return None


def plan_here(minutes: float = 8) -> Plan:
    """The whole plan in at most so many minutes, or on a CPU the small one."""
    plan = SMALL if jax.default_backend() == 'cpu' else Plan()
    # Half a minute goes into what is outside of the parts.
    factor = (60 * minutes - 30) / sum(plan.seconds.values())
    seconds = {part: factor * given for part, given in plan.seconds.items()}
    return dataclasses.replace(plan, seconds=seconds)


def measure(
    plan: Plan,
    python: str | None = None,
    write: Callable[[Sequence[Mapping]], None] = lambda rows: None,
    say: Callable[[str], None] = print,
) -> list[dict]:
    """Measure all that there is time for.

    Args:
        plan: what, and how long.
        python: one that can import torch and deepinv, or None.
        write: called with all rows after each new one.
        say: called with a line a row.

    Returns:
        Rows: `part`, what was measured, and numbers, or why it was `left_out`.
    """
    rows: list[dict] = []

    def add(row):
        rows.append(row)
        write(rows)
        say(', '.join(f'{n} {_short(v)}' for n, v in row.items()))

    parts: dict[str, Callable[[Plan], Iterator[Item]]] = {
        'networks': _networks,
        'restorations': _restorations,
        'sweep': _sweep,
        'PyTorch': functools.partial(_torch, python),
    }
    end = time.monotonic() + sum(plan.seconds.values())
    for part, seconds in plan.seconds.items():
        seconds = min(seconds, end - time.monotonic())
        for row in run_part(parts[part](plan), seconds):
            add({'part': part, **row})
    return rows


def _short(value) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def run_part(items: Iterator[Item], seconds: float) -> Iterator[dict]:
    """Measure items one after the other, as long as there is time.

    An item is not begun where less time is left than the longest so far took,
    and what is out of memory is left out with a word.
    """
    end = time.monotonic() + seconds
    longest = 0.0
    for item in items:
        start = time.monotonic()
        if start + longest > end:
            words = (
                f'this and the rest: the {seconds:.0f} s of this part are over'
            )
            yield {**item.labels, 'left_out': words}
            return
        try:
            found = item.measure(end - start)
        except (jax.errors.JaxRuntimeError, ValueError) as error:
            found = {'left_out': _why(error)}
        longest = max(longest, time.monotonic() - start)
        yield {**item.labels, **found}


def _why(error: Exception) -> str:
    if 'RESOURCE_EXHAUSTED' in str(error):
        return 'out of memory'
    return ' '.join(str(error).split())[:200]


@contextlib.contextmanager
def _computing(precision: str):
    with jax.default_matmul_precision(_PRECISIONS[precision]):
        yield


@functools.cache
def _prior(name: str, precision: str):
    dtype = 'bfloat16' if precision == 'bfloat16' else 'float32'
    if name == 'tiny':
        network = UNet(
            image_size=16,
            model_channels=32,
            channel_mult=(1, 2),
            attention_downsamplings=(2,),
            head_channels=32,
            dtype=jnp.dtype(dtype),
        )
        return benchmarking.random_prior(network)
    asked = benchmarking.Benchmark(dtype=dtype, prepare=False)
    return benchmarking.make_prior(name, asked)


def _networks(plan: Plan) -> Iterator[Item]:
    """A pass forward, and a step of DPS as a function that the host calls."""
    for batch in plan.batches:
        for precision in plan.precisions:
            for name in plan.networks:
                for what in ('forward', 'DPS step'):
                    labels = {
                        'network': name,
                        'batch': batch,
                        'precision': precision,
                        'what': what,
                    }
                    yield Item(labels, functools.partial(_of_network, labels))


def _of_network(labels, seconds) -> dict:
    del seconds
    batch, precision = labels['batch'], labels['precision']
    prior = _prior(labels['network'], precision)
    x = jax.random.normal(jax.random.key(0), (batch, *prior.image_shape))
    with _computing(precision):
        start = time.perf_counter()
        if labels['what'] == 'forward':
            args, passes = (prior, x), 1
            program = benchmarking.forward.lower(*args).compile()
        else:
            args, passes = benchmarking.arguments_of_dps(prior, x), 2
            program = benchmarking.bare_dps.lower(*args).compile()
        compiling = time.perf_counter() - start
        flops = passes * benchmarking.flops_of_pass(prior, x)
    taken = _median_seconds(lambda: program(*args))
    found = {
        'ms_per_image': 1000 * taken / batch,
        'tflops_per_second': flops * batch / taken / 1e12,
        'compile_seconds': compiling,
        'gib': _bytes(program.memory_analysis()) / 2**30,
    }
    peak = peak_flops(jax.devices()[0].device_kind, precision)
    if peak is not None:
        found['share_of_peak'] = flops * batch / taken / peak
    return found


def _bytes(memory) -> int:
    """Of a program: its arguments, its results and what it needs between."""
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )


def _median_seconds(run: Callable[[], Any]) -> float:
    jax.block_until_ready(run())
    found: list[float] = []
    while len(found) < 3 or (
        len(found) < _MOST_REPEATS and sum(found) < _MOST_SECONDS
    ):
        start = time.perf_counter()
        jax.block_until_ready(run())
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _restorations(plan: Plan) -> Iterator[Item]:
    """Whole restorations, as `restore --num_samples` runs them."""
    for name in plan.networks:
        for precision in plan.precisions[:2]:
            for method, num_steps in (
                ('wiener', plan.wiener_steps),
                ('dps', plan.dps_steps),
            ):
                labels = {
                    'network': name,
                    'batch': plan.batch,
                    'precision': precision,
                    'what': f'{num_steps} steps of {method}',
                }
                methods = [METHODS[method]()]
                yield Item(
                    labels,
                    functools.partial(_of_sampler, labels, methods, num_steps),
                )


def _sweep(plan: Plan) -> Iterator[Item]:
    """One image, 27 settings of DPS at once."""
    labels = {
        'network': plan.networks[-1],
        'batch': _SETTINGS,
        'precision': plan.precisions[0],
        'what': f'{_SETTINGS} settings, {plan.sweep_steps} steps of dps',
    }
    zetas = np.geomspace(0.1, 10, _SETTINGS)
    methods = [METHODS['dps'].of({'zeta': float(zeta)}) for zeta in zetas]
    yield Item(
        labels,
        functools.partial(_of_sampler, labels, methods, plan.sweep_steps),
    )


class _EnoughError(Exception):
    """The time of a measurement is up."""


def _of_sampler(labels, methods, num_steps: int, seconds: float) -> dict:
    """Seconds of a restoration; by fewer steps where the time does not do."""
    end = time.monotonic() + seconds
    batch = labels['batch']
    prior = _prior(labels['network'], labels['precision'])
    lanes = batching.make_lanes(
        jax.random.key(0),
        [benchmarking.a_problem(prior)],
        methods,
        batch // len(methods),
    )
    stretch = max(num_steps // 10, 2)
    run = functools.partial(
        batching.run_lanes,
        lanes,
        prior,
        max_lanes=batch,
        stretch=stretch,
        devices=jax.devices()[:1],
    )
    marks: list[tuple[float, int]] = []

    def note(done, total):
        del total
        marks.append((time.monotonic(), done))
        if len(marks) > 2 and time.monotonic() > end:
            raise _EnoughError

    with _computing(labels['precision']):
        start = time.monotonic()
        run(stretch)
        first = time.monotonic() - start
        with contextlib.suppress(_EnoughError):
            run(num_steps, on_progress=note)
    (begin, _), (last, done) = marks[0], marks[-1]
    taken = (last - begin) * num_steps * batch / done
    found = {
        'seconds_per_image': taken / batch,
        'first_call_seconds': first,
    }
    if done < num_steps * batch:
        found['of_steps'] = done // batch
    return found


def _torch(python: str | None, plan: Plan) -> Iterator[Item]:
    """The same networks in PyTorch: passes, and gradients back to the image."""
    modes = ('eager', 'torch.compile')
    names = [n for n in plan.networks if n != 'tiny'] or ['faces64']
    items = [
        {
            'network': name,
            'batch': batch,
            'precision': precision,
            'what': what,
            'mode': mode,
        }
        for mode in modes
        for name in names
        for batch in plan.batches[:2]
        for precision in plan.precisions[:2]
        for what in ('forward', 'gradient')
    ]
    if python is None:
        # There is no Python with PyTorch, which is no fault.
        yield Item({}, lambda seconds: {'left_out': 'no --peer was given'})
        return
    with contextlib.ExitStack() as stack:
        asks: list[Callable] = []
        for labels in items:

            def ask(seconds, labels=labels):
                if not asks:
                    asks.append(
                        stack.enter_context(
                            peer.start(
                                python, 'benchmark_peer.py', seconds=seconds
                            )
                        )
                    )
                taken = asks[0](
                    network=labels['network'],
                    batch=labels['batch'],
                    kind=labels['what'],
                    precision=labels['precision'],
                    compiled=labels['mode'] != 'eager',
                    repeats=5,
                )
                return {'ms_per_image': 1000 * taken / labels['batch']}

            yield Item(labels, ask)
