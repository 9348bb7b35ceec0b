"""Restore one image from a measurement, made here or brought.

    python -m experiments.restore --image=face.png --task=box_inpainting
    python -m experiments.restore --measurement=y.png --mask=m.png \\
        --task=box_inpainting
"""

import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from invjax import defaults, images, metrics, operators, problem, sweep
from invjax.conditioners import hyperparameters
from invjax.operators.mask import Mask
from invjax.priors import checkpoint

_IMAGE = flags.DEFINE_string(
    'image', None, 'The truth, any picture; it is degraded, then restored.'
)
_MEASUREMENT = flags.DEFINE_string(
    'measurement', None, "Instead of --image: y, of the prior's own size."
)
_MASK = flags.DEFINE_string(
    'mask', None, 'With --measurement, for inpainting: white is observed.'
)
_TASK = common.define_task()
_METHOD = common.define_method()
_NOISE_STD = flags.DEFINE_float(
    'noise_std',
    0.05,
    'Of the noise, in [-1, 1] units (half of it in [0, 1] units).',
    lower_bound=0,
)
_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 1, 'How many restorations to draw.', lower_bound=1
)


def main():
    task, method = _TASK.value, _METHOD.value
    if (_IMAGE.value is None) == (_MEASUREMENT.value is None):
        raise ValueError('give either --image or --measurement.')
    operators.parameters(task)
    hyperparameters(method)
    out = common.make_folder(common.OUT.value)

    start = time.perf_counter()
    prior, card = checkpoint.load_prior(
        common.PRIOR.value, dtype=jnp.dtype(common.DTYPE.value)
    )
    load_seconds = time.perf_counter() - start

    key = jax.random.key(common.SEED.value)
    key_operator, key_noise, key_sampler = jax.random.split(key, 3)
    truth, inverse_problem = _read_problem(
        task, prior.image_shape, key_operator, key_noise
    )
    settings = {
        **hyperparameters(method),
        **defaults.default_settings(card['name'], method, task),
        **common.given_settings(),
    }
    start = time.perf_counter()
    result = sweep.restore(
        inverse_problem,
        prior,
        method,
        common.NUM_STEPS.value,
        key=key_sampler,
        num_samples=_NUM_SAMPLES.value,
        on_progress=common.Progress(f'{method}, {task}'),
        **settings,
    )
    sampling_seconds = time.perf_counter() - start

    failed = sweep.first_nonfinite_step(result.info)
    for sample in np.flatnonzero(failed >= 0):
        print(
            f'sample {sample} of {_IMAGE.value or _MEASUREMENT.value} by '
            f'{method} is not finite from step {failed[sample]} of '
            f'{result.info.residual.shape[1]}; a smaller step may help.'
        )
    good = result.x[failed < 0]
    if not len(good):
        raise ValueError('nothing was restored, and no picture was written.')
    record = {
        'task': task,
        'method': method,
        'settings': settings,
        'noise_std': _NOISE_STD.value,
        'noise_unit': '[-1, 1]',
        'noise_on_masked_pixels': False,
        'operator': _describe(inverse_problem.operator),
        'prior': card,
        'restored': [_scores(x, truth, inverse_problem) for x in good],
        'nonfinite_samples': np.flatnonzero(failed >= 0).tolist(),
        'seconds': {
            'load': load_seconds,
            'compile_and_sampling': sampling_seconds,
        },
        **common.protocol(common.flag_values()),
    }
    if truth is not None:
        record['measurement'] = _scores(
            np.asarray(inverse_problem.y), truth, inverse_problem
        )
    _write(out, truth, np.asarray(inverse_problem.y), good, record)


def _read_problem(task, image_shape, key_operator, key_noise):
    """The truth, or None, and the problem."""
    side = image_shape[0]
    parameters = common.given_task_parameters()
    if _IMAGE.value is not None:
        operator = operators.make_operator(
            task, key_operator, image_shape, **parameters
        )
        truth, done = images.read_image(_IMAGE.value, side)
        print(done)
        return truth, problem.measure(
            key_noise, truth, operator, _NOISE_STD.value
        )
    y = images.read_exact(_MEASUREMENT.value, side)
    inpainting = task.endswith('inpainting')
    if inpainting and _MASK.value is None:
        raise ValueError(f'{task} of a --measurement needs --mask.')
    if inpainting:
        mask = images.read_exact(_MASK.value, side, mode='L')
        operator = Mask(jnp.asarray(mask > 0, jnp.float32))
    else:
        operator = operators.make_operator(
            task, key_operator, image_shape, **parameters
        )
    return None, problem.from_measurement(y, operator, _NOISE_STD.value)


def _describe(operator) -> dict:
    """What the operator did to this image, as plain data."""
    if not isinstance(operator, Mask):
        return {'kind': type(operator).__name__}
    missing = np.argwhere(np.asarray(operator.mask)[..., 0] == 0)
    description = {'kind': 'Mask', 'num_missing': len(missing)}
    if len(missing):
        top, left = missing.min(axis=0).tolist()
        bottom, right = (missing.max(axis=0) + 1).tolist()
        description['missing_within'] = {
            'top': top,
            'left': left,
            'bottom': bottom,
            'right': right,
        }
    return description


def _scores(x, truth, inverse_problem) -> dict:
    """PSNR in dB and SSIM against the truth; residual against the noise."""
    residual = float(inverse_problem.residual_norm(jnp.clip(x, -1, 1)))
    scores = {
        'residual_norm': residual,
        'expected_residual_norm': float(
            inverse_problem.expected_residual_norm()
        ),
    }
    if truth is not None:
        scores['psnr'] = float(metrics.psnr(x, truth))
        scores['ssim'] = float(metrics.ssim(x, truth))
    return scores


def _write(out, truth, y, restored, record):
    columns = {'measurement': y, 'restored': restored[0]}
    if truth is not None:
        columns = {'truth': truth, **columns}
    for name, x in columns.items():
        images.write_image(out / f'{name}.png', x)
    for i, x in enumerate(restored[1:], start=1):
        images.write_image(out / f'restored_{i}.png', x)
        columns[f'restored {i}'] = x
    titles = list(columns)
    if truth is not None:
        titles[1] += f' {record["measurement"]["psnr"]:.2f} dB'
        for i, scores in enumerate(record['restored']):
            titles[2 + i] += f' {scores["psnr"]:.2f} dB'
    images.sheet([list(columns.values())], titles).save(out / 'sheet.png')
    common.write_json(out / 'result.json', record)
    for title in titles:
        print(title)
    for scores in record['restored']:
        print(
            f'residual {scores["residual_norm"]:.2f}, expected '
            f'{scores["expected_residual_norm"]:.2f}'
        )
    seconds = record['seconds']['compile_and_sampling']
    print(f'{seconds:.0f} s for compiling and sampling')
    print(f'pictures: {out / "sheet.png"}')


if __name__ == '__main__':
    common.run(main)
