"""A restoration as a page: pictures to compare, and what may be believed of them."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from markupsafe import Markup

from invjax import images, schedule, uncertainty
from invjax.priors.card import Coverage
from invjax.problem import Problem
from invjax.report import drawing, pages
from invjax.report.pages import Picture, Verdict
from invjax.restoration import Restoration
from invjax.types import LinearOperator, MaskOperator

# Of a standard deviation over samples: a twentieth of the way from black to
# white, which an eye sees in an even part of a face.
DISAGREEMENT = 0.1
# Two standard errors hold 95 %.
_NUM_STANDARD_ERRORS = 2.0
# Of coverage; less is of no matter to who reads an interval.
_COVERAGE_TOLERANCE = 0.05
# Of residual pictures, in standard deviations.
_MOST_SIGMA = 4.0
# The most samples whose pictures a page has.
_MOST_SAMPLES = 64
_NO_COVERAGE = (
    'How often intervals of {method} hold the truth on {task} was not measured '
    'for {prior} with {num_steps} steps, so its samples are no measure of doubt '
    'that was checked. evaluate --calibration measures it.'
)


class Part(NamedTuple):
    """One restoration of a page.

    Attributes:
        title: of its part of the page.
        restoration: of which at least one sample is finite.
        judged: what `restored.judge` found.
        coverage: what was measured of this prior, method and task, or None.
    """

    title: str
    restoration: Restoration
    judged: Mapping[str, Any]
    coverage: Coverage | None = None


def part(
    title: str, restoration: Restoration, judged: Mapping[str, Any], card=None
) -> Part:
    """A part of a page, with what the prior's card says of calibration.

    Args:
        title, restoration, judged: see `Part`.
        card: of the prior, or None.
    """
    measured = restoration.problem
    coverage = None
    if card is not None:
        coverage = card.coverage(
            restoration.method.name,
            measured.task,
            restoration.num_steps,
            float(measured.noise_std),
            restoration.method.settings(),
        )
    return Part(title, restoration, judged, coverage)


def write(
    path,
    title: str,
    parts: Sequence[Part],
    record: Mapping[str, Any],
    command: str = '',
    python: str = '',
) -> pathlib.Path:
    """Write a page of one or several restorations.

    Pictures are as they are where they fit into `pages.MAX_BYTES`; else they
    are lossy, and then of fewer samples.

    Args:
        path: of the file.
        title: of the page; this and all else may hold any text.
        parts: one or more.
        record: plain data of where it comes from.
        command, python: lines that make it again; '' for none.

    Raises:
        ValueError: if not even one sample of each part fits.
    """
    lossless, most = True, _MOST_SAMPLES
    while True:
        page = pages.render(
            'restored.html',
            title,
            parts=[_shown(part, lossless, most) for part in parts],
            record=pages.as_text(record),
            command=command,
            python=python,
        )
        if pages.size(page) <= pages.MAX_BYTES or most <= 1:
            return pages.write(path, page)
        if lossless:
            lossless = False
        else:
            most //= 2


def _shown(part: Part, lossless: bool, most: int) -> dict[str, Any]:
    """What the template needs of a part."""
    found, judged = part.restoration, part.judged
    measured = found.problem
    finite = np.flatnonzero(found.failed < 0)
    samples = np.clip(found.samples[finite], -1, 1)
    height, width, _ = images.planes(samples[0]).shape
    deviation = _deviation(samples)
    disagree = None if deviation is None else deviation > DISAGREEMENT
    return {
        'title': part.title,
        'facts': _facts(found, judged),
        'ratio': f'{width} / {height}',
        'shape': (height, width),
        'sample_numbers': [int(i) for i in finite[:most]],
        'left_out': max(len(finite) - most, 0),
        'outline': '' if disagree is None else drawing.outline(disagree),
        'disagreement': DISAGREEMENT,
        'verdicts': verdicts(part),
        'gauge': _gauge(measured, judged),
        'pictures': _pictures(part, samples, finite, lossless, most),
        'operator': _pictures_of_operator(measured),
        'operator_words': [
            (name.replace('_', ' '), _words(value))
            for name, value in measured.operator.describe().items()
        ],
        'residual': _pictures_of_residual(measured, samples[0]),
        'traces': _traces(found),
    }


def _words(value: Any) -> str:
    """Plain data in the words of a page."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, float):
        return f'{value:.4g}'
    if isinstance(value, Mapping):
        return ', '.join(f'{n} {_words(v)}' for n, v in value.items())
    return str(value)


