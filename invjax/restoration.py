"""Restore one image: resolve what is meant, run it, and hand the result over."""

import collections
import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax import batch, compiled, images, keys, metrics, notebook
from invjax.methods import METHODS, Method, method_class
from invjax.metrics.image import SSIM_WINDOW
from invjax.problem import Problem
from invjax.types import Info


class Resolved(NamedTuple):
    """A method with all its settings.

    Attributes:
        method: the value.
        source: where the settings come from that were not given, in words.
    """

    method: Method
    source: str


def resolve(
    method: str | type[Method] | Method,
    prior=None,
    task: str | None = None,
    num_steps: int | str = 100,
    settings: Mapping[str, Any] | None = None,
) -> Resolved:
    """The method that is meant: the one place where settings come together.

    Args:
        method: a name or a class, which have the prior's tuned defaults for the
            task and number of steps, where there are any, and their own
            elsewhere; or a value, which is taken as it is.
        prior: with a `card`, or None.
        task: a name, or None where the measurement is of no known task.
        num_steps: any form that `schedule.respace` takes.
        settings: flat, by the names of `Method.of`, on top of the defaults.

    Raises:
        ValueError: for a method or a setting that there is not, a value out of
            its range, or a setting that the method's choices leave unread.
    """
    settings = dict(settings or {})
    if isinstance(method, Method):
        if settings:
            merged = {**method.settings(), **settings}
            type(method).check_names(settings)
            method = type(method).of(merged)
            method.check_read(settings)
        return Resolved(method, 'as given')
    if isinstance(method, str):
        method = method_class(method)
    if not (isinstance(method, type) and issubclass(method, Method)):
        raise ValueError(
            f'method must be a name, a class or a value of Method, got {method!r}.'
        )
    method.check_names(settings)
    card = getattr(prior, 'card', None)
    tuned, source = {}, "the method's own defaults"
    if card is not None:
        entry = card.default_entry(method.name, task, num_steps)
        tuned = entry.get('settings', {})
        if not tuned:
            source += (
                f', since none are known for {card.name} on {task}: see tune'
            )
        elif 'source' in entry:
            source = f'defaults for {card.name} on {task} by {entry["source"]}'
        else:
            source = f'defaults tuned for {card.name} on {task}'
    found = method.of({**tuned, **settings})
    if prior is not None:  # Else its defaults are not known yet.
        found.check_read(settings)
    if card is not None:
        found.check(len(prior.alpha_bar))
    return Resolved(found, source)


AUTO = 'auto'
AIMS = ('psnr', 'perception', 'samples', 'speed')
# What is taken where nothing was measured for a task and an aim.
_FALLBACK: tuple[tuple[str, dict], ...] = (('wiener', {}), ('daps', {}))
# The nearest to calibrated wherever it was measured (docs/evidence.md).
_FALLBACK_FOR_SAMPLES: tuple[tuple[str, dict], ...] = (
    ('mmps', {'noising': 'sample', 'iterations': 2, 'products': 2}),
)
_FALLBACK_STEPS = 'quad20'
# How far measured coverage may be from nominal for intervals to be believed.
_MOST_MISS = 0.1
_OWN_NUM_STEPS = 100


class Chosen(NamedTuple):
    """What `choose` took.

    Attributes:
        method: the value.
        num_steps: any form that `schedule.respace` takes.
        words: what it is and why, in one line.
        starts: of how many the best by residual is taken.
    """

    method: Method
    num_steps: int | str
    words: str
    starts: int = 1


