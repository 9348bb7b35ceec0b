"""The variance-preserving noise schedule, and the reverse steps taken on it.

The forward process (paper, eq. 2; Ho et al., 2020, eq. 4) is

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) z,   z ~ N(0, I),

so a schedule is one array `alpha_bar`, (T,), that falls from almost 1 to almost
0. Tables are made on the host in float64; `Steps` hands them over as float32.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Steps(NamedTuple):
    """The reverse process as data: row i is one step, from time t to s < t.

    Each field has shape (N,), and `jax.lax.scan` hands over one row at a time.
    The complements to 1 are fields of their own, since 1 - alpha_bar loses four
    of float32's seven digits where alpha_bar is near 1.
    """

    t: jax.Array  # timestep that the network was trained on, int32
    time: jax.Array  # t over its largest value, from 0 to 1
    alpha_bar_t: jax.Array  # signal power before the step
    alpha_bar_s: jax.Array  # signal power after it; exactly 1 on the last row
    noise_var_t: jax.Array  # 1 - alpha_bar_t
    noise_var_s: jax.Array  # 1 - alpha_bar_s; exactly 0 on the last row
    beta: jax.Array  # 1 - alpha_bar_t / alpha_bar_s
    posterior_variance: jax.Array  # of x_s given x_t and x_0; 0 on the last row
    log_posterior_variance: jax.Array  # finite: see `reverse_steps`
    active: jax.Array  # bool; False on rows that only fill up a stretch


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


def respace(spec: int | str, num_train_steps: int = 1000) -> np.ndarray:
    """The timesteps that a shorter reverse process keeps, ascending, int64.

    Args:
        spec: one of four forms; all but the last are Nichol and Dhariwal's
            (2021):
            `100` or `'100'`: that many, spread evenly from 0 to T - 1.
            `'ddim50'`: that many with one integer stride, from 0.
            `'10,20,30'`: T is cut into as many equal parts as there are
            numbers, and each part keeps that many.
            `'quad20'`: that many from 0 to T - 1 whose square roots are spread
            evenly (Song et al., 2021, appendix D.2), so more of them where
            there is little noise.
        num_train_steps: T.

    Raises:
        ValueError: if the text has another form, or asks for more timesteps
            than there are.
    """
    text = str(spec).strip()
    if text.startswith('ddim') and _is_count(text[4:]):
        return _stride_timesteps(int(text[4:]), num_train_steps)
    if text.startswith('quad') and _is_count(text[4:]):
        return _quadratic_timesteps(int(text[4:]), num_train_steps)
    parts = text.split(',')
    if not all(_is_count(part.strip()) and int(part) > 0 for part in parts):
        raise ValueError(
            "num_steps must be a number such as 100, 'ddim50', 'quad20', or a "
            f"list such as '10,20,30', got {text!r}."
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
    share = np.arange(count) / max(count - 1, 1)
    spread = np.round((num_train_steps - 1) * share**2).astype(np.int64)
    # The first ones would fall together where there are many.
    return np.maximum(spread, np.arange(count))


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
        num_train_steps if num_steps is None else num_steps, num_train_steps
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
            jnp.asarray(field[::-1], _DTYPES.get(name, jnp.float32))
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
