"""The same restorations by deepinv's own code, and how the two compare.

    python -m venv OTHER && OTHER/bin/pip install torch deepinv==0.5.0
    python -m experiments.compare --peer=OTHER/bin/python \\
        --images=val64.npz:celeba --num_images=8 --out=compare
    ... --first_tuning=40 --num_tuning=2    # chooses the peer's settings too

Both have the same network, weights, measurements and number of evaluations of
the network; that networks and operators agree is checked first. Ours have their
tuned defaults. deepinv's have its own and, with `--num_tuning`, also those of a
grid with the highest mean PSNR on other images. Writes `compare.md`,
`compare.json` and a sheet a task. Times are medians of one image at a time,
without compilation.
"""

import dataclasses

from invjax import operators
from invjax.commandline import groups, record, studied
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.comparison import deepinv, peer
from invjax.study.plan import Data

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS, num_steps=False)
FLAGS.string('peer', None, 'A Python that can import torch and deepinv.')
FLAGS.strings(
    'tasks',
    ['box_inpainting', 'random_inpainting', 'motion_deblur'],
    'Also gaussian_deblur, super_resolution and denoising.',
)
FLAGS.strings(
    'runs',
    ['dps:100', 'ddrm:20', 'diffpir:20', 'diffpir:100'],
    'METHOD:STEPS each, with an evaluation of the network a step. Steps as '
    '--num_steps has them elsewhere; the peer has its own spacing of as many.',
)
FLAGS.number('noise_std', 0.05, 'In [-1, 1] units.', at_least=0, at_most=100)
FLAGS.integer('first_tuning', 40, 'Of --images: the first to tune on.', 0)
FLAGS.integer('num_tuning', 0, 'How many to tune the peer on.', 0)
FLAGS.integer('num_shown', 3, 'Images on a sheet.', 1)
studied.define_images(FLAGS)


def main(given):
    asked = [deepinv.parse_run(text) for text in given.runs]
    for task in given.tasks:
        operators.check_names(task, ())
    if given.peer is None:
        raise ValueError('give --peer, a Python with torch and deepinv.')
    peer.check(given.peer)
    last = given.first_tuning + given.num_tuning
    deepinv.check_tuning(
        range(given.first_image, given.first_image + given.num_images),
        range(given.first_tuning, last),
    )
    out = record.make_folder(given.out, 'compare')
    prior = groups.load_prior(given)
    shape = prior.image_shape
    data = Data(prior, studied.read_images(given, shape), given.first_image)
    tuning = None
    if given.num_tuning:
        others = studied.read_images(
            given, shape, given.first_tuning, given.num_tuning
        )
        tuning = Data(prior, others, given.first_tuning)
    found = deepinv.compare(
        given.peer,
        data,
        tuning,
        given.tasks,
        asked,
        noise_std=given.noise_std,
        seed=given.seed,
    )
    lines = deepinv.table(found.runs)
    (out / 'compare.md').write_text('\n'.join(lines) + '\n')
    record.write_json(
        out / 'compare.json',
        {
            'runs': [
                dataclasses.asdict(dataclasses.replace(r, x=()))
                for r in found.runs
            ],
            'prior': prior.card.as_dict(),
            'peer': found.versions,
            **record.provenance(given),
        },
    )
    shown = found.data[: given.num_shown]
    for task in given.tasks:
        of_task = [r for r in found.runs if r.task == task]
        deepinv.sheet(of_task, shown).save(out / f'compare_{task}.png')
    print('\n'.join(['', *lines]))


if __name__ == '__main__':
    run(main, FLAGS)
