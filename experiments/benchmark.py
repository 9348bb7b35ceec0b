"""What a step costs, and how near it comes to what the machine can do.

    python -m experiments.benchmark --out=benchmark
    python -m experiments.benchmark --peer=OTHER/bin/python --out=benchmark
    PYTHONPATH=EDM python -m experiments.benchmark --peer=OTHER/bin/python \\
        --networks=celebahq256,edm_ffhq64 --batches=1

Times are medians of `--rounds`, and a DPS or ScoreALD step is timed as the
sampler runs it. The ceiling is a large float32 matrix product in the same
process. With `--peer`, a Python that has PyTorch and deepinv, the same networks
run there in turn with ours: forward against forward, and a DPS step of ours
against the bare gradient of PyTorch's network.

The network of `ffhq256` has random weights. Its compile time and peak memory
are taken in processes of their own. Of `celebahq256` and `edm_ffhq64` the peer, with
diffusers and a clone of NVlabs/edm as EDM, writes files with random weights, which
are loaded and timed.

    python -m experiments.benchmark --accelerator --out=benchmark

measures a GPU in at most eight minutes, or --minutes, whatever it has come to by then: passes,
DPS steps, restorations and a sweep at 64 and 256 px in bfloat16, TF32 and
float32. With `--peer`, PyTorch too, eager and by `torch.compile`. On a CPU it
only shows that it runs, with a tiny network.

    python -m experiments.benchmark --training --peer=OTHER/bin/python --out=benchmark

times whole steps of training: loss, gradient, optimiser and averages. The peer
needs PyTorch, with deepinv for faces64 and diffusers for diffusers64, the network of
diffusers' own training example at 64 px.
"""

import os

import jax

from invjax import accelerating, benchmarking
from invjax.commandline import groups, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import benchmarks
from invjax.training import benchmark as training

FLAGS = Flags(__doc__)
FLAGS.strings(
    'networks',
    [],
    f'Of {", ".join(benchmarking.NETWORKS + benchmarking.WRITTEN)} '
    f'[{",".join(benchmarking.NETWORKS)}]; with --training of '
    f'{", ".join(training.NETWORKS)} [both].',
)
FLAGS.strings('batches', [], 'Images at once [1,8; with --training 32].')
FLAGS.integer('rounds', 5, 'Of each time.', at_least=1)
FLAGS.string('peer', None, 'A Python that can import torch and deepinv.')
FLAGS.choice('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
FLAGS.boolean(
    'prepare', True, 'On a CPU in float32: convolutions by minimal filtering.'
)
FLAGS.boolean(
    'remat', False, 'Recompute blocks in the gradient to save memory.'
)
FLAGS.boolean(
    'training', False, 'Time steps of training; --prepare is not read.'
)
FLAGS.boolean(
    'accelerator',
    False,
    'Measure a GPU; of the other flags, --minutes, --peer and --out alone are '
    'read.',
)
FLAGS.number(
    'minutes', 8, 'That --accelerator may take.', at_least=1, at_most=600
)
FLAGS.string('out', None, 'Folder for the results; by default a new one.')


def main(given):
    if given.accelerator:
        _accelerator(given)
        return
    what, networks, batches = benchmarking, benchmarking.NETWORKS, ['1', '8']
    if given.training:
        what, networks, batches = training, training.NETWORKS, ['32']
    networks, batches = given.networks or networks, given.batches or batches
    for batch in batches:
        if not (batch.isascii() and batch.isdigit() and int(batch)):
            raise ValueError(f'--batches must be 1 or more, got {batch!r}.')
    asked = benchmarking.Benchmark(
        networks,
        [int(batch) for batch in batches],
        given.rounds,
        given.peer,
        given.dtype,
        given.prepare,
        given.remat,
    )
    what.check(asked)
    if given.training:
        # As a run does.
        groups.divide_cpu(None)
    out = record.make_folder(given.out, 'benchmark')
    record.say_if_replaced(out, 'benchmark.md')
    measured = what.measure(asked)
    lines = benchmarks.table(measured)
    (out / 'benchmark.md').write_text('\n'.join(lines) + '\n')
    record.write_json(
        out / 'benchmark.json',
        {
            'ceiling_flops': measured.ceiling,
            'rows': measured.rows,
            'others': dict(measured.others),
            **record.provenance(given),
        },
    )
    print('\n'.join(['', *lines]))


def _accelerator(given):
    # Else JAX takes most of a GPU's memory, and leaves PyTorch none.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    out = record.make_folder(given.out, 'benchmark')
    record.say_if_replaced(out, 'accelerator.md')
    kind = jax.devices()[0].device_kind
    peaks = accelerating.peak_flops(kind, 'bfloat16')
    words = 'its peak is not known, so there are no shares of it'
    if peaks is not None:
        words = f'peak {peaks / 1e12:.0f} TFLOP/s in bfloat16'
    provenance = record.provenance(given)

    def write(rows):
        lines = benchmarks.accelerator_table(rows, kind, words)
        (out / 'accelerator.md').write_text('\n'.join(lines) + '\n')
        record.write_json(
            out / 'accelerator.json', {'rows': list(rows), **provenance}
        )

    plan = accelerating.plan_here(given.minutes)
    accelerating.measure(plan, given.peer, write)
    print(f'table: {out / "accelerator.md"}')


def needs_huge_pages(given) -> bool:
    # As `train` has them.
    return given.training


if __name__ == '__main__':
    run(main, FLAGS, needs_huge_pages=needs_huge_pages)
