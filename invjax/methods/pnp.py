"""Plug-and-play restoration: a splitting method with the network as denoiser.

Both methods alternate the nearest image that explains y and a denoiser for
noise of sigma_k,

    x = argmin ||y - A x||^2 / (2 sigma^2) + ||x - (z - u)||^2 / (2 r_k^2),
    z = denoiser(x + u, sigma_k),          r_k^2 = sigma_k^2 / lambda,

`hqs` with u = 0 (half-quadratic splitting; DPIR, Zhang et al., 2021, eq. 6-7),
and `pnp_admm` with the dual variable

    u = u + x - z

(Venkatakrishnan et al., 2013; Chan et al., 2017, Algorithm 1). No noise is added
at any time. The denoiser is Tweedie's estimate at sqrt(alpha_bar_t) (x + u), the
timestep being the one with sigma_k^2 = (1 - alpha_bar_t) / alpha_bar_t.

    levels='falling'   sigma_k falls with the schedule from that of tau down
    levels='fixed'     it stays that of tau, and a row is one iteration

The first is what both papers do in practice; it ends whether it has converged
or not. (DPIR's sigma_k fall geometrically from 49 / 255 in eight iterations, each
of which turns or flips the image another way.) The second is the iteration whose
convergence one can ask for. For a Gaussian prior N(mu, Sigma) it converges to a
posterior mode under the regulariser lambda / 2 ||x - mu||^2_{C^-1}, with C = Sigma
for `pnp_admm` and C = Sigma + sigma_k^2 I for the x of `hqs`.

In Info `prior_step` is ||z - x||, which is the denoiser's work in `hqs` and the
primal residual in `pnp_admm`, where it falls to 0 if that converges; `guidance`
is how far y moved x from z - u.
"""

from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.methods.base import Method, observe
from invjax.schedule import Steps
from invjax.settings import Number, choice, positive, timestep
from invjax.types import LinearOperator


class _State(NamedTuple):
    """What an iteration hands on, besides z.

    Attributes:
        price: (H, W, C), u / r_k^2. This, and not u, is Lagrange's multiplier,
            which keeps its meaning when r_k falls (Boyd et al., 2010, section
            3.4.1).
        level: the row of Steps at tau.
    """

    price: jax.Array
    level: Steps


class _PlugAndPlay(Method):
    """What both methods share.

    Attributes:
        tau: () timestep of the first sigma_k, from 0 to T - 1. The largest kept
            timestep that is not above it is taken. May be traced, as the next.
        lam: () lambda, above 0: weight of the denoised image. DPIR has 0.23.
        levels: `falling` or `fixed`.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    needs = LinearOperator
    has_own_step = True
    has_dual: ClassVar[bool]

    tau: Number = timestep(400)
    lam: Number = positive(0.3)
    levels: str = choice('falling', 'fixed')

    def start(self, key, problem, steps):
        del key
        # The pseudo-inverse of a blur carries noise far out of range.
        z = jnp.clip(problem.operator.guess(problem.y), -1, 1)
        # Steps run downwards: the first one not above tau.
        row = jnp.argmax(steps.t <= self.tau)
        level = Steps(*(field[row] for field in steps))
        return z, _State(jnp.zeros_like(z), level)

    def update(self, key, z, state, step, problem, prior):
        moved, new_state, info = self._iterate(z, state, step, problem, prior)
        if self.levels == 'fixed':
            return moved, new_state, info
        z, state = jax.tree.map(
            lambda new, old: jnp.where(step.t <= self.tau, new, old),
            (moved, new_state),
            (z, state),
        )
        return z, state, info

    def _iterate(self, z, state, step, problem, prior):
        level = state.level if self.levels == 'fixed' else step
        variance = level.noise_var_t / level.alpha_bar_t / self.lam
        u = variance * state.price
        solved = consistency.solve_nearest(problem, z - u, variance)
        x = solved.x
        x_t = jnp.sqrt(level.alpha_bar_t) * (x + u)
        denoised = self.transition.estimate(x_t, prior(x_t, level.t), level)
        info = observe(x, denoised, denoised, x - (z - u), problem)
        info = info._replace(solver_residual=solved.relative_residual)
        if self.has_dual:
            price = (u + x - denoised) / variance
            state = state._replace(price=price)
        return denoised, state, info

    def first_t(self, steps):
        del steps
        return None if self.levels == 'fixed' else self.tau


class HQS(_PlugAndPlay):
    """Half-quadratic splitting."""

    name = 'hqs'
    has_dual = False


class PnPADMM(_PlugAndPlay):
    """ADMM. Where r_k falls u is scaled by it, as Boyd et al. have it; Chan et
    al. leave it as it is.
    """

    name = 'pnp_admm'
    has_dual = True
