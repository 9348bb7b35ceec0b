"""Plug-and-play restoration by a diffusion model (DiffPIR; Zhu et al., 2023).

Half-quadratic splitting with the network as denoiser (their Algorithm 1):

    z = argmin ||y - A z||^2 + rho_t ||z - x0_hat||^2,  rho_t = lambda sigma^2 / s_t^2,
    eps = (x_t - sqrt(alpha_bar_t) z) / sqrt(1 - alpha_bar_t),
    x_s = sqrt(alpha_bar_s) z
          + sqrt(1 - alpha_bar_s) (sqrt(1 - mix) eps + sqrt(mix) n),

with s_t^2 = (1 - alpha_bar_t) / alpha_bar_t. Their zeta is called `mix` here,
since `zeta` is the step size of DPS.

The authors' scripts (yuanzhi-zhu/DiffPIR) start from the diffused measurement, take
timesteps whose square roots are spread evenly (`num_steps='quad20'`), leave the
first line out on the last step, and put measured pixels back into the picture at
the end. Here x_T is noise, and every step has all three lines.
"""

import jax

from invjax import consistency
from invjax.methods.base import Method, observe, renoise
from invjax.settings import Number, fraction, positive
from invjax.types import LinearOperator


class DiffPIR(Method):
    """Alternate the denoiser and the nearest image that explains y.

    Attributes:
        lam: () lambda, above 0: weight of the denoised image. May be traced, as
            the next. The usual 7 goes with sigma in [0, 1] units beside an s_t
            in [-1, 1] units, as in deepinv 0.5; here both are in the latter, so
            that a quarter of it is the same weight.
        mix: () fraction of fresh noise, 0 to 1.
        transition: of it, only `clip` is read; the step is the method's own.
    """

    name = 'diffpir'
    needs = LinearOperator
    has_own_step = True
    validation_settings = tuple({'lam': v} for v in (1.0, 7.0, 50.0))

    lam: Number = positive(1.75)
    mix: Number = fraction(0.3)

    def update(self, key, x_t, state, step, problem, prior):
        prediction = prior(x_t, step.t)
        x0_hat = self.transition.estimate(x_t, prediction, step)
        variance = step.noise_var_t / step.alpha_bar_t / self.lam
        solved = consistency.solve_nearest(problem, x0_hat, variance)
        noise = jax.random.normal(key, x_t.shape)
        x_s, plain = (
            renoise(x_t, x_0, step, self.mix, noise)
            for x_0 in (solved.x, x0_hat)
        )
        info = observe(x_t, x0_hat, plain, x_s - plain, problem)
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info
