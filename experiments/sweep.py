"""A grid of hyperparameters over several images in one compiled program.

    python -m experiments.sweep --task=box_inpainting --method=dps \\
        --grid=zeta=0.3,1,3 --images=faces.npz:celeba --num_images=8 --out=DIR

Each cell is written as it finishes: a line of `cells-0.jsonl` and a picture.
The same command continues an interrupted sweep, and a larger one computes only
what is new. At the end comes a table of means with standard errors, and a sheet
of the first images: truth, measurement, then one column a setting. A grid may also
have `noise_std`.
"""

from absl import flags

from experiments import cells, common
from invjax import conditioners, images, operators, records, sweep

_TASK = common.define_task()
_METHOD = common.define_method()
_IMAGES = common.define_images()
_GRID = common.define_grid()
_HOLD_OUT = flags.DEFINE_float(
    'hold_out',
    0.0,
    'Share of the measured pixels that the method does not see; how well it '
    'foretells them is a score of each cell. For masks.',
    lower_bound=0,
    upper_bound=0.9,
)
_SHEET_IMAGES = 8


def main():
    method, task = _METHOD.value, _TASK.value
    grid = common.parse_grid(_GRID.value)
    noise_stds = grid.pop('noise_std', [cells.NOISE_STD.value])
    operators.check_names(task, common.given_task_parameters())
    conditioners.check_settings(method, grid)
    common.check_settings(method)
    out = common.make_folder(common.OUT.value)
    process, num_processes = common.join_processes()
    data = cells.load()
    plan = cells.Plan(
        task,
        method,
        sweep.grid(**grid),
        common.given_settings(),
        noise_stds,
        common.NUM_STEPS.value,
        _HOLD_OUT.value,
    )
    done = cells.compute(out, plan, data, process, num_processes)
    counted = f'{done.num_computed} cells in {done.seconds:.0f} s'
    written = {cell['id']: cell for cell in records.read(out)}
    names = [records.cell_id(cell) for cell in done.measured + done.cells]
    if any(name not in written for name in names):
        print(f'{counted}; others are at work.')
        return
    _report(out, [written[name] for name in names], data.truths)
    record = {
        'seconds': done.seconds,
        'cells_computed': done.num_computed,
        'prior': data.card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'sweep.json', record)
    print(f'{counted}; pictures: {out}/sheet.png')


def _report(out, found, truths):
    """Print the table of this command's cells, and write their sheet."""
    varied = [*common.parse_grid(_GRID.value)]

    def group(protocol):
        values = {**protocol['settings'], 'noise_std': protocol['noise_std']}
        setting = tuple((n, values[n]) for n in varied if n in values)
        return (protocol['method'], *setting)

    for (method, *setting), scores in records.summarise(found, group).items():
        title = ' '.join([method, *(f'{n} {v:g}' for n, v in setting)])
        numbers = '  '.join(
            f'{name} {e.mean:.3f} +- {e.standard_error:.3f}'
            for name, e in scores.items()
        )
        print(f'{title:<36} {numbers}')
    columns, rows = {}, [[truth] for truth in truths[:_SHEET_IMAGES]]
    for cell in found:
        protocol = cell['protocol']
        i = protocol['image'] - common.FIRST_IMAGE.value
        if i < len(rows) and protocol['sample'] == 0:
            _, *setting = columns.setdefault(group(protocol), group(protocol))
            picture = records.picture_path(out, cell['id'])
            rows[i].append(images.read_exact(picture, truths[0].shape[0]))
    titles = [
        '\n'.join([method, *(f'{n} {v:g}' for n, v in setting)])
        for method, *setting in columns
    ]
    picture = images.sheet(rows, ['truth', *titles], cell=128)
    picture.save(out / 'sheet.png')


if __name__ == '__main__':
    common.run(main)
