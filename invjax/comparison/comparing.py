"""The same restorations by this project and by deepinv, on the same terms.

Both have the same network, weights, measurements and number of evaluations of
the network; that networks and operators agree is checked first. Ours have the
settings that `restoration.resolve` gives. deepinv's have its own and, where
there are images to tune on, also those of a grid with the highest mean PSNR on
them. Times are of one image at a time, without compilation.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from invjax import batch, keys, metrics, restoration, schedule
from invjax.methods import METHODS
from invjax.problem import Problem
from invjax.study.plan import Data, Plan

# What deepinv is tuned over, by the names of its own arguments and of those of
# `compare_peer.py`; the first of each is what it does by default.
GRIDS: Mapping[str, Sequence[dict[str, Any]]] = {
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


class Image(NamedTuple):
    """An image of the data set.

    Attributes:
        number: in the data set.
        truth: (H, W, 3) in [-1, 1].
        problems: task to Problem.
    """

    number: int
    truth: np.ndarray
    problems: Mapping[str, Problem]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A method on a task, and what came of each image.

    Attributes:
        task, method: names.
        num_steps: any form that `schedule.respace` takes; deepinv has its own
            spacing of as many.
        side: whose code, OURS, THEIRS or TUNED.
        settings: all of ours; of theirs those that are not its defaults.
        x: (H, W, 3) each, not clipped.
        seconds: each.
        scores: `psnr` and `lpips_alex`, one value each.
    """

    task: str
    method: str
    num_steps: str
    side: str = ''
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    x: Sequence[np.ndarray] = ()
    seconds: Sequence[float] = ()
    scores: Mapping[str, Sequence[float]] = dataclasses.field(
        default_factory=dict
    )

    @property
    def count(self) -> int:
        """The number of steps."""
        return len(schedule.respace(self.num_steps))

    def describe(self) -> dict[str, Any]:
        """All but the pictures, as plain data for a record."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != 'x'
        }


class Comparison(NamedTuple):
    """What came out.

    Attributes:
        runs: of all tasks and methods; of each, ours before theirs.
        images: that were restored.
        versions: of the packages of the other side.
    """

    runs: Sequence[Run]
    images: Sequence[Image]
    versions: Mapping[str, str]


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
    other,
    data: Data,
    tasks: Sequence[str],
    asked: Sequence[tuple[str, str]],
    *,
    tuning: Data | None = None,
    noise_std: float = 0.05,
    seed: int = 0,
    say: Callable[[str], None] = print,
) -> Comparison:
    """Restore the same measurements by both codes.

    Args:
        other: the other side, see `remote.Deepinv`.
        data: prior and images that are compared.
        tasks: names.
        asked: methods with their steps, see `parse_run`.
        tuning: images that the other side is tuned on, or None.
        noise_std: in [-1, 1] units.
        seed: of everything random.
        say: is called with a line a run.

    Raises:
        ValueError: before anything is restored, where the other side cannot do
            it, or differs in its network or its operators.
    """
    compared = _measured(data, tasks, noise_std, seed)
    others = [] if tuning is None else _measured(tuning, tasks, noise_std, seed)
    versions = other.load(data.prior)
    check_network(other, data.prior)
    for task in tasks:
        check_operator(other, compared[0].problems[task])
    runs: list[Run] = []
    for task in tasks:
        for method, num_steps in asked:
            what = Run(task, method, num_steps)
            ours = _ours(what, data.prior, compared, seed)
            default = _theirs(other, what, {}, compared, seed)
            new = [ours, default]
            if others:
                best = _tune(other, what, others, seed, say)
                # Where its own are the best, they need not run again.
                tuned = default
                if best:
                    tuned = _theirs(other, what, best, compared, seed)
                new.append(dataclasses.replace(tuned, side=TUNED))
            for run in new:
                runs.append(_scored(run, compared))
                say(line(runs[-1]))
    return Comparison(runs, compared, versions)


def check_network(other, prior) -> None:
    """Refuse, with a ValueError, another network than the prior's."""
    x_t = np.asarray(jax.random.normal(jax.random.key(0), prior.image_shape))
    predict = jax.jit(lambda prior, x_t, t: prior(x_t, t).eps)
    for t in _TIMESTEPS:
        _check_close(
            f'the networks at t = {t}',
            other.predict(x_t, t),
            predict(prior, x_t, t),
        )


def check_operator(other, problem: Problem) -> None:
    """Refuse, with a ValueError, an operator that measures in another way."""
    x = np.asarray(jax.random.normal(jax.random.key(1), problem.image_shape))
    _check_close(
        f'the operators {problem.operator.describe()["kind"]}',
        other.measure(problem, x),
        problem.operator.forward(x),
    )


