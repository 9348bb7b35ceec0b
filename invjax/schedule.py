"""The variance-preserving noise schedule, and the reverse steps taken on it.

The forward process (paper, eq. 2; Ho et al., 2020, eq. 4) is

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) z,   z ~ N(0, I),

so a schedule is one array `alpha_bar`, (T,), that falls from almost 1 to almost
0. Tables are made on the host in float64; `Steps` hands them over as float32.

A process in other coordinates has the same images but for a factor. With noise
of standard deviation sigma added to x_0 (variance exploding), or on the line
between x_0 and the noise (flow, at time s),

    alpha_bar = 1 / (1 + sigma^2),   sigma = s / (1 - s),

so its noise levels are such an array too.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.types import Array


class Steps(NamedTuple):
    """The reverse process as data: row i is one step, from time t to s < t.

    Each field has shape (N,), and `jax.lax.scan` hands over one row at a time.
    The complements to 1 are fields of their own, since 1 - alpha_bar loses four
    of float32's seven digits where alpha_bar is near 1.
    """

    t: Array  # timestep that the network was trained on, int32
    time: Array  # t over its largest value, from 0 to 1
    alpha_bar_t: Array  # signal power before the step
    alpha_bar_s: Array  # signal power after it; exactly 1 on the last row
    noise_var_t: Array  # 1 - alpha_bar_t
    noise_var_s: Array  # 1 - alpha_bar_s; exactly 0 on the last row
    beta: Array  # 1 - alpha_bar_t / alpha_bar_s
    posterior_variance: Array  # of x_s given x_t and x_0; 0 on the last row
    log_posterior_variance: Array  # finite: see `reverse_steps`
    active: Array  # bool; False on rows that only fill up a stretch


_DTYPES = {'t': jnp.int32, 'active': jnp.bool_}


def linear_betas(num_train_steps: int = 1000) -> np.ndarray:
    """Betas of Ho et al. (2020), (T,) float64: 1e-4 to 0.02 at T = 1000.

    Other lengths scale both ends, so that the total noise stays the same.
    """
    scale = 1000 / num_train_steps
    return np.linspace(scale * 1e-4, scale * 0.02, num_train_steps)


def cosine_betas(num_train_steps: int = 1000) -> np.ndarray:
    """Betas of Nichol and Dhariwal (2021, eq. 17), (T,) float64, at most 0.999."""
    time = np.arange(num_train_steps + 1) / num_train_steps
    alpha_bar = np.cos((time + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


SCHEDULES = {'linear': linear_betas, 'cosine': cosine_betas}


def alpha_bars(betas: np.ndarray) -> np.ndarray:
    """Signal power at each timestep, prod(1 - beta_i), (T,) float64 (eq. 2)."""
    return np.cumprod(1 - np.asarray(betas, np.float64))


def _linear(start, end, length):
    return np.linspace(start, end, length)


def _scaled_linear(start, end, length):
    return np.linspace(start**0.5, end**0.5, length) ** 2


def _sigmoid(start, end, length):
    return start + (end - start) / (1 + np.exp(-np.linspace(-6, 6, length)))


def _squaredcos(start, end, length):
    del start, end
    return cosine_betas(length)


BETA_SCHEDULES = {
    'linear': _linear,
    'scaled_linear': _scaled_linear,
    'squaredcos_cap_v2': _squaredcos,
    'sigmoid': _sigmoid,
}


@dataclasses.dataclass(frozen=True)
class Betas:
    """Noise levels by a table of betas, as diffusers' schedulers have them.

    Attributes:
        schedule: `linear` from the first beta to the last; `scaled_linear`,
            whose square roots are; `sigmoid`, an S from the first to the last;
            `squaredcos_cap_v2` is `cosine_betas`, whatever first and last are.
        num_train_steps: T.
        beta_start: the first beta.
        beta_end: the last one.
        trained_betas: the whole table, which leaves nothing to the others.
        zero_terminal: whether the square roots of the signal power are shifted
            and scaled so that the last is 0 (Lin et al., 2024, Algorithm 1).

    Raises:
        ValueError: for another schedule, or betas that are not between 0 and 1.
    """

    schedule: str = 'linear'
    num_train_steps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02
    trained_betas: tuple[float, ...] | None = None
    zero_terminal: bool = False

    def __post_init__(self):
        if self.schedule not in BETA_SCHEDULES:
            raise ValueError(
                'the schedule of betas must be one of '
                f'{", ".join(BETA_SCHEDULES)}, got {self.schedule!r}.'
            )
        betas = self._betas()
        if betas.size < 2 or betas.min() <= 0 or betas.max() > 1:
            raise ValueError(
                'betas must be two or more numbers above 0 and at most 1, got '
                f'{betas.size} from {np.min(betas, initial=1)} to '
                f'{np.max(betas, initial=0)}.'
            )

    def _betas(self):
        if self.trained_betas is not None:
            return np.asarray(self.trained_betas, np.float64)
        make = BETA_SCHEDULES[self.schedule]
        return make(self.beta_start, self.beta_end, self.num_train_steps)

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power, (T,) float64; the row of a timestep is its number.

        A last row without any signal is left out, since nothing can be said of
        x_0 there: a process then begins one row before.
        """
        alpha_bar = alpha_bars(self._betas())
        if self.zero_terminal:
            root = np.sqrt(alpha_bar)
            root = (root - root[-1]) * root[0] / (root[0] - root[-1])
            alpha_bar = root**2
        return alpha_bar[alpha_bar > 0]


