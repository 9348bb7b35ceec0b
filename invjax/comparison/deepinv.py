"""The same restorations by deepinv's own code, and how the two compare.

Both have the same network, weights, measurements and number of evaluations of
the network; that networks and operators agree is checked first. Ours have the
settings that `restoration.resolve` gives. deepinv's have its own and, where
there are images to tune on, also those of a grid with the highest mean PSNR on
them. Times are medians of one image at a time, without compilation.
"""

import contextlib
import dataclasses
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import batch, images, metrics, restoration, schedule
from invjax.comparison import peer
from invjax.operators.blur import Convolution
from invjax.operators.mask import Mask
from invjax.operators.separable import Separable
from invjax.problem import Problem
from invjax.study.plan import Data, Plan

# What the peer is tuned over, by the names of its own arguments and of those of
# `compare_peer.py`; the first of each is what it does by default.
GRIDS = {
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
OURS = 'invjax'
THEIRS = 'deepinv'
TUNED = 'deepinv, tuned'
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
    problems: dict[str, Problem]


@dataclasses.dataclass(frozen=True)
class Run:
    """A method on a task, and what came of each image.

    Attributes:
        task, method, num_steps: what is run; steps as on the command line.
        side: whose code, OURS, THEIRS or TUNED.
        settings: those that are given.
        x: (H, W, 3) each.
        seconds: each.
        scores: metric to one value each.
    """

    task: str
    method: str
    num_steps: str
    side: str = ''
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    x: Sequence[np.ndarray] = ()
    seconds: Sequence[float] = ()
    scores: dict[str, list[float]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What came out.

    Attributes:
        runs: of all tasks and methods, ours before theirs.
        data: the images.
        versions: of the peer's packages.
    """

    runs: Sequence[Run]
    data: Sequence[Image]
    versions: dict[str, str]


def parse_run(text: str) -> tuple[str, str]:
    """Method and steps of `dps:100`; ValueError for another form."""
    method, _, steps = text.partition(':')
    if method not in GRIDS:
        raise ValueError(
            f'--runs must be METHOD:STEPS, of {", ".join(GRIDS)}, got {text!r}.'
        )
    if len(schedule.respace(steps)) < 2:
        raise ValueError(f'--runs must have 2 steps or more, got {text!r}.')
    return method, steps


def check_tuning(compared: range, tuning: range) -> None:
    """Refuse, with a ValueError, images that are both tuned on and compared."""
    if max(compared.start, tuning.start) < min(compared.stop, tuning.stop):
        raise ValueError(
            f'images {tuning.start} to {tuning.stop - 1} to tune on must not be '
            f'among those compared, {compared.start} to {compared.stop - 1}.'
        )


def compare(
    python: str,
    data: Data,
    tuning: Data | None,
    tasks: Sequence[str],
    asked: Sequence[tuple[str, str]],
    *,
    noise_std: float = 0.05,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Restore the same measurements by both codes.

    Args:
        python: a Python that can import torch and deepinv.
        data: prior and images that are compared.
        tuning: those that the peer is tuned on, or None.
        tasks: names.
        asked: methods with their steps, see `parse_run`.
        noise_std: in [-1, 1] units.
        seed: of everything random.
        say: is called with a line a run.

    Raises:
        ValueError: where the peer cannot do it, or differs in its network or
            its operators.
    """
    measured = _measured(data, tasks, noise_std, seed)
    others = [] if tuning is None else _measured(tuning, tasks, noise_std, seed)
    runs: list[Run] = []
    with _started(python, seed, say) as theirs:
        versions = theirs.load(data.prior)
        for task in tasks:
            theirs.check_operator(measured[0].problems[task])
            for method, num_steps in asked:
                what = Run(task, method, num_steps)
                ours = _ours(what, data.prior, measured, seed)
                default = theirs.run(what, {}, measured)
                new = [ours, default]
                if others:
                    best = theirs.tune(what, others)
                    # Where its own are the best, they need not run again.
                    tuned = (
                        theirs.run(what, best, measured) if best else default
                    )
                    new.append(dataclasses.replace(tuned, side=TUNED))
                for run in new:
                    runs.append(scored(run, measured))
                    say(line(runs[-1]))
    return Comparison(runs, measured, versions)


@contextlib.contextmanager
def _started(python: str, seed: int, say) -> Iterator['Theirs']:
    with (
        peer.start(python, 'compare_peer.py') as ask,
        tempfile.TemporaryDirectory() as folder,
    ):
        yield Theirs(ask, pathlib.Path(folder), seed, say)


def _measured(data: Data, tasks, noise_std, seed) -> list[Image]:
    """The images of a data set, measured for all tasks as a sweep would."""
    return [
        Image(
            number,
            truth,
            {
                task: Plan(task, (), seed=seed).problem(
                    number, truth, noise_std
                )
                for task in tasks
            },
        )
        for number, truth in data.numbered()
    ]


def _ours(what: Run, prior, data: Sequence[Image], seed: int) -> Run:
    """Restore each image by this project, with its default settings."""
    method = restoration.resolve(
        what.method, prior, what.task, what.num_steps
    ).method
    root = jax.random.key(seed)

    def restore(image, num_steps):
        lanes = batch.make_lanes(
            root,
            [image.problems[what.task]],
            [method],
            first_image=image.number,
        )
        return batch.run_lanes(lanes, prior, num_steps, stretch=_STRETCH).x[0]

    # Compiles the program that all stretches run.
    restore(data[0], _STRETCH)
    x, seconds = [], []
    for image in data:
        start = time.perf_counter()
        x.append(restore(image, what.num_steps))
        seconds.append(time.perf_counter() - start)
    return dataclasses.replace(
        what, side=OURS, settings=method.settings(), x=x, seconds=seconds
    )


def _count(what: Run) -> int:
    return len(schedule.respace(what.num_steps))


class Theirs:
    """deepinv in the other Python, asked for what `compare_peer.py` does."""

    def __init__(self, ask, folder: pathlib.Path, seed: int, say):
        self._ask = ask
        self._folder = folder
        self._seed = seed
        self._say = say

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

    def run(self, what: Run, settings: dict, data: Sequence[Image]) -> Run:
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
                seed=1 + 1000 * self._seed + image.number,
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
        return dataclasses.replace(
            what, side=THEIRS, settings=settings, x=x, seconds=seconds
        )

    def tune(self, what: Run, tuning: Sequence[Image]) -> dict:
        """The settings of the grid with the highest mean PSNR."""

        def mean_psnr(settings):
            run = scored(self.run(what, settings, tuning), tuning)
            self._say(f'    tuning: {line(run)}')
            return np.mean(run.scores['psnr'])

        return max(GRIDS[what.method], key=mean_psnr)

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


def scored(run: Run, data: Sequence[Image]) -> Run:
    """A run with its scores against the truths."""
    lpips = metrics.load_lpips('alex')
    by_image = [
        _score(lpips, x, image.truth)
        for x, image in zip(run.x, data, strict=True)
    ]
    scores = {n: [float(v[n]) for v in by_image] for n in _DIGITS}
    return dataclasses.replace(run, scores=scores)


def _settings(run: Run) -> str:
    return ', '.join(f'{name} {value}' for name, value in run.settings.items())


def line(run: Run) -> str:
    """A run in a line, for a terminal."""
    psnr, lpips = (np.mean(run.scores[name]) for name in _DIGITS)
    return (
        f'{run.task}, {run.method}, {run.num_steps} steps, {run.side} '
        f'({_settings(run) or "default"}): {psnr:.2f} dB, LPIPS {lpips:.3f}, '
        f'{np.median(run.seconds):.1f} s an image'
    )


def table(runs: Sequence[Run]) -> list[str]:
    """Scores and paired differences in Markdown; ours come before theirs."""
    lines = [
        '| task | method | steps | code | settings | PSNR, dB | LPIPS alex '
        '| s an image | ours - it, PSNR | ours - it, LPIPS |',
        '| --- ' * 10 + '|',
    ]
    for run in runs:
        if run.side == OURS:
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


def sheet(runs: Sequence[Run], data: Sequence[Image]):
    """Truth, measurement and every run of a task, a row an image."""
    task = runs[0].task
    rows = [
        [
            image.truth,
            image.problems[task].as_picture(),
            *(run.x[i] for run in runs),
        ]
        for i, image in enumerate(data)
    ]
    titles = [
        f'{run.method}, {run.num_steps}\n{run.side}\n'
        f'{np.mean(run.scores["psnr"]):.1f} dB'
        for run in runs
    ]
    return images.sheet(rows, ['truth', 'measurement', *titles], cell=128)
