"""The paper's four figures, as PDF and PNG, and their numbers as JSON.

    python -m experiments.figures --which=all --image=face.png --out=figures

Fig. 4 is drawn twice: with the paper's settings, which are for 256 px, and with
the defaults of the prior.
"""

import pathlib

import jax
import numpy as np
from absl import flags
from invjax.conditioners import hyperparameters, split_settings

from experiments import common, plots
from invjax import defaults, metrics, problem, sweep
from invjax.diffusion import diffuse, tweedie

_WHICH = flags.DEFINE_enum(
    'which', 'all', ['1', '2', '3', '4', 'all'], 'Figure of the paper.'
)
_IMAGE = flags.DEFINE_string(
    'image',
    str(pathlib.Path(__file__).parent / 'astronaut.png'),
    'The face of figures 1, 3 and 4.',
)
_NOISE_STD = flags.DEFINE_float(
    'noise_std', 0.05, 'In [-1, 1] units.', lower_bound=0
)
_T = flags.DEFINE_integer('t', 100, 'Timestep of figure 1.', lower_bound=0)
_NUM_SAMPLES = flags.DEFINE_integer(
    'num_samples', 8, 'Of figure 2.', lower_bound=1
)
_MAX_LANES = flags.DEFINE_integer(
    'max_lanes', 8, 'The most lanes at once.', lower_bound=1
)

