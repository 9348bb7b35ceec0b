"""The same restorations by deepinv's own code, and how the two compare.

    python -m venv OTHER && OTHER/bin/pip install torch deepinv==0.5.0
    python -m experiments.compare --peer=OTHER/bin/python \\
        --images=val64.npz:celeba --num_images=8 --out=compare
    ... --first_tuning=40 --num_tuning=2    # chooses the peer's settings too

Both have the same network, weights, measurements and number of evaluations of
the network; that networks and operators agree is checked first. Ours have the
settings of `invjax/defaults.py`. deepinv's have its own and, with
`--num_tuning`, also those of a grid with the highest mean PSNR on other images.
Writes `compare.md`, `compare.json` and a sheet a task. Times are medians of one
image at a time, without compilation.
"""

import pathlib
import tempfile
import time
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import common, peer
from invjax import (
    conditioners,
    defaults,
    images,
    metrics,
    operators,
    schedule,
    sweep,
)
from invjax.operators.blur import Convolution
from invjax.operators.mask import Mask
from invjax.operators.separable import Separable

_PEER = flags.DEFINE_string(
    'peer', None, 'A Python that can import torch and deepinv.'
)
_TASKS = flags.DEFINE_list(
    'tasks',
    ['box_inpainting', 'random_inpainting', 'motion_deblur'],
    'Also gaussian_deblur, super_resolution and denoising.',
)
_RUNS = flags.DEFINE_list(
    'runs',
    ['dps:100', 'ddrm:20', 'diffpir:20', 'diffpir:100'],
    'METHOD:STEPS each, with an evaluation of the network a step. Steps as '
    '--num_steps has them elsewhere; the peer has its own spacing of as many.',
)
_NOISE_STD = flags.DEFINE_float(
    'noise_std', 0.05, 'In [-1, 1] units.', lower_bound=0
)
_FIRST_TUNING = flags.DEFINE_integer(
    'first_tuning', 40, 'Of --images: the first to tune on.', lower_bound=0
)
_NUM_TUNING = flags.DEFINE_integer(
    'num_tuning', 0, 'How many to tune the peer on.', lower_bound=0
)
_NUM_SHOWN = flags.DEFINE_integer(
    'num_shown', 3, 'Images on a sheet.', lower_bound=1
)
common.define_images()

# What the peer is tuned over, by the names of its own arguments and of those of
# `compare_peer.py`; the first of each is what it does by default.
_GRIDS = {
    'dps': [
        {},
        *({'weight': w} for w in (30.0, 100.0, 300.0, 1000.0)),
        *({'guidance': 'annealed', 'weight': w} for w in (0.3, 1.0)),
    ],
    'ddrm': [
        {},
        {'sigmas': 'timesteps'},
        {'sigmas': 'timesteps', 'eta': 0.5},
        {'sigmas': 'timesteps', 'eta': 1.0},
    ],
    'diffpir': [
        {},
        *(
            {'lambda_': lambda_, 'zeta': zeta}
            for lambda_ in (3.5, 14.0, 28.0)
            for zeta in (0.3, 1.0)
        ),
    ],
}
# Two networks in float32 differ by rounding, some forty layers of it.
_TOLERANCE = 1e-4
_TIMESTEPS = (0, 500, 999)
_STRETCH = 10
_OURS = 'invjax'
_THEIRS = 'deepinv'
_TUNED = 'deepinv, tuned'
# The scores of the table, with their digits there.
_DIGITS = {'psnr': 2, 'lpips_alex': 3}


class Image(NamedTuple):
    """An image of the data set.

    Attributes:
        number: in the data set.
        truth: (H, W, 3) in [-1, 1].
        problems: task to Problem.
    """

    number: int
    truth: np.ndarray
    problems: dict


class Run(NamedTuple):
    """A method on a task, and what came of each image.

    Attributes:
        task, method, num_steps: what is run; steps as on the command line.
        side: whose code, _OURS, _THEIRS or _TUNED.
        settings: those that are given.
        x: (H, W, 3) each.
        seconds: each.
        scores: metric to one value each.
    """

    task: str
    method: str
    num_steps: str
    side: str = ''
    settings: dict = {}  # noqa: RUF012
    x: list[np.ndarray] = ()
    seconds: list[float] = ()
    scores: dict[str, list[float]] = {}  # noqa: RUF012


