"""Super-resolution: the measurement has fewer pixels than the image."""

import jax
import jax.numpy as jnp
import numpy as np

from invjax.operators.bounds import check_sides, check_whole
from invjax.operators.separable import Factor, Separable

FILTERS = ('bicubic', 'average')


def _cubic(distance: np.ndarray) -> np.ndarray:
    """Keys' cubic kernel with a = -0.5 (Keys, 1981, eq. 15)."""
    d = np.abs(distance)
    near = 1.5 * d**3 - 2.5 * d**2 + 1
    far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
    return np.where(d <= 1, near, np.where(d < 2, far, 0))


def downsampling_matrix(length: int, factor: int, kind: str) -> np.ndarray:
    """(length // factor, length) float64, each row of sum 1.

    `bicubic` widens the kernel by the factor against aliasing, and reflects
    edges with the edge pixel repeated, as common image libraries do.
    """
    number = length // factor
    if kind == 'average':
        return np.kron(np.eye(number), np.full((1, factor), 1 / factor))
    centres = (np.arange(number) + 0.5) * factor - 0.5
    reach = 2 * factor
    places = np.arange(-reach, length + reach)
    weights = _cubic((places - centres[:, None]) / factor)
    inside = np.pad(np.arange(length), reach, mode='symmetric')
    matrix = np.zeros((number, length))
    np.add.at(matrix.T, inside, weights.T)
    return matrix / matrix.sum(axis=1, keepdims=True)


def super_resolution(
    key: jax.Array,
    image_shape: tuple[int, int, int],
    *,
    factor: int = 4,
    filter: str = 'bicubic',
) -> Separable:
    """A smaller picture is measured.

    Args:
        key: unused.
        image_shape: (H, W, C).
        factor: by which both sides shrink; 2 or more, and divides them.
        filter: one of FILTERS.

    Raises:
        ValueError: if a value is out of its range.
    """
    del key
    height, width, num_channels = image_shape
    check_sides('super_resolution', image_shape)
    check_whole('factor', factor, 2, max(height, width, 2))
    if height % factor or width % factor:
        raise ValueError(
            f'factor must divide both sides of {height} x {width}, got '
            f'{factor}.'
        )
    if filter not in FILTERS:
        raise ValueError(
            f'filter must be one of {", ".join(FILTERS)}, got {filter!r}.'
        )
    rows, columns = (
        Factor.from_matrix(downsampling_matrix(length, factor, filter))
        for length in (height, width)
    )
    parameters = {'factor': jnp.asarray(factor, jnp.int32)}
    return Separable(
        rows=rows,
        columns=columns,
        parameters=parameters,
        kind=f'Downsampling, {filter}',
        num_channels=num_channels,
    )