def choose(problem: Problem, prior, aim: str = 'psnr') -> Chosen:
    """The method for a measurement and an aim, by what was measured of the prior.

    That is its `choices.toml`, or, for samples, its `calibration.toml`: the
    method whose intervals held the truth nearest to as often as they should, if
    none of them was off by more than a tenth. Where these have nothing, it is
    `wiener` for what is linear and `daps` for what is not, or `mmps` with
    noising='sample' for samples, with quad20; the line says so.

    Args:
        problem: whose `task` is looked up.
        prior: with a `card`, or none.
        aim: one of AIMS: the highest PSNR, or the lowest LPIPS, but for
            differences that are not worth more passes of the network; samples
            whose spread may be believed; or the fewest passes within 1 dB of the
            highest PSNR.

    Raises:
        ValueError: for another aim.
    """
    if aim not in AIMS:
        raise ValueError(f'aim must be one of {", ".join(AIMS)}, got {aim!r}.')
    card = getattr(prior, 'card', None)
    if card is not None and aim == 'samples':
        chosen, lacking = _calibrated(card, problem)
    else:
        chosen, lacking = _best_of_table(card, problem, aim)
    if chosen is not None:
        return chosen
    options = _FALLBACK_FOR_SAMPLES if aim == 'samples' else _FALLBACK
    if aim == 'samples' and problem.task == 'phase_retrieval':
        # From noise any sampler ends at another picture of the same magnitudes;
        # `daps` can begin with a guess of the phases.
        options = _FALLBACK[1:]
    steps = _FALLBACK_STEPS
    for name, settings in options:
        resolved = resolve(name, prior, problem.task, steps, settings)
        if isinstance(problem.operator, resolved.method.needs_of_operator()):
            break
    own = ''.join(f' {n} {value}' for n, value in settings.items())
    words = f'{name}{own} with {steps}, since {lacking}; {resolved.source}'
    return Chosen(resolved.method, steps, words)


def _best_of_table(card, problem: Problem, aim: str):
    """By `choices.toml`: what is chosen, or None; why nothing is."""
    entry = None if card is None else card.choice(problem.task, aim)
    if entry is None:
        whose = 'this prior' if card is None else card.name
        task = problem.task or 'a task of no name'
        if card is None or not card.choices:
            return None, f'{whose} has no table of choices'
        return None, f'the choices of {whose} have nothing for {aim} on {task}'
    method = method_class(entry['method']).of(entry['settings'])
    line = entry.get('line', method.name)
    starts = entry.get('starts', 1)
    number = f' and {starts} starts' if starts > 1 else ''
    words = (
        f'{line} with {entry["num_steps"]}{number}, best of {entry["of"]} '
        f'runs for {aim} on {problem.task}: {entry["psnr"]:.2f} dB, '
        f'LPIPS {entry["lpips"]:.3f}, {entry["evaluations"]} passes over '
        f'{entry["faces"]} faces of {entry["date"]}'
        f'{_other_noise(problem, entry["noise_std"])}'
    )
    return Chosen(method, entry['num_steps'], words, starts), ''


def _calibrated(card, problem: Problem):
    """By `calibration.toml`: what is chosen, or None; why nothing is."""
    entries = [e for e in card.calibrated if e['task'] == problem.task]
    if not entries:
        task = problem.task or 'a task of no name'
        return None, f'no coverage was measured for {card.name} on {task}'

    def miss(entry):
        pairs = zip(entry['nominal'], entry['observed'], strict=True)
        return max((abs(n - o), n, o) for n, o in pairs)

    entry = min(entries, key=miss)
    most, nominal, observed = miss(entry)
    line = entry.get('line', entry['method'])
    coverage = (
        f'its {nominal:.0%} intervals held the truth in {observed:.0%} over '
        f'{entry["num_images"]} faces of {entry["num_samples"]} samples'
    )
    number = f'{len(entries)} methods measured on {problem.task}'
    if most > _MOST_MISS:
        lacking = (
            f'none of {number} is calibrated: of the nearest, '
            f'{line} with {entry["num_steps"]}, {coverage}'
        )
        return None, lacking
    words = (
        f'{line} with {entry["num_steps"]}, nearest to calibrated of '
        f'{number}: at worst {coverage}'
        f'{_other_noise(problem, entry["noise_std"])}'
    )
    method = method_class(entry['method']).of(entry['settings'])
    return Chosen(method, entry['num_steps'], words), ''


def _other_noise(problem: Problem, measured: float) -> str:
    """What is said where a choice was measured with other noise."""
    noise_std = float(problem.noise_std)
    if abs(noise_std - measured) <= 0.1 * measured:
        return ''
    return f'; all with noise {measured:g}, where this has {noise_std:.3g}'


