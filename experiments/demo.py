"""The main job in one command: the paper's three tasks on one real face.

    python -m experiments.demo

The face is a crop of NASA's portrait of Eileen Collins (public domain).
"""

import pathlib
import time

import jax
import numpy as np

from experiments import common
from invjax import defaults, images, metrics, operators, problem, sweep
from invjax.priors import checkpoint

_FACE = pathlib.Path(__file__).parent / 'astronaut.png'
_TASKS = {
    'gaussian_deblur': 'score_ald',
    'box_inpainting': 'dps',
    'random_inpainting': 'dps',
}


def main():
    out = common.make_folder(common.OUT.value)
    prior, card = checkpoint.load_prior(common.PRIOR.value)
    truth, done = images.read_image(_FACE, prior.image_shape[0])
    print(done)
    key = jax.random.key(common.SEED.value)
    key_operator, key_noise, key_sampler = jax.random.split(key, 3)
    rows, labels, records = [], [], {}
    for task, method in _TASKS.items():
        operator = operators.make_operator(task, key_operator, truth.shape)
        inverse_problem = problem.measure(key_noise, truth, operator)
        settings = defaults.default_settings(card['name'], method, task)
        start = time.perf_counter()
        result = sweep.restore(
            inverse_problem,
            prior,
            method,
            common.NUM_STEPS.value,
            key=key_sampler,
            on_progress=common.Progress(task),
            **settings,
        )
        seconds = time.perf_counter() - start
        (x,), y = result.x, np.asarray(inverse_problem.y)
        before, after = (float(metrics.psnr(z, truth)) for z in (y, x))
        print(
            f'{task} by {method}: PSNR {before:.2f} dB measured, {after:.2f} '
            f'dB restored, {seconds:.0f} s with compiling'
        )
        rows.append([truth, y, x])
        labels.append(
            f'{task}\n{method}\n{before:.2f} dB measured\n'
            f'{after:.2f} dB restored'
        )
        records[task] = {
            'method': method,
            'settings': settings,
            'psnr_measured': before,
            'psnr_restored': after,
            'seconds': seconds,
        }
        images.write_image(out / f'{task}_restored.png', x)
    titles = ['truth', 'measurement', 'restored']
    images.sheet(rows, titles, labels).save(out / 'sheet.png')
    record = {
        'tasks': records,
        'prior': card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'result.json', record)
    print(f'pictures: {out / "sheet.png"}')


if __name__ == '__main__':
    common.run(main)