@dataclasses.dataclass(frozen=True)
class Sigmas:
    """Noise levels by standard deviations, spread as EDM spreads them.

    The roots sigma^(1 / rho) are spread evenly (Karras et al., 2022, eq. 5).

    Attributes:
        sigma_min: of the noise in images in [-1, 1], above 0.
        sigma_max: above sigma_min.
        num_levels: T, at least 2.
        rho: at least 1; None for its limit, a geometric sequence, as that of
            Song and Ermon (2019).

    Raises:
        ValueError: for numbers out of these ranges.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    num_levels: int = 1000
    rho: float | None = 7.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max < np.inf:
            raise ValueError(
                'noise levels must go from a sigma_min above 0 up to a '
                f'sigma_max, got {self.sigma_min} and {self.sigma_max}.'
            )
        if self.num_levels < 2:
            raise ValueError(
                f'there must be 2 noise levels or more, got {self.num_levels}.'
            )
        if self.rho is not None and not 1 <= self.rho < np.inf:
            raise ValueError(
                'rho must be a number of at least 1, or None for a geometric '
                f'sequence, got {self.rho}.'
            )

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power, (T,) float64, of x_0 + sigma z scaled to variance 1."""
        ends = self.sigma_min, self.sigma_max, self.num_levels
        if self.rho is None:
            sigma = np.geomspace(*ends)
        else:
            sigma = edm_sigmas(*ends, self.rho)
        return 1 / (1 + sigma**2)


@dataclasses.dataclass(frozen=True)
class FlowTimes:
    """Noise levels by the time of a flow, x_s = (1 - s) x_0 + s z.

    Times are i / T for i from 1 to T - 1 (Lipman et al., 2023; Liu et al.,
    2023). The one at T has no signal, and is left out.

    Attributes:
        num_train_steps: T, at least 3.
        shift: times s become shift s / (1 + (shift - 1) s), which puts more of
            them where there is much noise (Esser et al., 2024, eq. 23).

    Raises:
        ValueError: for numbers out of these ranges.
    """

    num_train_steps: int = 1000
    shift: float = 1.0

    def __post_init__(self):
        if self.num_train_steps < 3 or not 0 < self.shift < np.inf:
            raise ValueError(
                'a flow needs 3 steps or more and a shift above 0, got '
                f'{self.num_train_steps} and {self.shift}.'
            )

    @property
    def alpha_bar(self) -> np.ndarray:
        """Signal power, (T - 1,) float64, of x_s scaled to variance 1."""
        s = np.arange(1, self.num_train_steps) / self.num_train_steps
        s = self.shift * s / (1 + (self.shift - 1) * s)
        return (1 - s) ** 2 / ((1 - s) ** 2 + s**2)


NOISE_LEVELS = {'betas': Betas, 'sigmas': Sigmas, 'flow': FlowTimes}


