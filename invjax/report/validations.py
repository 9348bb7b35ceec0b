"""A figure of errors against known posteriors, by the number of steps."""

import pathlib

from invjax.report import figures

_LARGEST_SHOWN = 5.0  # error


def draw(folder: pathlib.Path, by_steps: dict[str, dict[int, dict]]) -> None:
    """Draw `validation.png`: a panel an error, a line a method."""
    figure, axes = figures.subplots(1, 3, 7, 3.0)
    for axis, name in zip(
        axes[0], ('mean', 'covariance', 'sliced'), strict=True
    ):
        for i, (method, errors) in enumerate(by_steps.items()):
            values, deviations = zip(
                *(row[name] for row in errors.values()), strict=True
            )
            axis.errorbar(
                list(errors),
                values,
                deviations,
                label=method,
                **figures.look(i),
            )
        axis.set(
            xscale='log',
            yscale='log',
            xlabel='steps',
            title=f'{name}, relative error',
        )
        # Some methods diverge, and would leave the others no room.
        axis.set_ylim(top=min(axis.get_ylim()[1], _LARGEST_SHOWN))
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        loc='outside lower center',
        ncols=7,
    )
    figures.save(figure, folder, 'validation')
