"""Moment matching posterior sampling (Rozet et al., NeurIPS 2024), in few steps.

Around Tweedie's estimate x_0 is taken to be normal, with the covariance that
Tweedie's second moment gives it,

    C = (1 - alpha_bar_t) / sqrt(alpha_bar_t) J,   J = d x0_hat / d x_t,

and its mean given y too takes the estimate's place in the step:

    z = x0_hat + C A^T (A C A^T + sigma^2 I)^{-1} (y - A x0_hat),

with sigma the standard deviation of the noise. `pigdm` puts a number in place of C
within the inverse, and `tmpd` a diagonal; here it is C itself, by products with J^T in
place of J: with the exact estimate J is symmetric.

The authors solve by conjugate gradients, and by one iteration of it in their
experiments. Here each iteration finds a direction d = C w, for one pass back through the
network, and the shift z - x0_hat is that sum of all directions so far, each with a
length of its own, which makes

    ||y - A (x0_hat + shift)||^2 + sigma^2 shift^T C^{-1} shift

least. That takes no further passes, since C^{-1} d = w. The first w is

    A^T (r^2 A A^T + sigma^2 I)^{-1} (y - A x0_hat),

which is the direction of `pigdm`, if r is its width; the length of the step along it,
which is tuned there, is computed here. A later w is the gradient of what is made least,
divided by its second derivative as that were if C were r^2 I:

    A^T (r^2 A A^T + sigma^2 I)^{-1} (y - A (x0_hat + shift - r^2 u)) - u,

u = C^{-1} shift. r^2 changes directions and nothing else, so it need not be right. It is
taken from the residual: if the errors of the estimate have the variance r^2 and are
independent from pixel to pixel, then the residual of a measurement of m numbers has the
power

    E ||y - A x0_hat||^2 = r^2 tr(A A^T) + m sigma^2,

where the trace is ||A s||^2 for random signs s (Hutchinson, 1989).

One iteration falls short of z, and the next step goes on from there. A `strength`
above 1 makes up for it (over-relaxation), but in the last step, which nothing follows.
1.5 is from sweeps over four faces (docs/evidence.md). A need not be linear: its tangent
at the estimate stands for it, as in a step of Gauss and Newton.

What the authors do with z is `noising='transition'`: it takes the estimate's place in the
prior's own step, whose variance is the same for all pixels or learned, but knows nothing of
y. Of x_0 given x_t and y there is a whole distribution, with the covariance

    C - C A^T (A C A^T + sigma^2 I)^{-1} A C.

`noising='sample'`, which is ours, draws x_0 from it, and x_s given x_0 and x_t with the
variance of Ho et al. (2020), eq. 7. A draw v of N(0, C) and one, n, of the measurement's
noise do it (as in Papandreou and Yuille, 2010),

    x_0 = x0_hat + v + C A^T (A C A^T + sigma^2 I)^{-1} (y + n - A (x0_hat + v)),

where iterations are as above, and v = C^{1/2} e of white noise e is by `products` with C, a
pass back through the network each. With a normal prior, of variances up to 1, enough of
both and no clipping that is exact, at any number of steps. One product gives v the right
power, but too much of it where C is large. n is normal, also where the noise is not.

With `noising='mix'`, as here by default, the step is that of DiffPIR (`diffpir`). With
mix = 1 x_s has fresh noise alone, and what comes out is nearer to the mean of the
posterior than to a sample of it, as with `wiener`.
"""

import jax
import jax.numpy as jnp

from invjax import consistency
from invjax.diffusion import Transition
from invjax.methods.base import (
    TRANSITION,
    Method,
    corrected_step,
    estimate_and_transpose,
    observe,
    renoise,
)
from invjax.settings import Number, choice, fraction, not_negative, size

# The least r^2, as a fraction of 1 - alpha_bar_t. A residual of less power than the
# noise has would ask for a negative one.
_LEAST = 1e-3
# Of conjugate gradients for a direction, where they are needed.
_MAX_STEPS = 30
# Of the mean of a system's diagonal: directions can nearly coincide.
_RIDGE = 1e-6


