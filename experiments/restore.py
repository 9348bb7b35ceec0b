"""Restore one image from a measurement, made here or brought.

    python -m experiments.restore --image=face.png --task=box_inpainting
    python -m experiments.restore --image=face.png --task=jpeg --aim=perception
    python -m experiments.restore --image=face.png --method=dps --zeta=3
    python -m experiments.restore --measurement=y.png --mask=m.png \\
        --task=box_inpainting --num_samples=8

Without --method it takes the method, steps and settings that did best on other
faces for --aim, and says which and why (docs/choose.md); with one, its defaults
for the prior, --num_steps and the flags of the method.
--image is the truth: it is degraded, then restored. A picture that is damaged
already is a --measurement. Several samples also give their mean and a map of
their standard deviation, and say how much they differ and, where a truth is
known, how often they enclose it. The success rate is how many of them explain
the measurement: a task such as phase retrieval fails at random, and needs
several starts (--starts). `report.html` shows all of it on one page (docs/report.md).
"""

import time

import numpy as np

from invjax import restoration
from invjax.commandline import again, groups, measured, progress, record
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.compiled import find_without_tracing
from invjax.report import restored, restored_page
from invjax.timing import sampling_seconds

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS, num_steps=None)
FLAGS.string(
    'num_steps',
    None,
    f'{groups.NUM_STEPS_WORDS} Of --method [100]; auto chooses them.',
)
FLAGS.integer(
    'num_samples',
    1,
    'How many restorations to draw.',
    at_least=1,
    at_most=groups.MOST,
)
FLAGS.integer(
    'mean_of',
    1,
    'Of how many restorations each picture is the mean: a higher PSNR, less '
    'detail, and as many times the work.',
    at_least=1,
    at_most=groups.MOST,
)
FLAGS.integer(
    'starts',
    None,
    'Of how many starts each picture is the one of least residual, for tasks '
    'that fail at random; three of four are given up after a third of the '
    'steps [1; auto chooses].',
    at_least=1,
    at_most=groups.MOST,
)
groups.define_lanes(FLAGS)
measured.define(FLAGS)
groups.define_method(FLAGS, default=restoration.AUTO)
FLAGS.string(
    'aim',
    None,
    'What --method=auto is to be best for, as measured on other faces: '
    f'{", ".join(restoration.AIMS)} [psnr].',
)


def main(given):
    inputs = measured.check(given)
    if given.method == restoration.AUTO:
        _check_auto(given)
    elif given.aim is not None:
        raise ValueError('--aim goes with --method=auto.')
    else:
        groups.check_method(given, given.method)
    out = record.make_folder(given.out, 'restore')
    record.say_if_replaced(out, *restored.FILES)

    start = time.perf_counter()
    prior = groups.load_prior(given, given.num_samples * given.mean_of)
    load_seconds = time.perf_counter() - start

    problem = measured.read(given, prior)
    name = given.method
    if name == restoration.AUTO:
        chosen = restoration.choose(problem, prior, given.aim or 'psnr')
        name = chosen.method.name
        print(f'auto takes {chosen.words}')
    with sampling_seconds() as seconds:
        result = restoration.restore(
            problem,
            prior,
            given.method,
            given.num_steps,
            aim=given.aim,
            seed=given.seed,
            num_samples=given.num_samples,
            mean_of=given.mean_of,
            starts=given.starts,
            max_lanes=given.max_lanes,
            on_progress=progress.Progress(f'{name}, {given.task}'),
            **groups.settings_of(given),
        )

    for sample in np.flatnonzero(result.failed >= 0):
        print(
            f'sample {sample} of {given.image or given.measurement} by '
            f'{name} is not finite from step {result.failed[sample]} '
            f'of {result.info.residual.shape[1]}; a smaller step may help.'
        )
    if (result.failed >= 0).all():
        raise ValueError('nothing was restored, and no picture was written.')
    judged = restored.judge(result)
    restored.write(out, result, judged)
    found = {
        **judged,
        'noise': groups.noise_of(given) or {'noise': 'gaussian'},
        'input_sha256': inputs,
        'prior': prior.card.as_dict(),
        'seconds': {'load': load_seconds, **seconds},
        **record.provenance(given),
    }
    record.write_json(out / 'result.json', found)
    restored_page.write(
        out / 'report.html',
        f'{given.task} by {name}',
        [restored_page.part(given.task, result, judged, prior.card)],
        found,
        again.command_line('restore', given),
        again.restoration_in_python(given, prior.image_shape),
    )
    for line in restored.sentences(judged):
        print(line)
    print(', '.join(f'{v:.1f} s {name}' for name, v in seconds.items()))
    print(f'report: {out / "report.html"}; pictures: {out / "sheet.png"}')


def _check_auto(given):
    """Refuse, before loading, what does not go with --method=auto."""
    asked = dict(groups.settings_of(given))
    if given.num_steps is not None:
        asked['num_steps'] = given.num_steps
    restoration.check_auto(asked, '--')
    if given.aim not in (None, *restoration.AIMS):
        raise ValueError(
            f'--aim must be one of {", ".join(restoration.AIMS)}, got '
            f'{given.aim!r}.'
        )


if __name__ == '__main__':
    find_without_tracing()
    run(main, FLAGS)
