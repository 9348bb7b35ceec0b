"""What a conditioner is, and the parts that most of them share."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from invjax.diffusion import Transition, diffuse_once, tweedie
from invjax.problem import Problem
from invjax.schedule import Steps


class Range(NamedTuple):
    """The values that a hyperparameter may take; NaN is never one of them.

    It stands in the annotation of a factory's argument, where `check_settings`
    finds it: the argument itself may be traced, and then has no value to check.

    Attributes:
        words: what a value must be, for a sentence, with `{last_t}` in it
            where that counts.
        contains: (values, last_t) -> bool of the values' shape, with last_t the
            prior's largest timestep.
    """

    words: str
    contains: Callable[[np.ndarray, float], np.ndarray]


FRACTION = Range('from 0 to 1', lambda v, _: (v >= 0) & (v <= 1))

NotNegative = Annotated[
    jax.typing.ArrayLike,
    Range('0 or more and finite', lambda v, _: (v >= 0) & np.isfinite(v)),
]
Positive = Annotated[jax.typing.ArrayLike, Range('above 0', lambda v, _: v > 0)]
Fraction = Annotated[jax.typing.ArrayLike, FRACTION]
Count = Annotated[
    jax.typing.ArrayLike,
    Range(
        'a whole number of 1 or more',
        lambda v, _: (v >= 1) & np.isfinite(v) & (v == np.round(v)),
    ),
]
Size = Annotated[int, 'a whole number that sets a shape, so never traced']
Timestep = Annotated[
    jax.typing.ArrayLike,
    Range('from 0 to {last_t}', lambda v, last_t: (v >= 0) & (v <= last_t)),
]


class Info(NamedTuple):
    """What is worth seeing of one step; each is ().

    Attributes:
        residual: ||y - A(x0_hat)||, to be compared with noise_std sqrt(m).
        prior_step: ||x_s - x_t|| of the prior's own step, noise included.
        guidance: norm of what the measurement added to it.
        clipped: share of the values of x0_hat that lie on its bounds.
    """

    residual: jax.Array
    prior_step: jax.Array
    guidance: jax.Array
    clipped: jax.Array


class Conditioner(NamedTuple):
    """A method, as the sampler sees it: it never looks inside x or state.

    Attributes:
        start: (key, problem, steps) -> x, state. The state is the first row's.
        update: (key, x_t, state, step, problem, prior) -> x_s, state, Info: one
            whole step of the reverse process.
        finish: (key, x, state, problem) -> (H, W, C): the image that the last x
            stands for, where x is not an image itself.
        first_t: the timestep above which steps change nothing, so that the
            sampler may leave them out; None where all steps count.
    """

    start: Callable[..., tuple[Any, Any]]
    update: Callable[..., tuple[Any, Any, Info]]
    first_t: Any = None
    finish: Callable[..., jax.Array] = lambda key, x, state, problem: x


def noise_start(key: jax.Array, problem: Problem, steps: Steps):
    """Start from pure noise, x_T ~ N(0, I), without state (Algorithm 1)."""
    del steps
    return jax.random.normal(key, problem.image_shape), ()


def guided_step(
    key: jax.Array,
    x_t: jax.Array,
    x0_hat: jax.Array,
    prediction,
    step: Steps,
    problem: Problem,
    transition: Transition,
    guidance: jax.typing.ArrayLike = 0.0,
) -> tuple[jax.Array, Info]:
    """A step of the prior plus a correction (Algorithm 2, lines 3 to 5).

    Args:
        key: of the step's noise.
        x_t, x0_hat: (H, W, C).
        prediction: the prior's at x_t.
        step: a row of Steps.
        problem: for the residual in Info.
        transition: how the prior's step is taken.
        guidance: (H, W, C), or zero: what is added to it.

    Returns:
        x_s, (H, W, C), and Info.
    """
    noise = jax.random.normal(key, x_t.shape)
    prior_x_s = transition(x_t, x0_hat, prediction, step, noise)
    guidance = jnp.broadcast_to(guidance, x_t.shape)
    info = observe(x_t, x0_hat, prior_x_s, guidance, problem)
    return prior_x_s + guidance, info


def corrected_step(
    key: jax.Array,
    x_t: jax.Array,
    x0_hat: jax.Array,
    x0_corrected: jax.Array,
    prediction,
    step: Steps,
    problem: Problem,
    transition: Transition,
) -> tuple[jax.Array, Info]:
    """A step of the prior with another estimate of the clean image in it.

    Args:
        x0_hat: (H, W, C), the prior's own.
        x0_corrected: (H, W, C), what the measurement made of it. Both are
            clipped here if the transition clips.

    The others are those of `guided_step`, and so is what it returns; guidance
    in Info is the difference that the correction makes to x_s.
    """
    if transition.clip:
        x0_hat = jnp.clip(x0_hat, -1, 1)
        x0_corrected = jnp.clip(x0_corrected, -1, 1)
    noise = jax.random.normal(key, x_t.shape)
    prior_x_s = transition(x_t, x0_hat, prediction, step, noise)
    x_s = transition(x_t, x0_corrected, prediction, step, noise)
    return x_s, observe(x_t, x0_hat, prior_x_s, x_s - prior_x_s, problem)


def renoise(
    x_t: jax.Array,
    x_0: jax.Array,
    step: Steps,
    mix: jax.typing.ArrayLike,
    noise: jax.Array,
) -> jax.Array:
    """x_s, (H, W, C), from a clean image and partly fresh noise (DiffPIR).

        eps = (x_t - sqrt(alpha_bar_t) x_0) / sqrt(1 - alpha_bar_t)
        x_s = sqrt(alpha_bar_s) x_0
              + sqrt(1 - alpha_bar_s) (sqrt(1 - mix) eps + sqrt(mix) noise)

    Args:
        x_t, x_0: (H, W, C).
        step: a row of Steps.
        mix: () share of fresh noise, 0 (DDIM) to 1 (independent of x_t).
        noise: (H, W, C), standard normal.
    """
    eps = x_t - jnp.sqrt(step.alpha_bar_t) * x_0
    eps = eps / jnp.sqrt(step.noise_var_t)
    mixed = jnp.sqrt(1 - mix) * eps + jnp.sqrt(mix) * noise
    return jnp.sqrt(step.alpha_bar_s) * x_0 + jnp.sqrt(step.noise_var_s) * mixed


def estimate_and_transpose(x_t: jax.Array, step: Steps, prior):
    """Tweedie's estimate, not clipped, and the way back through it.

    Returns:
        x0_hat, (H, W, C); v -> J^T v with J = d x0_hat / d x_t; the prediction.
    """

    def estimate(x_t):
        prediction = prior(x_t, step.t)
        return tweedie(x_t, prediction.eps, step.alpha_bar_t), prediction

    x0_hat, transpose, prediction = jax.vjp(estimate, x_t, has_aux=True)
    return x0_hat, lambda v: transpose(v)[0], prediction


def repeat_step(
    key: jax.Array,
    x_t: jax.Array,
    step: Steps,
    problem: Problem,
    times: jax.typing.ArrayLike,
    step_once: Callable[[jax.Array, jax.Array], tuple[jax.Array, Info]],
) -> tuple[jax.Array, Info]:
    """Take a step several times, each but the last undone by fresh noise.

    Args:
        times: () a whole number, 1 or more. May be traced.
        step_once: (key, x_t) -> x_s, Info.

    Returns:
        x_s and Info of the last time.
    """

    def again(i, carry):
        x_t, _, _ = carry
        key_step, key_back = jax.random.split(jax.random.fold_in(key, i))
        x_s, info = step_once(key_step, x_t)
        noise = jax.random.normal(key_back, x_t.shape)
        return diffuse_once(x_s, step.beta, noise), x_s, info

    nothing = observe(x_t, x_t, x_t, x_t, problem)
    _, x_s, info = jax.lax.fori_loop(
        0, jnp.asarray(times, jnp.int32), again, (x_t, x_t, nothing)
    )
    return x_s, info


def observe(x_t, x0_hat, prior_x_s, guidance, problem: Problem) -> Info:
    """Info of a step; all images are (H, W, C)."""
    return Info(
        residual=jnp.linalg.norm(problem.residual(x0_hat)),
        prior_step=jnp.linalg.norm(prior_x_s - x_t),
        guidance=jnp.linalg.norm(guidance),
        clipped=jnp.mean(jnp.abs(x0_hat) >= 1),
    )
