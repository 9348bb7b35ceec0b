"""Kills at random moments: what was written stays, and the end is the same.

Sweeps, conversions and the replacing of a kept prior are killed (SIGKILL) and
begun again. Each function returns faults, in words; none if nothing was lost.
"""

import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import safetensors.numpy

from invjax.priors import kept
from invjax.study import cells
from tests import damage
from tests.experiments import tiny_prior

_NUM_IMAGES = 6
_TAUS = '100,300,500,700'
_ROOT = pathlib.Path(__file__).resolve().parents[1]


def _sweep(folder, out):
    return tiny_prior.start(
        'sweep',
        folder,
        f'--images={folder}/images',
        f'--num_images={_NUM_IMAGES}',
        '--task=box_inpainting',
        '--method=sdedit',
        f'--grid=tau={_TAUS}',
        '--lpips=none',
        '--max_lanes=2',
        f'--out={out}',
    )


def _contents(out):
    return {
        cell['id']: (cell, cells.picture_path(out, cell['id']).read_bytes())
        for cell in cells.read(out)
    }


def _finish(process, what) -> list[str]:
    _, error = process.communicate(timeout=600)
    if process.returncode:
        return [f'{what} ended with {process.returncode}: {error[-300:]}']
    return []


def sweeps(rng: random.Random, number: int, folder: pathlib.Path) -> list[str]:
    """Kill a sweep, continue it, and compare with one that was left alone."""
    tiny_prior.write(folder, _NUM_IMAGES)
    start = time.monotonic()
    faults = _finish(_sweep(folder, folder / 'whole'), 'a whole sweep')
    seconds = time.monotonic() - start
    whole = _contents(folder / 'whole')
    out, before = folder / 'killed', {}
    for _ in range(number):
        process = _sweep(folder, out)
        if rng.random() < 0.3:
            time.sleep(rng.uniform(0, seconds))
        else:
            # Where it writes: from the next cell on.
            done = len(before)
            while process.poll() is None and len(_lines(out)) <= done:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.2))
        process.kill()
        process.communicate()
        after = _contents(out) if out.exists() else {}
        faults += _compare(before, after, whole)
        before = after
        if len(after) == len(whole):
            faults += _complete(folder, out, whole)
            shutil.rmtree(out)
            before = {}
    return faults + _complete(folder, out, whole)


def _lines(out):
    path = out / 'cells-0.jsonl'
    return path.read_bytes().splitlines() if path.exists() else []


def _complete(folder, out, whole) -> list[str]:
    faults = _finish(_sweep(folder, out), 'a sweep that was continued')
    after = _contents(out)
    if after != whole:
        faults.append('a sweep that was continued has another result')
    return faults


def _compare(before, after, whole) -> list[str]:
    faults = []
    if before.keys() - after.keys():
        faults.append('cells of an earlier run are gone')
    if any(cell != whole.get(name) for name, cell in after.items()):
        faults.append('a cell is not that of the whole sweep')
    return faults


# Replaces a prior by another one, again and again.
_SAVING = """
import sys
from invjax.priors import kept
from tests import damage
both = [(damage.prior_params(i), damage.prior_card(i)) for i in (0, 1)]
print('ready', flush=True)
i = 0
while True:
    kept.save_prior(sys.argv[1], *both[i % 2])
    print('saved', flush=True)
    i += 1
"""


def savings(rng: random.Random, number: int, folder: pathlib.Path) -> list[str]:
    """Kill what replaces a prior: the old one or the new one is there."""
    prior, faults, is_there = folder / 'prior', [], False
    for _ in range(number):
        process = tiny_prior.start_python('-c', _SAVING, str(prior))
        said = process.stdout.readline()
        time.sleep(rng.uniform(0, 0.6))
        process.kill()
        text, error = process.communicate()
        if not said:
            faults.append(f'saving did not begin: {error[-300:]}')
        is_there = is_there or 'saved' in text
        if is_there or (prior / 'card.json').exists():
            faults += _either(prior)
    return faults


def _either(prior) -> list[str]:
    try:
        params, card = kept.read(prior)
    except ValueError as error:
        return [f'a prior was lost: {error}']
    seed = int(card['name'][-1])
    if not damage.same_params(params, damage.prior_params(seed)):
        return ['a prior has the parameters of another']
    return []


def conversions(
    rng: random.Random, number: int, folder: pathlib.Path
) -> list[str]:
    """Kill conversions: the same command then gives the same prior."""
    weights = folder / 'weights.safetensors'
    weights.write_bytes(safetensors.numpy.save(damage.weights()))

    def start(place):
        return subprocess.Popen(
            [
                *(sys.executable, '-m', 'experiments.convert_weights'),
                *(f'--weights={weights}', f'--out={place / "out"}'),
                *('--image_size=16', '--head_channels=32', '--nocheck'),
            ],
            cwd=_ROOT,
            env={
                **os.environ,
                'PYTHONPATH': str(_ROOT),
                'INVJAX_CHECKPOINTS': str(place / 'checkpoints'),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    begin = time.monotonic()
    faults = _finish(start(folder / 'whole'), 'a whole conversion')
    seconds = time.monotonic() - begin
    whole, _ = kept.read(folder / 'whole' / 'out')
    place = folder / 'killed'
    for _ in range(number):
        process = start(place)
        # Its imports take the first half.
        time.sleep(rng.uniform(0.4, 1) * seconds)
        process.kill()
        process.communicate()
        for card in place.rglob('card.json'):
            if '.writing-' in str(card):
                continue  # Of the process that was killed; it is no prior.
            params, _ = kept.read(card.parent)
            if not damage.same_params(params, whole):
                faults.append(f'{card.parent.name} is another prior')
        if rng.random() < 0.3:
            faults += _finish(start(place), 'a conversion begun again')
            faults += _same_as(place / 'out', whole)
            shutil.rmtree(place)
    faults += _finish(start(place), 'a conversion begun again')
    return faults + _same_as(place / 'out', whole)


def _same_as(folder, whole) -> list[str]:
    params, _ = kept.read(folder)
    same = damage.same_params(params, whole)
    return [] if same else ['a conversion begun again has another result']


# What is killed, and the share of all kills.
KINDS = {
    'sweep': (sweeps, 0.5),
    'replacing a kept prior': (savings, 0.3),
    'conversion': (conversions, 0.2),
}


def numbers(total: int) -> dict[str, int]:
    """How many kills of each kind."""
    shares = np.cumsum([share for _, share in KINDS.values()])
    ends = np.round(shares * total).astype(int)
    starts = [0, *ends[:-1]]
    return {
        name: int(end - start)
        for name, start, end in zip(KINDS, starts, ends, strict=True)
    }
