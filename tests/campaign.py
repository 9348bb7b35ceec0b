"""Try damaged inputs by the thousand, and kill runs at random moments.

    python -m tests.campaign --count=10000 --kills=50 --out=out/campaign

Every input is an original that something has happened to (`damage.py`): flipped
bits, a cut, parts left out, doubled or of another file, other types and numbers.
It is read as a user's program would, by a process that may take two seconds of
computing and 500 MB for each megabyte. The outcomes:

    right        the answer is right, by a check that does not use the reader
    refused      one sentence, a ValueError
    traceback    any other exception, or a sentence that does not print
    hang         more time or memory than that, or a reader that died
    wrong        an answer that is not right, without a word
    lost         a fault after a kill (`kills.py`)

All but the first two are faults, listed with the seed that makes them again:
`--only=KIND --first=I --count=1`. The same seed tries the same inputs.
"""

import argparse
import collections
import concurrent.futures
import json
import logging
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

from tests import damage, kills

ROOT = pathlib.Path(__file__).resolve().parents[1]
OUTCOMES = ('right', 'refused', 'traceback', 'hang', 'wrong')
_FAULTS = ('traceback', 'hang', 'wrong')
# Of the clock, after which a reader is ended; on a busy machine that is not yet
# a fault of its own.
_TIMEOUT = 60
_SECONDS, _MEGABYTES = 2.0, 500.0  # of the processor, and of memory


def plan(count: int, first: int = 0, only: str = '') -> list[tuple[str, int]]:
    """Which inputs are tried: kinds by their shares, numbered from `first`."""
    names = [name for name in damage.KINDS if only in name]
    total = sum(damage.KINDS[name].share for name in names)
    chosen = []
    for name in names:
        number = -(-count * damage.KINDS[name].share // total)
        chosen += [(name, first + i) for i in range(number)]
    return chosen[:count] if len(names) == 1 else chosen


def _peak() -> float:
    """The most memory since it was last asked, in MB."""
    lines = pathlib.Path('/proc/self/status').read_text().splitlines()
    found = next(int(x.split()[1]) for x in lines if x.startswith('VmHWM'))
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    return found / 1e3


def try_inputs(
    inputs: list[tuple[str, int]], seed: int
) -> Iterator[tuple[str, int, str, str]]:
    """Try inputs in this process: kind, number, outcome, what was found."""
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as holder:
        benches = {}
        for name, number in inputs:
            if name not in benches:
                folder = pathlib.Path(holder, str(len(benches)))
                folder.mkdir()
                benches[name] = damage.Bench(name, folder)
                benches[name].check()
            _peak()
            before, start = _peak(), time.process_time()
            outcome, found = benches[name].try_one(f'{seed} {number}')
            seconds = time.process_time() - start
            megabytes = _peak() - before
            if seconds > _SECONDS or megabytes > _MEGABYTES:
                outcome = 'hang'
                found = f'{seconds:.1f} s, {megabytes:.0f} MB; {found}'
            yield name, number, outcome, found


def _work(seed: int) -> None:
    """A worker: inputs as JSON lines come in, outcomes go out."""
    for line in sys.stdin:
        for row in try_inputs([tuple(i) for i in json.loads(line)], seed):
            print(json.dumps(row), flush=True)


def _run_worker(inputs, seed, note) -> None:
    """Try inputs in another process, and in the next one if that dies."""
    while inputs:
        process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'tests.campaign'),
                *('--worker', f'--seed={seed}'),
            ],
            cwd=ROOT,
            env={**os.environ, 'PYTHONPATH': str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        process.stdin.write(json.dumps(inputs) + '\n')
        process.stdin.close()
        done = 0
        while True:
            # The first one waits for the imports and the originals too.
            timer = threading.Timer(_TIMEOUT + 120 * (done == 0), process.kill)
            timer.start()
            line = process.stdout.readline()
            timer.cancel()
            if not line:
                break
            note(tuple(json.loads(line)))
            done += 1
        process.wait()
        if done < len(inputs):
            name, number = inputs[done]
            note((name, number, 'hang', f'status {process.returncode}'))
            done += 1
        inputs = inputs[done:]


def report(rows, faults_of_kills, numbers, seconds) -> list[str]:
    """Counts by kind, then every fault."""
    counts = collections.defaultdict(collections.Counter)
    for name, _, outcome, _ in rows:
        counts[name][outcome] += 1
        counts['all'][outcome] += 1
    lines = [
        f'| input | tried | {" | ".join(OUTCOMES)} |',
        '| --- ' * (2 + len(OUTCOMES)) + '|',
    ]
    for name in (*damage.KINDS, 'all'):
        if name in counts:
            c = counts[name]
            shown = ' | '.join(f'{c[o]:,}' for o in OUTCOMES)
            lines.append(f'| {name} | {sum(c.values()):,} | {shown} |')
    lines += ['', '| killed | kills | faults |', '| --- | --- | --- |']
    for name, number in numbers.items():
        if number:
            found = len(faults_of_kills.get(name, ()))
            lines.append(f'| {name} | {number} | {found} |')
    lines += ['', f'{seconds / 60:.0f} minutes.', '']
    for name, number, outcome, found in rows:
        if outcome in _FAULTS:
            lines.append(f'- {outcome}: {name}, number {number}: {found}')
    for name, found in faults_of_kills.items():
        lines += [f'- lost: {name}: {fault}' for fault in found]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--count', type=int, default=10_000)
    parser.add_argument('--kills', type=int, default=50)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--first', type=int, default=0)
    parser.add_argument('--only', default='', help='a part of a kind')
    parser.add_argument('--workers', type=int, default=os.cpu_count())
    parser.add_argument('--worker', action='store_true', help='used inside')
    parser.add_argument(
        '--out', type=pathlib.Path, default=ROOT / 'out/campaign'
    )
    given = parser.parse_args()
    if given.worker:
        _work(given.seed)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    inputs = plan(given.count, given.first, given.only)
    # Mixed, so that workers have alike shares of what takes long.
    random.Random(given.seed).shuffle(inputs)
    numbers = {} if given.only else kills.numbers(given.kills)
    rows, lock, lost = [], threading.Lock(), {}

    def note(row):
        with lock:
            rows.append(row)
            if row[2] in _FAULTS or len(rows) % 500 == 0:
                print(f'{len(rows):,} of {len(inputs):,}', *row, flush=True)

    def kill(name, number):
        with tempfile.TemporaryDirectory() as folder:
            rng = random.Random(f'{given.seed} {name}')
            lost[name] = kills.KINDS[name][0](rng, number, pathlib.Path(folder))
        print(name, lost[name] or 'nothing lost', flush=True)

    with concurrent.futures.ThreadPoolExecutor(given.workers) as pool:
        jobs = [pool.submit(kill, n, m) for n, m in numbers.items() if m]
        # Small shares, so that none is alone at the end.
        parts = 4 * given.workers
        for i in range(parts):
            jobs.append(
                pool.submit(_run_worker, inputs[i::parts], given.seed, note)
            )
        for job in jobs:
            job.result()
    rows.sort()
    lines = report(rows, lost, numbers, time.monotonic() - start)
    (given.out / 'campaign.md').write_text('\n'.join(lines) + '\n')
    print('\n'.join(lines))
    if any(row[2] in _FAULTS for row in rows) or any(lost.values()):
        sys.exit(1)


if __name__ == '__main__':
    main()
