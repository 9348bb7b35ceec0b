"""An inverse problem: the measurement, how it came about, and its noise."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax

from invjax.operators.blur import blur_matrix, gaussian_kernel
from invjax.operators.mask import Mask

# The kinds of noise, with the parameters of each and their defaults.
NOISES = {
    'gaussian': {},
    'poisson': {'peak': 100.0},
    'salt_pepper': {'share': 0.1},
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
    """

    y: jax.Array
    operator: Any
    noise_std: jax.Array
    weights: jax.Array = np.float32(1)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C) of the images that the operator measures."""
        return jax.eval_shape(self.operator.pinv, self.y).shape

    def residual(self, x: jax.Array) -> jax.Array:
        """y - A(x), in the shape of y."""
        return self.y - self.operator.forward(x)

    def residual_norm(self, x: jax.Array) -> jax.Array:
        """||y - A(x)||, (), with a gradient of zero where it is zero."""
        # Noiseless data reach a zero residual, where a plain norm has a NaN
        # gradient.
        return optax.safe_norm(self.residual(x), 1e-12)

    def weighted_residual_norm(self, x: jax.Array) -> jax.Array:
        """||y - A(x)||_Lambda, (), Lambda = diag(weights); else as above."""
        return optax.safe_norm(jnp.sqrt(self.weights) * self.residual(x), 1e-12)

    def num_measured(self) -> jax.Array:
        """m, (): the numbers in y that carry data."""
        support = self.operator.support()
        return jnp.broadcast_to(support, self.y.shape).sum()

    def expected_residual_norm(self) -> jax.Array:
        """noise_std sqrt(m), (): the norm of the residual at the truth."""
        return self.noise_std * jnp.sqrt(self.num_measured())


def measure(
    key: jax.Array,
    x: jax.Array,
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
    - `salt_pepper`, of dead pixels and bits, after n: a share of the values,
      exact to rounding and each channel by itself, becomes -1 or 1.

    Args:
        key: of the noise.
        x: (H, W, C) in [-1, 1].
        operator: see `invjax.operators`.
        noise_std: () in [-1, 1] units, 0 or more. May be traced.
        noise: one of NOISES.
        **parameters: those of the kind; `peak`, the photons at white, above 0;
            `share`, of the measured values, from 0 to 1.

    Raises:
        ValueError: for an image of another shape than the operator's, that
            holds no floats, or values that are not finite; for a value out of
            its range, another noise or parameter, or a measurement that is no
            picture.
    """
    _check_noise_std(noise_std)
    parameters = check_noise(noise, **parameters)
    x = _floats(x, 'the image')
    _check_image(x, operator)
    if noise != 'gaussian':
        _check_is_picture(operator, x.shape, noise)
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
    y: jax.Array,
    operator,
    noise_std: jax.typing.ArrayLike = 0.05,
    noise: str = 'gaussian',
    **parameters: float,
) -> Problem:
    """A problem whose measurement the user brings, in [-1, 1] units.

    What y holds where the operator observes nothing is set to zero, NaN among
    it. The other arguments are as for `measure`.

    Raises:
        ValueError: for a measurement of another shape than the operator gives,
            that holds no floats, or values that are not finite where something
            is observed; else as for `measure`.
    """
    _check_noise_std(noise_std)
    parameters = check_noise(noise, **parameters)
    y = _floats(y, 'the measurement')
    image_shape = _measured_shape(y, operator)
    support = operator.support()
    y = jnp.where(support != 0, y, 0) * support
    _check_finite(y, 'the measurement', ' where the operator observes')
    if noise != 'gaussian':
        _check_is_picture(operator, image_shape, noise)
    return _problem(y, operator, noise_std, noise, parameters)


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
        if name == 'peak' and not 0 < value < np.inf:
            raise ValueError(
                f'peak must be above 0 photons and finite, got {value}.'
            )
        if name == 'share' and not 0 <= value <= 1:
            raise ValueError(f'share must be from 0 to 1, got {value}.')
    return {**known, **parameters}


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


def _check_finite(values, name: str, where: str = '') -> None:
    if isinstance(values, jax.core.Tracer):
        return  # It has no values yet.
    wrong = int(np.sum(~np.isfinite(values)))
    if wrong:
        raise ValueError(
            f'{name} must be finite{where}, but {wrong:,} of its values are '
            'not (NaN or infinite).'
        )


def _check_image(x: jax.Array, operator) -> None:
    kind = type(operator).__name__
    if x.ndim != 3:
        raise ValueError(
            f'the image must have the shape (H, W, C), got {x.shape}.'
        )
    try:
        # A mask would broadcast an image of one pixel to its own size.
        shape = jax.eval_shape(lambda: operator.pinv(operator.forward(x))).shape
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{kind} does not take an image of shape {x.shape}: '
            f'{_first_line(error)}'
        ) from None
    if shape != x.shape:
        raise ValueError(
            f'the image must have the shape {shape} for {kind}, got {x.shape}.'
        )
    _check_finite(x, 'the image')


def _measured_shape(y: jax.Array, operator) -> tuple[int, ...]:
    """The image's shape, (H, W, C), if y is one of its measurements."""
    kind = type(operator).__name__
    try:
        image = jax.eval_shape(operator.pinv, y)
        measured = jax.eval_shape(operator.forward, image).shape
    except (TypeError, ValueError) as error:
        raise ValueError(
            f'{kind} does not give a measurement of shape {y.shape}: '
            f'{_first_line(error)}'
        ) from None
    if measured != y.shape or len(image.shape) != 3:
        # An axis too few or too many is broadcast to what nobody meant.
        fitting = measured if y.ndim == 3 else '(h, w, c)'
        raise ValueError(
            f'the measurement must have the shape {fitting} for {kind}, got '
            f'{y.shape}.'
        )
    return image.shape


def _first_line(error: Exception) -> str:
    return str(error).partition('\n')[0]


def _check_is_picture(operator, image_shape, noise: str) -> None:
    """Refuse operators that do not keep black black and white white."""
    white = jnp.ones(image_shape)
    # JPEG and filters with negative lobes miss a little.
    for x in (white, -white):
        off = operator.support() * (operator.forward(x) - x[0, 0, 0])
        if not isinstance(off, jax.core.Tracer) and jnp.max(abs(off)) > 0.2:
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


def _replace(key, y, support, share):
    """A picture with a share of its measured values at -1 or 1."""
    key_places, key_signs = jax.random.split(key)
    measured = jnp.broadcast_to(support, y.shape)
    # Measured values in random order come first: the others have infinity.
    places = jax.random.uniform(key_places, y.shape)
    places = jnp.where(measured > 0, places, jnp.inf)
    ranks = jnp.argsort(jnp.argsort(places.ravel())).reshape(y.shape)
    signs = jax.random.rademacher(key_signs, y.shape, jnp.float32)
    return jnp.where(ranks < jnp.round(share * measured.sum()), signs, y)


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
        operator=Mask(jnp.zeros((*image_shape[:2], 1))),
        noise_std=jnp.zeros(()),
    )
