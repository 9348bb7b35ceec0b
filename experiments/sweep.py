"""A grid of hyperparameters over several images in one compiled program.

    python -m experiments.sweep --task=box_inpainting --method=dps \\
        --grid=zeta=0.3,1,3 --images=faces.npz:celeba --num_images=8 --out=DIR

Each cell is written as it finishes: a line of `cells-0.jsonl` and a picture.
The same command continues an interrupted sweep, and a larger one computes only
what is new. At the end comes a table of means with standard errors, and a sheet
of the first images: truth, measurement, then one column a setting.
"""

import hashlib
import time

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import conditioners, images, metrics, operators, records, sweep

_TASK = common.define_task()
_METHOD = common.define_method()
_IMAGES = common.define_images()
_GRID = flags.DEFINE_multi_string(
    'grid',
    [],
    'A hyperparameter, or noise_std, and its values, as zeta=0.3,1,3. Repeat '
    'it for all combinations.',
)
_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 1, 'Of each image and setting.', lower_bound=1
)
_NOISE_STD = flags.DEFINE_float(
    'noise_std', 0.05, 'In [-1, 1] units.', lower_bound=0
)
_MAX_LANES = flags.DEFINE_integer(
    'max_lanes', 8, 'The most lanes at once.', lower_bound=1
)
_MEMORY_GIB = flags.DEFINE_float(
    'memory_gib',
    None,
    'Instead of --max_lanes: as many as fit on each device, by the '
    "compiler's estimate.",
    lower_bound=0,
)
_LPIPS = flags.DEFINE_enum(
    'lpips', 'alex', ['alex', 'vgg', 'none'], 'Variant of the distance.'
)
_SHEET_IMAGES = 8


def main():
    method, task = _METHOD.value, _TASK.value
    grid = _parse_grid(_GRID.value)
    noise_stds = grid.pop('noise_std', [_NOISE_STD.value])
    operators.check_names(task, common.given_task_parameters())
    given = common.given_settings()
    conditioners.check_settings(method, grid)
    common.check_settings(method)
    out = common.make_folder(common.OUT.value)
    process, num_processes = common.join_processes()
    lpips = None if _LPIPS.value == 'none' else metrics.load_lpips(_LPIPS.value)
    prior, card = common.load_prior(_MAX_LANES.value)
    truths = common.read_images(prior.image_shape[0])

    fixed = {
        'task': task,
        'task_parameters': common.given_task_parameters(),
        'num_steps': common.NUM_STEPS.value,
        'prior': card['sha256'],
        'dtype': common.DTYPE.value,
        'seed': common.SEED.value,
    }
    key = jax.random.key(common.SEED.value)
    settings = sweep.grid(**grid)
    first = common.FIRST_IMAGE.value
    parts, cells = [], []
    for noise_std in noise_stds:
        problems = [
            common.measure_numbered(key, first + i, truth, task, noise_std)
            for i, truth in enumerate(truths)
        ]
        parts.append(
            sweep.make_lanes(
                key, problems, settings, _NUM_SAMPLES.value, first_image=first
            )
        )
        for i, truth in enumerate(truths):
            of_image = {
                **fixed,
                'noise_std': noise_std,
                'image': first + i,
                'image_sha256': hashlib.sha256(truth.tobytes()).hexdigest(),
            }
            cells += [
                {
                    **of_image,
                    'method': method,
                    'sample': sample,
                    'settings': {
                        **conditioners.hyperparameters(method),
                        **given,
                        **setting,
                    },
                }
                for sample in range(_NUM_SAMPLES.value)
                for setting in settings
            ]
        if process == 0:
            _write_measurements(out, fixed, noise_std, truths, problems, lpips)
    lanes = sweep.join_lanes(parts)

    writer = records.Writer(out, process)
    share = range(process, len(cells), num_processes)
    missing = [i for i in share if records.cell_id(cells[i]) not in writer.done]
    if len(missing) < len(share):
        print(f'{len(share) - len(missing)} of {len(share)} cells are there.')
    start = time.perf_counter()
    if missing:
        todo = lanes.take(np.array(missing))
        max_lanes = _MAX_LANES.value
        arguments = todo, prior, method, common.NUM_STEPS.value
        if _MEMORY_GIB.value is not None:
            fitting = sweep.lanes_within(
                _MEMORY_GIB.value * 2**30, *arguments, **given
            )
            max_lanes = fitting * jax.local_device_count()
            print(f'{max_lanes} lanes at once.')
        batches = sweep.run_batches(
            *arguments,
            max_lanes=max_lanes,
            on_progress=common.Progress(f'{method}, {task}'),
            **given,
        )
        for result in batches:
            _write_batch(
                writer,
                result,
                missing,
                cells,
                todo,
                lanes,
                truths,
                first,
                lpips,
            )
    seconds = time.perf_counter() - start
    written = {cell['id'] for cell in records.read(out)}
    if any(records.cell_id(cell) not in written for cell in cells):
        print(f'{len(missing)} cells in {seconds:.0f} s; others are at work.')
        return
    _report(out, cells, fixed, noise_stds, truths)
    record = {
        'seconds': seconds,
        'cells_computed': len(missing),
        'prior': card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'sweep.json', record)
    print(f'{len(missing)} cells in {seconds:.0f} s; pictures: {out}/sheet.png')