@dataclasses.dataclass(frozen=True)
class Restoration:
    """What came out of a restoration, with all that it came from.

    Attributes:
        samples: (K, H, W, C) float32, not clipped.
        info: Info of (K, N) arrays: what each step did.
        problem: the measurement.
        method: with its settings.
        settings_from: where those come from that were not given.
        num_steps: as it was given.
        prior_name: of the prior's card.
        alpha_bar: (T,) the prior's schedule.
        mean_of: of how many restorations each sample is the mean.
        starts: of how many starts each of those is the best by residual.
        aim: of 'auto', where that chose the method; else None.
    """

    samples: np.ndarray
    info: Info
    problem: Problem
    method: Method
    settings_from: str
    num_steps: int | str
    prior_name: str
    alpha_bar: np.ndarray
    mean_of: int = 1
    starts: int = 1
    aim: str | None = None

    @property
    def image(self) -> np.ndarray:
        """The first sample, (H, W, C)."""
        return self.samples[0]

    @property
    def mean(self) -> np.ndarray:
        """The mean of the samples, each clipped to [-1, 1], (H, W, C)."""
        return np.clip(self.samples, -1, 1).mean(axis=0)

    @property
    def failed(self) -> np.ndarray:
        """(K,) the first step of each sample that was not finite, or -1."""
        return batch.first_nonfinite_step(self.info)

    def scores(self) -> list[dict[str, float]]:
        """Of each sample: residual and its expectation, and PSNR and SSIM where
        the truth is known."""
        return [score(x, self.problem) for x in self.samples]

    def save(self, path: str | os.PathLike, sample: int = 0) -> None:
        """Write a sample as a picture."""
        images.write_image(path, self.samples[sample])

    def __repr__(self):
        number, height, width, channels = self.samples.shape
        first = score(self.image, self.problem)
        words = ', '.join(f'{n} {v:.4g}' for n, v in first.items())
        return (
            f'Restoration({number} of {height} x {width} x {channels} by '
            f'{self.method} in {self.num_steps} steps\n    with '
            f'{self.prior_name}; {self.settings_from}\n    {words})'
        )

    def _repr_html_(self):
        shown = {
            'measurement': self.problem.as_picture(),
            'restored': self.image,
        }
        if self.problem.truth is not None:
            shown = {'truth': np.asarray(self.problem.truth), **shown}
        return notebook.as_html(shown, repr(self))


def score(x: np.ndarray, problem: Problem) -> dict[str, float]:
    """Residual against the noise; PSNR in dB and SSIM where the truth is known.

    Args:
        x: (H, W, C), clipped to [-1, 1] first.
        problem: that it restores.
    """
    # Without its name, which would be another program's.
    args = x, dataclasses.replace(problem, task=None)
    found = compiled.find(_score, *args)(*args)
    return {name: float(value) for name, value in found.items()}


@jax.jit
def _score(x, problem: Problem):
    found = collections.OrderedDict()
    if problem.truth is not None:
        found['psnr'] = metrics.psnr(x, problem.truth)
        # A smaller picture has no window.
        if min(np.shape(x)[:2]) >= SSIM_WINDOW:
            found['ssim'] = metrics.ssim(x, problem.truth)
    found['residual_norm'] = problem.residual_norm(jnp.clip(x, -1, 1))
    found['expected_residual_norm'] = problem.expected_residual_norm()
    return found


