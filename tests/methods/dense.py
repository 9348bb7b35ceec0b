"""Dense algebra in float64 that the steps of methods are held against.

On a Gaussian prior, and without clipping, a step of most methods is affine in
x_t, y and the prior's mean, plus normal noise. A test writes such a step down
from its paper's formulas, by matrices and inverses (`Affine`); `taken_step` gets
the same out of a method's `update`, by derivatives and by many keys. The two
share no line.
"""

import functools
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import operators, problem, sampler, schedule, validation
from invjax.priors import gaussian
from invjax.types import Prediction

ALPHA_BAR = schedule.alpha_bars(schedule.linear_betas())
KEY = jax.random.key(0)
# What runs a few times takes longer to optimise than to run.
QUICK = {'xla_backend_optimization_level': 0}
# Of t = 999, 799, ..., 0: two of them, and the last step, which ends at the
# clean image. At the first one E[x_0 | x_t] from the predicted noise is right to
# three digits only.
STEPS = schedule.reverse_steps(ALPHA_BAR, 6)
ROWS = (1, 3, 5)
_NUM_KEYS = 4096


class Affine:
    """M x_t + b + noise of covariance C, float64.

    Sums take the noises of their parts as independent.

    Attributes:
        matrix: (m, D) M.
        offset: (m,) b.
        covariance: (m, m) C.
    """

    # So that `matrix @ affine` is this class' own.
    __array_ufunc__ = None

    def __init__(self, matrix, offset, covariance=None):
        self.matrix, self.offset = matrix, offset
        nothing = np.zeros((len(offset), len(offset)))
        self.covariance = nothing if covariance is None else covariance

    def __rmatmul__(self, left):
        return Affine(
            left @ self.matrix,
            left @ self.offset,
            left @ self.covariance @ left.T,
        )

    def __rmul__(self, factor):
        return Affine(
            factor * self.matrix,
            factor * self.offset,
            factor**2 * self.covariance,
        )

    def __add__(self, other):
        if not isinstance(other, Affine):
            return Affine(self.matrix, self.offset + other, self.covariance)
        return Affine(
            self.matrix + other.matrix,
            self.offset + other.offset,
            self.covariance + other.covariance,
        )

    __radd__ = __add__

    def __neg__(self):
        return -1 * self

    def __sub__(self, other):
        return self + (-other)

    def __rsub__(self, other):
        return other + (-self)

    def noised(self, variance) -> 'Affine':
        """With independent noise on top: of a variance, or of a covariance."""
        if np.ndim(variance) < 2:
            variance = variance * np.eye(len(self.offset))
        return Affine(self.matrix, self.offset, self.covariance + variance)

    def of(self, inner: 'Affine') -> 'Affine':
        """This one, taken of what another one gives."""
        result = self.matrix @ inner
        return Affine(
            result.matrix,
            result.offset + self.offset,
            result.covariance + self.covariance,
        )


class Case(NamedTuple):
    """A measurement under a Gaussian prior, for JAX and as plain matrices."""

    prior: gaussian.GaussianPrior
    problem: problem.Problem
    steps: schedule.Steps
    mean: np.ndarray  # (D,) mu
    covariance: np.ndarray  # (D, D) Sigma
    matrix: np.ndarray  # (m, D) A
    y: np.ndarray  # (m,)
    noise_std: float

    @property
    def x_t(self) -> Affine:
        """x_t itself."""
        return Affine(np.eye(len(self.mean)), np.zeros(len(self.mean)))

    def at(self, row: int) -> 'Level':
        """A step, by its row."""
        t = int(self.steps.t[row])
        is_last = row in (-1, len(self.steps.t) - 1)
        before = 1.0 if is_last else ALPHA_BAR[int(self.steps.t[row + 1])]
        return Level(t, ALPHA_BAR[t], before)

    def row(self, row: int) -> schedule.Steps:
        """The same for `update`."""
        return schedule.Steps(*(field[row] for field in self.steps))

    def jacobian(self, a) -> np.ndarray:
        """d E[x_0 | x_t] / d x_t: Cov(x_0, x_t) Cov(x_t)^-1."""
        size = len(self.mean)
        marginal = a * self.covariance + (1 - a) * np.eye(size)
        return np.sqrt(a) * self.covariance @ np.linalg.inv(marginal)

    def estimate(self, a) -> Affine:
        """E[x_0 | x_t] at alpha_bar_t = a."""
        return self.mean + self.jacobian(a) @ (
            self.x_t - np.sqrt(a) * self.mean
        )

    def posterior_covariance(self, a) -> np.ndarray:
        """Cov[x_0 | x_t], by the conditioning of normal numbers."""
        shared = np.sqrt(a) * self.covariance
        return self.covariance - self.jacobian(a) @ shared.T

    def residual(self, x: Affine) -> Affine:
        """y - A x."""
        return self.y - self.matrix @ x

    def gain(self, covariance, noise_var=None) -> np.ndarray:
        """A^T (A C A^T + sigma^2 I)^-1, the pseudo-inverse where there is no
        noise; `covariance` is C, or a variance."""
        if np.ndim(covariance) < 2:
            covariance = covariance * np.eye(len(self.mean))
        if noise_var is None:
            noise_var = self.noise_std**2
        inner = self.matrix @ covariance @ self.matrix.T
        inner += noise_var * np.eye(len(inner))
        return self.matrix.T @ np.linalg.pinv(inner, 1e-6, hermitian=True)

    def nearest(self, x: Affine, variance, noise_var=None) -> Affine:
        """E[z | x, y] for z ~ N(x, C), y = A z + sigma n."""
        if np.ndim(variance) < 2:
            variance = variance * np.eye(len(self.mean))
        gain = variance @ self.gain(variance, noise_var)
        return x + gain @ self.residual(x)


