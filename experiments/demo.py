"""The main job in one command: the paper's three tasks on one real face.

    python -m experiments.demo

The face is a crop of NASA's portrait of Eileen Collins (public domain).
"""

import pathlib

import numpy as np

from experiments import common
from invjax import defaults, images, metrics, sweep

_FACE = pathlib.Path(__file__).parent / 'astronaut.png'
_TASKS = {
    'gaussian_deblur': 'score_ald',
    'box_inpainting': 'dps',
    'random_inpainting': 'dps',
}
_NOISE_STD = 0.05  # in [-1, 1] units


def main():
    out = common.make_folder(common.OUT.value)
    prior, card = common.load_prior()
    truth = common.read_truth(_FACE, prior)
    _, _, key_sampler = common.keys()
    rows, labels, records = [], [], {}
    for task, method in _TASKS.items():
        inverse_problem = common.measure(truth, task, _NOISE_STD)
        settings = defaults.default_settings(
            card['name'], method, task, common.NUM_STEPS.value
        )
        with common.sampling_seconds() as seconds:
            result = sweep.restore(
                inverse_problem,
                prior,
                method,
                common.NUM_STEPS.value,
                key=key_sampler,
                on_progress=common.Progress(task),
                **settings,
            )
        (x,), y = result.x, np.asarray(inverse_problem.y)
        before, after = (float(metrics.psnr(z, truth)) for z in (y, x))
        print(
            f'{task} by {method}: PSNR {before:.2f} dB measured, {after:.2f} '
            f'dB restored; {seconds["compile"]:.0f} s compiling, '
            f'{seconds["sampling"]:.0f} s sampling'
        )
        rows.append([truth, y, x])
        labels.append(
            f'{task}\n{method}\n{before:.2f} dB measured\n'
            f'{after:.2f} dB restored'
        )
        records[task] = {
            'method': method,
            'settings': settings,
            'noise_std': _NOISE_STD,
            'operator': inverse_problem.operator.describe(),
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
