"""What cells say together: means over images, with standard errors."""

from collections.abc import Callable, Sequence

import numpy as np

from invjax import metrics


def choose_samples(
    cells: Sequence[dict], most: float, costs: Sequence[str] = ()
) -> list[dict]:
    """Of each image the sample with the least residual, as one has no truth.

    Args:
        cells: from `cells.read`, with chi_square among their scores.
        most: the largest chi-square of a sample that explains the measurement.
        costs: scores that add up over the samples of an image.

    Returns:
        A cell an image. Its scores have `success` too: the fraction of the image's
        samples that explain the measurement. A cost that a sample lacks is NaN.
    """
    by_image = {}
    for cell in cells:
        by_image.setdefault(cell['protocol']['image'], []).append(cell)
    chosen = []
    for samples in by_image.values():
        residuals = np.array(
            [_number(c['scores'].get('chi_square')) for c in samples]
        )
        # A sample that is not finite explains nothing, and is taken last.
        best = samples[
            np.argmin(np.where(np.isnan(residuals), np.inf, residuals))
        ]
        added = {
            n: sum(_number(c['scores'].get(n)) for c in samples) for n in costs
        }
        success = {'success': float(np.mean(residuals <= most))}
        chosen.append(
            {**best, 'scores': {**best['scores'], **added, **success}}
        )
    return chosen


def summarise(
    cells: Sequence[dict], key: Callable[[dict], tuple]
) -> dict[tuple, dict[str, metrics.Estimate]]:
    """Mean and standard error over images, of each group of cells.

    Several samples of one image are averaged first: they are not independent
    images.

    Args:
        cells: from `cells.read`.
        key: of a protocol: what the cells of a group share.

    Returns:
        Group to the estimate of each score, groups in order of appearance. A
        score that is not finite, or that some of a group's cells lack, makes
        its group's estimate not finite.
    """
    groups = {}
    for cell in cells:
        group = groups.setdefault(key(cell['protocol']), {})
        image = group.setdefault(cell['protocol']['image'], [])
        image.append(cell['scores'])
    return {
        group: {
            name: metrics.mean_and_standard_error(
                [
                    np.mean([_number(s.get(name)) for s in samples])
                    for samples in by_image.values()
                ]
            )
            for name in dict.fromkeys(
                name
                for samples in by_image.values()
                for scores in samples
                for name in scores
            )
        }
        for group, by_image in groups.items()
    }


def _number(value) -> float:
    return np.nan if value is None else float(value)