class Level(NamedTuple):
    """A step from t to s < t: alpha_bar_t = a and alpha_bar_s = b."""

    t: int
    a: float
    b: float

    @property
    def beta(self) -> float:
        return 1 - self.a / self.b

    @property
    def posterior_variance(self) -> float:
        """Var[x_s | x_t, x_0]."""
        return self.beta * (1 - self.b) / (1 - self.a)


def ancestral(x_0: Affine, x_t: Affine, level: Level, variance='posterior'):
    """x_s ~ q(x_s | x_t, x_0): the product of the two normal densities

    q(x_s | x_0) = N(sqrt(b) x_0, 1 - b) and q(x_t | x_s), as one of x_s, of
    N(x_t / sqrt(1 - beta), beta / (1 - beta)).
    """
    if level.b == 1:
        return x_0
    by_x_0, by_x_t = 1 / (1 - level.b), (1 - level.beta) / level.beta
    mean = (by_x_0 * np.sqrt(level.b)) * x_0
    mean += (by_x_t / np.sqrt(1 - level.beta)) * x_t
    mean = (1 / (by_x_0 + by_x_t)) * mean
    if variance == 'beta':
        return mean.noised(level.beta)
    return mean.noised(1 / (by_x_0 + by_x_t))


def ddim(x_0: Affine, x_t: Affine, level: Level, eta=0.0) -> Affine:
    """Song et al. (2021), eq. 12 and 16."""
    a, b = level.a, level.b
    std = eta * np.sqrt((1 - b) / (1 - a)) * np.sqrt(1 - a / b)
    eps = (1 / np.sqrt(1 - a)) * (x_t - np.sqrt(a) * x_0)
    x_s = np.sqrt(b) * x_0 + np.sqrt(1 - b - std**2) * eps
    return x_s.noised(std**2)


def renoised(x_0: Affine, x_t: Affine, level: Level, mix) -> Affine:
    """Zhu et al. (2023), Algorithm 1, lines 5 and 6; their zeta is `mix`."""
    a, b = level.a, level.b
    eps = (1 / np.sqrt(1 - a)) * (x_t - np.sqrt(a) * x_0)
    x_s = np.sqrt(b) * x_0 + (np.sqrt(1 - b) * np.sqrt(1 - mix)) * eps
    return x_s.noised((1 - b) * mix)


def diffused(x_0: Affine, a) -> Affine:
    """x_t ~ q(x_t | x_0)."""
    return (np.sqrt(a) * x_0).noised(1 - a)


def prior_step(
    case: Case, row: int, kind='ddpm', variance='posterior', eta=0.0
) -> Affine:
    """The step of the prior alone."""
    level = case.at(row)
    x_0 = case.estimate(level.a)
    if kind == 'ddim':
        return ddim(x_0, case.x_t, level, eta)
    return ancestral(x_0, case.x_t, level, variance)


def repeated(step: Affine, level: Level, times: int) -> Affine:
    """A step taken several times, undone by one step of noise in between."""
    taken = step
    for _ in range(times - 1):
        back = (np.sqrt(1 - level.beta) * taken).noised(level.beta)
        taken = step.of(back)
    return taken