_TASKS = {
    'gaussian_deblur': 'deconvolution',
    'box_inpainting': 'box inpainting',
    'random_inpainting': 'random inpainting',
}
# Section 5 of the paper. It does not say by which norm DPS divides its step.
_PAPER_ROWS = [
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


def main():
    input_sha256 = {_IMAGE.name: common.input_sha256(_IMAGE.value)}
    out = common.make_folder(common.OUT.value)
    prior, card = common.load_prior(_MAX_LANES.value)
    if _T.value >= len(prior.alpha_bar):
        raise ValueError(
            f'--t must be from 0 to {len(prior.alpha_bar) - 1}, got {_T.value}.'
        )
    truth = common.read_truth(_IMAGE.value, prior)
    problems = {
        task: common.measure(truth, task, _NOISE_STD.value) for task in _TASKS
    }
    figures = {
        '1': lambda: _denoising(out, prior, truth),
        '2': lambda: _samples(out, prior),
        '3': lambda: _measurements(out, truth, problems),
        '4': lambda: _restorations(out, prior, card, truth, problems),
    }
    which = figures if _WHICH.value == 'all' else [_WHICH.value]
    numbers = {f'figure {name}': figures[name]() for name in which}
    record = {
        'numbers': numbers,
        'input_sha256': input_sha256,
        'prior': card,
        **common.protocol(common.flag_values()),
    }
    common.write_json(out / 'figures.json', record)
    print(f'pictures: {out}')


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
    figure, axes = plots.subplots(
        len(rows),
        num_columns,
        width=(0.9 if labels else 0) + cell * num_columns,
        height=(1.2 if texts else 1.05) * len(rows),
    )
    for i, row in enumerate(rows):
        for j, x in enumerate(row):
            axis = axes[i, j]
            plots.picture(axis, x)
            if i == 0 and titles:
                axis.set_title(titles[j], fontsize=7)
            if j == 0 and labels:
                axis.set_ylabel(
                    labels[i], rotation=0, ha='right', va='center', labelpad=4
                )
            if texts:
                axis.set_xlabel(texts[i][j], labelpad=2)
    plots.save(figure, out, name)


def _denoising(out, prior, truth):
    alpha_bar_t = prior.alpha_bar[_T.value]
    noise = jax.random.normal(jax.random.key(common.SEED.value), truth.shape)
    x_t = diffuse(truth, alpha_bar_t, noise)
    prediction = jax.jit(lambda prior, x, t: prior(x, t))(prior, x_t, _T.value)
    columns = {
        'ground truth': truth,
        f'noisy, t = {_T.value}': x_t / np.sqrt(alpha_bar_t),
        'denoised in one step': tweedie(x_t, prediction.eps, alpha_bar_t),
    }
    psnrs = {n: float(metrics.psnr(x, truth)) for n, x in columns.items()}
    texts = ['', *(f'{v:.2f} dB' for v in list(psnrs.values())[1:])]
    _grid(out, 'figure_1', [[*columns.values()]], [*columns], texts=[texts])
    del psnrs['ground truth']
    return psnrs


def _samples(out, prior):
    result = sweep.restore(
        problem.nothing_measured(prior.image_shape),
        prior,
        'unconditional',
        common.NUM_STEPS.value,
        key=jax.random.key(common.SEED.value),
        num_samples=_NUM_SAMPLES.value,
        max_lanes=_MAX_LANES.value,
        on_progress=common.Progress('figure 2'),
    )
    _grid(
        out,
        'figure_2',
        [result.x[i : i + 4] for i in range(0, len(result.x), 4)],
    )
    return None


def _measurements(out, truth, problems):
    images = [truth, *(np.asarray(p.y) for p in problems.values())]
    titles = ['ground truth', *_TASKS.values()]
    _grid(out, 'figure_3', [images], titles)
    psnrs = (float(metrics.psnr(p.y, truth)) for p in problems.values())
    return dict(zip(problems, psnrs, strict=True))


def _restorations(out, prior, card, truth, problems):
    lpips = metrics.load_lpips('alex')
    tuned = {
        task: [
            (
                method,
                defaults.default_settings(
                    card['name'], method, task, common.NUM_STEPS.value
                ),
            )
            for method in _TUNED_METHODS
        ]
        for task in problems
    }
    drawn = {
        'figure_4': dict.fromkeys(problems, _PAPER_ROWS),
        'figure_4_tuned': tuned,
    }
    return {
        name: _table(out, name, rows, prior, truth, problems, lpips)
        for name, rows in drawn.items()
    }


def _table(out, name, rows_by_task, prior, truth, problems, lpips):
    """One figure 4: a column a task, a row a method and setting."""
    columns, scores = [], []
    for task, rows in rows_by_task.items():
        restored = _restore_all(rows, prior, task, problems[task], name)
        columns.append(restored)
        scores.append(
            [common.scores(x, truth, problems[task], [lpips]) for x in restored]
        )
    best = [
        (max(s['psnr'] for s in column), min(s['lpips_alex'] for s in column))
        for column in scores
    ]
    texts = [
        [
            _bold(f'{s["psnr"]:.2f}', s['psnr'] == best_psnr)
            + ' dB / '
            + _bold(f'{s["lpips_alex"]:.3f}', s['lpips_alex'] == best_lpips)
            for s, (best_psnr, best_lpips) in zip(row, best, strict=True)
        ]
        for row in zip(*scores, strict=True)
    ]
    own = {
        task: [_words(*row) for row in rows]
        for task, rows in rows_by_task.items()
    }
    shared = len({tuple(words) for words in own.values()}) == 1
    if shared:
        labels = next(iter(own.values()))
    else:
        labels = [
            words.partition('\n')[0] for words in next(iter(own.values()))
        ]
        for i, row in enumerate(texts):
            for j, words in enumerate(own.values()):
                row[j] += '\n' + words[i].partition('\n')[2].replace('\n', ', ')
    pictures = [*zip(*columns, strict=True)]
    titles = [f'{task}\nPSNR / LPIPS alex' for task in _TASKS.values()]
    _grid(out, name, pictures, titles, labels, texts)
    return {
        task: [
            {'method': m, 'settings': s, **score}
            for (m, s), score in zip(rows, column, strict=True)
        ]
        for (task, rows), column in zip(
            rows_by_task.items(), scores, strict=True
        )
    }


def _restore_all(rows, prior, task, inverse_problem, name):
    """Restorations by each row, those that differ in numbers alone at once."""
    groups = {}
    for i, (method, settings) in enumerate(rows):
        numbers, choices = split_settings(
            method, {**hyperparameters(method), **settings}
        )
        group = groups.setdefault((method, tuple(choices.items())), [])
        group.append((i, numbers))
    _, _, key = common.keys()
    restored = [None] * len(rows)
    for (method, choices), members in groups.items():
        lanes = sweep.make_lanes(
            key, [inverse_problem], [n for _, n in members]
        )
        result = sweep.run_lanes(
            lanes,
            prior,
            method,
            common.NUM_STEPS.value,
            max_lanes=_MAX_LANES.value,
            on_progress=common.Progress(f'{name}, {task}, {method}'),
            **dict(choices),
        )
        for (i, _), x in zip(members, result.x, strict=True):
            restored[i] = x
    return restored


def _bold(number: str, is_best: bool) -> str:
    return rf'$\mathbf{{{number}}}$' if is_best else number


def _words(method, settings):
    """A row's label: the method, then its settings."""
    if method == 'score_ald' and settings:
        return f'ScoreALD\n[{settings["gamma_0"]:g}, {settings["gamma_T"]:g}]'
    names = {'sdedit': 'SDEdit', 'dps': 'DPS'}
    words = [
        f'by {value}' if isinstance(value, str) else f'{name} {value:g}'
        for name, value in settings.items()
    ]
    return '\n'.join([names.get(method, method), *words])


if __name__ == '__main__':
    common.run(main)
