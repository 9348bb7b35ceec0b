"""Masks: which pixels of a measurement are observed, read from any picture."""

import numpy as np

from invjax.images import files
from invjax.images.pictures import Reading

# What may mark a missing pixel; colours by the channels that are bright.
_PAINTS = {
    'red': (0,),
    'green': (1,),
    'blue': (2,),
    'yellow': (0, 1),
    'magenta': (0, 2),
    'cyan': (1, 2),
}
MASKS_OF = ('black', 'white', 'alpha', *_PAINTS)
# Of the span of values: what is further from white (or from black) is grey. In
# formats that are not exact, black and white are a little off; else a value that
# lies a little below white is one of a soft edge.
_GREY = {'JPEG': 1 / 16, 'MPO': 1 / 16, 'WEBP': 1 / 16, 'AVIF': 1 / 16}
_ALMOST = 1e-6
# A colour differs in its channels by more of the span.
_COLOUR = 1 / 16
# How far a paint's own channels lie above the others: in the middle of it, and
# beside it, where paint and picture are mixed.
_PAINTED, _TINTED = 0.4, 0.1
# A part of a measurement is blank if this fraction of its pixels lies close to its
# median, in [-1, 1] units: JPEG and soft edges move a few. With less than the
# smaller fraction it is a picture.
_BLANK_WIDTH, _BLANK_SHARE, _PICTURE_SHARE = 0.1, 0.95, 0.75


def read_mask(path, size: tuple[int, int], mask_of: str = 'black') -> Reading:
    """Read which pixels are observed.

    In black and white two values of any type are understood: the larger one is
    white, whether that is 1, 255 or 1.0. Others are grey: pixels at a soft edge,
    where picture and filling are mixed, which are not observed. In JPEG, WebP
    and AVIF values within a sixteenth of the span from white count as white. A
    picture that is grey for the most part is no mask.

    Args:
        path: a picture, or a `.npy` file of (H, W).
        size: (H, W) that it must have; a mask is not resized.
        mask_of: what marks a *missing* pixel: `'black'`; `'white'`, which turns
            the mask around; `'alpha'`, any transparency; or paint in one of
            the colours of MASKS_OF, over whatever picture: pixels of that
            colour, and those beside them that are tinted by it.

    Returns:
        (H, W, 1) float32, 1 where observed, else 0.

    Raises:
        ValueError: in one sentence that names the file, for another size,
            a file without the channel that `mask_of` names, colours or
            transparency that it does not name, and a mask that leaves none or
            all observed.
    """
    if mask_of not in MASKS_OF:
        raise ValueError(
            f'mask_of must be one of {", ".join(MASKS_OF)}, got {mask_of!r}.'
        )
    raw = files.read_raw(path)
    if raw.size != tuple(size):
        raise ValueError(
            f'{path} is {raw.size[1]} x {raw.size[0]}, but must be '
            f'{size[1]} x {size[0]}; a mask is not resized.'
        )
    if not np.isfinite(raw.pixels).all():
        raise ValueError(f'{path} has values that are not finite.')
    if mask_of in _PAINTS:
        observed, how = _not_painted(raw, mask_of, path)
    elif mask_of == 'alpha':
        observed, how = _opaque(raw, path)
    else:
        observed, how = _black_and_white(raw, mask_of, path)
    missing = observed.size - observed.sum()
    if missing in (0, observed.size):
        raise ValueError(
            f'{path} leaves {"all" if missing == 0 else "none"} of its pixels '
            f'observed ({how}); mask_of says what marks the missing ones: '
            f'{", ".join(MASKS_OF)}.'
        )
    return Reading(
        observed[..., None].astype(np.float32),
        f'{path}: {missing:,} of {observed.size:,} pixels missing ({how}).',
    )


