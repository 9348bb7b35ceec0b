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
import optax

from invjax.conditioners.base import (
    Conditioner,
    NotNegative,
    guided_step,
    noise_start,
)
from invjax.diffusion import ANCESTRAL, Transition

NORMALISATIONS = ('residual', 'gradient')


def dps(
    zeta: NotNegative = 1.0,
    *,
    normalise: str = 'residual',
    transition: Transition = ANCESTRAL,
) -> Conditioner:
    """Guidance by the residual of the estimated clean image.

    Args:
        zeta: () step size, 0 or more. May be traced.
        normalise: one of NORMALISATIONS.
        transition: how the prior's step is taken.

    Raises:
        ValueError: for another normalisation.
    """
    if normalise not in NORMALISATIONS:
        raise ValueError(
            f'normalise must be one of {", ".join(NORMALISATIONS)}, '
            f'got {normalise!r}.'
        )

    def update(key, x_t, state, step, problem, prior):
        def distance(x_t):
            prediction = prior(x_t, step.t)
            x0_hat = transition.estimate(x_t, prediction, step)
            norm = problem.weighted_residual_norm(x0_hat)
            return norm, (x0_hat, prediction)

        grad, (x0_hat, prediction) = jax.grad(distance, has_aux=True)(x_t)
        if normalise == 'gradient':
            # The gradients of the norm and of its square point the same way.
            grad = grad / optax.safe_norm(grad, 1e-12)
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            transition,
            guidance=-zeta * grad,
        )
        return x_s, state, info

    return Conditioner(start=noise_start, update=update)
