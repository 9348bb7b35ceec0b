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

from invjax import operators
from invjax.commandline import again, groups, record, studied
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.comparison import comparing, remote
from invjax.report import comparisons, methods_page
from invjax.study.plan import Data

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS, num_steps=None)
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
FLAGS.integer(
    'first_tuning', 40, 'Of --images: the first to tune on.', at_least=0
)
FLAGS.integer('num_tuning', 0, 'How many to tune the peer on.', at_least=0)
FLAGS.integer('num_shown', 3, 'Images on a sheet.', at_least=1)
studied.define_images(FLAGS)
# As many images in turn as earn back what a faster network takes to compile.
_NUM_LANES = 4


def main(given):
    asked = [comparing.parse_run(text) for text in given.runs]
    for task in given.tasks:
        operators.check_names(task, ())
    if given.peer is None:
        raise ValueError('give --peer, a Python with torch and deepinv.')
    first, first_tuning = given.first_image, given.first_tuning
    comparing.check_tuning(
        range(first, first + given.num_images),
        range(first_tuning, first_tuning + given.num_tuning),
    )
    out = record.make_folder(given.out, 'compare')
    record.say_if_replaced(out, 'compare.md')
    with remote.started(given.peer) as other:
        prior = groups.load_prior(given, _NUM_LANES)
        found = comparing.compare(
            other,
            Data(prior, studied.read_images(given, prior.image_shape), first),
            given.tasks,
            asked,
            tuning=_tuning(given, prior),
            noise_std=given.noise_std,
            seed=given.seed,
        )
    lines = comparisons.table(found.runs)
    (out / 'compare.md').write_text('\n'.join(lines) + '\n')
    of_run = {
        'prior': prior.card.as_dict(),
        'peer': found.versions,
        **record.provenance(given),
    }
    record.write_json(
        out / 'compare.json',
        {'runs': [run.describe() for run in found.runs], **of_run},
    )
    shown = found.images[: given.num_shown]
    methods_page.write(
        out / 'report.html',
        'Beside deepinv',
        comparisons.entries(found.runs, shown),
        of_run,
        truths={i: image.truth for i, image in enumerate(shown)},
        protocol=f'{len(found.images)} image'
        f'{"s" if len(found.images) > 1 else ""}, noise of standard deviation '
        f'{given.noise_std:g} in [-1, 1] units, seed {given.seed}; seconds are '
        'medians, differences are paired.',
        command=again.command_line('compare', given),
    )
    for task in given.tasks:
        of_task = [run for run in found.runs if run.task == task]
        sheet = comparisons.sheet(of_task, shown)
        sheet.save(out / f'compare_{task}.png')
    print('\n'.join(['', *lines]))
    print(f'report: {out / "report.html"}')


def _tuning(given, prior) -> Data | None:
    """The images that the peer is tuned on."""
    if not given.num_tuning:
        return None
    truths = studied.read_images(
        given, prior.image_shape, given.first_tuning, given.num_tuning
    )
    return Data(prior, truths, given.first_tuning)


if __name__ == '__main__':
    run(main, FLAGS)
