"""An inverse problem: the measurement, how it came about, and its noise."""

import dataclasses
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from invjax import notebook
from invjax.operators.blur import blur_matrix, gaussian_kernel
from invjax.operators.mask import Mask
from invjax.types import Array


class NoiseParameter(NamedTuple):
    """A parameter of a kind of noise.

    Attributes:
        default: where it is not given.
        words: what it is.
        lowest, highest: its range; `above` leaves the lowest out.
        above: see there.
    """

    default: float
    words: str
    lowest: float
    highest: float
    above: bool = False

    @property
    def range_words(self) -> str:
        """What it must be."""
        if self.above:
            return f'above {self.lowest:g} and at most {self.highest:g}'
        return f'from {self.lowest:g} to {self.highest:g}'

    def contains(self, value: float) -> bool:
        """Whether a value is in its range; NaN is not."""
        above = value > self.lowest if self.above else value >= self.lowest
        return above and value <= self.highest


# The kinds of noise, with the parameters of each.
NOISES = {
    'gaussian': {},
    # Counts are drawn as 32-bit integers, of which the mean must stay clear.
    'poisson': {
        'peak': NoiseParameter(100.0, 'photons at white', 0, 1e9, above=True)
    },
    'salt_pepper': {
        'amount': NoiseParameter(
            0.1, 'fraction of the measured values that become -1 or 1', 0, 1
        )
    },
}
# Rounding to 256 levels alone is off by this much.
_LEAST_STD = 2 / 255 / 12**0.5
# Pixels, across the Gaussian window in which counts are averaged.
_WINDOW = 17
# Of -1 or 1 around a value that is uniform between them.
_REPLACED_STD = (4 / 3) ** 0.5