def main():
    asked = [_parse_run(text) for text in _RUNS.value]
    for task in _TASKS.value:
        operators.check_names(task, ())
    if _PEER.value is None:
        raise ValueError('give --peer, a Python with torch and deepinv.')
    _check_tuning()
    out = common.make_folder(common.OUT.value)
    with (
        peer.start(_PEER.value, 'compare_peer.py') as ask,
        tempfile.TemporaryDirectory() as folder,
    ):
        prior, card = common.load_prior(num_lanes=4)
        theirs = Theirs(ask, pathlib.Path(folder))
        versions = theirs.load(prior)
        data = _measured(prior, common.FIRST_IMAGE.value, None)
        tuning = []
        if _NUM_TUNING.value:
            tuning = _measured(prior, _FIRST_TUNING.value, _NUM_TUNING.value)
        runs = []
        for task in _TASKS.value:
            theirs.check_operator(data[0].problems[task])
            for method, num_steps in asked:
                what = Run(task, method, num_steps)
                ours = _ours(what, prior, card, data)
                default = theirs.run(what, {}, data)
                new = [ours, default]
                if tuning:
                    best = theirs.tune(what, tuning)
                    # Where its own are the best, they need not run again.
                    tuned = theirs.run(what, best, data) if best else default
                    new.append(tuned._replace(side=_TUNED))
                runs += [_scored(run, data) for run in new]
                for run in runs[-len(new) :]:
                    print(_line(run), flush=True)
    _write(out, runs, data, {'prior': card, 'peer': versions})


def _parse_run(text: str) -> tuple[str, str]:
    method, _, steps = text.partition(':')
    if method not in _GRIDS:
        raise ValueError(
            f'--runs must be METHOD:STEPS, of {", ".join(_GRIDS)}, got {text!r}.'
        )
    if len(schedule.respace(steps)) < 2:
        raise ValueError(f'--runs must have 2 steps or more, got {text!r}.')
    return method, steps


def _check_tuning():
    first, last = (
        common.FIRST_IMAGE.value,
        common.FIRST_IMAGE.value + common.NUM_IMAGES.value,
    )
    tuning = _FIRST_TUNING.value, _FIRST_TUNING.value + _NUM_TUNING.value
    if max(first, tuning[0]) < min(last, tuning[1]):
        raise ValueError(
            f'images {tuning[0]} to {tuning[1] - 1} to tune on must not be '
            f'among those compared, {first} to {last - 1}.'
        )


def _measured(prior, first: int, number: int | None) -> list[Image]:
    """Images from a number on, measured for all tasks as a sweep would."""
    key = jax.random.key(common.SEED.value)
    truths = common.read_images(prior.image_shape[0], first, number)
    return [
        Image(
            number,
            truth,
            {
                task: common.measure_numbered(
                    key, number, truth, task, _NOISE_STD.value
                )
                for task in _TASKS.value
            },
        )
        for number, truth in enumerate(truths, start=first)
    ]


def _ours(what: Run, prior, card: dict, data: list[Image]) -> Run:
    """Restore each image by this project, with its default settings."""
    settings = defaults.default_settings(
        card['name'], what.method, what.task, what.num_steps
    )
    numbers, _ = conditioners.split_settings(what.method, settings)

    def restore(image, num_steps):
        lanes = sweep.make_lanes(
            jax.random.key(common.SEED.value),
            [image.problems[what.task]],
            [numbers],
            first_image=image.number,
        )
        result = sweep.run_lanes(
            lanes, prior, what.method, num_steps, stretch=_STRETCH
        )
        return result.x[0]

    # Compiles the program that all stretches run.
    restore(data[0], _STRETCH)
    x, seconds = [], []
    for image in data:
        start = time.perf_counter()
        x.append(restore(image, what.num_steps))
        seconds.append(time.perf_counter() - start)
    return what._replace(side=_OURS, settings=settings, x=x, seconds=seconds)


