"""The paper's four figures, as PDF and PNG, and their numbers.

Fig. 4 is drawn twice: with the paper's settings, which are for 256 px, and with
the defaults of the prior.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from invjax import (
    batch,
    keys,
    measurement,
    metrics,
    problem,
    restoration,
)
from invjax.diffusion import diffuse, tweedie
from invjax.methods import METHODS, Method
from invjax.report import figures
from invjax.study.running import score

_TASKS = {
    'gaussian_deblur': 'deconvolution',
    'box_inpainting': 'box inpainting',
    'random_inpainting': 'random inpainting',
}
# Section 5 of the paper. It does not say by which norm DPS divides its step.
_PAPER_ROWS: Sequence[tuple[str, dict[str, Any]]] = [
    *(('sdedit', {'tau': tau}) for tau in (300, 400, 500)),
    ('score_ald', {'gamma_0': 10, 'gamma_T': 15}),
    ('score_ald', {'gamma_0': 28, 'gamma_T': 33}),
    *(
        ('dps', {'zeta': zeta, 'normalise': norm})
        for norm in ('residual', 'gradient')
        for zeta in (0.1, 0.3, 1.0)
    ),
]
_TUNED_METHODS = ('sdedit', 'score_ald', 'dps')


@dataclasses.dataclass(frozen=True)
class Paper:
    """What the figures are made of.

    Attributes:
        folder: where they are written.
        prior: see `invjax.load_prior`.
        truth: (H, W, C), the face of figures 1, 3 and 4.
        num_steps: any form that `schedule.respace` takes.
        noise_std: in [-1, 1] units.
        t: timestep of figure 1.
        num_samples: of figure 2.
        seed: of everything random.
        max_lanes: the most restorations at once.
        progress: called with what is computed; gives the function to call with
            (steps done, steps in all).
    """

    folder: pathlib.Path
    prior: Any
    truth: np.ndarray
    num_steps: int | str = 100
    noise_std: float = 0.05
    t: int = 100
    num_samples: int = 8
    seed: int = 0
    max_lanes: int = 8
    progress: Callable[[str], Callable] = lambda what: lambda done, total: None

    def problems(self) -> dict[str, problem.Problem]:
        """The face, measured for the paper's tasks."""
        return {
            task: measurement.measure(
                self.truth, task, noise_std=self.noise_std, seed=self.seed
            )
            for task in _TASKS
        }


def draw(paper: Paper, which: Sequence[str] = ('1', '2', '3', '4')) -> dict:
    """Draw some of the figures; gives the numbers of each."""
    figure = {
        '1': _denoising,
        '2': _samples,
        '3': _measurements,
        '4': _restorations,
    }
    return {f'figure {name}': figure[name](paper) for name in which}


def denoise_once(prior, truth, t: int, key: jax.Array) -> dict[str, np.ndarray]:
    """Tweedie's estimate from a single pass (eq. 4): name to (H, W, C).

    Args:
        prior: see `invjax.types.Prior`.
        truth: (H, W, C).
        t: timestep.
        key: of the noise.

    Returns:
        `truth`, `noisy` (x_t / sqrt(alpha_bar_t)) and `denoised`.

    Raises:
        ValueError: for a timestep that the prior does not have.
    """
    check_t(prior, t)
    alpha_bar_t = prior.alpha_bar[t]
    x_t = diffuse(truth, alpha_bar_t, jax.random.normal(key, truth.shape))
    prediction = jax.jit(lambda prior, x, t: prior(x, t))(prior, x_t, t)
    return {
        'truth': np.asarray(truth),
        'noisy': np.asarray(x_t / np.sqrt(alpha_bar_t)),
        'denoised': np.asarray(tweedie(x_t, prediction.eps, alpha_bar_t)),
    }


def check_t(prior, t: int) -> None:
    """Refuse, with a ValueError, a timestep that the prior does not have."""
    if not 0 <= t < len(prior.alpha_bar):
        raise ValueError(
            f't must be from 0 to {len(prior.alpha_bar) - 1}, got {t}.'
        )


def _grid(out, name, rows, titles=(), labels=(), texts=()):
    """Draw images in rows and columns, each an inch wide.

    Args:
        out: folder of NAME.pdf and NAME.png.
        name: of the figure.
        rows: of (H, W, 3) images in [-1, 1].
        titles: one a column.
        labels: one a row.
        texts: a row of them for each row: what stands below an image.
    """
    num_columns, cell = max(map(len, rows)), 1.0  # inches
    figure, axes = figures.subplots(
        len(rows),
        num_columns,
        width=(0.9 if labels else 0) + cell * num_columns,
        height=(1.2 if texts else 1.05) * len(rows),
    )
    for i, row in enumerate(rows):
        for j, x in enumerate(row):
            axis = axes[i, j]
            figures.picture(axis, x)
            if i == 0 and titles:
                axis.set_title(titles[j], fontsize=7)
            if j == 0 and labels:
                axis.set_ylabel(
                    labels[i], rotation=0, ha='right', va='center', labelpad=4
                )
            if texts:
                axis.set_xlabel(texts[i][j], labelpad=2)
    figures.save(figure, out, name)


def _denoising(paper: Paper):
    shown = denoise_once(
        paper.prior, paper.truth, paper.t, keys.root(paper.seed)
    )
    psnrs = {
        name: float(metrics.psnr(shown[name], paper.truth))
        for name in ('noisy', 'denoised')
    }
    titles = ['ground truth', f'noisy, t = {paper.t}', 'denoised in one step']
    texts = ['', *(f'{v:.2f} dB' for v in psnrs.values())]
    _grid(paper.folder, 'figure_1', [[*shown.values()]], titles, texts=[texts])
    return psnrs