def prior_of(shape, seed=0) -> gaussian.GaussianPrior:
    """Correlated pixels around a mean that differs from pixel to pixel."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    covariance = (vectors * np.geomspace(0.02, 1, size)) @ vectors.T
    mean = rng.uniform(-0.4, 0.4, shape)
    return gaussian.GaussianPrior.from_covariance(mean, covariance, ALPHA_BAR)


@flax.struct.dataclass
class LearnedVariance(gaussian.GaussianPrior):
    """A Gaussian prior that says where the variance of its step lies."""

    fraction: float = 0.0

    @classmethod
    def of(cls, prior: gaussian.GaussianPrior, fraction: float):
        return cls(**vars(prior), fraction=fraction)

    def __call__(self, x_t, t):
        fraction = jnp.full_like(x_t, self.fraction)
        return Prediction(super().__call__(x_t, t).eps, fraction)


def _weighted_sums(x, weights):
    return weights @ x.ravel()


def operator_of(kind: str, shape=(4, 4, 1)):
    """An operator for images of 4 x 4.

    Args:
        kind: `dense` for ten sums of all pixels, with weights of no structure,
            which have no spectrum; or a task.
        shape: (H, W, C).
    """
    size = int(np.prod(shape))
    if kind == 'dense':
        rng = np.random.default_rng(1)
        left, _ = np.linalg.qr(rng.normal(size=(10, 10)))
        right, _ = np.linalg.qr(rng.normal(size=(size, size)))
        weights = (left * np.linspace(0.3, 1, 10)) @ right[:10]
        return operators.Linear.of(
            _weighted_sums, shape, jnp.asarray(weights, jnp.float32)
        )
    parameters = {
        'gaussian_deblur': {'blur_size': 3, 'blur_std': 0.6},
        'super_resolution': {'factor': 2},
        'motion_deblur': {'blur_size': 3},
        'random_inpainting': {},
    }
    return operators.make_operator(
        kind, jax.random.key(3), shape, **parameters.get(kind, {})
    )


@functools.cache
def case_of(kind: str, noise_std=0.3, shape=(4, 4, 1)) -> Case:
    """A problem that an operator of `operator_of` makes of a sample."""
    prior, operator = prior_of(shape), operator_of(kind, shape)
    measured = problem.measure(
        jax.random.key(2),
        prior.sample(jax.random.key(1)),
        operator,
        jnp.float32(noise_std),
    )
    return Case(
        prior,
        measured,
        STEPS,
        np.asarray(prior.mean, np.float64).ravel(),
        prior.covariance(),
        gaussian.dense_matrix(operator.forward, shape),
        np.asarray(measured.y, np.float64).ravel(),
        noise_std,
    )


def as_numbers(method):
    """The method with its numbers as arrays: another one compiles nothing."""
    return jax.tree.map(jnp.float32, method)


def points(number=3):
    """Some x_t, (number, 16)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(number, 16)).astype(np.float32)


def norm_gradient(case: Case, row: int, x_t, weights=1.0):
    """grad ||y - A E[x_0 | x_t]||, of a residual that is affine in x_t."""
    residual = case.residual(case.estimate(case.at(row).a))
    value = np.sqrt(weights) * (residual.matrix @ x_t + residual.offset)
    gradient = (np.sqrt(weights) * residual.matrix.T) @ value
    return gradient / np.linalg.norm(value)


def update(method, case: Case, row: int, x_t, key=KEY, state=()):
    """x_s, state and Info of one step."""
    x_t = jnp.asarray(x_t, jnp.float32).reshape(case.problem.image_shape)
    return update_states(method, case, row, x_t, state, key)


def update_states(method, case: Case, row: int, x_t, state, key=KEY):
    """The same for whatever a method carries in place of an image."""
    return _update(
        as_numbers(method),
        key,
        x_t,
        state,
        case.row(row),
        case.problem,
        case.prior,
    )


@functools.partial(jax.jit, compiler_options=QUICK)
def _update(method, key, x_t, state, step, measured, prior):
    return method.update(key, x_t, state, step, measured, prior)


@functools.partial(jax.jit, compiler_options=QUICK)
def _taken(method, x_t, step, measured, prior):
    def x_s(x_t, y, mean, key):
        moved, _, _ = method.update(
            key,
            x_t,
            (),
            step,
            measured.replace(y=y),
            prior.replace(mean=mean),
        )
        return moved.ravel()

    # x_s is linear in the four together, so its derivatives are all of it.
    y, mean = measured.y, prior.mean
    matrix = jax.jacfwd(x_s)(x_t, y, mean, KEY)
    _, offset = jax.jvp(lambda *v: x_s(x_t, *v, KEY), (y, mean), (y, mean))
    drawn = jax.vmap(lambda key: x_s(x_t, y, mean, key))(
        jax.random.split(KEY, _NUM_KEYS)
    )
    return matrix.reshape(drawn.shape[-1], -1), offset, drawn


