"""Are methods as sure as they should be? Ranks over many measurements.

On the cases of `validating`, at the setting that has its row there: many clean
images are drawn from the prior, each is measured and restored 19 times, and the
truths' ranks are counted (`invjax/calibration.py`). What is ranked are four
pixels, the mean, the squared norm, four projections, and the log density of the
posterior.
"""

import functools
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from invjax import calibration, keys, problem, schedule, validation
from invjax.methods import Method
from invjax.priors import student_t
from invjax.study import validating
from invjax.study.validating import NUM_RANKED, Case, Validation

TASKS = ('gaussian_deblur', 'box_inpainting')
NOISE_STD = 0.1
_NUM_PIXELS = _NUM_PROJECTIONS = 4
DENSITY = 'log density'
NAMES = (
    *(f'pixel {i + 1}' for i in range(_NUM_PIXELS)),
    'mean',
    'squared norm',
    *(f'projection {i + 1}' for i in range(_NUM_PROJECTIONS)),
    DENSITY,
)
# Of an image and of all that is random about it; a case's own are before these.
_FIRST_IMAGE = 2
# Measurements that are restored at once.
_BATCH = 20


def calibrate(
    found: Sequence[Case],
    rows: Sequence[dict],
    asked: Validation,
    folder: pathlib.Path,
) -> list[dict]:
    """Rows of ranks, each kept as it is found.

    Args:
        found: from `validating.cases`; those of TASKS at NOISE_STD count.
        rows: of `validating.validate`, which have the settings.
        asked: see there.
        folder: where `validating.ROWS` is kept.

    Returns:
        Rows like those, with `num_measurements` and `ranks`: each of NAMES to
        its histogram of 20 places, and nothing where a sample is not finite.
    """
    if not asked.num_measurements:
        return []
    kept = validating.Rows(folder / validating.ROWS)
    shared = ('prior', 'task', 'noise_std')
    calibrated = []
    for case in found:
        if case.task not in TASKS or case.noise_std != NOISE_STD:
            continue
        for row in rows:
            if tuple(row[name] for name in shared) != case[:3]:
                continue
            inputs = {
                **{
                    k: v for k, v in row.items() if k not in validating.COMPUTED
                },
                'num_samples': NUM_RANKED,
                'num_measurements': asked.num_measurements,
                'tried': [row['setting']],
            }
            compute = functools.partial(_compute, case, row, asked)
            calibrated.append(kept.get(inputs, compute))
    return calibrated


def _compute(case: Case, row: dict, asked: Validation) -> dict:
    """The setting and the histograms of a row."""
    images = _FIRST_IMAGE + np.arange(asked.num_measurements)
    root = keys.root(asked.seed)
    truths, ys = _measure(root, images, case.prior, case.measured)
    if row['method'] == validating.FLOOR:
        rng = np.random.default_rng(asked.seed)
        samples = _exact_samples(rng, case, ys)
    else:
        samples = _draw_each(
            root,
            images,
            ys,
            *_method_of(case, row['method'], row['setting'], asked, ys),
            schedule.reverse_steps(case.prior.alpha_bar, asked.num_steps),
            case.measured,
            case.prior,
        )
    histograms = {}
    if np.all(np.isfinite(samples)):
        numbers = _numbers_of_all(case, ys, samples)
        of_truths = _numbers_of_all(case, ys, truths[:, None])[:, 0]
        counts = calibration.histograms(
            calibration.ranks(numbers, of_truths), NUM_RANKED
        )
        histograms = dict(zip(NAMES, counts.tolist(), strict=True))
    return {'setting': row['setting'], 'ranks': histograms}


@jax.jit
def _measure(root, images, prior, measured):
    """Clean images, (N, H, W, C), and a measurement of each, (N, ...)."""

    def one(image):
        x = prior.sample(keys.of_operator(root, image))
        y = problem.measure(
            keys.of_noise(root, image),
            x,
            measured.operator,
            measured.noise_std,
        ).y
        return x, y

    return jax.vmap(one)(images)


def _exact_samples(rng, case: Case, ys) -> np.ndarray:
    """Samples of each posterior, (N, L, H, W, C)."""
    matrix = validating.dense(case.measured.operator)
    flat = np.asarray(ys, np.float64).reshape(len(ys), -1)
    if isinstance(case.prior, student_t.StudentTPrior):
        return student_t.gibbs(
            rng, case.prior, matrix, flat, case.noise_std, NUM_RANKED
        )
    posteriors = [
        validating.posterior_of(case.prior, matrix, y, case.noise_std)[0]
        for y in flat
    ]
    return np.stack([p.sample(rng, NUM_RANKED) for p in posteriors])


def _method_of(case: Case, name: str, setting: dict, asked: Validation, ys):
    """A method, and what exact guidance has in place of a state, each y's."""
    if name == validating.EXACT.name:
        matrix = validating.dense(case.measured.operator)
        as_priors = [
            validating.posterior_of(case.prior, matrix, y, case.noise_std)[1]
            for y in np.asarray(ys, np.float64)
        ]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *as_priors)
        return validating.EXACT, stacked
    cls = {cls.name: cls for cls in asked.methods}[name]
    method = validating.with_setting(cls, setting)
    # As arrays, other numbers compile nothing anew.
    return jax.tree.map(np.float32, method), None


@jax.jit
def _draw_each(
    root, images, ys, method: Method, posteriors, steps, measured, prior
):
    """Samples given each measurement, (N, L, H, W, C)."""

    def one(of_one):
        image, y, posterior = of_one
        return validation.draw(
            keys.of_sample(root, image),
            method,
            steps,
            measured.replace(y=y),
            prior,
            NUM_RANKED,
            posterior,
        )

    return jax.lax.map(one, (images, ys, posteriors), batch_size=_BATCH)


def _numbers_of_all(case: Case, ys, samples) -> np.ndarray:
    """What is ranked of samples (N, L, H, W, C): (N, L, S), float64."""
    numbers = _numbers(case.prior, case.measured, ys, np.float32(samples))
    return np.asarray(numbers, np.float64)


@jax.jit
def _numbers(prior, measured, ys, samples):
    size = int(np.prod(prior.image_shape))
    pixels = np.linspace(0, size - 1, _NUM_PIXELS).round().astype(int)
    directions = np.random.default_rng(0).normal(size=(_NUM_PROJECTIONS, size))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)

    def of_one(y, x):
        # The density of the first noise level, whose noise is 0.01. What is
        # ranked may be any function of x and y.
        squared = jnp.sum((y - measured.operator.forward(x)) ** 2)
        log_density = prior.log_density(x, 0)
        log_density -= squared / (2 * measured.noise_std**2)
        flat = x.ravel()
        projections = jnp.matmul(
            directions.astype(np.float32),
            flat,
            precision=jax.lax.Precision.HIGHEST,
        )
        return jnp.array(
            [
                *flat[pixels],
                jnp.mean(flat),
                jnp.sum(flat**2),
                *projections,
                log_density,
            ]
        )

    return jax.vmap(jax.vmap(of_one, (None, 0)))(ys, samples)
