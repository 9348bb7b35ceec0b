"""Bounds on sizes and parameters, checked before anything is allocated."""

import math
import numbers
from collections.abc import Sequence

# Numbers in one image or one measurement: 1 GiB in float32, a picture of 9,459
# x 9,459 pixels. A method holds some dozens of such arrays, a Fourier transform
# three at once, and XLA counts elements in 32 bits, up to 2^31.
MOST_NUMBERS = 2**28
# Pixels along a side for operators that hold a dense matrix of each side and
# decompose it: 512 MiB in float64, and five of them.
MOST_SIDE = 8192


def check_image_shape(image_shape: Sequence[int]) -> tuple[int, int, int]:
    """(H, W, C) as a tuple, which can be static in what is compiled.

    Raises:
        ValueError: for what is no such shape, or is too large.
    """
    shape = tuple(image_shape)
    if len(shape) != 3 or not all(_is_whole(n) and n >= 1 for n in shape):
        raise ValueError(
            'image_shape must be three whole numbers of 1 or more, (height, '
            f'width, channels), got {shape}.'
        )
    check_size('an image', shape)
    height, width, num_channels = map(int, shape)
    return height, width, num_channels


def check_size(what: str, shape: Sequence[int]) -> None:
    """Refuse, with a ValueError, an array of more than MOST_NUMBERS.

    Args:
        what: is that large, as the sentence begins.
        shape: of it, whole numbers.
    """
    size = math.prod(map(int, shape))
    if size > MOST_NUMBERS:
        raise ValueError(
            f'{what} must have at most {MOST_NUMBERS:,} numbers, got '
            f'{" x ".join(map(str, shape))} = {size:,}.'
        )


def check_sides(what: str, image_shape: Sequence[int]) -> None:
    """Refuse, with a ValueError, sides of which no dense matrix should be made.

    Args:
        what: holds the matrices, as the sentence begins.
        image_shape: (H, W, C).
    """
    height, width = image_shape[:2]
    if max(height, width) > MOST_SIDE:
        raise ValueError(
            f'{what} takes images of at most {MOST_SIDE} pixels a side, got '
            f'{height} x {width}.'
        )


def check_whole(
    name: str, value: int, least: int, most: int, odd: bool = False
) -> None:
    """Refuse, with a ValueError, what is no whole number within bounds.

    Args:
        name: of the parameter.
        value: of any type.
        least, most: the bounds; both are allowed.
        odd: whether it must be odd, too.
    """
    whole = _is_whole(value) and least <= value <= most
    if not whole or (odd and value % 2 == 0):
        raise ValueError(
            f'{name} must be a whole {"odd " if odd else ""}number from '
            f'{least} to {most}, got {value!r}.'
        )


def check_number(
    name: str, value: float, least: float, most: float, unit: str = ''
) -> None:
    """Refuse, with a ValueError, what is no number within bounds.

    Args:
        name: of the parameter.
        value: of any type.
        least, most: the bounds; both are allowed.
        unit: of the number, in the plural.
    """
    if not _is_number(value) or not least <= value <= most:
        unit = f' {unit}' if unit else ''
        raise ValueError(
            f'{name} must be a number from {least:g} to {most:g}{unit}, got '
            f'{value!r}.'
        )


def _is_whole(value) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _is_number(value) -> bool:
    if isinstance(value, bool | str | bytes):
        return False
    try:
        float(value)  # An array of one number is one too.
    except (TypeError, ValueError, OverflowError):
        return False
    return True
