"""How often a method evaluates the network, counted while it runs.

What a method is given to denoise passes an identity that notes it on the host,
and notes each pass back by a custom derivative; behind it a prior in closed form
stands in for the network. All is run through the sampler as it is, so that loops
inside a step, particles and steps that are left out count as what they are.

What is counted is what the method asks for: an evaluation whose result nobody
reads counts too, although a compiler may leave it out. Derivatives are those of
reverse mode; JAX refuses forward mode here.
"""

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import batch
from invjax.methods import Method
from invjax.problem import Problem
from invjax.types import Prediction


class Evaluations(NamedTuple):
    """Network evaluations for one restored image.

    Attributes:
        forward: passes through the network.
        backward: passes back through it, for a product with its transposed
            Jacobian.
    """

    forward: int
    backward: int


# One an evaluation, in no order. It is the module's, since the compiled program
# keeps the functions that write to it: a counter of its own for each call would
# compile each anew.
_noted: list[str] = []


@jax.custom_vjp
def _tap(x_t, t):
    """x_t, noted on its way into the network, and on the way back."""
    _note('forward', x_t, t)
    return x_t


def _tap_forward(x_t, t):
    return _tap(x_t, t), (x_t, t)


def _tap_backward(saved, cotangent):
    _note('backward', *saved, cotangent)
    return cotangent, None


_tap.defvjp(_tap_forward, _tap_backward)


def _note(kind: str, *of_evaluation):
    """Note an evaluation when it runs, one for each lane of a vmap.

    A vmap repeats a callback for what differs from lane to lane: so it is
    handed a number of everything that may.
    """
    numbers = [jnp.ravel(array)[0] for array in of_evaluation]
    jax.debug.callback(lambda *_: _noted.append(kind), *numbers)


@flax.struct.dataclass
class _Counted:
    """A prior whose evaluations are noted."""

    prior: Any

    @property
    def alpha_bar(self):
        return self.prior.alpha_bar

    @property
    def image_shape(self):
        return self.prior.image_shape

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        return self.prior(_tap(x_t, t), t)


@flax.struct.dataclass
class _StandIn:
    """The prediction for x_0 ~ N(0, I), where x_t is N(0, I) too.

    Attributes:
        alpha_bar: (T,) of the prior that it stands in for, as the next.
        learns_variance: whether predictions have a variance. Static.
    """

    alpha_bar: np.ndarray
    learns_variance: bool = flax.struct.field(pytree_node=False)

    def __call__(self, x_t: jax.Array, t: jax.typing.ArrayLike) -> Prediction:
        alpha_bar = jnp.asarray(self.alpha_bar, jnp.float32)
        alpha_bar_t = alpha_bar[jnp.round(t).astype(jnp.int32)]
        fraction = jnp.zeros_like(x_t) if self.learns_variance else None
        return Prediction(jnp.sqrt(1 - alpha_bar_t) * x_t, fraction)


def _stand_in(problem: Problem, prior) -> _StandIn:
    x = jax.ShapeDtypeStruct(problem.image_shape, jnp.float32)
    prediction = jax.eval_shape(prior, x, jax.ShapeDtypeStruct((), jnp.int32))
    learns_variance = prediction.log_variance_fraction is not None
    return _StandIn(np.asarray(prior.alpha_bar), learns_variance)


def count(
    problem: Problem, prior, method: Method, num_steps: int | str = 100
) -> Evaluations:
    """Count the network evaluations of one restoration, by running it.

    Args:
        problem: the measurement; where a method stops by what it sees, its
            number is of this one.
        prior: it is run by such methods alone. Of the others' stand-in it gives
            the schedule, and whether a variance is learned.
        method: the value.
        num_steps: any form that `schedule.respace` takes.

    Raises:
        ValueError: see `batch.run_batches`.
    """
    if not method.stops_by_value:
        prior = _stand_in(problem, prior)
    # What an interrupted call has left.
    jax.effects_barrier()
    _noted.clear()
    lanes = batch.make_lanes(jax.random.key(0), [problem], [method])
    batch.run_lanes(lanes, _Counted(prior), num_steps)
    jax.effects_barrier()
    return Evaluations(_noted.count('forward'), _noted.count('backward'))
