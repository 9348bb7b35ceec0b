"""A grid of hyperparameters over several images in one compiled program.

    python -m experiments.sweep --task=box_inpainting --method=dps \\
        --grid=zeta=0.3,1,3 --images=faces.npz:celeba --num_images=8

Writes a table of mean PSNR and SSIM with standard errors, every cell's numbers,
and a sheet: one row an image; truth, measurement, then one column a setting.
"""

import pathlib
import time

import jax
import numpy as np
from absl import flags

from experiments import common
from invjax import images, metrics, operators, problem, sweep
from invjax.conditioners import hyperparameters

_TASK = common.define_task()
_METHOD = common.define_method()
_GRID = flags.DEFINE_multi_string(
    'grid',
    [],
    'A hyperparameter and its values, as zeta=0.3,1,3. Repeat it '
    'for all combinations.',
)
_IMAGES = flags.DEFINE_string(
    'images', None, 'A folder of pictures, or FILE.npz:KEY, uint8 (N, H, W, 3).'
)
_FIRST_IMAGE = flags.DEFINE_integer(
    'first_image', 0, 'The first one to take.', lower_bound=0
)
_NUM_IMAGES = flags.DEFINE_integer(
    'num_images', 8, 'How many to take.', lower_bound=1
)
_NOISE_STD = flags.DEFINE_float(
    'noise_std', 0.05, 'In [-1, 1] units.', lower_bound=0
)
_MAX_LANES = flags.DEFINE_integer(
    'max_lanes', 8, 'The most lanes at once.', lower_bound=1
)


def main():
    operators.parameters(_TASK.value)
    hyperparameters(_METHOD.value)
    settings = sweep.grid(**_parse_grid(_GRID.value))
    out = common.make_folder(common.OUT.value)
    prior, card = common.load_prior(_MAX_LANES.value)
    truths = _read_images(prior.image_shape[0])
    key = jax.random.key(common.SEED.value)
    problems = [
        _measure(jax.random.fold_in(key, _FIRST_IMAGE.value + i), truth)
        for i, truth in enumerate(truths)
    ]
    lanes = sweep.make_lanes(
        key, problems, settings, first_image=_FIRST_IMAGE.value
    )
    start = time.perf_counter()
    result = sweep.run_lanes(
        lanes,
        prior,
        _METHOD.value,
        common.NUM_STEPS.value,
        max_lanes=_MAX_LANES.value,
        on_progress=common.Progress(f'{_METHOD.value}, {_TASK.value}'),
        **common.given_settings(),
    )
    seconds = time.perf_counter() - start
    restored = result.x.reshape(len(truths), len(settings), *truths[0].shape)
    measured = [np.asarray(p.y) for p in problems]

    rows = [{'setting': 'measurement', **_scores(measured, truths)}]
    for j, setting in enumerate(settings):
        rows.append({'setting': setting, **_scores(restored[:, j], truths)})
    for row in rows:
        print(
            f'{row["setting"]!s:<40} '
            f'PSNR {row["psnr"][0]:6.2f} +- {row["psnr"][1]:.2f} dB   '
            f'SSIM {row["ssim"][0]:.3f} +- {row["ssim"][1]:.3f}'
        )
    failed = sweep.first_nonfinite_step(result.info)
    for lane in np.flatnonzero(failed >= 0):
        image, row = divmod(int(lane), len(settings))
        print(
            f'image {_FIRST_IMAGE.value + image} with {settings[row]} is not '
            f'finite from step {failed[lane]}.'
        )
    sheet = [
        [truth, y, *np.nan_to_num(cells)]
        for truth, y, cells in zip(truths, measured, restored, strict=True)
    ]
    titles = ['truth', 'measurement', *(_title(s) for s in settings)]
    images.sheet(sheet, titles, cell=128).save(out / 'sheet.png')
    record = {
        'rows': rows,
        'nonfinite_lanes': np.flatnonzero(failed >= 0).tolist(),
        'seconds': seconds,
        'prior': card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'sweep.json', record)
    print(f'{seconds:.0f} s; pictures: {out / "sheet.png"}')


def _parse_grid(texts: list[str]) -> dict[str, list[float]]:
    grid = {}
    for text in texts:
        name, _, values = text.partition('=')
        try:
            grid[name] = [float(value) for value in values.split(',')]
        except ValueError:
            raise ValueError(
                f'--grid must be NAME=NUMBER,NUMBER,..., got {text!r}.'
            ) from None
    return grid


def _read_images(side: int) -> list[np.ndarray]:
    if _IMAGES.value is None:
        raise ValueError('give --images, a folder or FILE.npz:KEY.')
    first, last = _FIRST_IMAGE.value, _FIRST_IMAGE.value + _NUM_IMAGES.value
    name, _, array = _IMAGES.value.partition('.npz:')
    if array:
        path = pathlib.Path(f'{name}.npz')
        if not path.is_file():
            raise ValueError(f'there is no file {path}.')
        with np.load(path) as arrays:
            if array not in arrays:
                raise ValueError(
                    f'{path} has no {array!r}; it has {", ".join(arrays)}.'
                )
            truths = [images.to_float(pixels) for pixels in arrays[array]]
    else:
        paths = sorted(pathlib.Path(_IMAGES.value).glob('*.[pj][np]*g'))
        truths = [images.read_image(path, side)[0] for path in paths[:last]]
    truths = truths[first:last]
    if not truths:
        raise ValueError(f'{_IMAGES.value} has no image number {first}.')
    if truths[0].shape[0] != side:
        raise ValueError(
            f'the images are {truths[0].shape[0]} px, the prior is for {side}.'
        )
    return truths


def _measure(key: jax.Array, truth: np.ndarray) -> problem.Problem:
    key_operator, key_noise = jax.random.split(key)
    operator = operators.make_operator(
        _TASK.value,
        key_operator,
        truth.shape,
        **common.given_task_parameters(),
    )
    return problem.measure(key_noise, truth, operator, _NOISE_STD.value)


def _scores(xs, truths) -> dict:
    """Mean and standard error over the images, and each image's value."""
    scores = {}
    for name, metric in (('psnr', metrics.psnr), ('ssim', metrics.ssim)):
        values = [float(metric(x, t)) for x, t in zip(xs, truths, strict=True)]
        scores[name] = [*metrics.mean_and_standard_error(values)]
        scores[f'{name}_each'] = values
    return scores


def _title(setting: dict) -> str:
    return '\n'.join(f'{name} {value:g}' for name, value in setting.items())


if __name__ == '__main__':
    common.run(main)
