"""The nearest image within the noise of the measurement (FAST-DIPS).

Kim, Shin and Lim (ICLR 2026, arXiv 2603.01591). At each level the estimate moves
to the nearest image that explains the measurement,

    z = argmin ||z - x0_hat||^2 / (2 gamma)   with   ||A(z) - y|| <= epsilon,
    gamma = (1 - alpha_bar_t) / alpha_bar_t,

and fresh noise goes on top, x_s = sqrt(alpha_bar_s) z + sqrt(1 - alpha_bar_s) n.
The minimum is neared by K rounds of ADMM between z and v = A(z), from z = x0_hat,
v = A(x0_hat) and u = 0:

    z  goes S steps down F(z) = ||z - x0_hat||^2 / (2 gamma)
                                + rho / 2 ||A(z) - v + u||^2,
    v  = the point of the ball around y of radius epsilon nearest to A(z) + u,
    u  = u + A(z) - v.

A step down F is z - alpha g, g = grad F, with the alpha that minimises F along
the line if A were linear there,

    alpha = ||g||^2 / (||g||^2 / gamma + rho ||J g||^2),   J = dA / dz,

at most 1, halved up to eight times as long as F would grow. So an operator needs
its derivative only, linear or not, and the network is passed once a level and
never back.

Where we depart from the paper and its code. The radius is by default what the
noise leaves of the truth, sigma sqrt(m) with m measured values; theirs is
`radius='fixed'`, 0.05 whatever m, which asks almost for equality. J g is exact;
their code takes a difference of A for images. The last level ends at z, as in
their Algorithm 1; their code ends at x0_hat there. Levels are the rows of the
schedule; theirs are 50 to 150 of EDM's spacing, which `quad50` is like.
"""

import jax
import jax.numpy as jnp

from invjax.diffusion import diffuse
from invjax.methods.base import Method, observe
from invjax.settings import Number, choice, count, not_negative, positive

# Both as in the authors' code.
_LONGEST_STEP = 1.0
_MOST_HALVINGS = 8


class FastDIPS(Method):
    """Correct the estimate to within the noise, by a few rounds of ADMM.

    Attributes:
        rho: () weight of the agreement of A(z) with v, above 0. Theirs is 200,
            and 5 for high dynamic range. May be traced, as the other numbers.
        rounds: K, () rounds of ADMM a level. Theirs are 2 to 3.
        inner_steps: S, () steps down F a round. Theirs are 1 for inpainting and
            super-resolution, 2 for blurs, 5 for what is not linear.
        radius: `noise` for epsilon = noise_std sqrt(m), or `fixed` for the next.
        epsilon: () the radius, in [-1, 1] units, 0 or more; read by `fixed`.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'fast_dips'
    has_own_step = True
    tuning_grid = {'rho': (20.0, 60.0, 200.0, 600.0)}  # noqa: RUF012
    only_with = {'epsilon': ('radius', 'fixed')}  # noqa: RUF012

    rho: Number = positive(200.0)
    rounds: Number = count(3)
    inner_steps: Number = count(2)
    radius: str = choice('noise', 'fixed')
    epsilon: Number = not_negative(0.05)

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat = self.transition.estimate(x_t, prior(x_t, step.t), step)
        z = self._correct(x0_hat, step.noise_var_t / step.alpha_bar_t, problem)
        if self.transition.clip:
            z = jnp.clip(z, -1, 1)
        noise = jax.random.normal(key, x_t.shape)
        plain, x_s = (
            diffuse(x_0, step.alpha_bar_s, noise) for x_0 in (x0_hat, z)
        )
        return x_s, state, observe(x_t, x0_hat, plain, x_s - plain, problem)

    def _correct(self, x0_hat, gamma, problem):
        """z, (H, W, C), after K rounds around x0_hat."""
        epsilon = self.epsilon
        if self.radius == 'noise':
            epsilon = problem.expected_residual_norm()

        def of_round(_, carry):
            z, v, u = carry
            z = self._descend(z, x0_hat, v - u, gamma, problem.operator.forward)
            measured = problem.operator.forward(z)
            v = _into_ball(measured + u, problem.y, epsilon)
            return z, v, u + measured - v

        start = problem.operator.forward(x0_hat)
        z, _, _ = jax.lax.fori_loop(
            0,
            jnp.asarray(self.rounds, jnp.int32),
            of_round,
            (x0_hat, start, jnp.zeros_like(start)),
        )
        return z

    def _descend(self, z, x0_hat, b, gamma, forward):
        """S steps down F, with b in place of v - u."""

        def value(z):
            away = jnp.sum((z - x0_hat) ** 2) / gamma
            return (away + self.rho * jnp.sum((forward(z) - b) ** 2)) / 2

        def descend(_, z):
            before, g = jax.value_and_grad(value)(z)
            _, slope = jax.jvp(forward, (z,), (g,))
            squared = jnp.sum(g**2)
            curvature = squared / gamma + self.rho * jnp.sum(slope**2)
            # At a minimum there is no direction.
            alpha = squared / jnp.where(curvature > 0, curvature, 1)
            alpha = jnp.minimum(alpha, _LONGEST_STEP)

            # All halvings, and not as many as it takes: with eight lanes a loop
            # that ends by what it sees did not come back on a CPU (JAX 0.10.2).
            alphas = alpha * 0.5 ** jnp.arange(_MOST_HALVINGS + 1)
            grows = jax.lax.map(lambda a: value(z - a * g) > before, alphas)
            alpha = alphas[jnp.argmin(grows.at[-1].set(False))]
            return z - alpha * g

        steps = jnp.asarray(self.inner_steps, jnp.int32)
        return jax.lax.fori_loop(0, steps, descend, z)


def _into_ball(w, centre, radius):
    """The point nearest to w with ||point - centre|| <= radius."""
    distance = jnp.linalg.norm(w - centre)
    scale = radius / jnp.maximum(distance, 1e-12)
    return jnp.where(distance <= radius, w, centre + scale * (w - centre))
