"""RePaint (Lugmayr et al., 2022): inpainting by putting the known pixels in.

    x_s = M (sqrt(alpha_bar_s) y + sqrt(1 - alpha_bar_s) n) + (1 - M) x_s',

x_s' the prior's step. Each step is undone by fresh noise and taken again
`resamplings` times, so that the two parts come to agree (their Algorithm 1 with
jumps of one step). The authors jump back ten steps at a time, ten times, over 250
steps; a jump of one undoes less, so that more resamplings are needed for the same
effect. The measurement's noise stays in the picture.
"""

import jax
import jax.numpy as jnp

from invjax.diffusion import diffuse
from invjax.methods.base import TRANSITION, Method, observe, repeat_step
from invjax.settings import Number, count
from invjax.types import MaskOperator


class RePaint(Method):
    """Replace what was measured, for masks alone.

    Attributes:
        resamplings: () how often each step is taken, 1 or more. May be traced.
        transition: how the prior's step is taken.
    """

    name = 'repaint'
    needs = MaskOperator
    has_own_step = True

    resamplings: Number = count(4)

    def read_of_transition(self):
        return tuple(TRANSITION)

    def update(self, key, x_t, state, step, problem, prior):
        mask = problem.operator.mask_of_x()

        def step_once(key, x_t):
            key_step, key_y = jax.random.split(key)
            prediction = prior(x_t, step.t)
            x0_hat = self.transition.estimate(x_t, prediction, step)
            noise = jax.random.normal(key_step, x_t.shape)
            plain = self.transition(x_t, x0_hat, prediction, step, noise)
            noise = jax.random.normal(key_y, x_t.shape)
            known = diffuse(problem.y, step.alpha_bar_s, noise)
            x_s = jnp.where(mask > 0, known, plain)
            return x_s, observe(x_t, x0_hat, plain, x_s - plain, problem)

        x_s, info = repeat_step(
            key, x_t, step, problem, self.resamplings, step_once
        )
        return x_s, state, info
