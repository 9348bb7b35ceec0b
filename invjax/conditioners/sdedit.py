"""SDEdit (Meng et al., 2022), the paper's eq. 9.

    x_tau = sqrt(alpha_bar_tau) y + sqrt(1 - alpha_bar_tau) z,

and from there the unconditional reverse process.
"""

import jax
import jax.numpy as jnp

from invjax.conditioners.base import Conditioner, Timestep
from invjax.conditioners.unconditional import unconditional
from invjax.diffusion import ANCESTRAL, Transition, diffuse


def sdedit(
    tau: Timestep = 400, *, transition: Transition = ANCESTRAL
) -> Conditioner:
    """Start part of the way up, at the diffused measurement.

    Steps above tau leave the image as it is. So lanes with other taus can share
    one scan, which begins at the largest.

    Args:
        tau: () timestep of training to start at, from 0 to T - 1. The largest
            kept timestep that is not above it is taken. May be traced.
        transition: how the prior's step is taken.
    """
    prior_update = unconditional(transition=transition).update

    def start(key, problem, steps):
        y = problem.y
        if y.shape != problem.image_shape:
            y = problem.operator.pinv(y)
        # Steps run downwards: the first one not above tau.
        row = jnp.argmax(steps.t <= tau)
        noise = jax.random.normal(key, y.shape)
        return diffuse(y, steps.alpha_bar_t[row], noise), ()

    def update(key, x_t, state, step, problem, prior):
        x_s, state, info = prior_update(key, x_t, state, step, problem, prior)
        return jnp.where(step.t <= tau, x_s, x_t), state, info

    return Conditioner(start=start, update=update, first_t=tau)
