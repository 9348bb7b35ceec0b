"""SDEdit (Meng et al., 2022), the paper's eq. 9.

    x_tau = sqrt(alpha_bar_tau) y + sqrt(1 - alpha_bar_tau) z,

and from there the unconditional reverse process.
"""

import jax
import jax.numpy as jnp

from invjax.diffusion import diffuse
from invjax.methods.base import TRANSITION, Method
from invjax.methods.unconditional import Unconditional
from invjax.settings import Number, timestep


class SDEdit(Method):
    """Start part of the way up, at the diffused measurement.

    Steps above tau leave the image as it is. So lanes with other taus can share
    one scan, which begins at the largest.

    Attributes:
        tau: () timestep of training to start at, from 0 to T - 1. The largest
            kept timestep that is not above it is taken. May be traced.
        transition: how the prior's step is taken.
    """

    name = 'sdedit'
    has_own_step = True
    tuning_grid = {'tau': (50.0, 100.0, 200.0, 300.0, 500.0)}  # noqa: RUF012
    validation_settings = tuple(
        {'tau': v} for v in (50.0, 100.0, 200.0, 400.0, 600.0)
    )

    tau: Number = timestep(400)

    def read_of_transition(self):
        return tuple(TRANSITION)

    def start(self, key, problem, steps):
        y = problem.y
        if y.shape != problem.image_shape:
            y = problem.operator.guess(y)
        # Steps run downwards: the first one not above tau.
        row = jnp.argmax(steps.t <= self.tau)
        noise = jax.random.normal(key, y.shape)
        return diffuse(y, steps.alpha_bar_t[row], noise), ()

    def update(self, key, x_t, state, step, problem, prior):
        unguided = Unconditional(transition=self.transition)
        x_s, state, info = unguided.update(
            key, x_t, state, step, problem, prior
        )
        return jnp.where(step.t <= self.tau, x_s, x_t), state, info

    def first_t(self, steps):
        del steps
        return self.tau