def _count(what: Run) -> int:
    return len(schedule.respace(what.num_steps))


class Theirs:
    """deepinv in the other Python, asked for what `compare_peer.py` does."""

    def __init__(self, ask, folder: pathlib.Path):
        self._ask = ask
        self._folder = folder

    def load(self, prior) -> dict:
        """Hand over the weights; check that the networks agree.

        Returns:
            The versions of the peer's packages.

        Raises:
            ValueError: if the peer's network is another one.
        """
        path = self._folder / 'weights.npz'
        tensors = peer.state_dict(prior.params, prior.network)
        np.savez(path, **{peer.faces64_name(n): a for n, a in tensors.items()})
        versions = self._ask(do='load', weights=str(path))
        x_t = np.asarray(
            jax.random.normal(jax.random.key(0), prior.image_shape)
        )
        predict = jax.jit(lambda prior, x_t, t: prior(x_t, t).eps)
        for t in _TIMESTEPS:
            _check_close(
                f'the networks at t = {t}',
                self._array('predict', x_t=self._save(x_t), t=t),
                predict(prior, x_t, t),
            )
        return versions

    def check_operator(self, problem) -> None:
        """Check that the peer measures an image as we do."""
        x = np.asarray(
            jax.random.normal(jax.random.key(1), problem.image_shape)
        )
        _check_close(
            f'the operators {problem.operator.describe()["kind"]}',
            self._array(
                'measure', x=self._save(x), problem=self._save_problem(problem)
            ),
            problem.operator.forward(x),
        )

    def run(self, what: Run, settings: dict, data: list[Image]) -> Run:
        """Restore each image with some settings."""
        x, seconds = [], []
        for image in data:
            path = self._folder / 'x.npy'
            answer = self._ask(
                do='restore',
                problem=self._save_problem(image.problems[what.task]),
                method=what.method,
                num_steps=_count(what),
                # deepinv takes a seed of 0 for none.
                seed=1 + 1000 * common.SEED.value + image.number,
                settings=settings,
                out=str(path),
            )
            if answer['num_evaluations'] != _count(what):
                raise ValueError(
                    f"the peer's {what.method} evaluated the network "
                    f'{answer["num_evaluations"]} times, not '
                    f'{_count(what)}; compare with the version of deepinv '
                    'that compare_peer.py names.'
                )
            x.append(np.load(path))
            seconds.append(answer['seconds'])
        return what._replace(
            side=_THEIRS, settings=settings, x=x, seconds=seconds
        )

    def tune(self, what: Run, tuning: list[Image]) -> dict:
        """The settings of the grid with the highest mean PSNR."""

        def mean_psnr(settings):
            run = _scored(self.run(what, settings, tuning), tuning)
            print(f'    tuning: {_line(run)}', flush=True)
            return np.mean(run.scores['psnr'])

        return max(_GRIDS[what.method], key=mean_psnr)

    def _array(self, do: str, **question) -> np.ndarray:
        path = self._folder / 'answer.npy'
        self._ask(do=do, **question, out=str(path))
        return np.load(path)

    def _save(self, x: np.ndarray) -> str:
        path = self._folder / 'question.npy'
        np.save(path, x)
        return str(path)

    def _save_problem(self, problem) -> str:
        path = self._folder / 'problem.npz'
        np.savez(
            path,
            y=problem.y,
            noise_std=problem.noise_std,
            image_shape=problem.image_shape,
            **_operator_arrays(problem.operator),
        )
        return str(path)