def taken_step(method, case: Case, row: int):
    """What `update` does: M, b and samples of its noise, (keys, D)."""
    x_t = np.random.default_rng(row).normal(size=case.problem.image_shape)
    taken = _taken(
        as_numbers(method),
        jnp.asarray(x_t, jnp.float32),
        case.row(row),
        case.problem,
        case.prior,
    )
    matrix, offset, drawn = (np.asarray(v, np.float64) for v in taken)
    x_t = np.float32(x_t).ravel()
    return matrix, offset, drawn - (matrix @ x_t + offset)


def assert_step(method, case: Case, row: int, expected: Affine, tolerance=3e-4):
    """Hold the step that a method takes against one written down.

    The map is compared digit by digit, to what float32 and conjugate gradients
    leave; the noise by its moments over many keys, to five standard errors.
    """
    matrix, offset, noise = taken_step(method, case, row)
    size = max(np.abs(expected.matrix).max(), np.abs(expected.offset).max())
    tolerance *= max(size, 1)
    np.testing.assert_allclose(matrix, expected.matrix, atol=tolerance)
    np.testing.assert_allclose(offset, expected.offset, atol=tolerance)
    assert_moments(noise, np.zeros_like(offset), expected.covariance, tolerance)


def assert_moments(samples, mean, covariance, tolerance=1e-4):
    """Hold samples, (n, ...), against a normal distribution's moments.

    To five standard errors, of the mean and of each entry of the covariance
    (which may be singular), and a tolerance for rounding.
    """
    number = len(samples)
    samples = np.asarray(samples, np.float64).reshape(number, -1)
    variances = np.diag(covariance)
    np.testing.assert_array_less(
        np.abs(samples.mean(axis=0) - mean),
        5 * np.sqrt(variances / number) + tolerance,
    )
    square = np.outer(variances, variances) + covariance**2
    deviations = samples - mean
    np.testing.assert_array_less(
        np.abs(deviations.T @ deviations / number - covariance),
        5 * np.sqrt(square / number)
        + tolerance * (tolerance + 2 * np.sqrt(variances.max())),
    )


def moments_after(steps: list[Affine], start: Affine | None = None):
    """Mean and covariance after steps from N(0, I), or from another start."""
    size = len(steps[0].offset)
    x = start or Affine(np.zeros((size, 1)), np.zeros(size), np.eye(size))
    for step in steps:
        x = step.of(x)
    return x.offset, x.covariance


def assert_samples(method, case: Case, steps: list[Affine], start=None):
    """Hold samples of the whole process against the steps' moments."""
    samples = draw(
        KEY, as_numbers(method), case.steps, case.problem, case.prior, 2000
    )
    assert_moments(samples, *moments_after(steps, start), 1e-3)


draw = jax.jit(
    validation.draw.__wrapped__,
    static_argnames='num_samples',
    compiler_options=QUICK,
)


@functools.partial(jax.jit, compiler_options=QUICK)
def _sample(method, key, steps, measured, prior):
    return sampler.sample(key, steps, measured, prior, method)


def sample(method, measured, prior, steps, key=KEY):
    """The whole process: x_0 and Info."""
    return _sample(as_numbers(method), key, steps, measured, prior)


def exact_and(method, case: Case):
    """x_s by guidance with the true score of the likelihood, and by a method.

    Steps are ancestral, of posterior variance, with the same noise.
    """
    posterior = gaussian.gaussian_posterior(
        case.prior, case.matrix, case.y, case.noise_std
    )
    as_prior = gaussian.GaussianPrior.from_covariance(
        posterior.mean, posterior.covariance, ALPHA_BAR
    )
    exact = validation.ExactGuidance(transition=method.transition)
    for row, x_t in zip(ROWS, points(), strict=True):
        yield (
            update(exact, case, row, x_t, state=as_prior)[0],
            update(method, case, row, x_t)[0],
        )


def isotropic_case(kind: str, variance: float, noise_std=0.3) -> Case:
    """As `case_of`, under a prior of independent pixels."""
    case = case_of(kind, noise_std)
    prior = gaussian.GaussianPrior.isotropic(
        np.full((4, 4, 1), 0.2), variance, ALPHA_BAR
    )
    return case._replace(
        prior=prior, mean=np.full(16, 0.2), covariance=variance * np.eye(16)
    )
