"""Diffusion posterior sampling (Chung et al., 2023, Algorithm 1).

The paper's eq. 12-13 with the step's size in two readings:

    normalise='residual'   x_s <- x_s - zeta grad_{x_t} || y - A(x0_hat) ||
    normalise='gradient'   x_s <- x_s - zeta g / ||g||,
                           g = grad_{x_t} || y - A(x0_hat) ||^2

The first is what the authors of DPS do. Their paper writes it with the squared
norm, zeta' grad ||r||^2 / ||r||, and their code with the plain norm; since
grad ||r|| = grad ||r||^2 / (2 ||r||), our zeta is their code's `scale` and
twice their paper's zeta'. The second is eq. 13 as it is printed: each
correction then has the length zeta, whatever the residual.

For noise that differs from value to value the norm is ||r||_Lambda, as the paper
has it for Poisson noise; Lambda = diag(`Problem.weights`) has a mean of 1, so
that zeta keeps its meaning, and is 1 for Gaussian noise.
"""

import jax

from invjax.methods.base import Method, guided_step
from invjax.problem import safe_norm
from invjax.settings import Number, choice, not_negative


class DPS(Method):
    """Guidance by the residual of the estimated clean image.

    Attributes:
        zeta: () step size, 0 or more. May be traced.
        normalise: one of `residual` and `gradient`.
        transition: how the prior's step is taken.
    """

    name = 'dps'
    tuning_grid = {'zeta': (0.75, 1.5, 3.0, 6.0, 12.0)}  # noqa: RUF012
    validation_settings = tuple({'zeta': v} for v in (0.03, 0.1, 0.3, 1.0, 3.0))

    zeta: Number = not_negative(1.0)
    normalise: str = choice('residual', 'gradient')

    def update(self, key, x_t, state, step, problem, prior):
        def distance(x_t):
            prediction = prior(x_t, step.t)
            x0_hat = self.transition.estimate(x_t, prediction, step)
            norm = problem.weighted_residual_norm(x0_hat)
            return norm, (x0_hat, prediction)

        grad, (x0_hat, prediction) = jax.grad(distance, has_aux=True)(x_t)
        if self.normalise == 'gradient':
            # The gradients of the norm and of its square point the same way.
            grad = grad / safe_norm(grad)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            self.transition,
            guidance=-self.zeta * grad,
        )
        return x_s, state, info
