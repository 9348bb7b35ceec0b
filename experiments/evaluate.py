"""Methods x tasks over many faces, each method with its default settings.

    python -m experiments.evaluate --images=DIR --num_images=50 --out=DIR
    python -m experiments.evaluate --images=DIR --tasks=all --methods=all \\
        --steps=5,10,20,50,100 --out=DIR
    python -m experiments.evaluate --images=DIR --num_images=8 --num_samples=9 \\
        --calibration --out=DIR
    python -m experiments.evaluate --images=DIR --tasks=phase_retrieval \\
        --num_samples=4 --choose_sample --out=DIR

Cells are kept and continued as by `experiments.sweep`, in a folder a task.
Writes `evaluation.md`, means and standard errors over images with the best of
each task in bold, and the same as data in `evaluation.json`. Network evaluations
are counted by running the method on a prior that stands in for the network;
seconds are those of the machine that computed a cell, without compilation, and
the same for all images of a batch.
`fronts_evaluations.png` and `fronts_seconds.png` have quality against both, a
line a method over its numbers of steps. Where nothing is missing, the same
command only draws again. `--calibration` adds how often central intervals of
the samples hold the truth, against how often they should, as a table and a plot.
With `--choose_sample` the sample with the least residual stands for an image, as
one would choose without the truth where a task fails at random. `report.html` is
the table as a page, `methods.tex` in LaTeX, `records.csv` has a row a cell, and
`calibration.toml`, laid beside a prior, tells `restore` what may be believed
(docs/report.md).
"""

from invjax.commandline import again, groups, progress, record, studied
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.operators import OPERATORS
from invjax.report import evaluations as figures
from invjax.report import methods_page
from invjax.study import evaluation, tidy

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS)
FLAGS.strings(
    'tasks',
    ['gaussian_deblur', 'box_inpainting', 'random_inpainting'],
    f'Of {", ".join(OPERATORS)}; or all.',
)
FLAGS.strings(
    'methods',
    ['sdedit', 'score_ald', 'dps'],
    'Names; or all, which leaves out unconditional. dps:100 is a method at its '
    'own number of steps, and dps:zeta=3 or dps:100:zeta=3:clip=false one with '
    'settings of its own. A method that cannot do a task has a dash in the '
    'table.',
)
FLAGS.strings(
    'steps',
    [],
    'Numbers of reverse steps, as 5,10,20: each method is run at each of them. '
    'They stand in place of --num_steps.',
)
FLAGS.boolean(
    'calibration',
    False,
    'Coverage of the truth; needs --num_samples above 1.',
)
FLAGS.boolean(
    'choose_sample',
    False,
    "Scores are those of each image's sample with the least residual, at the "
    'cost of all; `success` is the fraction of samples that explain the '
    'measurement. Needs --num_samples above 1.',
)
studied.define(FLAGS)
groups.define_noise(FLAGS)
groups.define_transition(FLAGS)


def main(given):
    tasks = evaluation.expand(given.tasks, OPERATORS)
    runs = evaluation.parse_runs(given.methods, given.steps, given.num_steps)
    asked = {
        'num_samples': given.num_samples,
        'noise_std': given.noise_std,
        'calibration': given.calibration,
        'choose_sample': given.choose_sample,
        'settings': groups.settings_of(given),
    }
    evaluation.check(tasks, runs, **asked)
    out = record.make_folder(given.out, 'evaluate')
    groups.divide_cpu(given.cpu_devices)
    share = groups.join_processes(given)
    data = studied.load(given)
    found = evaluation.evaluate(
        data.truths,
        data.prior,
        tasks,
        runs,
        noise=given.noise,
        noise_parameters=groups.noise_parameters(given),
        seed=given.seed,
        first_image=data.first_image,
        distances=data.distances,
        folder=out,
        progress=progress.Progress,
        **asked,
        **studied.how(given, share),
    )
    lines = found.table()
    if found.coverage:
        lines += ['', *evaluation.coverage_table(found.coverage)]
        figures.calibration(out, found.coverage)
        (out / 'calibration.toml').write_text(evaluation.as_toml(found))
    (out / 'evaluation.md').write_text('\n'.join(lines) + '\n')
    figures.fronts(out, found.rows)
    of_run = {
        'prior': data.prior.card.as_dict(),
        **record.provenance(given),
    }
    record.write_json(
        out / 'evaluation.json', {'rows': found.as_data(), **of_run}
    )
    table = methods_page.entries(found)
    protocol = evaluation.protocol_words(found)
    cells = [cell for row in found.rows for cell in row.cells]
    (out / 'records.csv').write_text(tidy.as_csv(tidy.rows(cells)))
    (out / 'methods.tex').write_text(methods_page.as_latex(table, protocol))
    methods_page.write(
        out / 'report.html',
        'Methods and tasks',
        table,
        of_run,
        truths=dict(data.numbered()),
        protocol=protocol,
        command=again.command_line('evaluate', given),
        coverage=found.coverage,
    )
    print('\n'.join(lines))
    print(f'report: {out / "report.html"}; table: {out / "evaluation.md"}')


if __name__ == '__main__':
    run(main, FLAGS)