def describe_levels(levels: Betas | Sigmas | FlowTimes) -> dict:
    """Noise levels as plain data, for cards."""
    (kind,) = [k for k, v in NOISE_LEVELS.items() if isinstance(levels, v)]
    fields = dataclasses.asdict(levels)
    if fields.get('trained_betas') is not None:
        fields['trained_betas'] = list(fields['trained_betas'])
    return {'kind': kind} | fields


def levels_from_description(description: dict) -> Betas | Sigmas | FlowTimes:
    """The inverse of `describe_levels`."""
    fields = dict(description)
    levels = NOISE_LEVELS[fields.pop('kind')]
    if fields.get('trained_betas') is not None:
        fields['trained_betas'] = tuple(fields['trained_betas'])
    return levels(**fields)


def edm_sigmas(
    sigma_min: float, sigma_max: float, number: int, rho: float = 7.0
) -> np.ndarray:
    """EDM's noise levels, ascending, (number,) (Karras et al., 2022, eq. 5)."""
    ends = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    return np.linspace(*ends, number) ** rho


def respace(
    spec: int | str,
    num_train_steps: int = 1000,
    alpha_bar: np.ndarray | None = None,
) -> np.ndarray:
    """The timesteps that a shorter reverse process keeps, ascending, int64.

    Args:
        spec: one of five forms; the first three are Nichol and Dhariwal's
            (2021):
            `100` or `'100'`: that many, spread evenly from 0 to T - 1.
            `'ddim50'`: that many with one integer stride, from 0.
            `'10,20,30'`: T is cut into as many equal parts as there are
            numbers, and each part keeps that many.
            `'quad20'`: that many from 0 to T - 1 whose square roots are spread
            evenly (Song et al., 2021, appendix D.2), so more of them where
            there is little noise.
            `'edm20'`: that many from 0 to T - 1 whose noise levels sigma are
            nearest to EDM's (`edm_sigmas`).
        num_train_steps: T.
        alpha_bar: (T,) signal power, which `'edm20'` alone reads; None for that
            of linear betas.

    One timestep alone is T - 1, since a reverse process starts from pure noise;
    guided-diffusion would keep 0.

    Raises:
        ValueError: if the text has another form, or asks for more timesteps
            than there are.
    """
    kept = _respace(spec, num_train_steps, alpha_bar)
    return np.array([num_train_steps - 1]) if len(kept) == 1 else kept


def _respace(spec, num_train_steps, alpha_bar) -> np.ndarray:
    text = str(spec).strip()
    if text.startswith('ddim') and _is_count(text[4:]):
        return _stride_timesteps(int(text[4:]), num_train_steps)
    if text.startswith('quad') and _is_count(text[4:]):
        return _quadratic_timesteps(int(text[4:]), num_train_steps)
    if text.startswith('edm') and _is_count(text[3:]):
        if alpha_bar is None:
            alpha_bar = alpha_bars(linear_betas(num_train_steps))
        return _edm_timesteps(int(text[3:]), alpha_bar)
    parts = text.split(',')
    if not all(_is_count(part.strip()) and int(part) > 0 for part in parts):
        raise ValueError(
            "num_steps must be a number such as 100, 'ddim50', 'quad20', "
            f"'edm20', or a list such as '10,20,30', got {text!r}."
        )
    counts = [int(part) for part in parts]
    sections = np.array_split(np.arange(num_train_steps), len(counts))
    for count, section in zip(counts, sections, strict=True):
        if count > len(section):
            raise ValueError(
                f'num_steps {text!r} asks for {count} of {len(section)} '
                'timesteps; it must not be more than there are.'
            )
    return np.concatenate(
        [
            section[0] + _spread(count, len(section))
            for count, section in zip(counts, sections, strict=True)
        ]
    )


def _is_count(text: str) -> bool:
    # str.isdigit alone holds for '²' too, which int() refuses.
    return text.isascii() and text.isdigit()


def _spread(count: int, size: int) -> np.ndarray:
    """`count` integers from 0 to size - 1, both ends in; one alone is 0."""
    stride = (size - 1) / max(count - 1, 1)
    return np.round(stride * np.arange(count)).astype(np.int64)


def _stride_timesteps(count: int, num_train_steps: int) -> np.ndarray:
    for stride in range(1, num_train_steps + 1):
        kept = np.arange(0, num_train_steps, stride)
        if len(kept) == count:
            return kept
    raise ValueError(
        f'no integer stride keeps {count} of {num_train_steps} timesteps; '
        f"'{count}' without 'ddim' spreads them evenly instead."
    )