def _check_close(what: str, theirs, ours) -> None:
    theirs, ours = np.asarray(theirs), np.asarray(ours)
    if theirs.shape != ours.shape:
        raise ValueError(
            f'{what} give shapes {theirs.shape} and {ours.shape}: there is '
            'nothing to compare.'
        )
    difference = np.abs(theirs - ours).max() / np.abs(ours).max()
    # Said so that NaN is refused too.
    if not difference < _TOLERANCE:
        raise ValueError(
            f'{what} differ by {difference:.1e} of the largest value, more '
            f'than {_TOLERANCE:.0e}: there is nothing to compare.'
        )


# A plan measures whatever its methods are.
_NO_METHOD = (METHODS['unconditional'](),)


def _measured(data: Data, tasks, noise_std, seed) -> list[Image]:
    """The images of a data set, measured for all tasks as a sweep would."""
    return [
        Image(
            number,
            truth,
            {
                task: Plan(task, _NO_METHOD, seed=seed).problem(
                    number, truth, noise_std
                )
                for task in tasks
            },
        )
        for number, truth in data.numbered()
    ]


def _ours(what: Run, prior, images: Sequence[Image], seed: int) -> Run:
    """Restore each image by this project, with its default settings."""
    method = restoration.resolve(
        what.method, prior, what.task, what.num_steps
    ).method

    def restore(image, num_steps):
        lanes = batch.make_lanes(
            keys.root(seed),
            [image.problems[what.task]],
            [method],
            first_image=image.number,
        )
        return batch.run_lanes(lanes, prior, num_steps, stretch=_STRETCH).x[0]

    # Compiles the program that all stretches run.
    restore(images[0], _STRETCH)
    x, seconds = [], []
    for image in images:
        start = time.perf_counter()
        x.append(restore(image, what.num_steps))
        seconds.append(time.perf_counter() - start)
    return dataclasses.replace(
        what, side=OURS, settings=method.settings(), x=x, seconds=seconds
    )


def _theirs(other, what: Run, settings, images: Sequence[Image], seed) -> Run:
    """Restore each image by the other side, with some settings."""
    x, seconds = [], []
    for image in images:
        restored = other.restore(
            image.problems[what.task],
            what.method,
            what.count,
            1 + 1000 * seed + image.number,
            settings,
        )
        if restored.num_evaluations != what.count:
            raise ValueError(
                f"the peer's {what.method} evaluated the network "
                f'{restored.num_evaluations} times, not {what.count}; compare '
                'with the version of deepinv that compare_peer.py names.'
            )
        x.append(restored.x)
        seconds.append(restored.seconds)
    return dataclasses.replace(
        what, side=THEIRS, settings=settings, x=x, seconds=seconds
    )


def _tune(other, what: Run, images: Sequence[Image], seed, say) -> dict:
    """The settings of the grid with the highest mean PSNR."""

    def mean_psnr(settings):
        run = _scored(_theirs(other, what, settings, images, seed), images)
        say(f'    tuning: {line(run)}')
        mean = np.mean(run.scores['psnr'])
        # A setting that diverges is none to choose.
        return -np.inf if np.isnan(mean) else mean

    return max(GRIDS[what.method], key=mean_psnr)


@jax.jit
def _score(lpips, x, truth):
    return {'psnr': metrics.psnr(x, truth), 'lpips_alex': lpips(x, truth)}


def _scored(run: Run, images: Sequence[Image]) -> Run:
    """A run with its scores against the truths."""
    lpips = metrics.load_lpips('alex')
    by_image = [
        _score(lpips, x, image.truth)
        for x, image in zip(run.x, images, strict=True)
    ]
    scores = {
        name: [float(found[name]) for found in by_image]
        for name in ('psnr', 'lpips_alex')
    }
    return dataclasses.replace(run, scores=scores)


def setting_words(run: Run) -> str:
    """The settings that are not those by default, for a table."""
    default: Mapping[str, Any] = {}
    if run.side == OURS:
        default = restoration.resolve(run.method).method.settings()
    return ', '.join(
        f'{name} {value:g}' if isinstance(value, float) else f'{name} {value}'
        for name, value in run.settings.items()
        if name not in default or value != default[name]
    )


def line(run: Run) -> str:
    """A run in a line, for a terminal."""
    psnr, lpips = (np.mean(run.scores[n]) for n in ('psnr', 'lpips_alex'))
    return (
        f'{run.task}, {run.method}, {run.num_steps} steps, {run.side} '
        f'({setting_words(run) or "default"}): {psnr:.2f} dB, LPIPS '
        f'{lpips:.3f}, {np.median(run.seconds):.1f} s an image'
    )
