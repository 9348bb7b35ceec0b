"""Every method and operator against posteriors that are known.

    python -m experiments.validate --out=validation

Three priors on 8 x 8 images: a Gaussian of smooth images, a mixture of two of
them, and Student-t coefficients, which have heavy tails; all linear operators;
two noise levels. Each method is shown at the one of a few settings with the
smallest sliced-Wasserstein distance, so that what is left is the method's own
error and not a matter of tuning. `exact` is guidance by the likelihood's
closed-form score, which the third prior does not have; `floor` is as many exact
samples, of the third by Gibbs sampling.

Then, for a blur and a box at noise 0.1, many images are drawn from each prior and
measured, and the truths' ranks among samples say whether these are as sure as
they should be (`ranks.png`).

Each row is written to `rows.jsonl` as it is found. The same command continues
where it was interrupted, and others add methods to the same tables.
"""

import time

from invjax.commandline import groups, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.methods import method_class
from invjax.report import validations
from invjax.study import calibrating, validating

FLAGS = Flags(__doc__)
groups.define_run(FLAGS)
FLAGS.integer(
    'num_samples',
    validating.Validation.num_samples,
    'Of each posterior.',
    at_least=100,
    at_most=groups.MOST,
)
FLAGS.strings(
    'methods',
    [method.name for method in validating.Validation.methods],
    'Where the operator lets them.',
)
FLAGS.strings(
    'priors', validating.PRIORS, f'Some of {", ".join(validating.PRIORS)}.'
)
FLAGS.strings(
    'tasks', validating.TASKS, f'Some of {", ".join(validating.TASKS)}.'
)
FLAGS.integer(
    'num_measurements',
    validating.Validation.num_measurements,
    'Of the ranks, 100 or more; 0 for no ranks. They are of '
    f'{" and ".join(calibrating.TASKS)} at noise {calibrating.NOISE_STD}.',
    at_least=0,
    at_most=groups.MOST,
)


def main(given):
    asked = validating.Validation(
        [method_class(name) for name in dict.fromkeys(given.methods)],
        given.num_steps,
        given.num_samples,
        given.seed,
        given.priors,
        given.tasks,
        given.num_measurements,
    )
    out = record.make_folder(given.out, 'validate')
    record.say_if_replaced(out, 'validation.md')
    start = time.perf_counter()
    cases = list(validating.cases(asked))
    found = validating.validate(cases, asked, out)
    ranked = calibrating.calibrate(cases, found.rows, asked, out)
    seconds = time.perf_counter() - start
    lines = [
        *validations.summary(found.rows),
        *validations.table_of_ranks(ranked),
        *validations.table_of_steps(found.by_steps),
        *validations.table(found.rows),
    ]
    (out / 'validation.md').write_text('\n'.join(lines) + '\n')
    validations.draw(out, found.by_steps)
    validations.draw_ranks(out, ranked)
    record.write_json(
        out / 'validation.json',
        {
            **found._asdict(),
            'ranked': ranked,
            'seconds': seconds,
            **record.provenance(given),
        },
    )
    print('\n'.join(lines))
    print(f'{seconds:.0f} s; written: {out}/validation.md, pictures')


if __name__ == '__main__':
    run(main, FLAGS)
