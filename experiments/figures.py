"""The paper's four figures, as PDF and PNG, and their numbers as JSON.

    python -m experiments.figures --which=all --image=face.png --out=figures

Fig. 4 is drawn twice: with the paper's settings, which are for 256 px, and with
the defaults of the prior.
"""

import pathlib

from invjax.commandline import groups, measured, progress, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import paper

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS)
FLAGS.choice(
    'which', 'all', ['1', '2', '3', '4', 'all'], 'Figure of the paper.'
)
FLAGS.string(
    'image',
    str(pathlib.Path(__file__).parent / 'astronaut.png'),
    'The face of figures 1, 3 and 4.',
)
FLAGS.number('noise_std', 0.05, 'In [-1, 1] units.', at_least=0, at_most=100)
FLAGS.integer('t', 100, 'Timestep of figure 1.', at_least=0)
FLAGS.integer('num_samples', 8, 'Of figure 2.', at_least=1, at_most=groups.MOST)
groups.define_lanes(FLAGS)


def main(given):
    inputs = {'image': groups.input_sha256('image', given.image)}
    out = record.make_folder(given.out, 'figures')
    record.say_if_replaced(out, 'figures.json')
    prior = groups.load_prior(given, given.max_lanes)
    paper.check_t(prior, given.t)
    drawn = paper.Paper(
        out,
        prior,
        measured.read_truth(given.image, prior),
        given.num_steps,
        given.noise_std,
        given.t,
        given.num_samples,
        given.seed,
        given.max_lanes,
        progress.Progress,
    )
    which = '1234' if given.which == 'all' else given.which
    record.write_json(
        out / 'figures.json',
        {
            'numbers': paper.draw(drawn, which),
            'input_sha256': inputs,
            'prior': prior.card.as_dict(),
            **record.provenance(given),
        },
    )
    print(f'pictures: {out}')


if __name__ == '__main__':
    run(main, FLAGS)