def _facts(found: Restoration, judged) -> list[tuple[str, str]]:
    """What stands on top of a part."""
    facts = [
        ('method', found.method.name),
        ('steps', str(found.num_steps)),
        ('prior', found.prior_name),
        ('noise', f'{float(found.problem.noise_std):g} in [-1, 1] units'),
    ]
    scores = judged['restored'][0]
    if 'psnr' in scores:
        facts += [
            ('measured', f'{judged["measurement"]["psnr"]:.2f} dB'),
            ('restored', f'{scores["psnr"]:.2f} dB'),
        ]
    if 'ssim' in scores:
        facts.append(('SSIM', f'{scores["ssim"]:.3f}'))
    if 'psnr_of_mean' in judged.get('samples', {}):
        mean = judged['samples']['psnr_of_mean']
        facts.append(('mean of samples', f'{mean:.2f} dB'))
    facts += [(n, _words(v)) for n, v in judged['settings'].items()]
    return [*facts, ('settings from', found.settings_from)]


# What may be believed.


def verdicts(part: Part) -> list[Verdict]:
    """What may be believed of a restoration, a sentence each.

    Args:
        part: see there.
    """
    found, judged = part.restoration, part.judged
    measured = found.problem
    said = [_of_residual(measured, judged)]
    finite = found.samples[found.failed < 0]
    failed = judged['nonfinite_samples']
    if failed:
        said.append(
            Verdict(
                'bad',
                f'{len(failed)} of {len(found.samples)} samples are not finite '
                'and not shown; a smaller step may help.',
            )
        )
    structure = _of_structure(measured, finite[0])
    if structure is not None:
        said.append(structure)
    said.append(_of_coverage(part))
    said.append(_of_samples(np.clip(finite, -1, 1)))
    together = judged.get('samples', {})
    if 'observed_coverage' in together:
        pairs = zip(
            together['observed_coverage'],
            together['nominal_coverage'],
            strict=True,
        )
        words = ', '.join(f'{o:.0%} where {n:.0%} should' for o, n in pairs)
        said.append(
            Verdict(
                'note',
                f'Of this picture, whose truth is known, intervals hold {words}.',
            )
        )
    return said


def expected_chi_square(problem: Problem) -> tuple[float, float]:
    """Where 95 % of the truths' chi-squares are: 1 +- 2 sqrt(2 / m).

    ||n||^2 / noise_std^2 of m normal numbers has mean m and variance 2 m.
    """
    spread = math.sqrt(2 / max(float(problem.num_measured()), 1))
    return (
        max(1 - _NUM_STANDARD_ERRORS * spread, 0.0),
        1 + _NUM_STANDARD_ERRORS * spread,
    )


def _chi_squares(judged) -> list[float]:
    return [
        (s['residual_norm'] / s['expected_residual_norm']) ** 2
        if s['expected_residual_norm']
        else math.nan
        for s in judged['restored']
    ]


def _gauge(measured: Problem, judged) -> Markup:
    if not float(measured.noise_std):
        return Markup()
    low, high = expected_chi_square(measured)
    most = uncertainty.MOST_RESIDUAL**2
    return drawing.gauge(_chi_squares(judged), low, high, most)


def _of_residual(measured: Problem, judged) -> Verdict:
    """Whether the restoration explains the measurement."""
    success = judged['success']
    number, explained = success['num_samples'], success['num_explained']
    if explained < number:
        what = (
            'The restoration does not explain'
            if number == 1
            else f'{number - explained} of {number} samples do not explain'
        )
        return Verdict(
            'bad',
            f'{what} the measurement: the residual is more than '
            f'{success["most_residual"]:g} times what the noise leaves. The '
            'task, its parameters or the noise may be others than those of the '
            'measurement, or the method failed.',
        )
    if not float(measured.noise_std):
        return Verdict(
            'good',
            'The measurement has no noise, and its residual is small beside '
            'it.',
        )
    values = _chi_squares(judged)
    low, high = expected_chi_square(measured)
    middle = float(np.median(values))
    said = (
        f'Chi-square of the residual is {middle:.3f}'
        f'{" in the median over samples" if len(values) > 1 else ""}; that of '
        f'the truth is from {low:.3f} to {high:.3f} in 95 of 100 cases'
    )
    if middle > high:
        return Verdict(
            'unknown',
            f'{said}. It is larger, though within what explains the '
            'measurement: something that was measured is not in the picture.',
        )
    if middle < low:
        return Verdict(
            'unknown',
            f'{said}. It is smaller: some of the noise is taken for picture.',
        )
    return Verdict('good', f'{said}. It explains the measurement.')


