"""Moment matching posterior sampling (Rozet et al., NeurIPS 2024), in few steps.

Around Tweedie's estimate x_0 is taken to be normal, with the covariance that
Tweedie's second moment gives it,

    C = (1 - alpha_bar_t) / sqrt(alpha_bar_t) J,   J = d x0_hat / d x_t,

and its mean given y too takes the estimate's place in the step:

    z = x0_hat + C A^T (A C A^T + sigma^2 I)^{-1} (y - A x0_hat).

`pigdm` and `tmpd` put a number and a diagonal in place of C within the inverse; here
it is C itself, by products with J^T, which stands for J: with the exact estimate J is
symmetric. The authors solve by conjugate gradients (azula does by one iteration, if
not told otherwise). Here each iteration adds a direction

    d = C w,   w = A^T (r^2 A A^T + sigma^2 I)^{-1} (y - A (x0_hat + shift)),

for one pass back through the network, and `shift` is what is most likely among the
combinations of them, the one that makes

    ||y - A (x0_hat + shift)||^2 / sigma^2 + shift^T C^{-1} shift

least: a choice that asks for no more products, since C^{-1} d = w. The first direction
is that of `pigdm`, and the size of its step, which is tuned there, is computed. r^2
shapes directions alone, so it need not be right. It is matched: of errors with the
variance r^2 in each pixel the residual has the power

    E ||y - A x0_hat||^2 = r^2 tr(A A^T) + m sigma^2,

where the trace is ||A s||^2 for random signs s (Hutchinson, 1989).

One iteration falls short of z, and the next step goes on from there: a `strength`
above 1 makes up for it (over-relaxation), 1.5 on both embedded priors. With enough
iterations it should be 1. A need not be linear: its derivative at the estimate stands
for it, as in a step of Gauss and Newton.

Where the authors sample by the transition alone, `noising='mix'` takes the step of
DiffPIR (`diffpir`) from z. With mix = 1, as here by default, no step inherits the
errors of the one before; what comes out is then nearer to the mean of the posterior
than to a sample of it, as with `wiener`. `noising='transition'` is for samples.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.methods.base import (
    Method,
    corrected_step,
    estimate_and_transpose,
    observe,
    renoise,
)
from invjax.settings import Number, choice, fraction, not_negative, size

# Of 1 - alpha_bar_t: a residual below the noise asks for no width at all.
_LEAST = 1e-3
# Of conjugate gradients for a direction, where they are needed.
_MAX_STEPS = 30
# Of the mean of a system's diagonal: directions can nearly coincide.
_RIDGE = 1e-6


class MMPS(Method):
    """The mean of x_0 given x_t and y, with Tweedie's covariance.

    Attributes:
        strength: () factor of the correction, 0 or more: over-relaxation above 1.
            May be traced, as the next.
        mix: () fraction of fresh noise, 0 to 1, where `noising` is `mix`.
        noising: `mix` for the step of `diffpir`, or `transition`.
        iterations: directions, each for a pass back through the network. Static.
        transition: how the prior's step is taken. Where it clips, residuals are
            those of the clipped estimate.
    """

    name = 'mmps'
    has_own_step = True
    tuning_grid = {'strength': (1.0, 1.5, 2.0)}  # noqa: RUF012
    only_with = {'mix': ('noising', 'mix')}  # noqa: RUF012
    validation_settings = ({'noising': 'transition', 'strength': 1.0},)

    strength: Number = not_negative(1.5)
    mix: Number = fraction(1.0)
    noising: str = choice('mix', 'transition')
    iterations: int = size(1)

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        seen = jnp.clip(x0_hat, -1, 1) if self.transition.clip else x0_hat
        linear = consistency.linearised(problem, seen)
        to_x0 = step.noise_var_t / jnp.sqrt(step.alpha_bar_t)
        solved = self._shift(
            jax.random.fold_in(key, 1),
            linear,
            problem.residual(seen),
            lambda w: to_x0 * transpose(w),
            step,
        )
        x_s, info = self._step(
            key,
            x_t,
            x0_hat,
            x0_hat + self.strength * solved.x,
            prediction,
            step,
            problem,
        )
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info

    def _shift(self, key, problem, residual, covariance, step):
        """z - x0_hat, (H, W, C), with how well its directions were solved."""
        variance = jnp.clip(
            matched_variance(key, problem, residual),
            _LEAST * step.noise_var_t,
            # Of x_t / sqrt(alpha_bar_t), than which no estimate need be worse.
            step.noise_var_t / step.alpha_bar_t,
        )
        images, directions, moved = [], [], []
        shift = image = jnp.zeros(problem.image_shape)
        for _ in range(self.iterations):
            # The loss' gradient, with r^2 I for C in what it is divided by.
            left = residual - problem.operator.forward(shift - variance * image)
            solved = consistency.solve_correction(
                problem, left, variance, max_steps=_MAX_STEPS
            )
            images.append(solved.x - image)
            directions.append(covariance(images[-1]))
            moved.append(problem.operator.forward(directions[-1]))
            lengths = _likeliest(
                *(jnp.stack(v) for v in (images, directions, moved)),
                residual,
                problem.noise_std**2,
            )
            shift, image = (
                jnp.tensordot(lengths, jnp.stack(v), 1)
                for v in (directions, images)
            )
        return solved._replace(x=shift)

    def _step(self, key, x_t, x0_hat, z, prediction, step, problem):
        """From z to x_s, with Info."""
        if self.noising == 'transition':
            return corrected_step(
                key, x_t, x0_hat, z, prediction, step, problem, self.transition
            )
        if self.transition.clip:
            x0_hat, z = (jnp.clip(x, -1, 1) for x in (x0_hat, z))
        noise = jax.random.normal(key, x_t.shape)
        x_s, plain = (
            renoise(x_t, x_0, step, self.mix, noise) for x_0 in (z, x0_hat)
        )
        return x_s, observe(x_t, x0_hat, plain, x_s - plain, problem)


def matched_variance(key, problem, residual) -> jax.Array:
    """r^2, (), by the power of a residual; below 0 for one below the noise.

    Args:
        key: of the signs that the trace is estimated by.
        problem: whose operator is linear.
        residual: y - A x, in the shape of y.
    """
    signs = jax.random.rademacher(key, problem.image_shape, jnp.float32)
    trace = jnp.sum(problem.operator.forward(signs) ** 2)
    power = jnp.sum(residual**2) - problem.expected_residual_norm() ** 2
    return power / jnp.maximum(trace, 1e-12)


def _likeliest(images, directions, moved, residual, noise_var):
    """Lengths (K,) of the directions whose sum is most likely.

    Args:
        images: (K, H, W, C), C^{-1} of each direction.
        directions, moved: the same, and A of them.
        residual: y - A x0_hat.
        noise_var: sigma^2.
    """
    flat = images.shape[0], -1
    moved, images, directions = (
        v.reshape(flat) for v in (moved, images, directions)
    )
    # J is symmetric and has no negative eigenvalue but for the network's errors.
    energy = images @ directions.T
    energy = (energy + energy.T) / 2
    kept = jnp.diag(energy) > 0
    energy *= kept[:, None] * kept
    system = moved @ moved.T + noise_var * energy
    ridge = _RIDGE * jnp.trace(system) / len(system) + 1e-12
    falls = moved @ residual.ravel()
    lengths = jnp.linalg.solve(system + ridge * jnp.eye(len(system)), falls)
    # One that goes the wrong way is no way at all.
    return jnp.maximum(lengths, 0) if len(system) == 1 else lengths