def _black_and_white(raw, mask_of, path):
    colours, opacity = raw.colours.astype(np.float64), raw.opacity
    if np.ptp(colours, axis=-1).max() > _COLOUR * np.ptp(colours):
        raise ValueError(
            f'{path} is a mask in colour; name the colour of the missing '
            f'pixels as mask_of: {", ".join(_PAINTS)}.'
        )
    if opacity is not None and np.ptp(opacity) > 0:
        raise ValueError(
            f'{path} is transparent in places; if those are the missing '
            'pixels, give alpha as mask_of, else save the mask without '
            'transparency.'
        )
    values = colours.mean(axis=-1)
    least, largest = values.min(), values.max()
    if least == largest:
        raise ValueError(
            f'{path} has the value {least:.6g} everywhere, but a mask must '
            'have two: the larger one where a pixel is observed.'
        )
    margin = _GREY.get(raw.source, _ALMOST) * (largest - least)
    is_black = values <= least + margin
    is_white = values >= largest - margin
    num_grey = values.size - is_black.sum() - is_white.sum()
    if num_grey > values.size / 2:
        raise ValueError(
            f'{path} is no mask: {num_grey:,} of its {values.size:,} pixels '
            f'lie between black, {least:.6g}, and white, {largest:.6g}.'
        )
    how = f'{largest:.6g} is white, {least:.6g} black, {mask_of} is missing'
    if num_grey:
        how += f', and so are {num_grey:,} grey pixels'
    return (is_white if mask_of == 'black' else is_black), how


def _opaque(raw, path):
    if raw.opacity is None:
        raise ValueError(
            f'{path} is {raw.kind}, without the opacity that mask_of alpha '
            'needs.'
        )
    # Integers may hold 0 and 1 here too.
    opacity = raw.opacity / max(raw.opacity.max(), 1e-12)
    margin = _GREY.get(raw.source, _ALMOST)
    num_half = np.sum((opacity > margin) & (opacity < 1 - margin))
    how = 'transparent is missing'
    if num_half:
        how += f', and so are {num_half:,} pixels that are so in part'
    return opacity >= 1 - margin, how


def _not_painted(raw, paint, path):
    colours = raw.colours.astype(np.float64)
    if colours.shape[-1] != 3:
        raise ValueError(
            f'{path} is {raw.kind}, without the colours that mask_of {paint} '
            'needs.'
        )
    bright = list(_PAINTS[paint])
    others = [i for i in range(3) if i not in bright]
    excess = colours[..., bright].min(-1) - colours[..., others].max(-1)
    excess /= max(colours.max(), 1e-12)
    painted = excess > _PAINTED
    from scipy import ndimage

    beside = ndimage.binary_dilation(painted, np.ones((3, 3)))
    tinted = beside & ~painted & (excess > _TINTED)
    how = f'{paint} is missing'
    if tinted.any():
        how += f', and so are {tinted.sum():,} pixels that it tints'
    return ~(painted | tinted), how


def check_mask(mask: np.ndarray, y: np.ndarray) -> str:
    """Hold a mask against the measurement that it goes with.

    What is missing has usually been filled with one colour. So a measurement
    that is of one colour where it is said to be observed, and not where it is
    said to be missing, has an inverted mask.

    Args:
        mask: (H, W, 1), 1 where observed, else 0.
        y: (H, W, C) in [-1, 1] as it was brought, before the mask.

    Returns:
        A warning, or an empty string if both agree.

    Raises:
        ValueError: if the mask is inverted.
    """
    observed = np.asarray(mask)[..., 0] > 0
    if observed.all() or not observed.any():
        return ''
    y = np.asarray(y, np.float64)
    kept, other = (
        _share_of_one_colour(y[observed]),
        _share_of_one_colour(y[~observed]),
    )
    if kept >= _BLANK_SHARE and other < _PICTURE_SHARE:
        raise ValueError(
            'the mask is inverted: the measurement is of one colour where the '
            'mask says observed, and a picture where it says missing; give '
            'mask_of white, or invert the mask.'
        )
    if kept >= _BLANK_SHARE:
        return (
            'the measurement is of one colour where the mask says observed: '
            'there is nothing to restore from.'
        )
    if other < _PICTURE_SHARE:
        return (
            f'the measurement has a picture in the {np.sum(~observed):,} '
            'pixels that the mask says are missing, and it is not used; if '
            'these are the pixels that were observed, give mask_of white.'
        )
    return ''


def _share_of_one_colour(values: np.ndarray) -> float:
    """Of pixels, (N, C), those that are close to the median."""
    values = np.where(np.isfinite(values), values, 0)
    near = np.abs(values - np.median(values, axis=0)) <= _BLANK_WIDTH
    return float(near.all(axis=-1).mean())
