"""Radiance pictures (`.hdr`): three mantissas with a shared exponent.

    value = mantissa 2^(exponent - 136)

with bytes for both (Ward, 1991, 'Real Pixels'), so that light is held as it is,
without bounds and without a gamma curve. Rows are plain or packed in runs, each
byte's plane by itself.
"""

import functools
from collections.abc import Callable

import numpy as np

MAGICS = (b'#?RADIANCE', b'#?RGBE')
# Rows of other widths are never packed.
_PACKED_WIDTHS = range(8, 2**15)


def open_picture(data: bytes) -> tuple[int, int, Callable[[], np.ndarray]]:
    """Height, width, and what decodes the pixels, (H, W, 3) float32.

    Raises:
        ValueError: for other colours than RGB, rows that do not run from top
            left, or data that end too early.
    """
    header, blank, rest = data.partition(b'\n\n')
    if not blank:
        raise ValueError('its header has no end')
    kinds = [
        line.partition(b'=')[2].strip()
        for line in header.split(b'\n')
        if line.startswith(b'FORMAT=')
    ]
    if kinds != [b'32-bit_rle_rgbe']:
        raise ValueError('its format is not 32-bit_rle_rgbe')
    line, _, body = rest.partition(b'\n')
    words = line.split()
    if words[::2] != [b'-Y', b'+X'] or len(words) != 4:
        raise ValueError('its rows must run from the top left (-Y H +X W)')
    height, width = int(words[1]), int(words[3])
    return height, width, functools.partial(_decode, body, height, width)


def _decode(body: bytes, height: int, width: int) -> np.ndarray:
    marker = bytes((2, 2, width >> 8 & 255, width & 255))
    if width in _PACKED_WIDTHS and body.startswith(marker):
        # A row takes 4 bytes and two for each 127 values of each plane.
        if len(body) < height * (4 + 4 * 2 * -(-width // 127)):
            raise ValueError('it ends too early')
        rgbe = _unpack(body, height, width, marker)
    else:
        if len(body) < 4 * height * width:
            raise ValueError('it ends too early')
        rgbe = np.frombuffer(body, np.uint8, 4 * height * width)
        rgbe = rgbe.reshape(height, width, 4)
        # Three mantissas of 1 stood for a run in files before 1991.
        if np.all(rgbe[..., :3] == 1, axis=-1).any():
            raise ValueError('its rows are packed in the old way')
    mantissas, exponents = rgbe[..., :3], rgbe[..., 3:].astype(np.int32)
    values = np.ldexp(mantissas.astype(np.float32), exponents - 136)
    return np.where(exponents > 0, values, np.float32(0))


def _unpack(body, height, width, marker) -> np.ndarray:
    planes = np.empty((height, 4, width), np.uint8)
    place = 0
    for row in planes:
        if body[place : place + 4] != marker:
            raise ValueError('a packed row does not begin as it should')
        place += 4
        for plane in row:
            x = 0
            while x < width:
                count = body[place] if place < len(body) else 0
                is_run = count > 128
                number = count - 128 if is_run else count
                source = body[place + 1 : place + 1 + (1 if is_run else number)]
                if not number or not source or x + number > width:
                    raise ValueError('a packed row is not whole')
                if not is_run and len(source) != number:
                    raise ValueError('it ends too early')
                plane[x : x + number] = np.frombuffer(source, np.uint8)
                x += number
                place += 1 + len(source)
    return planes.swapaxes(1, 2)
