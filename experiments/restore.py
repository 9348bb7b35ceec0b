"""Restore one image from a measurement, made here or brought.

    python -m experiments.restore --image=face.png --task=box_inpainting
    python -m experiments.restore --measurement=y.png --mask=m.png \\
        --task=box_inpainting --num_samples=8

Several samples also give their mean and a map of their standard deviation, and
say how much they differ and, where a truth is known, how often they enclose it.
The success rate is the share of them that explain the measurement: a task such
as phase retrieval fails at random, and needs several starts.
"""

import time

import numpy as np
from absl import flags

from experiments import common, measured, plots
from invjax import defaults, images, metrics, schedule, sweep, uncertainty
from invjax.conditioners import hyperparameters

_METHOD = common.define_method()
_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 1, 'How many restorations to draw.', lower_bound=1
)


def main():
    task, method = measured.TASK.value, _METHOD.value
    input_sha256 = measured.check_flags()
    common.check_settings(method)
    out = common.make_folder(common.OUT.value)

    start = time.perf_counter()
    prior, card = common.load_prior(_NUM_SAMPLES.value)
    load_seconds = time.perf_counter() - start

    truth, inverse_problem = measured.read(prior)
    _, _, key_sampler = common.keys()
    settings = {
        **hyperparameters(method),
        **defaults.default_settings(
            card['name'], method, task, common.NUM_STEPS.value
        ),
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
            f'sample {sample} of '
            f'{measured.IMAGE.value or measured.MEASUREMENT.value} by '
            f'{method} is not finite from step {failed[sample]} of '
            f'{result.info.residual.shape[1]}; a smaller step may help.'
        )
    good = result.x[failed < 0]
    if not len(good):
        raise ValueError('nothing was restored, and no picture was written.')
    record = {
        **measured.protocol(inverse_problem, input_sha256),
        'method': method,
        'settings': settings,
        'prior': card,
        'restored': [measured.scores(x, truth, inverse_problem) for x in good],
        'nonfinite_samples': np.flatnonzero(failed >= 0).tolist(),
        'seconds': {'load': load_seconds, **seconds},
        **common.protocol(common.flag_values()),
    }
    y = common.picture_of(inverse_problem)
    if truth is not None:
        record['measurement'] = measured.scores(y, truth, inverse_problem)
    if _NUM_SAMPLES.value > 1:
        record['success'] = _success(record['restored'], inverse_problem)
    if len(good) > 1:
        record['samples'] = _write_uncertainty(
            out, truth, np.clip(good, -1, 1), record['restored']
        )
    _write_traces(out, prior, result.info, inverse_problem)
    _write(out, truth, y, good, record)


def _success(scores, inverse_problem) -> dict:
    """How many of all samples explain the measurement; failed ones do not."""
    explained = uncertainty.explains(
        [s['residual_norm'] for s in scores],
        scores[0]['expected_residual_norm'],
        float(np.linalg.norm(inverse_problem.y)),
    )
    return {
        'num_explained': int(explained.sum()),
        'num_samples': _NUM_SAMPLES.value,
        'rate': float(explained.sum() / _NUM_SAMPLES.value),
        'most_residual': uncertainty.MOST_RESIDUAL,
    }


def _write_uncertainty(out, truth, samples, scores) -> dict:
    """Mean and standard deviation as pictures; what the samples say together."""
    mean = samples.mean(axis=0)
    images.write_image(out / 'mean.png', mean)
    best = uncertainty.nearest_to_noise(
        [s['residual_norm'] for s in scores],
        scores[0]['expected_residual_norm'],
    )
    # One number a pixel: over the channels, variances are averaged.
    deviation = uncertainty.standard_deviation(samples)
    deviation = np.sqrt(np.mean(deviation**2, axis=-1))
    figure, ((left, middle, right),) = plots.subplots(1, 3, 4.6, 1.7)
    plots.picture(left, mean)
    left.set_title(f'mean of {len(samples)} samples')
    plots.picture(middle, samples[best])
    middle.set_title(f'sample {best}, best by residual')
    shown = right.imshow(deviation, vmin=0, cmap='magma')
    right.set(xticks=[], yticks=[], title='standard deviation')
    figure.colorbar(shown, ax=right, label='in [-1, 1] units')
    plots.save(figure, out, 'uncertainty')
    found = {
        'best_by_residual': best,
        'diversity': uncertainty.diversity(samples),
    }
    if truth is not None:
        nominal, observed = uncertainty.coverage(samples, truth)
        found['psnr_of_mean'] = float(metrics.psnr(mean, truth))
        found['nominal_coverage'] = nominal.tolist()
        found['observed_coverage'] = observed.tolist()
    return found


def _write_traces(out, prior, info, inverse_problem):
    """How each sample went, step by step."""
    steps = schedule.reverse_steps(
        np.asarray(prior.alpha_bar), common.NUM_STEPS.value
    )
    figure, axes = plots.subplots(1, 3, 7, 1.9)
    panels = (
        ('residual norm', info.residual, 'log'),
        ('guidance / prior step', info.guidance / info.prior_step, 'log'),
        ('share of clipped values', info.clipped, 'linear'),
    )
    for axis, (title, values, scale) in zip(axes[0], panels, strict=True):
        axis.plot(np.asarray(steps.t), values.T, linewidth=0.8)
        axis.set(title=title, xlabel='timestep', yscale=scale)
        axis.invert_xaxis()
    expected = float(inverse_problem.expected_residual_norm())
    axes[0, 0].axhline(expected, color='black', linestyle=':', label='expected')
    axes[0, 0].legend()
    plots.save(figure, out, 'traces')


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
    if 'success' in record:
        print(
            '{num_explained} of {num_samples} samples explain the measurement, '
            'a residual of at most {most_residual} times the expected: success '
            'rate {rate:.0%}'.format(**record['success'])
        )
    if 'samples' in record:
        _print_samples(record['samples'], record['restored'])
    times = (f'{v:.1f} s {name}' for name, v in record['seconds'].items())
    print(', '.join(times))
    print(f'pictures: {out / "sheet.png"}')


def _print_samples(found, scores):
    best = found['best_by_residual']
    print(f'diversity {found["diversity"]:.3f}; best by residual: {best}')
    if 'psnr_of_mean' in found:
        print(
            f'mean {found["psnr_of_mean"]:.2f} dB, best by residual '
            f'{scores[best]["psnr"]:.2f} dB'
        )
        pairs = zip(
            found['nominal_coverage'], found['observed_coverage'], strict=True
        )
        words = (f'{o:.0%} for {n:.0%}' for n, o in pairs)
        print(f'coverage of the truth: {", ".join(words)}')


if __name__ == '__main__':
    common.run(main)
