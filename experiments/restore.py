"""Restore one image from a measurement, made here or brought.

    python -m experiments.restore --image=face.png --task=box_inpainting
    python -m experiments.restore --measurement=y.png --mask=m.png \\
        --task=box_inpainting
"""

import time

import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import common
from invjax import defaults, images, metrics, operators, problem, sweep
from invjax.conditioners import hyperparameters
from invjax.operators.mask import Mask

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
    input_sha256 = _check_flags(task, method)
    out = common.make_folder(common.OUT.value)

    start = time.perf_counter()
    prior, card = common.load_prior(_NUM_SAMPLES.value)
    load_seconds = time.perf_counter() - start

    truth, inverse_problem = _read_problem(task, prior)
    _, _, key_sampler = common.keys()
    settings = {
        **hyperparameters(method),
        **defaults.default_settings(card['name'], method, task),
        **common.given_settings(),
    }
    with common.sampling_seconds() as seconds:
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
        'operator': inverse_problem.operator.describe(),
        'input_sha256': input_sha256,
        'prior': card,
        'restored': [_scores(x, truth, inverse_problem) for x in good],
        'nonfinite_samples': np.flatnonzero(failed >= 0).tolist(),
        'seconds': {'load': load_seconds, **seconds},
        **common.protocol(common.flag_values()),
    }
    if truth is not None:
        record['measurement'] = _scores(
            np.asarray(inverse_problem.y), truth, inverse_problem
        )
    _write(out, truth, np.asarray(inverse_problem.y), good, record)


def _check_flags(task, method) -> dict[str, str]:
    """Refuse what cannot be, before anything is loaded.

    Returns:
        The SHA-256 of each file that was brought, by the name of its flag.
    """
    if (_IMAGE.value is None) == (_MEASUREMENT.value is None):
        raise ValueError('give either --image or --measurement.')
    parameters = common.given_task_parameters()
    operators.check_names(task, parameters)
    common.check_settings(method)
    needs_mask = _MEASUREMENT.value is not None and task.endswith('inpainting')
    if needs_mask and _MASK.value is None:
        raise ValueError(f'{task} of a --measurement needs --mask.')
    if _MASK.value is not None and not needs_mask:
        raise ValueError(
            '--mask goes with --measurement and a task of inpainting.'
        )
    if needs_mask and parameters:
        raise ValueError(
            f'{", ".join(parameters)} would make a mask, but --mask brings it.'
        )
    return {
        flag.name: common.input_sha256(flag.value)
        for flag in (_IMAGE, _MEASUREMENT, _MASK)
        if flag.value is not None
    }


def _read_problem(task, prior):
    """The truth, or None, and the problem."""
    if _IMAGE.value is not None:
        truth = common.read_truth(_IMAGE.value, prior)
        return truth, common.measure(truth, task, _NOISE_STD.value)
    side = prior.image_shape[0]
    y = images.read_exact(_MEASUREMENT.value, side)
    if _MASK.value is not None:
        mask = images.read_exact(_MASK.value, side, mode='L')
        operator = Mask(jnp.asarray(mask > 0, jnp.float32))
    else:
        operator = common.make_operator(task, prior.image_shape)
    return None, problem.from_measurement(y, operator, _NOISE_STD.value)


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
    times = (f'{v:.1f} s {name}' for name, v in record['seconds'].items())
    print(', '.join(times))
    print(f'pictures: {out / "sheet.png"}')


if __name__ == '__main__':
    common.run(main)
