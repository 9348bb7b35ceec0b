"""A grid of hyperparameters over several images in one compiled program.

    python -m experiments.sweep --task=box_inpainting --method=dps \\
        --grid=zeta=0.3,1,3 --images=faces.npz:celeba --num_images=8 --out=DIR

Each cell is written as it finishes: a line of `cells-0.jsonl` and a picture. The
same command continues an interrupted sweep, and a larger one computes only what
is new; several may run into one folder. At the end comes a table of means with
standard errors, a sheet of the first images (truth, measurement, then one column
a setting), and `report.html`, where a slider for each hyperparameter changes the
picture (docs/report.md). A grid may also have `noise_std`.
"""

from invjax import images
from invjax.commandline import again, groups, progress, record, studied
from invjax.commandline.flags import Flags
from invjax.commandline.program import run
from invjax.report import explorer
from invjax.study import running, sweeping

FLAGS = Flags(__doc__)
groups.define_prior(FLAGS)
groups.define_run(FLAGS)
groups.define_task(FLAGS)
groups.define_grid(FLAGS)
FLAGS.number(
    'hold_out',
    0.0,
    'Fraction of the measured pixels that the method does not see; how well it '
    'foretells them is a score of each cell. For masks.',
    at_least=0,
    at_most=0.9,
)
studied.define(FLAGS)
groups.define_noise(FLAGS)
groups.define_method(FLAGS)
_SHEET_IMAGES = 8


def main(given):
    values = groups.grid_of(given)
    asked = (given.task, given.method, values, given.num_steps)
    fields = {
        'settings': groups.settings_of(given),
        'noise_std': given.noise_std,
        'hold_out': given.hold_out,
        **studied.of_plan(given),
    }
    sweeping.plan_sweep(None, *asked, **fields)
    out = record.make_folder(given.out, 'sweep')
    groups.divide_cpu(given.cpu_devices)
    share = groups.join_processes(given)
    data = studied.load(given)
    plan = sweeping.plan_sweep(data, *asked, **fields)
    done = running.compute(
        out,
        plan,
        data,
        on_progress=progress.Progress(f'{given.method}, {given.task}'),
        **studied.how(given, share),
    )
    found = sweeping.collect(out, done, list(values))
    counted = f'{done.num_computed} cells in {done.seconds:.0f} s'
    if not sweeping.is_complete(found, done):
        print(f'{counted}; others are at work.')
        return
    print('\n'.join(found.table()))
    _write_sheet(out, found, data)
    of_run = {
        'seconds': done.seconds,
        'cells_computed': done.num_computed,
        'prior': data.prior.card.as_dict(),
        **record.provenance(given),
    }
    record.write_json(out / 'sweep.json', of_run)
    title = f'{given.task} by {given.method}'
    truths = dict(data.numbered())
    explorer.write(
        out / 'report.html',
        f'{title}: {", ".join(values) or "one setting"}',
        [explorer.group_of_cells(out, found.cells, truths, title)],
        of_run,
        again.command_line('sweep', given),
    )
    print(f'{counted}; report: {out}/report.html; pictures: {out}/sheet.png')


def _write_sheet(out, found, data):
    rows, titles = [], {}
    for number, truth in [*data.numbered()][:_SHEET_IMAGES]:
        pictures = found.pictures(number)
        rows.append([truth, *pictures.values()])
        titles |= dict.fromkeys(pictures)
    words = [
        '\n'.join([s.method, *s.words().split(', ')]).strip() for s in titles
    ]
    images.sheet(rows, ['truth', *words], cell=128).save(out / 'sheet.png')


if __name__ == '__main__':
    run(main, FLAGS)