@flax.struct.dataclass
class Problem:
    """y = A(x) + n, with n normal of the given standard deviation.

    Noise of another kind is taken as normal too: by `noise_std` alone as if all
    values were equally sure, and with `weights` by how sure each one is.

    Attributes:
        y: the measurement, in [-1, 1] units; zero where it carries no data.
        operator: A, see `invjax.operators`.
        noise_std: () in [-1, 1] units. Papers that name their noise in [0, 1]
            units (DiffPIR, DDRM) mean twice as much by the same number. Where
            it differs from value to value, its root mean square.
        weights: () or in the shape of y: 1 / variance of each value, scaled to
            a mean of 1 over the values that carry data.
        truth: (H, W, C), the image that y was made from, where it is known.
            For scores alone; no method sees it.
        task: the name of the task, by which tuned defaults are found. Static.
    """

    y: jax.Array
    operator: Any
    noise_std: jax.Array
    weights: jax.Array | np.float32 = np.float32(1)
    truth: jax.Array | None = None
    task: str | None = flax.struct.field(pytree_node=False, default=None)

    def bare(self) -> 'Problem':
        """What a method sees of it: without the truth, and without a name.

        Problems of one operator then share a compiled program.
        """
        return dataclasses.replace(self, truth=None, task=None)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of the images that the operator measures."""
        return self.operator.image_shape

    def as_picture(self) -> np.ndarray:
        """The measurement as an image, (H, W, C): itself, or a guess by it."""
        y = self.y
        if y.shape != self.image_shape:
            y = self.operator.guess(y)
        return np.asarray(y)

    def __repr__(self):
        task = 'a problem of no name' if self.task is None else self.task
        described = ', '.join(
            f'{name} {value}'
            for name, value in self.operator.describe().items()
        )
        truth = 'unknown' if self.truth is None else 'known'
        return (
            f'Problem({task}: {described},\n    y {self.y.shape} of images '
            f'{self.image_shape},\n    noise_std {float(self.noise_std):g}, '
            f'truth {truth})'
        )

    def _repr_html_(self):
        shown = {'measurement': self.as_picture()}
        if self.truth is not None:
            shown = {'truth': np.asarray(self.truth), **shown}
        return notebook.as_html(shown, repr(self))

    def residual(self, x: jax.Array) -> jax.Array:
        """y - A(x), in the shape of y."""
        return self.y - self.operator.forward(x)

    def residual_norm(self, x: jax.Array) -> jax.Array:
        """||y - A(x)||, (), with a gradient of zero where it is zero."""
        return safe_norm(self.residual(x))

    def weighted_residual_norm(self, x: jax.Array) -> jax.Array:
        """||y - A(x)||_Lambda, (), Lambda = diag(weights); else as above."""
        return safe_norm(jnp.sqrt(self.weights) * self.residual(x))

    def num_measured(self) -> jax.Array:
        """m, (): the numbers in y that carry data."""
        support = self.operator.support()
        return jnp.broadcast_to(support, self.y.shape).sum()

    def expected_residual_norm(self) -> jax.Array:
        """noise_std sqrt(m), (): the norm of the residual at the truth."""
        return self.noise_std * jnp.sqrt(self.num_measured())


def safe_norm(x: jax.Array) -> jax.Array:
    """||x||, (), of an array of any shape, real or complex; at least 1e-12.

    There its gradient is zero. A plain norm has a gradient of NaN at zero, which
    the residual of noiseless data reaches.
    """
    square = jnp.sum(jnp.real(x * jnp.conj(x)))
    is_zero = square <= 1e-24
    return jnp.where(is_zero, 1e-12, jnp.sqrt(jnp.where(is_zero, 1, square)))


def measure(
    key: jax.Array,
    x: Array,
    operator,
    noise_std: jax.typing.ArrayLike = 0.05,
    noise: str = 'gaussian',
    **parameters: float,
) -> Problem:
    """Degrade an image: y = A(x) + noise_std * n on the operator's support.

    Other kinds of noise come on top, and are for measurements that are
    pictures, from -1 for black to 1 for white:

    - `poisson`, of light, before n, which then is that of reading it out: A(x)
      becomes 2 k / peak - 1, where k is a Poisson count of mean
      peak (A(x) + 1) / 2;
    - `salt_pepper`, of dead pixels and bits, after n: a fraction of the values,
      exact to rounding and each channel by itself, becomes -1 or 1.

    Args:
        key: of the noise.
        x: (H, W, C) in [-1, 1].
        operator: see `invjax.operators`.
        noise_std: () in [-1, 1] units, 0 or more. May be traced.
        noise: one of NOISES.
        **parameters: those of the kind; `peak`, the photons at white, above 0
            and at most 1e9; `amount`, the fraction of the measured values, from
            0 to 1.

    Raises:
        ValueError: for a value out of its range, another noise or parameter, or
            a measurement that is no picture.
    """
    _check_noise_std(noise_std)
    parameters = check_noise(noise, **parameters)
    x = _floats(x, 'the image')
    _check_shape(x, 'the image', operator.image_shape, operator)
    _check_finite(x, 'the image')
    if noise != 'gaussian':
        _check_is_picture(operator, noise)
    # Gaussian noise has the key itself, as long as there was no other.
    key_kind = jax.random.fold_in(key, 1)
    y = operator.forward(x)
    support = operator.support()
    if noise == 'poisson':
        y = support * _count(key_kind, y, **parameters)
    y = y + noise_std * (jax.random.normal(key, y.shape) * support)
    if noise == 'salt_pepper':
        y = _replace(key_kind, y, support, **parameters)
    return _problem(y, operator, noise_std, noise, parameters)


def from_measurement(
    y: Array,
    operator,
    noise_std: jax.typing.ArrayLike = 0.05,
    noise: str = 'gaussian',
    **parameters: float,
) -> Problem:
    """A problem whose measurement the user brings, in [-1, 1] units.

    What y holds where the operator observes nothing is set to zero. The other
    arguments, and what is refused, are as for `measure`.
    """
    _check_noise_std(noise_std)
    parameters = check_noise(noise, **parameters)
    y = _brought(y, operator)
    if noise != 'gaussian':
        _check_is_picture(operator, noise)
    return _problem(y, operator, noise_std, noise, parameters)


def _brought(y, operator) -> jax.Array:
    """y in float32, zero where the operator observes nothing."""
    y = _floats(y, 'the measurement')
    _check_shape(y, 'the measurement', operator.measurement_shape, operator)
    # A product with zero would keep NaN.
    y = jnp.where(operator.support() != 0, y, 0)
    _check_finite(y, 'the measurement', ' where the operator observes')
    return y


def _floats(values, name: str) -> jax.Array:
    """Float32; refuses integers, which would be 0 to 255, and complex ones."""
    dtype = jnp.result_type(values)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f'{name} must hold floats, from -1 for black to 1 for white where '
            f'it is a picture, got {dtype}; images.to_float brings uint8 to '
            'them.'
        )
    return jnp.asarray(values, jnp.float32)


def _check_shape(values, name: str, shape: tuple[int, ...], operator) -> None:
    if values.shape != shape:
        raise ValueError(
            f'{name} must have the shape {shape} for '
            f'{type(operator).__name__}, got {values.shape}.'
        )


def _check_finite(values, name: str, where: str = '') -> None:
    if isinstance(values, jax.core.Tracer):
        return  # It has no values yet.
    wrong = int(np.sum(~np.isfinite(values)))
    if wrong:
        raise ValueError(
            f'{name} must be finite{where}, but {wrong:,} of its values are '
            'not (NaN or infinite).'
        )


def check_noise(noise: str, **parameters: float) -> dict[str, float]:
    """The parameters of a kind of noise, with defaults for those left out.

    Raises:
        ValueError: for another noise, a parameter that it does not have, or a
            value out of its range.
    """
    if noise not in NOISES:
        raise ValueError(
            f'noise must be one of {", ".join(NOISES)}, got {noise!r}.'
        )
    known = NOISES[noise]
    for name, value in parameters.items():
        if name not in known:
            raise ValueError(
                f'{noise} noise has no parameter {name!r}; '
                f'it has {", ".join(known) or "none"}.'
            )
        if not known[name].contains(value):
            raise ValueError(
                f'{name} must be {known[name].range_words}, got {value}.'
            )
    defaults = {name: known[name].default for name in known}
    return {**defaults, **parameters}


def is_picture(operator) -> bool:
    """Whether a measurement has black where the image is black, and white too.

    What is traced cannot be looked at, and counts as one.
    """
    white = jnp.ones(operator.image_shape)
    # JPEG and filters with negative lobes miss a little.
    for x in (white, -white):
        off = operator.support() * (operator.forward(x) - x[0, 0, 0])
        if not isinstance(off, jax.core.Tracer) and jnp.max(abs(off)) > 0.2:
            return False
    return True


def _check_is_picture(operator, noise: str) -> None:
    if not is_picture(operator):
        raise ValueError(
            f'{noise} noise needs a task whose measurement is a picture, '
            'with white where the image is white and black where it is '
            f'black, which {operator.describe()["kind"]} does not give; '
            'use gaussian noise.'
        )


def _count(key, y, peak):
    """A picture made of photons, `peak` of them at white."""
    photons = jax.random.poisson(key, peak * jnp.clip((y + 1) / 2, 0), y.shape)
    return 2 * photons.astype(jnp.float32) / peak - 1


def _replace(key, y, support, amount):
    """A picture with a fraction of its measured values at -1 or 1."""
    key_places, key_signs = jax.random.split(key)
    measured = jnp.broadcast_to(support, y.shape)
    # Measured values in random order come first: the others have infinity.
    places = jax.random.uniform(key_places, y.shape)
    places = jnp.where(measured > 0, places, jnp.inf)
    ranks = jnp.argsort(jnp.argsort(places.ravel())).reshape(y.shape)
    signs = jax.random.rademacher(key_signs, y.shape, jnp.float32)
    return jnp.where(ranks < jnp.round(amount * measured.sum()), signs, y)


def _local_mean(y, support):
    """The mean of the values around each one that carry data, (H, W, C)."""
    height, width, _ = y.shape
    kernel = gaussian_kernel(_WINDOW, _WINDOW / 8)
    rows, columns = (
        # Reflection reaches no further than the other edge.
        blur_matrix(kernel, length) if length > _WINDOW // 2 else np.eye(length)
        for length in (height, width)
    )

    def blurred(values):
        return jnp.einsum('ih,hwc,jw->ijc', rows, values, columns)

    measured = jnp.broadcast_to(support, y.shape)
    return blurred(measured * y) / jnp.maximum(blurred(measured), 1e-6)


def _problem(y, operator, noise_std, noise, parameters) -> Problem:
    noise_std = jnp.asarray(noise_std, jnp.float32)
    if noise == 'gaussian':
        return Problem(y, operator, noise_std)
    if noise == 'poisson':
        # The paper of DPS has Lambda = diag(1 / 2 y). But a count that is low by
        # chance would weigh more, and all be drawn to one photon too dark: so
        # the mean of the counts around it stands for each one. No mean is
        # surer than that of one photon.
        peak = parameters['peak']
        around = _local_mean(y, operator.support())
        photons = jnp.maximum(peak * (around + 1) / 2, 1)
        std = jnp.sqrt(4 * photons / peak**2 + noise_std**2)
    else:
        # A value that was replaced lies on a bound. Some others do too; they
        # are not to be told apart.
        std = jnp.where(jnp.abs(y) == 1, _REPLACED_STD, noise_std)
    measured = jnp.broadcast_to(operator.support(), y.shape)
    number = jnp.maximum(measured.sum(), 1)
    weights = measured / jnp.maximum(std, _LEAST_STD) ** 2
    return Problem(
        y=y,
        operator=operator,
        noise_std=jnp.sqrt(jnp.sum(measured * std**2) / number),
        weights=weights * number / jnp.maximum(weights.sum(), 1e-12),
    )


def _check_noise_std(noise_std: jax.typing.ArrayLike) -> None:
    if isinstance(noise_std, jax.core.Tracer):
        return  # It has no value yet.
    if not np.all((np.asarray(noise_std) >= 0) & np.isfinite(noise_std)):
        raise ValueError(
            f'noise_std must be 0 or more and finite, got {noise_std}.'
        )


def nothing_measured(image_shape: tuple[int, int, int]) -> Problem:
    """The problem without data, for unconditional sampling."""
    return Problem(
        y=jnp.zeros(image_shape),
        operator=Mask(jnp.zeros((*image_shape[:2], 1)), image_shape[-1]),
        noise_std=jnp.zeros(()),
    )
