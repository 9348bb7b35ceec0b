"""What a comparison with other code came to: a table, and a sheet a task."""

import functools
from collections.abc import Sequence

import numpy as np
from PIL import Image as Pictures

from invjax import images, metrics
from invjax.comparison.comparing import OURS, Image, Run, setting_words
from invjax.report import methods_page

# The scores of the table, with their digits there.
_DIGITS = {'psnr': 2, 'lpips_alex': 3}


def table(runs: Sequence[Run]) -> list[str]:
    """Scores and their paired differences from ours, in Markdown.

    Means are over images, with standard errors; times are medians.

    Args:
        runs: scored, with ours among them for each task, method and steps.
    """
    ours = {_what(run): run for run in runs if run.side == OURS}
    lines = [
        '| task | method | steps | code | settings | PSNR, dB | LPIPS alex '
        '| s an image | ours - it, PSNR | ours - it, LPIPS |',
        '| --- ' * 10 + '|',
    ]
    for run in runs:
        scores, differences = [], []
        for name, digits in _DIGITS.items():
            values = run.scores[name]
            mean = metrics.mean_and_standard_error(values)
            scores.append(_words(mean, digits))
            difference = metrics.paired_difference(
                ours[_what(run)].scores[name], values
            )
            differences.append(_words(difference, digits))
        cells = [
            f'`{run.task}`',
            f'`{run.method}`',
            run.num_steps,
            run.side,
            setting_words(run) or 'default',
            *scores,
            f'{np.median(run.seconds):.1f}',
            *(['', ''] if run.side == OURS else differences),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def entries(
    runs: Sequence[Run], shown: Sequence[Image]
) -> list[methods_page.Entry]:
    """Rows of a page of methods, each code's as a method of its own.

    Args:
        runs: scored.
        shown: the images whose pictures are to be on the page, the first ones.
    """
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        found.append(
            methods_page.Entry(
                task,
                'measurement',
                '',
                '',
                {},
                {
                    i: image.problems[task].as_picture
                    for i, image in enumerate(shown)
                },
            )
        )
        for run in runs:
            if run.task != task:
                continue
            scores = {
                name: metrics.mean_and_standard_error(run.scores[name])
                for name in _DIGITS
            }
            median = metrics.Estimate(
                np.float64(np.median(run.seconds)), np.float64(np.nan)
            )
            found.append(
                methods_page.Entry(
                    task,
                    f'{run.method}, {run.side}',
                    run.num_steps,
                    setting_words(run) or 'default',
                    {**scores, 'seconds': median},
                    {
                        i: functools.partial(np.clip, run.x[i], -1, 1)
                        for i in range(len(shown))
                    },
                )
            )
    return found


def _what(run: Run) -> tuple[str, str, str]:
    return run.task, run.method, run.num_steps


def _words(estimate: metrics.Estimate, digits: int) -> str:
    mean, error = estimate
    if np.isnan(error):  # Of one image.
        return f'{mean:.{digits}f}'
    return f'{mean:.{digits}f} +- {error:.{digits}f}'


def sheet(runs: Sequence[Run], shown: Sequence[Image]) -> Pictures.Image:
    """Truth, measurement and every run of a task, a row an image.

    Args:
        runs: of one task, scored.
        shown: the first of the images that they restored.
    """
    task = runs[0].task
    rows = [
        [
            image.truth,
            image.problems[task].as_picture(),
            *(run.x[i] for run in runs),
        ]
        for i, image in enumerate(shown)
    ]
    titles = [
        f'{run.method}, {run.num_steps}\n{run.side}\n'
        f'{np.mean(run.scores["psnr"]):.1f} dB'
        for run in runs
    ]
    return images.sheet(rows, ['truth', 'measurement', *titles], cell=128)
