"""Unconditional sampling (paper, Algorithm 1; Ho et al., 2020, Algorithm 2)."""

from invjax.methods.base import Method, guided_step


class Unconditional(Method):
    """Ancestral sampling from pure noise; the measurement is not read."""

    name = 'unconditional'

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        x_s, info = guided_step(
            key, x_t, x0_hat, prediction, step, problem, self.transition
        )
        return x_s, state, info