def _of_structure(measured: Problem, x: np.ndarray) -> Verdict | None:
    """Whether neighbours in the residual are alike, as noise's are not."""
    unit = _standardised(measured, x)
    if unit is None or unit.ndim != 3:
        return None
    support = np.broadcast_to(
        np.asarray(measured.operator.support()), unit.shape
    )
    products, number = 0.0, 0
    for axis in (0, 1):
        ahead = [slice(None)] * 3
        behind = [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        both = support[tuple(ahead)] * support[tuple(behind)] > 0
        product = unit[tuple(ahead)] * unit[tuple(behind)]
        products += float(product[both].sum())
        number += int(both.sum())
    power = float(np.mean(unit[support > 0] ** 2)) if support.any() else 0.0
    if number < 100 or not power:
        return None
    correlation = products / number / power
    bound = _NUM_STANDARD_ERRORS / math.sqrt(number)
    said = (
        f'Neighbours in the residual are correlated by {correlation:+.3f}; those '
        f'of noise are within {bound:.3f} of 0'
    )
    # Below this a picture hides nothing in the residual that an eye would find.
    if abs(correlation) > max(bound, 0.1):
        return Verdict(
            'unknown',
            f'{said}. Something of the picture, or of the operator, is left in '
            'it.',
        )
    if abs(correlation) > bound:
        return Verdict(
            'note', f'{said}: more than noise, less than an eye sees.'
        )
    return Verdict('good', f'{said}, so it looks like noise.')


def _of_coverage(part: Part) -> Verdict:
    """How often intervals hold the truth, as it was measured before."""
    found = part.restoration
    coverage = part.coverage
    if coverage is None:
        return Verdict(
            'unknown',
            _NO_COVERAGE.format(
                method=found.method.name,
                task=found.problem.task or 'a task without a name',
                prior=found.prior_name,
                num_steps=found.num_steps,
            ),
        )
    off = np.asarray(coverage.observed) - np.asarray(coverage.nominal)
    errors = np.nan_to_num(np.asarray(coverage.standard_error))
    worst = int(np.argmax(np.abs(off)))
    bound = max(_NUM_STANDARD_ERRORS * errors[worst], _COVERAGE_TOLERANCE)
    said = (
        f'Over {coverage.num_images} other pictures intervals of '
        f'{coverage.method} on {coverage.task}, in {coverage.num_steps} steps, '
        f'held the truth in {coverage.observed[worst]:.0%} (standard error '
        f'{errors[worst]:.1%}) where they should in '
        f'{coverage.nominal[worst]:.0%}'
    )
    if abs(off[worst]) <= bound:
        return Verdict(
            'good', f'{said}: how far samples differ may be believed.'
        )
    if off[worst] < 0:
        return Verdict(
            'bad',
            f'{said}: samples differ by less than they are wrong. Take them '
            'as pictures that may be, and not as bounds.',
        )
    return Verdict(
        'unknown',
        f'{said}: samples differ by more than they are wrong, so what they '
        'agree on is surer than it looks.',
    )


def _of_samples(samples: np.ndarray) -> Verdict:
    deviation = _deviation(samples)
    if deviation is None:
        return Verdict(
            'unknown',
            'One sample says nothing of what else the picture may be; '
            'restore --num_samples=8 draws several.',
        )
    # Up to rounding: a method without noise of its own draws nothing.
    if float(deviation.max()) < 1e-4:
        return Verdict(
            'unknown',
            f'The {len(samples)} samples are one and the same picture: this '
            'method has one answer, and says nothing of what else the picture '
            'may be.',
        )
    fraction = float(np.mean(deviation > DISAGREEMENT))
    if not fraction:
        return Verdict(
            'note',
            f'The {len(samples)} samples agree: nowhere is their standard '
            f'deviation above {DISAGREEMENT:g}.',
        )
    return Verdict(
        'note',
        f'The {len(samples)} samples disagree on {fraction:.0%} of the pixels, '
        f'which are outlined: there their standard deviation is above '
        f'{DISAGREEMENT:g}, a twentieth of the way from black to white. What is '
        'seen there is the prior, not the measurement.',
    )


# Pictures.


def _deviation(samples: np.ndarray) -> np.ndarray | None:
    """Of samples, as a map of `images.root_mean_square`; None for one."""
    if len(samples) < 2:
        return None
    return images.root_mean_square(uncertainty.standard_deviation(samples))


def _pictures(part: Part, samples, finite, lossless, most) -> list[Picture]:
    found, judged = part.restoration, part.judged
    measured = found.problem
    shown = []

    names = images.plane_names(measured.image_shape[-1])

    def photograph(name, x, words='', key=''):
        words = '; '.join(filter(None, (words, names)))
        address = pages.source(x, lossless)
        shown.append(Picture(name, address, words, key or name))

    truth = None if measured.truth is None else np.asarray(measured.truth)
    if truth is not None:
        photograph('truth', truth)
    words = ''
    if 'measurement' in judged:
        words = f'{judged["measurement"]["psnr"]:.2f} dB'
    photograph('measurement', measured.as_picture(), words)
    for i, x, scores in list(
        zip(finite, samples, judged['restored'], strict=True)
    )[:most]:
        name = 'restored' if len(samples) == 1 else f'sample {i}'
        words = f'{scores["psnr"]:.2f} dB' if 'psnr' in scores else ''
        photograph(name, x, words, 'restored')
    deviation = _deviation(samples)
    estimate, named = samples[0], 'restored'
    if deviation is not None:
        estimate, named = samples.mean(axis=0), 'mean'
        words = ''
        if 'psnr_of_mean' in judged['samples']:
            words = f'{judged["samples"]["psnr_of_mean"]:.2f} dB'
        photograph('mean', estimate, words or f'of {len(samples)} samples')
    maps = {}
    if deviation is not None:
        maps['standard deviation'] = deviation, f'over {len(samples)} samples'
    if truth is not None:
        error = images.root_mean_square(estimate - truth)
        maps['error'] = error, f'of the {named}, root mean square'
    largest = max([float(m.max()) for m, _ in maps.values()], default=0.0)
    # One scale, so that doubt and error can be compared.
    for name, (values, words) in maps.items():
        shown.append(
            Picture(
                name,
                pages.mapped(values, largest),
                words,
                name,
                drawing.scale(0, largest, 'in [-1, 1] units'),
            )
        )
    return shown


def _as_picture(values: np.ndarray) -> np.ndarray | None:
    """The planes of (H, W, C), or None for what is no picture."""
    values = np.asarray(values)
    if np.iscomplexobj(values):
        return None
    if values.ndim == 2 and min(values.shape) > 1:
        return values[..., None]
    return images.planes(values) if values.ndim == 3 else None


def _standardised(measured: Problem, x: np.ndarray) -> np.ndarray | None:
    """The residual in standard deviations of the noise, in the shape of y.

    None where there is no noise, or y is complex.
    """
    residual = np.asarray(measured.residual(jnp.clip(x, -1, 1)))
    if not float(measured.noise_std) or np.iscomplexobj(residual):
        return None
    weights = np.asarray(measured.weights)
    return residual * np.sqrt(weights) / float(measured.noise_std)


def _pictures_of_residual(measured: Problem, x: np.ndarray) -> dict[str, Any]:
    """The residual of the first sample as a map, and its histogram."""
    unit = _standardised(measured, x)
    if unit is None:
        return {'picture': None, 'histogram': ''}
    support = np.broadcast_to(
        np.asarray(measured.operator.support()), unit.shape
    )
    of_channels = _as_picture(unit)
    picture = None
    if of_channels is not None:
        # So scaled, the mean over C channels of noise has a deviation of 1.
        values = of_channels.mean(axis=-1)
        values *= math.sqrt(of_channels.shape[-1])
        picture = Picture(
            'residual, y - A(x)',
            pages.signed(values, _MOST_SIGMA),
            images.plane_names(unit.shape[-1]) or 'the mean of its channels',
            '',
            drawing.scale(
                -_MOST_SIGMA,
                _MOST_SIGMA,
                'standard deviations of the noise',
                drawing.SIGNED_COLOURS,
            ),
        )
    return {
        'picture': picture,
        'histogram': drawing.histogram(
            unit[support > 0], 'residual, in standard deviations of the noise'
        ),
    }


def _pictures_of_operator(measured: Problem) -> list[Picture]:
    """What the operator did, as far as it is a picture."""
    operator, shown = measured.operator, []
    if isinstance(operator, MaskOperator):
        mask = np.asarray(operator.mask_of_x())
        mask = np.broadcast_to(mask, measured.image_shape)
        if not mask.all():
            shown.append(
                Picture(
                    'mask',
                    pages.source(2 * mask - 1),
                    f'white is measured: {mask.mean():.1%}',
                )
            )
    elif isinstance(operator, LinearOperator):
        kernel = _kernel(operator)
        if kernel is not None:
            shown.append(
                Picture(
                    'kernel',
                    pages.source(2 * kernel / kernel.max() - 1),
                    'what becomes of one point of light in the middle; '
                    f'{kernel.shape[1]} x {kernel.shape[0]} pixels',
                )
            )
    y = np.asarray(measured.y)
    as_it_is = _as_picture(y)
    if as_it_is is not None and y.shape != measured.image_shape:
        low, high = float(y.min()), float(y.max())
        shown.append(
            Picture(
                'measured values',
                pages.source(2 * (as_it_is - low) / max(high - low, 1e-9) - 1),
                f'{" x ".join(map(str, y.shape))} numbers, from '
                f'{low:.3g} (black) to {high:.3g} (white)',
            )
        )
    return shown


# Of a kernel's largest value: what is less is black in its picture.
_LEAST_OF_KERNEL = 1 / 512


def _kernel(operator) -> np.ndarray | None:
    """The response to a point of light, cut to where it is seen, (h, w, 1)."""
    height, width, channels = operator.image_shape
    if tuple(operator.measurement_shape) != (height, width, channels):
        return None
    point = np.zeros((height, width, channels), np.float32)
    point[height // 2, width // 2] = 1
    response = np.asarray(operator.forward(jnp.asarray(point))).mean(axis=-1)
    seen = np.abs(response) > _LEAST_OF_KERNEL * np.abs(response).max()
    rows = np.abs(np.flatnonzero(seen.any(axis=1)) - height // 2)
    columns = np.abs(np.flatnonzero(seen.any(axis=0)) - width // 2)
    # A response all over the picture is no kernel.
    if (
        not rows.size
        or max(rows.max(), columns.max()) >= min(height, width) // 2
    ):
        return None
    r, c = int(rows.max()), int(columns.max())
    cut = response[
        height // 2 - r : height // 2 + r + 1,
        width // 2 - c : width // 2 + c + 1,
    ]
    return np.maximum(cut, 0)[..., None]


def _traces(found: Restoration) -> list[tuple[str, Markup]]:
    """How each sample went, step by step."""
    info = found.info
    steps = schedule.reverse_steps(np.asarray(found.alpha_bar), found.num_steps)
    expected = float(found.problem.expected_residual_norm())
    with np.errstate(divide='ignore', invalid='ignore'):
        ratio = np.asarray(info.guidance) / np.asarray(info.prior_step)
    panels = (
        ('residual norm; dotted is what noise leaves', info.residual, True),
        ('guidance over prior step', ratio, True),
        ('fraction of clipped values', info.clipped, False),
    )
    return [
        (
            name,
            drawing.lines(
                np.asarray(steps.t),
                {f'sample {i}': np.asarray(v) for i, v in enumerate(values)},
                'timestep',
                name,
                logarithmic,
                expected if i == 0 else None,
            ),
        )
        for i, (name, values, logarithmic) in enumerate(panels)
    ]
