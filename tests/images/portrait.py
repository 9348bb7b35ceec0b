"""One face in many files: every type and format from the same 8 bits."""

import io
import pathlib
import struct
import zlib

import numpy as np
import tifffile
from PIL import Image, ImageCms

_FILE = pathlib.Path(__file__).parents[2] / 'experiments/astronaut.png'


def rgb(side: int = 32) -> np.ndarray:
    """The face, (side, side, 3) uint8, which uses all of 0 to 255."""
    with Image.open(_FILE) as picture:
        small = picture.convert('RGB').resize((side, side))
    pixels = np.array(small)
    pixels[0, :2] = [[0, 0, 0], [255, 255, 255]]
    return pixels


def grey(side: int = 32) -> np.ndarray:
    """Its green channel, (side, side) uint8."""
    return rgb(side)[..., 1]


def pillow(kind: str, **options):
    """A writer by Pillow."""

    def write(pixels):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, **options)
        return file.getvalue()

    return write


def in_mode(mode: str, kind: str, **options):
    """A writer by Pillow in another mode."""

    def write(pixels):
        file = io.BytesIO()
        to_mode(Image.fromarray(pixels), mode).save(file, kind, **options)
        return file.getvalue()

    return write


def to_mode(image: Image.Image, mode: str) -> Image.Image:
    """A grey or RGB picture of 8 bits in any mode, opaque."""
    if mode == 'LAB':
        return ImageCms.profileToProfile(
            image.convert('RGB'),
            ImageCms.createProfile('sRGB'),
            ImageCms.createProfile('LAB'),
            outputMode='LAB',
        )
    if mode in ('I', 'I;16', 'I;16L', 'I;16B', 'I;16N'):
        wide = np.asarray(image.convert('L')).astype(np.uint16) * 257
        if mode == 'I':
            return Image.fromarray(wide.astype(np.int32))
        order = '>' if mode == 'I;16B' else '<'
        return Image.frombytes(mode, image.size, wide.astype(f'{order}u2'))
    if mode == 'F':
        return Image.fromarray(
            (np.asarray(image.convert('L')) / 255).astype(np.float32)
        )
    if mode == 'La':
        return image.convert('LA').convert('La')
    if mode == 'RGBa':
        return image.convert('RGBA').convert('RGBa')
    if mode in ('P', 'PA'):
        return image.convert('RGB').quantize(256).convert(mode)
    return image.convert('RGB').convert(mode)


