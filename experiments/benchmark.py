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
"""

from invjax import benchmarking
from invjax.commandline import record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import benchmarks

FLAGS = Flags(__doc__)
FLAGS.strings(
    'networks',
    benchmarking.NETWORKS,
    f'Of {", ".join(benchmarking.NETWORKS + benchmarking.WRITTEN)}.',
)
FLAGS.strings('batches', ['1', '8'], 'Images at once.')
FLAGS.integer('rounds', 5, 'Of each time.', at_least=1)
FLAGS.string('peer', None, 'A Python that can import torch and deepinv.')
FLAGS.choice('dtype', 'float32', ['float32', 'bfloat16'], 'Of the computation.')
FLAGS.boolean(
    'prepare', True, 'On a CPU in float32: convolutions by minimal filtering.'
)
FLAGS.boolean(
    'remat', False, 'Recompute blocks in the gradient to save memory.'
)
FLAGS.string('out', None, 'Folder for the results; by default a new one.')


def main(given):
    for batch in given.batches:
        if not (batch.isascii() and batch.isdigit() and int(batch)):
            raise ValueError(f'--batches must be 1 or more, got {batch!r}.')
    asked = benchmarking.Benchmark(
        given.networks,
        [int(batch) for batch in given.batches],
        given.rounds,
        given.peer,
        given.dtype,
        given.prepare,
        given.remat,
    )
    benchmarking.check(asked)
    out = record.make_folder(given.out, 'benchmark')
    record.say_if_replaced(out, 'benchmark.md')
    measured = benchmarking.measure(asked)
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


if __name__ == '__main__':
    run(main, FLAGS)