def restore(
    problem: Problem,
    prior,
    method: str | type[Method] | Method = AUTO,
    num_steps: int | str | None = None,
    *,
    aim: str | None = None,
    seed: int | jax.Array = 0,
    num_samples: int = 1,
    mean_of: int = 1,
    starts: int | None = None,
    max_lanes: int = 8,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    **settings: Any,
) -> Restoration:
    """Restore an image from its measurement.

        restore(measured, prior)                      what was best on other faces
        restore(measured, prior, aim='speed')         or best for that
        restore(measured, prior, 'dps')               the prior's tuned defaults
        restore(measured, prior, 'dps', zeta=3.0)     but with this zeta
        restore(measured, prior, invjax.dps(zeta=3.0))   exactly this

    Args:
        problem: see `invjax.measure` and `problem.from_measurement`.
        prior: see `invjax.load_prior`.
        method: a name, a class, or a value; see `resolve`. 'auto' takes method,
            steps and settings by `choose`.
        num_steps: any form that `schedule.respace` takes; by default 100, or what
            'auto' chooses.
        aim: of 'auto', see `choose`; by default psnr.
        seed: of the sampler's noise, or a key.
        num_samples: how many restorations to draw.
        mean_of: how many restorations each of them is the mean of, clipped to
            [-1, 1] before; that many times the work. A mean has a higher PSNR
            and less detail than what it is made of.
        starts: of how many starts each of them is the one of least residual, for
            tasks that fail at random; most are given up after a third of the
            steps, see `batch.run_starts`. By default 1, or what 'auto' chooses.
        max_lanes: how many of them at once.
        on_progress: called with (sample steps done, sample steps in all).
        **settings: hyperparameters and choices, on top of the defaults.

    Raises:
        ValueError: before any work, for a method or a setting that there is
            not, a value out of its range, an operator that the method cannot do,
            or steps or settings that are given with 'auto'.
    """
    for name, number in (
        ('num_samples', num_samples),
        ('mean_of', mean_of),
        ('starts', 1 if starts is None else starts),
    ):
        if number < 1 or number != int(number):
            raise ValueError(
                f'{name} must be a whole number of 1 or more, got {number}.'
            )
    if isinstance(method, str) and method == AUTO:
        aim = AIMS[0] if aim is None else aim
        given = dict(settings)
        if num_steps is not None:
            given['num_steps'] = num_steps
        check_auto(given)
        chosen = choose(problem, prior, aim)
        resolved = Resolved(chosen.method, chosen.words)
        num_steps = chosen.num_steps
        starts = chosen.starts if starts is None else starts
    elif aim is not None:
        raise ValueError(f"aim goes with the method 'auto', got {method!r}.")
    else:
        num_steps = _OWN_NUM_STEPS if num_steps is None else num_steps
        resolved = resolve(method, prior, problem.task, num_steps, settings)
    starts = 1 if starts is None else int(starts)
    lanes = batch.make_lanes(
        keys.root(seed),
        [problem],
        [resolved.method],
        int(num_samples) * int(mean_of) * starts,
    )
    if starts == 1:
        result = batch.run_lanes(
            lanes,
            prior,
            num_steps,
            max_lanes=max_lanes,
            on_progress=on_progress,
        )
    else:
        result = batch.run_starts(
            lanes,
            prior,
            num_steps,
            starts,
            max_lanes=max_lanes,
            on_progress=on_progress,
        )
        result = _of_least_residual(result, problem, starts)
    card = getattr(prior, 'card', None)
    samples, info = _averaged(result.x, result.info, int(mean_of))
    return Restoration(
        samples=samples,
        info=info,
        problem=problem,
        method=resolved.method,
        settings_from=resolved.source,
        num_steps=num_steps,
        prior_name=type(prior).__name__ if card is None else card.name,
        alpha_bar=np.asarray(prior.alpha_bar),
        mean_of=int(mean_of),
        starts=starts,
        aim=aim,
    )


def _of_least_residual(result, problem: Problem, starts: int):
    """Of each group of starts the lane that explains the measurement best."""
    residuals = np.array([score(x, problem)['residual_norm'] for x in result.x])
    groups = (result.lanes // starts).reshape(-1)
    best = [
        rows[np.argsort(residuals[rows], kind='stable')[0]]  # NaN comes last.
        for rows in (np.flatnonzero(groups == g) for g in np.unique(groups))
    ]
    return jax.tree.map(lambda leaf: leaf[np.array(best)], result)


def check_auto(given: Iterable[str], prefix: str = '') -> None:
    """Refuse, with a ValueError, settings that stand beside 'auto'.

    Args:
        given: their names; num_steps is one.
        prefix: of each name in the sentence, such as `--`.
    """
    names = list(given)
    if not names:
        return
    having = [
        name
        for name, cls in METHODS.items()
        if set(names) - {'num_steps'} <= set(cls.setting_names())
    ]
    such = 'any' if len(having) in (0, len(METHODS)) else ', '.join(having)
    shown = ', '.join(f'{prefix}{name}' for name in names)
    raise ValueError(
        f'{shown} cannot be given with the method auto, which chooses method, '
        f'steps and settings; name a method as well ({such}).'
    )


def _averaged(x, info: Info, mean_of: int):
    """Means of successive samples, and of what their steps did."""
    if mean_of == 1:
        return x, info

    def mean(values):
        return values.reshape(-1, mean_of, *values.shape[1:]).mean(axis=1)

    # One that is not finite leaves its mean so, which shows that it failed.
    return mean(np.clip(x, -1, 1)), jax.tree.map(mean, info)