class MMPS(Method):
    """The mean of x_0 given x_t and y, or a draw, with Tweedie's covariance.

    Attributes:
        strength: () factor of the correction, 0 or more: over-relaxation above 1.
            May be traced, as the next. Both are read where `noising` is `mix`.
        mix: () fraction of fresh noise, 0 to 1.
        noising: `mix` for the step of `diffpir`, `transition` for the prior's,
            or `sample` for samples of the posterior.
        iterations: directions, each for a pass back through the network. Static.
        products: with the covariance, each for a pass back too, where `noising`
            is `sample`. Static.
        transition: how the prior's step is taken, where `noising` is
            `transition`; else only its `clip` is read, and with `sample` it
            is of the estimate alone.
    """

    name = 'mmps'
    version = 2
    has_own_step = True
    tuning_grid = {'strength': (1.0, 1.5, 2.0)}  # noqa: RUF012
    only_with = {  # noqa: RUF012
        'mix': ('noising', 'mix'),
        'strength': ('noising', 'mix'),
        'products': ('noising', 'sample'),
    }
    validation_settings = (
        {'noising': 'sample', 'iterations': 2, 'products': 2},
    )

    strength: Number = not_negative(1.5)
    mix: Number = fraction(1.0)
    noising: str = choice('mix', 'transition', 'sample')
    iterations: int = size(1)
    products: int = size(1)

    def read_of_transition(self):
        is_read = self.noising == 'transition'
        return tuple(TRANSITION) if is_read else ('clip',)

    def update(self, key, x_t, state, step, problem, prior):
        x0_hat, transpose, prediction = estimate_and_transpose(x_t, step, prior)
        if self.transition.clip:
            x0_hat = jnp.clip(x0_hat, -1, 1)
        linear = consistency.linearised(problem, x0_hat)
        residual = linear.residual(x0_hat)
        to_x0 = step.noise_var_t / jnp.sqrt(step.alpha_bar_t)

        def covariance(w):
            return to_x0 * transpose(w)

        variance = _width(jax.random.fold_in(key, 1), linear, residual, step)
        drawn: Number = 0.0
        strength: Number = 1.0
        if self.noising == 'sample':
            key_v, key_n = (jax.random.fold_in(key, i) for i in (2, 3))
            drawn = root_times(
                covariance, jax.random.normal(key_v, x_t.shape), self.products
            )
            # Of values in [-1, 1] the variance given x_t is no more than this. At the
            # noisiest steps C is the network's error times 1 / sqrt(alpha_bar_t).
            power = jnp.mean(drawn**2) / step.noise_var_t
            drawn *= jax.lax.rsqrt(jnp.maximum(power, 1))
            noise = jax.random.normal(key_n, residual.shape)
            residual += linear.noise_std * noise * linear.operator.support()
            residual -= linear.operator.forward(drawn)
        elif self.noising == 'mix':
            # Nothing comes after the last step to take back what goes too far.
            is_last = step.noise_var_s == 0
            least = jnp.minimum(self.strength, 1)
            strength = jnp.where(is_last, least, self.strength)
        solved = self._shift(linear, residual, covariance, variance)
        x_0 = x0_hat + drawn
        z = x_0 + strength * solved.x
        x_s, info = self._step(
            key, x_t, x0_hat, x_0, z, prediction, step, problem
        )
        info = info._replace(solver_residual=solved.relative_residual)
        return x_s, state, info

    def _shift(self, problem, residual, covariance, variance):
        """z - x0_hat, (H, W, C), with how well its directions were solved."""
        images, directions, moved, left_over = [], [], [], []
        shift = image = jnp.zeros(problem.image_shape)
        for _ in range(self.iterations):
            left = residual - problem.operator.forward(shift - variance * image)
            solved = consistency.solve_correction(
                problem, left, variance, max_steps=_MAX_STEPS
            )
            left_over.append(solved.relative_residual)
            images.append(solved.x - image)
            directions.append(covariance(images[-1]))
            moved.append(problem.operator.forward(directions[-1]))
            lengths = _best_lengths(
                jnp.stack(images),
                jnp.stack(directions),
                jnp.stack(moved),
                residual,
                problem.noise_std**2,
            )
            shift, image = (
                jnp.tensordot(lengths, jnp.stack(v), 1)
                for v in (directions, images)
            )
        worst = jnp.max(jnp.stack(left_over))
        return solved._replace(x=shift, relative_residual=worst)

    def _step(self, key, x_t, x0_hat, x_0, z, prediction, step, problem):
        """From z to x_s, with Info; x_0 is z before the measurement moved it."""
        if self.noising == 'transition':
            return corrected_step(
                key, x_t, x_0, z, prediction, step, problem, self.transition
            )
        noise = jax.random.normal(key, x_t.shape)
        if self.noising == 'sample':
            # Clipping would make it narrower.
            transition = Transition(variance='posterior', clip=False)
            x_s, plain = (
                transition(x_t, x, prediction, step, noise) for x in (z, x_0)
            )
        else:
            if self.transition.clip:
                z = jnp.clip(z, -1, 1)
            x_s, plain = (
                renoise(x_t, x, step, self.mix, noise) for x in (z, x_0)
            )
        return x_s, observe(x_t, x0_hat, plain, x_s - plain, problem)


