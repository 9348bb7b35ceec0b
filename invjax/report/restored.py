"""One restoration as files: pictures, plots, a sheet and a record."""

import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from invjax import images, metrics, schedule, uncertainty
from invjax.problem import Problem
from invjax.restoration import Restoration, score

FILES = ('sheet.png', 'restored.png', 'result.json', 'report.html')


def judge(restoration: Restoration) -> dict[str, Any]:
    """All that is said of a restoration in its record, as plain data.

    Args:
        restoration: of which at least one sample is finite.
    """
    measured = restoration.problem
    good = restoration.samples[restoration.failed < 0]
    scores = [score(x, measured) for x in good]
    found: dict[str, Any] = {
        'task': measured.task,
        'noise_std': float(measured.noise_std),
        'noise_unit': '[-1, 1]',
        'noise_on_masked_pixels': False,
        'operator': measured.operator.describe(),
        **restoration.method.describe(),
        'settings_from': restoration.settings_from,
        'num_steps': restoration.num_steps,
        'mean_of': restoration.mean_of,
        'starts': restoration.starts,
        'aim': restoration.aim,
        'restored': scores,
        'nonfinite_samples': np.flatnonzero(restoration.failed >= 0).tolist(),
        'success': _success(scores, measured, len(restoration.samples)),
    }
    if measured.truth is not None:
        found['measurement'] = score(measured.as_picture(), measured)
    if len(good) > 1:
        found['samples'] = _together(np.clip(good, -1, 1), scores, measured)
    return found


def _success(scores, measured: Problem, num_samples: int) -> dict[str, Any]:
    """How many of all samples explain the measurement; failed ones do not."""
    explained = uncertainty.explains(
        np.array([s['residual_norm'] for s in scores]),
        scores[0]['expected_residual_norm'],
        float(np.linalg.norm(measured.y)),
    )
    return {
        'num_explained': int(explained.sum()),
        'num_samples': num_samples,
        'rate': float(explained.sum() / num_samples),
        'most_residual': uncertainty.MOST_RESIDUAL,
    }


def _together(samples, scores, measured: Problem) -> dict[str, Any]:
    """What several samples say together."""
    found: dict[str, Any] = {
        'best_by_residual': uncertainty.nearest_to_noise(
            np.array([s['residual_norm'] for s in scores]),
            scores[0]['expected_residual_norm'],
        ),
        'diversity': uncertainty.diversity(samples),
    }
    if measured.truth is not None:
        truth = np.asarray(measured.truth)
        nominal, observed = uncertainty.coverage(
            *(images.to_uint8(x) for x in (samples, truth))
        )
        mean = samples.mean(axis=0)
        found['psnr_of_mean'] = float(metrics.psnr(mean, truth))
        found['nominal_coverage'] = nominal.tolist()
        found['observed_coverage'] = observed.tolist()
    return found


def sentences(judged: Mapping[str, Any]) -> list[str]:
    """What `judge` found, in lines for a terminal."""
    # Why auto chose them is said before the restoration.
    source = 'of auto' if judged['aim'] else judged['settings_from']
    lines = [
        f'settings {source}: '
        + ', '.join(f'{n} {v}' for n, v in judged['settings'].items())
    ]
    if judged['mean_of'] > 1:
        number = judged['mean_of']
        lines.append(
            f'each picture is the mean of {number} restorations, of {number} '
            'times the evaluations'
        )
    if judged['starts'] > 1:
        lines.append(
            f'each is the best by residual of {judged["starts"]} starts, three '
            'of four given up after a third of the steps'
        )
    if 'measurement' in judged:
        lines.append(f'measurement {judged["measurement"]["psnr"]:.2f} dB')
    for scores in judged['restored']:
        psnr = f'{scores["psnr"]:.2f} dB, ' if 'psnr' in scores else ''
        lines.append(
            f'restored {psnr}residual {scores["residual_norm"]:.2f}, expected '
            f'{scores["expected_residual_norm"]:.2f}'
        )
    success = judged['success']
    if success['num_samples'] > 1:
        lines.append(
            '{num_explained} of {num_samples} samples explain the measurement, '
            'a residual of at most {most_residual} times the expected: success '
            'rate {rate:.0%}'.format(**success)
        )
    elif not success['num_explained']:
        lines.append(
            'the restoration does not explain the measurement: its residual is '
            f'more than {success["most_residual"]} times what the noise leaves; '
            'the task, its parameters (for a kernel, boundary and flip_kernel '
            'too) or noise_std may be others than those of the measurement, or '
            'the method failed.'
        )
    if 'samples' in judged:
        lines += _sentences_of_samples(judged['samples'], judged['restored'])
    return lines