def _write_batch(
    writer, result, missing, cells, todo, lanes, truths, first, lpips
):
    """Write a batch's cells; one that is not finite is named and left out."""
    failed = sweep.first_nonfinite_step(result.info)
    for lane, x, bad in zip(result.lanes, result.x, failed, strict=True):
        cell = cells[missing[lane]]
        if bad >= 0:
            print(
                f'image {cell["image"]} with {cell["settings"]} is not finite '
                f'from step {bad}.'
            )
        inverse_problem = jax.tree.map(
            lambda leaf, row=todo.rows[lane]: leaf[row], lanes.problems
        )
        truth = truths[cell['image'] - first]
        scores = common.scores(x, truth, inverse_problem, lpips)
        writer.write(cell, scores, np.nan_to_num(x))


def _measurement_cell(fixed, noise_std, image, truth) -> dict:
    """The protocol of a measurement, which no method and prior had a part in."""
    kept = ('task', 'task_parameters', 'seed')
    return {
        **{name: fixed[name] for name in kept},
        'noise_std': noise_std,
        'image': image,
        'image_sha256': hashlib.sha256(truth.tobytes()).hexdigest(),
        'method': 'measurement',
        'sample': 0,
        'settings': {},
    }


def _write_measurements(out, fixed, noise_std, truths, problems, lpips):
    writer = records.Writer(out)
    for i, (truth, p) in enumerate(zip(truths, problems, strict=True)):
        image = common.FIRST_IMAGE.value + i
        cell = _measurement_cell(fixed, noise_std, image, truth)
        if records.cell_id(cell) not in writer.done:
            y = np.asarray(p.y)
            writer.write(cell, common.scores(y, truth, p, lpips), y)


def _report(out, cells, fixed, noise_stds, truths):
    """Print the table of this command's cells, and write their sheet."""
    first = common.FIRST_IMAGE.value
    measured = [
        _measurement_cell(fixed, noise_std, first + i, truth)
        for noise_std in noise_stds
        for i, truth in enumerate(truths)
    ]
    varied = [*_parse_grid(_GRID.value)]
    by_name = {cell['id']: cell for cell in records.read(out)}
    found = [by_name[records.cell_id(cell)] for cell in measured + cells]

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
        i = protocol['image'] - first
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


def _parse_grid(texts: list[str]) -> dict[str, list[float]]:
    grid = {}
    for text in texts:
        name, _, values = text.partition('=')
        if name in grid:
            raise ValueError(f'--grid has {name} twice.')
        try:
            grid[name] = [float(value) for value in values.split(',')]
        except ValueError:
            raise ValueError(
                f'--grid must be NAME=NUMBER,NUMBER,..., got {text!r}.'
            ) from None
    return grid


if __name__ == '__main__':
    common.run(main)