def matched_variance(key, problem, residual) -> jax.Array:
    """r^2, (), by the power of a residual; negative if the noise has more.

    Args:
        key: of the signs that the trace is estimated by.
        problem: whose operator is linear.
        residual: y - A x, in the shape of y.
    """
    signs = jax.random.rademacher(key, problem.image_shape, jnp.float32)
    trace = jnp.sum(problem.operator.forward(signs) ** 2)
    power = jnp.sum(residual**2) - problem.expected_residual_norm() ** 2
    return power / jnp.maximum(trace, 1e-12)


def _width(key, problem, residual, step) -> jax.Array:
    """r^2, (), between bounds; see `matched_variance`."""
    return jnp.clip(
        matched_variance(key, problem, residual),
        _LEAST * step.noise_var_t,
        # The error of x_t / sqrt(alpha_bar_t): an estimate is no worse.
        step.noise_var_t / step.alpha_bar_t,
    )


def root_times(covariance, noise: jax.Array, products: int) -> jax.Array:
    """C^{1/2} noise, (H, W, C), by a few products with C (Lanczos).

    With k products it is a polynomial in C of degree k, times the noise, which
    equals the square root at 0 and at k more values that the noise sees C by
    (Gauss and Radau's quadrature). Its power is that of C^{1/2} noise for each
    k, and of a projector one product gives all.

    Args:
        covariance: v -> C v, symmetric and positive, but for errors.
        noise: (H, W, C).
        products: k, at least 1.
    """
    length = jnp.linalg.norm(noise)
    basis = [noise.ravel() / length]
    diagonal, beside = [], []
    for _ in range(products):
        v = covariance(basis[-1].reshape(noise.shape)).ravel()
        diagonal.append(v @ basis[-1])
        for q in basis:
            v -= (v @ q) * q
        beside.append(jnp.linalg.norm(v))
        basis.append(v / jnp.maximum(beside[-1], 1e-12))
    inner = _tridiagonal(diagonal, beside[:-1])
    # Rounding may have made it singular, where C v is a multiple of v.
    inner += (_RIDGE * jnp.trace(inner) + 1e-12) * jnp.eye(products)
    # With this the matrix has the eigenvalue 0 (Golub, 1973).
    last = beside[-1] ** 2 * jnp.linalg.inv(inner)[-1, -1]
    values, vectors = jnp.linalg.eigh(_tridiagonal([*diagonal, last], beside))
    roots = jnp.sqrt(jnp.maximum(values, 0))
    weights = vectors @ (roots * vectors[0])
    return length * (weights @ jnp.stack(basis)).reshape(noise.shape)


def _tridiagonal(diagonal, beside) -> jax.Array:
    """Symmetric, (K, K), of K and K - 1 numbers."""
    diagonal, beside = jnp.array(diagonal), jnp.array(beside)
    return sum((jnp.diag(beside, k) for k in (-1, 1)), start=jnp.diag(diagonal))


def _best_lengths(images, directions, moved, residual, noise_var):
    """Lengths (K,) of the directions with which their sum is best.

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
    energy = images @ directions.T
    # C is symmetric and positive but for the network's errors. A direction that
    # shows them is left out.
    kept = jnp.diag(energy) > 0
    moved *= kept[:, None]
    energy = (energy + energy.T) / 2 * kept[:, None] * kept
    system = moved @ moved.T + noise_var * energy
    ridge = _RIDGE * jnp.trace(system) / len(system) + 1e-12
    system += ridge * jnp.eye(len(system))
    return jnp.linalg.solve(system, moved @ residual.ravel())
