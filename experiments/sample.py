"""Unconditional samples of a prior (Algorithm 1, fig. 2).

    python -m experiments.sample --num_samples=8

Writes one sheet, and each sample as a picture of its own into `samples/`, a folder
that --images of other binaries takes.
"""

import numpy as np

from invjax import images, problem, restoration
from invjax.commandline import groups, progress, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS)
FLAGS.integer('num_samples', 8, 'How many.', at_least=1, at_most=groups.MOST)
groups.define_lanes(FLAGS)
groups.define_transition(FLAGS)
_COLUMNS = 8


def main(given):
    groups.check_method(given, 'unconditional')
    out = record.make_folder(given.out, 'sample')
    record.say_if_replaced(out, 'samples.png')
    prior = groups.load_prior(given, given.num_samples)
    result = restoration.restore(
        problem.nothing_measured(prior.image_shape),
        prior,
        'unconditional',
        given.num_steps,
        seed=given.seed,
        num_samples=given.num_samples,
        max_lanes=given.max_lanes,
        on_progress=progress.Progress('sampling'),
        **groups.settings_of(given),
    )
    if (result.failed >= 0).any():
        raise ValueError(
            f'samples {np.flatnonzero(result.failed >= 0)} are not finite.'
        )
    x = result.samples
    rows = [x[i : i + _COLUMNS] for i in range(0, len(x), _COLUMNS)]
    images.sheet(rows, cell=128).save(out / 'samples.png')
    folder = record.make_folder(out / 'samples', 'sample')
    for i, sample in enumerate(x):
        images.write_image(folder / f'{i:04d}.png', sample)
    record.write_json(
        out / 'samples.json',
        {
            **result.method.describe(),
            'prior': prior.card.as_dict(),
            **record.provenance(given),
        },
    )
    print(f'pictures: {out / "samples.png"}')


if __name__ == '__main__':
    run(main, FLAGS)