def _quadratic_timesteps(count: int, num_train_steps: int) -> np.ndarray:
    if not 1 <= count <= num_train_steps:
        raise ValueError(
            f"num_steps 'quad{count}' must keep 1 to {num_train_steps} "
            'timesteps.'
        )
    fraction = np.arange(count) / max(count - 1, 1)
    spread = np.round((num_train_steps - 1) * fraction**2).astype(np.int64)
    # The first ones would fall together where there are many.
    return np.maximum(spread, np.arange(count))


def _edm_timesteps(count: int, alpha_bar: np.ndarray) -> np.ndarray:
    (num_train_steps,) = alpha_bar.shape
    if not 2 <= count <= num_train_steps:
        raise ValueError(
            f"num_steps 'edm{count}' must keep 2 to {num_train_steps} "
            'timesteps.'
        )
    sigma = np.sqrt(1 / alpha_bar - 1)
    wanted = edm_sigmas(sigma[0], sigma[-1], count) ** (1 / 7)
    distance = np.abs(sigma ** (1 / 7) - wanted[:, None])
    kept = distance.argmin(axis=1)
    # Where the table is coarser than what is wanted, some fall together: they
    # move up to the next free row, then back from the end.
    rows = np.arange(count)
    kept = np.maximum.accumulate(kept - rows) + rows
    return np.minimum(kept, num_train_steps - count + rows)


def reverse_steps(
    alpha_bar: np.ndarray, num_steps: int | str | None = None
) -> Steps:
    """The reverse process over the kept timesteps, from the noisiest down.

    Args:
        alpha_bar: (T,) signal power, decreasing, float64.
        num_steps: any form that `respace` takes; None keeps all T. The number
            of steps sets the length of what the sampler returns.

    Returns:
        N steps; each one ends where the next begins, the last at alpha_bar = 1.
        The posterior variance is 0 on the last row; its logarithm there is that
        of the row before (beta's where there is none), as in the reference.
    """
    (num_train_steps,) = alpha_bar.shape
    timesteps = respace(
        num_train_steps if num_steps is None else num_steps,
        num_train_steps,
        alpha_bar,
    )
    kept = alpha_bar[timesteps]
    before = np.append(1.0, kept[:-1])
    beta = 1 - kept / before
    posterior_variance = beta * (1 - before) / (1 - kept)
    floor = posterior_variance[1] if len(kept) > 1 else beta[0]
    clipped = np.append(floor, posterior_variance[1:])
    steps = Steps(
        t=timesteps.astype(np.int32),
        time=timesteps / max(num_train_steps - 1, 1),
        alpha_bar_t=kept,
        alpha_bar_s=before,
        noise_var_t=1 - kept,
        noise_var_s=1 - before,
        beta=beta,
        posterior_variance=posterior_variance,
        log_posterior_variance=np.log(clipped),
        active=np.ones(len(kept), bool),
    )
    return Steps(
        *(
            jax.device_put(
                np.asarray(field[::-1], _DTYPES.get(name, np.float32))
            )
            for name, field in zip(Steps._fields, steps, strict=True)
        )
    )


def stretches(steps: Steps, length: int, first_t: float | None = None):
    """Cut steps into stretches of one length, so that one program runs them.

    Args:
        steps: N rows.
        length: rows of a stretch. The last one is filled up with rows that are
            not active, which the sampler skips.
        first_t: rows whose timestep is above it are left out; at least the last
            row stays.

    Returns:
        A list of Steps, and the number of rows that were left out.
    """
    num_skipped = 0
    if first_t is not None:
        num_skipped = min(int(np.sum(steps.t > first_t)), len(steps.t) - 1)
    steps = Steps(*(np.asarray(field)[num_skipped:] for field in steps))
    num_rows = len(steps.t)
    rows = np.arange(-(-num_rows // length) * length)
    padded = Steps(*(f[np.minimum(rows, num_rows - 1)] for f in steps))
    padded = padded._replace(active=rows < num_rows)
    cuts = [
        Steps(*(field[i : i + length] for field in padded))
        for i in range(0, len(rows), length)
    ]
    return cuts, num_skipped
