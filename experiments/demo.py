"""The main job in one command: the paper's three tasks on one real face.

    python -m experiments.demo

The face is a crop of NASA's portrait of Eileen Collins (public domain).
"""

import pathlib

from invjax import images, measurement, restoration
from invjax.commandline import again, groups, measured, progress, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.compiled import find_without_tracing
from invjax.report import restored, restored_page
from invjax.timing import sampling_seconds

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS, num_steps='quad20')
_FACE = pathlib.Path(__file__).parent / 'astronaut.png'
# Of those with at most twenty passes of the network, the best for each task over 50
# faces (docs/results.md, 'Twenty steps'). Where `pnp_admm` stands, others have up to
# 0.6 dB more PSNR; it has the highest SSIM, and takes 13 passes.
_METHODS = {
    'gaussian_deblur': 'pnp_admm',
    'box_inpainting': 'wiener',
    'random_inpainting': 'pnp_admm',
}


def main(given):
    out = record.make_folder(given.out, 'demo')
    record.say_if_replaced(out, 'sheet.png', 'report.html')
    prior = groups.load_prior(given)
    truth = measured.read_truth(_FACE, prior)
    rows, labels, found, parts = [], [], {}, []
    for task, method in _METHODS.items():
        problem = measurement.measure(truth, task, seed=given.seed)
        with sampling_seconds() as seconds:
            result = restoration.restore(
                problem,
                prior,
                method,
                given.num_steps,
                seed=given.seed,
                on_progress=progress.Progress(task),
            )
        y = problem.as_picture()
        before = restoration.score(y, problem)
        after = restoration.score(result.image, problem)
        print(
            f'{task} by {method}: PSNR {before["psnr"]:.2f} dB measured, '
            f'{after["psnr"]:.2f} dB restored; {seconds["compile"]:.0f} s '
            f'compiling, {seconds["sampling"]:.0f} s sampling'
        )
        rows.append([truth, y, result.image])
        labels.append(
            f'{task}\n{method}\n{before["psnr"]:.2f} dB measured\n'
            f'{after["psnr"]:.2f} dB restored'
        )
        found[task] = {
            **result.method.describe(),
            'operator': problem.operator.describe(),
            'measured': before,
            'restored': after,
            'seconds': seconds,
        }
        result.save(out / f'{task}_restored.png')
        judged = restored.judge(result)
        parts.append(restored_page.part(task, result, judged, prior.card))
    titles = ['truth', 'measurement', 'restored']
    images.sheet(rows, titles, labels).save(out / 'sheet.png')
    found = {
        'tasks': found,
        'prior': prior.card.as_dict(),
        **record.provenance(given),
    }
    record.write_json(out / 'result.json', found)
    restored_page.write(
        out / 'report.html',
        'Three tasks on one face',
        parts,
        found,
        again.command_line('demo', given),
    )
    print(f'report: {out / "report.html"}; pictures: {out / "sheet.png"}')


if __name__ == '__main__':
    find_without_tracing()
    run(main, FLAGS)
