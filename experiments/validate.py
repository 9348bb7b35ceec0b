"""Every method and operator against posteriors that are known in closed form.

    python -m experiments.validate --out=validation

Two priors on 8 x 8 images, a Gaussian of smooth images and a mixture of two of
them; all linear operators; two noise levels. Each method is shown at the one of
a few settings with the smallest sliced-Wasserstein distance, so that what is
left is the method's own error and not a matter of tuning. `exact` is guidance
by the likelihood's closed-form score; `floor` is as many exact samples.

Each row is written to `rows.jsonl` as it is found. The same command continues
where it was interrupted, and others add methods to the same tables.
"""

import time

from invjax.commandline import groups, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.methods import method_class
from invjax.report import validations
from invjax.study import validating

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


def main(given):
    asked = validating.Validation(
        [method_class(name) for name in dict.fromkeys(given.methods)],
        given.num_steps,
        given.num_samples,
        given.seed,
    )
    out = record.make_folder(given.out, 'validate')
    record.say_if_replaced(out, 'validation.md')
    start = time.perf_counter()
    cases = list(validating.cases(given.seed))
    found = validating.validate(cases, asked, out)
    seconds = time.perf_counter() - start
    lines = [
        *validations.summary(found.rows),
        *validations.table_of_steps(found.by_steps),
        *validations.table(found.rows),
    ]
    (out / 'validation.md').write_text('\n'.join(lines) + '\n')
    validations.draw(out, found.by_steps)
    record.write_json(
        out / 'validation.json',
        {**found._asdict(), 'seconds': seconds, **record.provenance(given)},
    )
    print('\n'.join(lines))
    print(f'{seconds:.0f} s; written: {out}/validation.md and .png')


if __name__ == '__main__':
    run(main, FLAGS)