def to_type(pixels: np.ndarray, dtype) -> np.ndarray:
    """8 bits as another type: integers in full range, floats in [0, 1]."""
    dtype = np.dtype(dtype)
    if dtype.kind == 'f':
        return (pixels / 255).astype(dtype)
    if dtype.kind == 'b':
        return pixels > 0
    full = int(np.iinfo(dtype).max)
    # In Python's integers: floats would round 64 bits up and over.
    values = [int(v) * full // 255 for v in pixels.ravel()]
    return np.array(values, dtype).reshape(pixels.shape)


def tiff(dtype, **options):
    """A writer by tifffile."""

    def write(pixels):
        file = io.BytesIO()
        options.setdefault(
            'photometric', 'rgb' if pixels.ndim == 3 else 'minisblack'
        )
        tifffile.imwrite(file, to_type(pixels, dtype), **options)
        return file.getvalue()

    return write


def tiff_from_white(pixels):
    """A TIFF of 16 bits in which 0 is white."""
    return tiff('uint16', photometric='miniswhite')(255 - pixels)


def planes_tiff(pixels):
    """A TIFF with a plane of 16 bits for each colour."""
    return tiff('uint16', photometric='rgb', planarconfig='separate')(
        np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    )


def npy(dtype, order=None):
    """A writer of `.npy`; order 'F' as Fortran, 'CHW' channels first."""

    def write(pixels):
        values = to_type(pixels, dtype)
        if order == 'CHW':
            values = np.ascontiguousarray(np.moveaxis(values, -1, 0))
        elif order == 'F':
            values = np.asfortranarray(values)
        file = io.BytesIO()
        np.save(file, values)
        return file.getvalue()

    return write


def deep_png(pixels) -> bytes:
    """A PNG of 16 bits, of any number of channels (Pillow writes grey only)."""
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    height, width, channels = pixels.shape
    rows = (pixels.astype(np.uint16) * 257).astype('>u2')
    data = b''.join(b'\0' + row.tobytes() for row in rows)
    colours = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    parts = b'\x89PNG\r\n\x1a\n'
    for name, body in (
        (b'IHDR', struct.pack('>IIBBBBB', width, height, 16, colours, 0, 0, 0)),
        (b'IDAT', zlib.compress(data)),
        (b'IEND', b''),
    ):
        parts += struct.pack('>I', len(body)) + name + body
        parts += struct.pack('>I', zlib.crc32(name + body))
    return parts


def deep_ppm(pixels) -> bytes:
    """A PPM or PGM of 16 bits."""
    kind = 'P6' if pixels.ndim == 3 else 'P5'
    header = f'{kind} {pixels.shape[1]} {pixels.shape[0]} 65535\n'.encode()
    return header + (pixels.astype(np.uint16) * 257).astype('>u2').tobytes()


def hdr(packed: bool):
    """A writer of Radiance files, of the light that sRGB shows as these."""

    def write(pixels):
        values = pixels / 255
        light = np.where(
            values <= 0.04045,
            values / 12.92,
            ((values + 0.055) / 1.055) ** 2.4,
        )
        # The largest of three has a mantissa from 128 to 255.
        _, exponent = np.frexp(light.max(axis=-1) * 256 / 255.5)
        mantissas = np.round(np.ldexp(light, 8 - exponent[..., None]))
        rgbe = np.concatenate(
            [mantissas, exponent[..., None] + 128], axis=-1
        ).astype(np.uint8)
        rgbe[light.max(axis=-1) == 0] = 0
        height, width = rgbe.shape[:2]
        data = b'#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n'
        data += f'-Y {height} +X {width}\n'.encode()
        if not packed:
            return data + rgbe.tobytes()
        for row in rgbe:
            data += bytes((2, 2, width >> 8, width & 255))
            for plane in row.T:
                data += _runs(plane)
        return data

    return write


def _runs(plane) -> bytes:
    """Runs of three and more as count and value, all else as it is."""
    parts, x = b'', 0
    while x < len(plane):
        same = 1
        while (
            same < 127 and x + same < len(plane) and plane[x + same] == plane[x]
        ):
            same += 1
        if same >= 3:
            parts += bytes((128 + same, plane[x]))
            x += same
        else:
            number = min(same, 127)
            parts += bytes((number, *plane[x : x + number]))
            x += number
    return parts


# Files that hold 8-bit values without loss: writer and levels of 255 by which a
# value may be off.
EXACT_GREY = {
    'png': (pillow('PNG'), 0),
    'png_16': (deep_png, 0),
    'png_opaque': (in_mode('LA', 'PNG'), 0),
    'bmp': (pillow('BMP'), 0),
    'gif': (pillow('GIF'), 0),
    'tga': (pillow('TGA'), 0),
    'pgm': (pillow('PPM'), 0),
    'pgm_16': (deep_ppm, 0),
    'pfm': (in_mode('F', 'PPM'), 1e-4),
    'tiff_lzw_16': (in_mode('I;16', 'TIFF', compression='tiff_lzw'), 0),
    'tiff_lzw_float': (in_mode('F', 'TIFF', compression='tiff_lzw'), 1e-4),
    'tiff_deflate': (tiff('uint16', compression='zlib'), 0),
    'tiff_predictor': (
        tiff('uint16', compression='zlib', predictor=True),
        0,
    ),
    'tiff_tiles': (tiff('uint16', tile=(16, 16)), 0),
    'tiff_big_endian': (tiff('uint16', byteorder='>'), 0),
    'tiff_big': (tiff('uint16', bigtiff=True), 0),
    'tiff_from_white': (tiff_from_white, 0),
    'npy_fortran': (npy('uint16', 'F'), 0),
    'npy_big_endian': (npy('>u2'), 0),
}
_TYPES = ('uint8', 'uint16', 'uint32', 'int8', 'int16', 'int32')
_FLOATS = ('float16', 'float32', 'float64')
for _type in (*_TYPES, *_FLOATS):
    # An int8 has half as many levels, a float16 eleven bits.
    _off = {'int8': 2, 'float16': 0.07}.get(_type, 0.01)
    EXACT_GREY[f'tiff_{_type}'] = (tiff(_type), _off)
    EXACT_GREY[f'npy_{_type}'] = (npy(_type), _off)
for _type in ('uint64', 'int64'):
    EXACT_GREY[f'npy_{_type}'] = (npy(_type), 0.01)
EXACT_RGB = {
    'png': (pillow('PNG'), 0),
    'png_16': (deep_png, 0),
    'png_opaque': (in_mode('RGBA', 'PNG'), 0),
    'bmp': (pillow('BMP'), 0),
    'tga': (pillow('TGA'), 0),
    'ppm': (pillow('PPM'), 0),
    'ppm_16': (deep_ppm, 0),
    'webp': (pillow('WEBP', lossless=True), 0),
    'tiff': (pillow('TIFF'), 0),
    'tiff_lzw': (pillow('TIFF', compression='tiff_lzw'), 0),
    'tiff_cmyk': (in_mode('CMYK', 'TIFF'), 0),
    'tiff_ycbcr': (in_mode('YCbCr', 'TIFF'), 3),
    'tiff_lab': (in_mode('LAB', 'TIFF'), 6),
    'tiff_planes': (planes_tiff, 0),
    'npy_first': (npy('uint8', 'CHW'), 0),
    'hdr_plain': (hdr(False), 1.5),
    'hdr_packed': (hdr(True), 1.5),
}
for _type in (*_TYPES, *_FLOATS):
    _off = {'int8': 2, 'float16': 0.07}.get(_type, 0.01)
    EXACT_RGB[f'tiff_{_type}'] = (tiff(_type), _off)
    EXACT_RGB[f'npy_{_type}'] = (npy(_type), _off)
# Files that lose a little: of the face, a few levels in the mean.
LOSSY_RGB = {
    'jpeg': pillow('JPEG', quality=95),
    'jpeg_cmyk': in_mode('CMYK', 'JPEG', quality=95),
    'webp': pillow('WEBP', quality=95),
    'avif': pillow('AVIF', quality=95),
    'gif': in_mode('P', 'GIF'),
    'png_palette': in_mode('P', 'PNG'),
}