def _operator_arrays(operator) -> dict[str, np.ndarray]:
    """What the peer builds its operator from."""
    if isinstance(operator, Mask):
        return {'mask': operator.mask}
    if isinstance(operator, Convolution):
        # The impulse response, moved from the corner to where it is a kernel.
        size = int(operator.parameters['blur_size'])
        response = np.fft.ifft2(operator.transfer[..., 0]).real
        response = np.roll(response, (size // 2, size // 2), axis=(0, 1))
        return {'kernel': response[:size, :size].astype(np.float32)}
    if isinstance(operator, Separable):
        return {
            f'{axis}_{name}': getattr(getattr(operator, axis), name)
            for axis in ('rows', 'columns')
            for name in ('left', 'singular', 'right')
        }
    raise ValueError(
        f'{type(operator).__name__} cannot be handed to the peer; --tasks must '
        'be inpainting, denoising, deblurring of a picture or super-resolution.'
    )


def _check_close(what: str, theirs, ours) -> None:
    difference = np.abs(theirs - ours).max() / np.abs(ours).max()
    # Said so that NaN is refused too.
    if not difference < _TOLERANCE:
        raise ValueError(
            f'{what} differ by {difference:.1e} of the largest value, more '
            f'than {_TOLERANCE:.0e}: there is nothing to compare.'
        )


@jax.jit
def _score(lpips, x, truth):
    return {'psnr': metrics.psnr(x, truth), 'lpips_alex': lpips(x, truth)}


def _scored(run: Run, data: list[Image]) -> Run:
    lpips = metrics.load_lpips('alex')
    by_image = [
        _score(lpips, x, image.truth)
        for x, image in zip(run.x, data, strict=True)
    ]
    scores = {n: [float(v[n]) for v in by_image] for n in _DIGITS}
    return run._replace(scores=scores)


def _settings(run: Run) -> str:
    return ', '.join(f'{name} {value}' for name, value in run.settings.items())


def _line(run: Run) -> str:
    psnr, lpips = (np.mean(run.scores[name]) for name in _DIGITS)
    return (
        f'{run.task}, {run.method}, {run.num_steps} steps, {run.side} '
        f'({_settings(run) or "default"}): {psnr:.2f} dB, LPIPS {lpips:.3f}, '
        f'{np.median(run.seconds):.1f} s an image'
    )


def _table(runs: list[Run]) -> list[str]:
    lines = [
        '| task | method | steps | code | settings | PSNR, dB | LPIPS alex '
        '| s an image | ours - it, PSNR | ours - it, LPIPS |',
        '| --- ' * 10 + '|',
    ]
    for run in runs:
        if run.side == _OURS:
            ours = run
        scores, differences = [], []
        for name, digits in _DIGITS.items():
            values = run.scores[name]
            mean = metrics.mean_and_standard_error(values)
            scores.append(_words(mean, digits))
            difference = metrics.paired_difference(ours.scores[name], values)
            differences.append(_words(difference, digits))
        cells = [
            f'`{run.task}`',
            f'`{run.method}`',
            run.num_steps,
            run.side,
            _settings(run) or 'default',
            *scores,
            f'{np.median(run.seconds):.1f}',
            *(['', ''] if run is ours else differences),
        ]
        lines.append(f'| {" | ".join(cells)} |')
    return lines


def _words(estimate, digits: int) -> str:
    mean, error = estimate
    return f'{mean:.{digits}f} +- {error:.{digits}f}'


def _sheet(runs: list[Run], data: list[Image]):
    """Truth, measurement and every run of a task, a row an image."""
    shown = range(min(_NUM_SHOWN.value, len(data)))
    rows = [
        [
            data[i].truth,
            common.picture_of(data[i].problems[runs[0].task]),
            *(run.x[i] for run in runs),
        ]
        for i in shown
    ]
    titles = [
        f'{run.method}, {run.num_steps}\n{run.side}\n'
        f'{np.mean(run.scores["psnr"]):.1f} dB'
        for run in runs
    ]
    return images.sheet(rows, ['truth', 'measurement', *titles], cell=128)


def _write(out, runs: list[Run], data: list[Image], record: dict) -> None:
    lines = _table(runs)
    (out / 'compare.md').write_text('\n'.join(lines) + '\n')
    written = [
        {n: v for n, v in run._asdict().items() if n != 'x'} for run in runs
    ]
    protocol = common.protocol(common.flag_values())
    common.write_json(
        out / 'compare.json', {'runs': written, **record, **protocol}
    )
    for task in _TASKS.value:
        of_task = [run for run in runs if run.task == task]
        _sheet(of_task, data).save(out / f'compare_{task}.png')
    print('\n'.join(['', *lines]))


if __name__ == '__main__':
    common.run(main)
