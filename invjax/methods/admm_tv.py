"""ADMM with total variation: the classic without a network.

    argmin_x ||y - A x||^2 / (2 sigma^2) + weight TV(x),
    TV(x) = sum_ij sqrt(sum_c (d_v x)_ijc^2 + (d_h x)_ijc^2),

isotropic (Rudin, Osher and Fatemi, 1992) and vectorial (Blomgren and Chan,
1998): one root goes over both differences of all channels of a pixel, so that
colours change at the same edges. No difference crosses the border.

The splitting z = D x (Wang et al., 2008) by ADMM in its scaled form (Boyd et
al., 2010, eq. 3.5-3.7):

    x = argmin ||y - A x||^2 / (2 sigma^2) + rho / 2 ||D x - z + u||^2,
    z = shrink(D x + u, weight / rho),
    u = u + D x - z.

The first is (A^T A / sigma^2 + rho D^T D) x = A^T y / sigma^2 + rho D^T (z - u),
by conjugate gradients on `forward` and `adjoint` alone from the x before, to a
relative residual of 1e-5 within 50 steps. The problem is convex, so this
converges for any rho; how fast depends on it.

A row of the schedule is one iteration; its timestep is not read, nor is the
prior. In Info `prior_step` is how far the iteration moved x, and `guidance` the
norm of A^T (y - A x), the pull of the measurement, which TV holds against.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg

from invjax.methods.base import Method, observe
from invjax.settings import Number, not_negative, positive
from invjax.types import LinearOperator

_TOLERANCE = 1e-5
_MAX_STEPS = 50
# Without noise the measurement would outweigh any TV; this is a weight that
# conjugate gradients in float32 can carry.
_LEAST_NOISE_VAR = 1e-6


class _State(NamedTuple):
    """The split variable and its dual, each of the shape of `_differences`."""

    z: jax.Array
    u: jax.Array


class ADMMTV(Method):
    """The image of least total variation that explains y.

    Attributes:
        weight: () of TV, 0 or more; 1 / weight is about the size of the
            differences of neighbouring pixels in [-1, 1] units. May be traced,
            as the next.
        rho: () penalty of the splitting, above 0. The solution does not depend
            on it, the number of iterations does.
        transition: not read; the step is the method's own.
    """

    name = 'admm_tv'
    needs = LinearOperator
    has_own_step = True

    weight: Number = not_negative(4.0)
    rho: Number = positive(10.0)

    def read_of_transition(self):
        return ()

    def start(self, key, problem, steps):
        del key, steps
        # The pseudo-inverse of a blur carries noise far out of range.
        x = jnp.clip(problem.operator.guess(problem.y), -1, 1)
        nothing = jnp.zeros_like(_differences(x))
        return x, _State(z=nothing, u=nothing)

    def update(self, key, x, state, step, problem, prior):
        del key, step, prior
        operator = problem.operator
        noise_var = jnp.maximum(problem.noise_std**2, _LEAST_NOISE_VAR)

        def apply(v):
            by_data = operator.adjoint(operator.forward(v))
            return by_data + noise_var * self.rho * _transpose(_differences(v))

        right = operator.adjoint(problem.y)
        right += noise_var * self.rho * _transpose(state.z - state.u)
        solved, _ = cg(apply, right, x, tol=_TOLERANCE, maxiter=_MAX_STEPS)
        differences = _differences(solved)
        z = _shrink(differences + state.u, self.weight / self.rho)
        u = state.u + differences - z
        pull = operator.adjoint(problem.residual(solved))
        # b - M x by parts that are there already.
        left = pull + noise_var * self.rho * _transpose(
            state.z - state.u - differences
        )
        info = observe(x, solved, solved, pull, problem)
        info = info._replace(
            solver_residual=jnp.linalg.norm(left)
            / jnp.maximum(jnp.linalg.norm(right), 1e-12)
        )
        return solved, _State(z, u), info


def _differences(x):
    """D x, (2, H, W, C): to the next row and column, 0 behind the last."""
    down = jnp.diff(x, axis=0, append=x[-1:])
    right = jnp.diff(x, axis=1, append=x[:, -1:])
    return jnp.stack([down, right])


def _transpose(d):
    """D^T d, (H, W, C), for d (2, H, W, C)."""
    down = d[0].at[-1].set(0)
    right = d[1].at[:, -1].set(0)
    return -jnp.diff(down, axis=0, prepend=0) - jnp.diff(
        right, axis=1, prepend=0
    )


def _shrink(d, threshold):
    """Shorten each pixel's differences, (2, :, :, C) together, by a length."""
    norm = jnp.linalg.norm(d, axis=(0, 3), keepdims=True)
    return jnp.maximum(1 - threshold / jnp.maximum(norm, 1e-12), 0) * d