def _samples(paper: Paper):
    result = restoration.restore(
        problem.nothing_measured(paper.prior.image_shape),
        paper.prior,
        'unconditional',
        paper.num_steps,
        seed=paper.seed,
        num_samples=paper.num_samples,
        max_lanes=paper.max_lanes,
        on_progress=paper.progress('figure 2'),
    )
    x = result.samples
    _grid(paper.folder, 'figure_2', [x[i : i + 4] for i in range(0, len(x), 4)])


def _measurements(paper: Paper):
    measured = paper.problems()
    pictures = [p.as_picture() for p in measured.values()]
    titles = ['ground truth', *_TASKS.values()]
    _grid(paper.folder, 'figure_3', [[paper.truth, *pictures]], titles)
    return {
        task: float(metrics.psnr(y, paper.truth))
        for task, y in zip(measured, pictures, strict=True)
    }


def _restorations(paper: Paper):
    measured = paper.problems()
    lpips = metrics.load_lpips('alex')
    of_paper = [METHODS[name].of(settings) for name, settings in _PAPER_ROWS]
    tuned = {
        task: [
            restoration.resolve(name, paper.prior, task, paper.num_steps).method
            for name in _TUNED_METHODS
        ]
        for task in measured
    }
    drawn: dict[str, dict[str, list[Method]]] = {
        'figure_4': dict.fromkeys(measured, of_paper),
        'figure_4_tuned': tuned,
    }
    return {
        name: _table(paper, name, rows, measured, lpips)
        for name, rows in drawn.items()
    }


def _table(paper, name, rows_by_task, measured, lpips):
    """One figure 4: a column a task, a row a method and setting."""
    restored, scores = {}, {}
    for task, rows in rows_by_task.items():
        restored[task] = _restore_all(paper, rows, task, measured[task], name)
        scores[task] = [
            score(x, paper.truth, measured[task], [lpips])
            for x in restored[task]
        ]
    labels, texts = words(rows_by_task, scores)
    titles = [f'{_TASKS[task]}\nPSNR / LPIPS alex' for task in rows_by_task]
    pictures = [*zip(*restored.values(), strict=True)]
    _grid(paper.folder, name, pictures, titles, labels, texts)
    return {
        task: [
            {**method.describe(), **of_row}
            for method, of_row in zip(rows, scores[task], strict=True)
        ]
        for task, rows in rows_by_task.items()
    }


def words(
    rows_by_task: Mapping[str, Sequence[Method]],
    scores: Mapping[str, Sequence[Mapping[str, float]]],
) -> tuple[list[str], list[list[str]]]:
    """What stands beside and below the pictures of figure 4.

    Args:
        rows_by_task: task to methods, as many for each.
        scores: task to `psnr` and `lpips_alex` of each.

    Returns:
        A label a row, and texts, a row of a column a task each. The best score
        of a task is bold. Settings are part of the labels where all tasks have
        the same ones, and else stand below the pictures.
    """
    columns = []
    for of_task in scores.values():
        psnrs = [row['psnr'] for row in of_task]
        distances = [row['lpips_alex'] for row in of_task]
        columns.append(
            [
                f'{_bold(f"{psnr:.2f}", psnr == np.nanmax(psnrs))} dB / '
                f'{_bold(f"{lpips:.3f}", lpips == np.nanmin(distances))}'
                for psnr, lpips in zip(psnrs, distances, strict=True)
            ]
        )
    texts = [[*row] for row in zip(*columns, strict=True)]
    own = [[_label(row) for row in rows] for rows in rows_by_task.values()]
    labels = own[0]
    if any(others != labels for others in own):
        for j, others in enumerate(own):
            for i, label in enumerate(others):
                _, _, settings = label.partition('\n')
                texts[i][j] += '\n' + settings.replace('\n', ', ')
        labels = [label.partition('\n')[0] for label in labels]
    return labels, texts


def _restore_all(paper, rows, task, measured, name):
    """Restorations by each row, those that differ in numbers alone at once."""
    groups: dict[Any, list[int]] = {}
    for i, method in enumerate(rows):
        groups.setdefault(jax.tree.structure(method), []).append(i)
    restored = [None] * len(rows)
    for members in groups.values():
        methods = [rows[i] for i in members]
        what = f'{name}, {task}, {methods[0].name}'
        result = batch.run_lanes(
            batch.make_lanes(keys.root(paper.seed), [measured], methods),
            paper.prior,
            paper.num_steps,
            max_lanes=paper.max_lanes,
            on_progress=paper.progress(what),
        )
        for i, x in zip(members, result.x, strict=True):
            restored[i] = x
    return restored


def _bold(number: str, is_best: bool) -> str:
    return rf'$\mathbf{{{number}}}$' if is_best else number


_TITLES = {'sdedit': 'SDEdit', 'dps': 'DPS', 'score_ald': 'ScoreALD'}


def _label(method: Method) -> str:
    """A row's label: the method, then its settings."""
    settings: Mapping[str, Any] = {
        name: value
        for name, value in method.settings().items()
        if name in method.hyperparameters()
    }
    if method.name == 'score_ald':
        return f'ScoreALD\n[{settings["gamma_0"]:g}, {settings["gamma_T"]:g}]'
    lines = [
        f'by {value}' if isinstance(value, str) else f'{name} {value:g}'
        for name, value in settings.items()
    ]
    return '\n'.join([_TITLES.get(method.name, method.name), *lines])
