"""Pictures and what goes with them: files to arrays and back, by stated rules.

    pictures.py   pictures and measurements in [-1, 1]; the rules of values
    masks.py      which pixels are observed
    kernels.py    blur kernels
    noise.py      how noisy a measurement is
    sets.py       folders and arrays of pictures
    sheets.py     pictures side by side, with titles
    files.py      the decoder of all of them; arrays.py, radiance.py its parts

Every reader returns the numbers with a sentence on what the file held and what
was done to it, or refuses in one sentence (ValueError) that names the file.
"""

from invjax.images.kernels import read_blur_kernel, read_kernel
from invjax.images.masks import MASKS_OF, check_mask, read_mask
from invjax.images.noise import check_noise, estimate_noise
from invjax.images.pictures import (
    Reading,
    from_planes,
    plane_names,
    planes,
    read_exact,
    read_image,
    read_measurement,
    read_picture,
    root_mean_square,
    to_float,
    to_uint8,
    write_image,
)
from invjax.images.sets import PictureSet, list_pictures, read_set
from invjax.images.sheets import sheet

__all__ = [
    'MASKS_OF',
    'PictureSet',
    'Reading',
    'check_mask',
    'check_noise',
    'estimate_noise',
    'from_planes',
    'list_pictures',
    'plane_names',
    'planes',
    'read_blur_kernel',
    'read_exact',
    'read_image',
    'read_kernel',
    'read_mask',
    'read_measurement',
    'read_picture',
    'read_set',
    'root_mean_square',
    'sheet',
    'to_float',
    'to_uint8',
    'write_image',
]
