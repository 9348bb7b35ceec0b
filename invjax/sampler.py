"""The sampler: one `lax.scan` over the steps of the reverse process, one image.

It composes a schedule, a problem, a prior and a method, and looks inside
none of them. `batch.py` maps it over images, samples and settings.
"""

from typing import Any

import jax
import jax.numpy as jnp

from invjax.methods.base import Method
from invjax.problem import Problem
from invjax.schedule import Steps
from invjax.types import Info


def start(
    key: jax.Array, steps: Steps, problem: Problem, method: Method
) -> tuple[Any, Any]:
    """The carry before the first step: x, (H, W, C), and the method's state."""
    key_start, _, _ = jax.random.split(key, 3)
    return method.start(key_start, problem, steps)


def run(
    key: jax.Array,
    carry: tuple[Any, Any],
    steps: Steps,
    problem: Problem,
    prior,
    method: Method,
) -> tuple[tuple[Any, Any], Info]:
    """Take some steps: all of them, or a stretch that another call continues.

    A step's noise depends on `key` and on its timestep alone, so a run that is
    cut into stretches, or leaves out steps above `first_t`, draws the same.

    Args:
        key: the same as for `start`.
        carry: x and state, from `start` or from the stretch before.
        steps: N rows.
        problem: the measurement and its operator.
        prior: (x_t, t) -> Prediction.
        method: see `invjax.methods`.

    Returns:
        The carry after the last row, and Info with fields of shape (N,).
    """
    _, key_steps, _ = jax.random.split(key, 3)

    def take_step(carry, step):
        x_t, state = carry
        key_step = jax.random.fold_in(key_steps, step.t)
        x_s, state, info = method.update(
            key_step, x_t, state, step, problem, prior
        )
        return (x_s, state), info

    def skip_step(carry, step):
        del step
        return carry, Info(*(jnp.zeros(()) for _ in Info._fields))

    # Steps are shared by all lanes of a batch, so that under vmap this stays a
    # branch and a row that fills up a stretch costs nothing.
    return jax.lax.scan(
        lambda carry, step: jax.lax.cond(
            step.active, take_step, skip_step, carry, step
        ),
        carry,
        steps,
    )


def finish(
    key: jax.Array,
    carry: tuple[Any, Any],
    problem: Problem,
    method: Method,
) -> jax.Array:
    """The image that the last carry stands for, (H, W, C)."""
    _, _, key_finish = jax.random.split(key, 3)
    return method.finish(key_finish, *carry, problem)


def sample(
    key: jax.Array,
    steps: Steps,
    problem: Problem,
    prior,
    method: Method,
) -> tuple[jax.Array, Info]:
    """Run the whole reverse process: x_0, (H, W, C), and Info, (N,)."""
    carry = start(key, steps, problem, method)
    carry, info = run(key, carry, steps, problem, prior, method)
    return finish(key, carry, problem, method), info
