"""Unconditional sampling (paper, Algorithm 1; Ho et al., 2020, Algorithm 2)."""

from invjax.conditioners.base import Conditioner, guided_step, noise_start
from invjax.diffusion import ANCESTRAL, Transition


def unconditional(*, transition: Transition = ANCESTRAL) -> Conditioner:
    """Ancestral sampling from pure noise; the measurement is not read."""

    def update(key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = transition.estimate(x_t, prediction, step)
        x_s, info = guided_step(
            key, x_t, x0_hat, prediction, step, problem, transition
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)
