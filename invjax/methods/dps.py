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

Two choices change the direction of the step.

`projection='state'` (DiffStateGrad; Zirvi et al., 2025, arXiv 2410.03463) keeps of
the gradient G of each channel what lies in the leading singular directions of the
state, x_t = U S V^T:

    G <- U_r U_r^T G V_r V_r^T,

with the least r whose singular values hold a fraction `retained` of the sum of their
squares. In their code r is shared by the channels; here each has its own.

`moments='adam'` (Adam-DPS; Belardi et al., 2026, arXiv 2603.16797) takes a step of
Adam in place of zeta and the reading, with moments over the steps i = 1, 2, ...:

    m <- beta_1 m + (1 - beta_1) g,   v <- beta_2 v + (1 - beta_2) g^2,
    x_s <- x_s - learning_rate / sqrt(alpha_bar_t / alpha_bar_s)
                 m / (1 - beta_1^i) / (sqrt(v / (1 - beta_2^i)) + 1e-8),

g = grad_{x_t} || y - A(x0_hat) ||. The root of alpha is as in their code. They
search for both betas and the size by task; on 256 px cats the best sizes are 0.03
to 0.06. With both choices the projected gradient is what Adam is given.

For noise that differs from value to value the norm is ||r||_Lambda, as the paper
has it for Poisson noise; Lambda = diag(`Problem.weights`) has a mean of 1, so
that zeta keeps its meaning, and is 1 for Gaussian noise.
"""

import jax
import jax.numpy as jnp

from invjax.methods.base import Method, guided_step
from invjax.problem import safe_norm
from invjax.settings import Number, choice, decay, fraction, not_negative

# As in the authors' code of Adam-DPS.
_EPSILON = 1e-8


class DPS(Method):
    """Guidance by the residual of the estimated clean image.

    Attributes:
        zeta: () step size, 0 or more. May be traced.
        normalise: one of `residual` and `gradient`.
        projection: `none`, or `state` for the singular directions of x_t.
        retained: () fraction of the squared singular values that `state` keeps,
            from 0 to 1. Theirs is 0.99.
        moments: `none`, or `adam` for its step in place of zeta and normalise.
        learning_rate: () size of the step of `adam`, 0 or more: about what a
            value moves a step.
        beta_1, beta_2: () decay of the moments of `adam`, from 0 to below 1.
        transition: how the prior's step is taken.
    """

    name = 'dps'
    tuning_grid = {'zeta': (0.75, 1.5, 3.0, 6.0, 12.0)}  # noqa: RUF012
    validation_settings = tuple({'zeta': v} for v in (0.03, 0.1, 0.3, 1.0, 3.0))

    only_with = {  # noqa: RUF012
        'retained': ('projection', 'state'),
        'learning_rate': ('moments', 'adam'),
        'beta_1': ('moments', 'adam'),
        'beta_2': ('moments', 'adam'),
    }

    zeta: Number = not_negative(1.0)
    normalise: str = choice('residual', 'gradient')
    projection: str = choice('none', 'state')
    retained: Number = fraction(0.99)
    moments: str = choice('none', 'adam')
    learning_rate: Number = not_negative(0.03)
    beta_1: Number = decay(0.6)
    beta_2: Number = decay(0.7)

    def start(self, key, problem, steps):
        x, state = super().start(key, problem, steps)
        if self.moments == 'adam':
            state = (jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros(()))
        return x, state

    def update(self, key, x_t, state, step, problem, prior):
        def distance(x_t):
            prediction = prior(x_t, step.t)
            x0_hat = self.transition.estimate(x_t, prediction, step)
            norm = problem.weighted_residual_norm(x0_hat)
            return norm, (x0_hat, prediction)

        grad, (x0_hat, prediction) = jax.grad(distance, has_aux=True)(x_t)
        if self.projection == 'state':
            grad = _within(x_t, grad, self.retained)
        if self.moments == 'adam':
            move, state = self._adam(grad, state)
            move = self.learning_rate / jnp.sqrt(1 - step.beta) * move
        elif self.normalise == 'gradient':
            # The gradients of the norm and of its square point the same way.
            move = self.zeta * grad / safe_norm(grad)
        else:
            move = self.zeta * grad
        x_s, info = guided_step(
            key,
            x_t,
            x0_hat,
            prediction,
            step,
            problem,
            self.transition,
            guidance=-move,
        )
        return x_s, state, info

    def _adam(self, g, state):
        """Adam's direction, (H, W, C), and its moments after the step."""
        m, v, count = state
        count = count + 1
        m = self.beta_1 * m + (1 - self.beta_1) * g
        v = self.beta_2 * v + (1 - self.beta_2) * g**2
        m_hat = m / (1 - self.beta_1**count)
        v_hat = v / (1 - self.beta_2**count)
        return m_hat / (jnp.sqrt(v_hat) + _EPSILON), (m, v, count)


def _within(x_t, grad, retained):
    """The part of a gradient in the leading singular directions of x_t."""
    x, g = (jnp.moveaxis(values, -1, 0) for values in (x_t, grad))
    u, s, vt = jnp.linalg.svd(x, full_matrices=False)
    energy = jnp.cumsum(s**2, axis=-1) / jnp.sum(s**2, axis=-1, keepdims=True)
    # A direction counts as long as those before it hold too little.
    before = jnp.pad(energy[:, :-1], ((0, 0), (1, 0)))
    kept = (before < retained).astype(x.dtype)
    u, v = u * kept[:, None, :], vt.swapaxes(-1, -2) * kept[:, None, :]
    inner = u.swapaxes(-1, -2) @ g @ v
    return jnp.moveaxis(u @ inner @ v.swapaxes(-1, -2), 0, -1)