def _sentences_of_samples(together, scores) -> list[str]:
    best = together['best_by_residual']
    lines = [f'diversity {together["diversity"]:.3f}; best by residual: {best}']
    if 'psnr_of_mean' in together:
        lines.append(
            f'mean {together["psnr_of_mean"]:.2f} dB, best by residual '
            f'{scores[best]["psnr"]:.2f} dB'
        )
        pairs = zip(
            together['nominal_coverage'],
            together['observed_coverage'],
            strict=True,
        )
        words = ', '.join(f'{o:.0%} for {n:.0%}' for n, o in pairs)
        lines.append(f'coverage of the truth: {words}')
    return lines


def write(
    folder: pathlib.Path, restoration: Restoration, judged: Mapping[str, Any]
) -> None:
    """Write the pictures: truth, measurement, samples, a sheet, and plots.

    Of images with other numbers of channels than 1 and 3 the pictures have the
    planes side by side, and a `.npy` file beside each has the numbers.

    Args:
        folder: that is there.
        restoration: of which at least one sample is finite.
        judged: what `judge` found.
    """
    measured = restoration.problem
    good = restoration.samples[restoration.failed < 0]
    columns = {'measurement': measured.as_picture()}
    if measured.truth is not None:
        columns = {'truth': np.asarray(measured.truth), **columns}
    for i, x in enumerate(good):
        columns['restored' if i == 0 else f'restored_{i}'] = x
    titles = []
    for name, x in columns.items():
        images.write_image(folder / f'{name}.png', x)
        if images.plane_names(x.shape[-1]):
            np.save(folder / f'{name}.npy', x)
        titles.append(name.replace('_', ' '))
    if measured.truth is not None:
        of_columns = [judged['measurement'], *judged['restored']]
        for i, scores in enumerate(of_columns, start=1):
            titles[i] += f'\n{scores["psnr"]:.2f} dB'
    images.sheet([list(columns.values())], titles).save(folder / 'sheet.png')
    # Of one sample the page shows the traces, which needs no Matplotlib.
    if len(good) > 1:
        best = judged['samples']['best_by_residual']
        _draw_uncertainty(folder, np.clip(good, -1, 1), best)
        _draw_traces(folder, restoration)


def _draw_uncertainty(folder, samples, best):
    """Mean and standard deviation as pictures."""
    from invjax.report import figures

    mean = samples.mean(axis=0)
    images.write_image(folder / 'mean.png', mean)
    deviation = images.root_mean_square(uncertainty.standard_deviation(samples))
    figure, ((left, middle, right),) = figures.subplots(1, 3, 4.6, 1.7)
    figures.picture(left, mean)
    left.set_title(f'mean of {len(samples)} samples')
    figures.picture(middle, samples[best])
    middle.set_title(f'sample {best}, best by residual')
    shown = right.imshow(deviation, vmin=0, cmap='magma')
    right.set(xticks=[], yticks=[], title='standard deviation')
    figure.colorbar(shown, ax=right, label='in [-1, 1] units')
    figures.save(figure, folder, 'uncertainty')


def _ratio(a, b) -> np.ndarray:
    """a / b; NaN, which a plot leaves out, where b is 0."""
    a, b = np.asarray(a), np.asarray(b)
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b != 0)


def _draw_traces(folder, restoration: Restoration):
    """How each sample went, step by step."""
    from invjax.report import figures

    info = restoration.info
    steps = schedule.reverse_steps(
        np.asarray(restoration.alpha_bar), restoration.num_steps
    )
    figure, axes = figures.subplots(1, 3, 7, 1.9)
    panels: tuple[tuple[str, np.ndarray, str], ...] = (
        ('residual norm', np.asarray(info.residual), 'log'),
        (
            'guidance / prior step',
            _ratio(info.guidance, info.prior_step),
            'log',
        ),
        ('fraction of clipped values', np.asarray(info.clipped), 'linear'),
    )
    for axis, (title, values, yscale) in zip(axes[0], panels, strict=True):
        axis.plot(np.asarray(steps.t), values.T, linewidth=0.8)
        # Some methods have no guidance in any step.
        yscale = yscale if (values > 0).any() else 'linear'
        axis.set(title=title, xlabel='timestep', yscale=yscale)
        axis.invert_xaxis()
    expected = float(restoration.problem.expected_residual_norm())
    axes[0, 0].axhline(expected, color='black', linestyle=':', label='expected')
    axes[0, 0].legend()
    figures.save(figure, folder, 'traces')
