"""Inputs of every kind, damaged by rule, and what must come of them.

A kind has originals, which are read right, and a judge, which reads a damaged
one. The judge returns '' where the answer is right and says what is wrong with it
where it is not; a refusal is a ValueError. What counts as right is found without
the reader that is tested: it is the original, or what another reader makes of
the damaged bytes, or what must hold of every answer.
"""

import functools
import json
import pathlib
import pickle
import random
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

import flax.traverse_util
import numpy as np
import safetensors.numpy
from PIL import Image

from invjax import images
from invjax.priors import (
    convert,
    diffusers_folder,
    edm,
    edm_file,
    kept,
    torch_file,
)
from invjax.priors.unet import UNet
from invjax.study import cells
from invjax.study.plan import PROTOCOL
from tests.cases import checkpoints
from tests.images import portrait
from tests.priors import edm_writer, torch_goldens

SIDE = 32
_NETWORK = UNet(
    image_size=16,
    model_channels=32,
    channel_mult=(1,),
    attention_downsamplings=(),
    head_channels=32,
)


class Kind(NamedTuple):
    """A kind of input.

    Attributes:
        share: of all inputs, in parts.
        write: makes the originals in a folder; returns the paths that may be
            damaged.
        judge: of the damaged path and the folder; see the module.
    """

    share: int
    write: Callable[[pathlib.Path], list[pathlib.Path]]
    judge: Callable[[pathlib.Path, pathlib.Path], str]


# --- weights ---------------------------------------------------------------


@functools.cache
def weights(seed: int = 0) -> dict[str, np.ndarray]:
    """Random numbers with the names and shapes of a small network."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(shape, np.float32)
        for name, shape in convert.expected_shapes(_NETWORK).items()
    }


def _write_zip(folder):
    checkpoints.write(folder / 'a.pt', {'model': weights(), 'epoch': 3})
    both = {'model': weights(1), 'ema': weights()}
    checkpoints.write(folder / 'b.pt', both)
    return [folder / 'a.pt', folder / 'b.pt']


def _write_stream(folder):
    content = {'model': weights(), 'epoch': 3}
    checkpoints.write(folder / 'a.pt', content, 'stream')
    return [folder / 'a.pt']


def _write_safetensors(folder):
    (folder / 'a.safetensors').write_bytes(safetensors.numpy.save(weights()))
    return [folder / 'a.safetensors']


def _converted(path):
    read = torch_file.read_state_dict(path)
    convert.convert(read, image_size=16, head_channels=32)
    return read


def _difference(found, expected) -> str:
    """What of some tensors is not as expected, or ''."""
    if found.keys() != expected.keys():
        return 'other names'
    for name, array in found.items():
        other = expected[name]
        if array.shape != other.shape or array.dtype != other.dtype:
            return f'{name} is another array'
        if array.tobytes() != other.tobytes():
            return f'{name} has other numbers'
    return ''


def _judge_zip(path, folder):
    # It has checksums, so nothing but the original will do.
    return _difference(_converted(path), weights())


class _Storage(NamedTuple):
    key: str
    dtype: str


class _Independent(pickle.Unpickler):
    """Python's own reader of pickles, with three functions and no others."""

    def find_class(self, module, name):
        known = {
            'torch._utils _rebuild_tensor_v2': lambda s, o, size, stride, *_: (
                s,
                o,
                tuple(size),
                tuple(stride),
            ),
            'collections OrderedDict': dict,
            'torch FloatStorage': 'float32',
            'torch HalfStorage': 'float16',
            'torch DoubleStorage': 'float64',
            'torch IntStorage': 'int32',
        }
        # Whatever else there is beside the weights.
        return known.get(f'{module} {name}', lambda *args: None)

    def persistent_load(self, pid):
        _, dtype, key, *_ = pid
        return _Storage(key, dtype)


def _independent_stream(path) -> dict[str, np.ndarray]:
    """Weights of a stream by Python's own unpickler."""
    with path.open('rb') as file:
        for _ in range(3):
            _Independent(file).load()
        content = _Independent(file).load()
        keys = _Independent(file).load()
        start, data = file.tell(), path.read_bytes()
    # Whatever its key is called.
    model = next(v for v in content.values() if isinstance(v, dict) and v)
    dtypes = {s.key: s.dtype for s, *_ in model.values()}
    storages = {}
    for key in keys:
        count = int.from_bytes(data[start : start + 8], 'little')
        kind = np.dtype(dtypes[key])
        end = start + 8 + count * kind.itemsize
        storages[key] = np.frombuffer(data[start + 8 : end], kind)
        start = end
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[s.key][offset:],
            size,
            [n * storages[s.key].itemsize for n in stride],
            writeable=False,
        )
        for name, (s, offset, size, stride) in model.items()
    }


def _judge_stream(path, folder):
    found = _converted(path)
    if not _difference(found, weights()):
        return ''
    # It has no checksum: the numbers must be those that stand there.
    return _difference(found, _independent_stream(path))


def _judge_safetensors(path, folder):
    found = _converted(path)
    if not _difference(found, weights()):
        return ''
    return _difference(found, safetensors.numpy.load(path.read_bytes()))


@functools.cache
def _edm():
    golden, config = torch_goldens.load('edm_skip_plain16')
    tensors = torch_goldens.recipe_state_dict(golden)
    for name, array in tensors.items():
        if name.endswith('resample_filter'):
            # Of the arguments (1, 1), not of the recipe.
            tensors[name] = np.full_like(array, 1 / array.size)
    return tensors, config


def _write_edm(folder):
    tensors, config = _edm()
    arguments = dict(config)
    name = arguments.pop('preconditioning')
    path = folder / 'a.pkl'
    edm_writer.write_edm_pickle(path, name, arguments, tensors)
    return [path]


def _judge_edm(path, folder):
    read = edm_file.read_edm_pickle(path)
    prior = edm.denoiser(read.tensors, read.class_name, read.init_kwargs)
    original, _ = _edm()
    # The filters of resampling are the arguments' whatever they are called.
    tensors, original = (
        {n: a for n, a in t.items() if not n.endswith('resample_filter')}
        for t in (read.tensors, original)
    )
    if tensors.keys() != original.keys():
        return f'other names: {tensors.keys() ^ original.keys()}'
    data = path.read_bytes()
    for name, array in tensors.items():
        if array.shape != original[name].shape:
            return f'{name} has another shape'
        if array.tobytes() not in data:
            return f'{name} has numbers that are not in the file'
    return _not_finite(prior.params)


def _not_finite(params) -> str:
    leaves = flax.traverse_util.flatten_dict(params).values()
    finite = all(np.isfinite(leaf).all() for leaf in leaves)
    return '' if finite else 'not finite'


@functools.cache
def _diffusers():
    golden, config = torch_goldens.load('diffusers_no_mid16')
    return torch_goldens.recipe_state_dict(golden), config


def _write_diffusers(folder):
    tensors, config = _diffusers()
    unet = folder / 'unet'
    unet.mkdir()
    scheduler = {'_class_name': 'DDPMScheduler', 'num_train_timesteps': 100}
    index = {
        '_class_name': 'DDPMPipeline',
        'unet': ['diffusers', 'UNet2DModel'],
        'scheduler': ['diffusers', 'DDPMScheduler'],
    }
    config = {'_class_name': 'UNet2DModel'} | config
    (folder / 'scheduler').mkdir()
    paths = [
        unet / 'config.json',
        folder / 'scheduler' / 'scheduler_config.json',
        folder / 'model_index.json',
    ]
    for path, content in zip(paths, (config, scheduler, index), strict=True):
        path.write_text(json.dumps(content, indent=2))
    path = unet / 'diffusion_pytorch_model.safetensors'
    safetensors.numpy.save_file(tensors, path)
    return [*paths, path]


def _judge_diffusers(path, folder):
    prior, _ = diffusers_folder.read(folder)
    for config in folder.rglob('*.json'):
        json.loads(config.read_text())
    # By the library's own reader, and as many numbers as it has.
    there = safetensors.numpy.load_file(
        folder / 'unet' / 'diffusion_pytorch_model.safetensors'
    )
    leaves = [*flax.traverse_util.flatten_dict(prior.params).values()]
    total = sum(float(np.sum(np.float64(a))) for a in there.values())
    found = sum(float(np.sum(np.float64(leaf))) for leaf in leaves)
    count = sum(a.size for a in there.values())
    if sum(leaf.size for leaf in leaves) != count:
        return 'another number of weights'
    if not np.isclose(total, found, rtol=1e-6, atol=1e-3):
        return 'other weights'
    # Signal power falls with the noise.
    power = np.asarray(prior.alpha_bar)
    if not (np.isfinite(power).all() and (np.diff(power) < 0).all()):
        return 'noise levels that do not rise'
    return _not_finite(prior.params)


# --- kept priors -----------------------------------------------------------


def prior_params(seed: int) -> dict:
    """Random parameters of a small network, as Flax has them."""
    rng = np.random.default_rng(seed)
    return flax.traverse_util.unflatten_dict(
        {
            path: rng.standard_normal(shape).astype(np.float32)
            for path, shape in convert.flax_shapes(_NETWORK).items()
        }
    )


def prior_card(seed: int) -> dict:
    """A card for them."""
    return {
        'name': f'tiny{seed}',
        'sha256': 64 * str(seed),
        'architecture': convert.describe(_NETWORK),
        'noise_schedule': 'linear',
        'num_train_steps': 1000,
    }


def same_params(found: dict, expected: dict) -> bool:
    """Whether two trees have the same numbers, bit for bit."""
    found = flax.traverse_util.flatten_dict(found)
    expected = flax.traverse_util.flatten_dict(expected)
    return found.keys() == expected.keys() and all(
        np.asarray(leaf).tobytes() == np.asarray(expected[path]).tobytes()
        for path, leaf in found.items()
    )


def _write_prior(folder):
    kept.save_prior(folder / 'prior', prior_params(0), prior_card(0))
    card = folder / 'prior' / 'card.json'
    files = [p for p in (folder / 'prior').rglob('*') if p.is_file()]
    # The card as often as all other files together.
    return sorted(files) + [card] * (len(files) - 1)


def _judge_prior(path, folder):
    params, card = kept.read(folder / 'prior')
    if not same_params(params, prior_params(0)):
        return 'other parameters'
    original = prior_card(0)
    for name in ('architecture', 'noise_schedule', 'num_train_steps'):
        if card[name] != original[name]:
            return f'another {name}'
    return ''


# --- pictures --------------------------------------------------------------


def _write_pictures(folder):
    paths = []
    written = {'grey': portrait.EXACT_GREY, 'rgb': portrait.EXACT_RGB}
    for face, formats in written.items():
        for name, (write, _) in formats.items():
            paths.append(folder / f'{face}_{name}')
            paths[-1].write_bytes(write(getattr(portrait, face)(SIDE)))
    for name, write in portrait.LOSSY_RGB.items():
        paths.append(folder / f'lossy_{name}')
        paths[-1].write_bytes(write(portrait.rgb(SIDE)))
    return paths


def _judge_picture(path, folder):
    # Which pixels come of damaged bytes is the decoder's affair.
    reading = images.read_picture(path, (SIDE, SIDE))
    return _bad_picture(reading.x) or _bad_sentence(reading.done, path)


def _bad_picture(x) -> str:
    if x.shape[-3:] != (SIDE, SIDE, 3) or x.dtype != np.float32:
        return f'{x.dtype} {x.shape}'
    if not np.isfinite(x).all() or np.abs(x).max() > 1:
        return 'values that are not in [-1, 1]'
    return ''


def _bad_sentence(text, path) -> str:
    # Folders are the system's; a file's own words may not break the line.
    said = text.replace(str(path), '')
    return '' if said.isprintable() else 'a sentence that does not print'


def _observed():
    observed = np.ones((SIDE, SIDE), bool)
    observed[8:20, 9:21] = False
    return observed


def _write_masks(folder):
    values = (_observed() * 255).astype(np.uint8)
    opaque = np.stack([values * 0 + 255] * 3 + [values], -1)
    written = {
        'm.png': portrait.pillow('PNG')(values),
        'm.tif': portrait.tiff('float32')(values),
        'm.npy': portrait.npy('uint8')(values),
        'm.jpg': portrait.pillow('JPEG', quality=90)(values),
        'one.png': portrait.in_mode('1', 'PNG')(values),
        'alpha.png': portrait.pillow('PNG')(opaque),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def _judge_mask(path, folder):
    of = 'alpha' if path.name == 'alpha.png' else 'black'
    reading = images.read_mask(path, (SIDE, SIDE), of)
    mask = reading.x
    if mask.shape != (SIDE, SIDE, 1) or not np.isin(mask, (0, 1)).all():
        return 'no mask'
    missing = int(np.sum(mask == 0))
    if not 0 < missing < mask.size:
        return 'a mask without a hole or without a picture'
    said = re.search(r'([\d,]+) of ([\d,]+) pixels missing', reading.done)
    if said is None or int(said[1].replace(',', '')) != missing:
        return 'it says another number of pixels'
    # A PNG has checksums.
    if path.suffix == '.png' and (mask[..., 0] != _observed()).any():
        return 'another mask than the PNG has'
    return _bad_sentence(reading.done, path)


def _kernel():
    values = np.zeros((7, 7), np.uint8)
    values[3, 1:] = (30, 60, 255, 90, 20, 10)
    return values


def _write_kernels(folder):
    written = {
        'k.png': portrait.pillow('PNG')(_kernel()),
        'k.npy': portrait.npy('float64')(_kernel()),
        'k.tif': portrait.tiff('float32')(_kernel()),
        'k16.npy': portrait.npy('uint16')(_kernel()),
    }
    for name, content in written.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in written]


def _judge_kernel(path, folder):
    reading = images.read_blur_kernel(path)
    kernel = reading.x
    if not np.isfinite(kernel).all() or kernel.min() < 0:
        return 'a kernel that is negative or not finite'
    if abs(kernel.sum() - 1) > 1e-6 or not all(n % 2 for n in kernel.shape):
        return 'a kernel of another sum or even sides'
    if path.suffix == '.png':
        expected = _kernel() / _kernel().sum()
        if kernel.shape != expected.shape or (kernel != expected).any():
            return 'another kernel than the PNG has'
    return _bad_sentence(reading.done, path)


def _pictures_of_set() -> np.ndarray:
    face = portrait.rgb(SIDE)
    return np.stack([face, face[::-1], face[:, ::-1]])


def _write_sets(folder):
    x = _pictures_of_set()
    first = np.ascontiguousarray(np.moveaxis(x, -1, 1))
    paths = [folder / f'{name}.npz' for name in ('a', 'packed', 'first')]
    np.savez(paths[0], x=x)
    np.savez_compressed(paths[1], x=x)
    np.savez(paths[2], x=first)
    np.save(folder / 'a.npy', x)
    return [*paths, folder / 'a.npy']


def _judge_set(path, folder):
    name = f'{path}:x' if path.suffix == '.npz' else str(path)
    found = images.read_set(name, (SIDE, SIDE, 3), number=3)
    bad = _bad_picture(found.x)
    if bad or path.suffix == '.npy':
        return bad or _bad_sentence(found.done, path)
    # Zip files have checksums.
    expected = np.float32(_pictures_of_set()) / 127.5 - 1
    if found.x.shape != expected.shape:
        return 'another number of pictures'
    if np.abs(found.x - expected).max() > 1e-6:
        return 'other pictures'
    return ''


# --- results ---------------------------------------------------------------

_NUM_CELLS = 6


def _cell(i):
    protocol = {
        'protocol': PROTOCOL,
        'image': i,
        'method': 'dps',
        'sample': 0,
        'settings': {'zeta': 0.5 * i},
    }
    x = np.random.default_rng(i).uniform(-1, 1, (8, 8, 3))
    return protocol, {'psnr': 20.0 + i / 7, 'residual_norm': 3.5}, x


def _write_cells(folder):
    store = cells.Store(folder)
    pictures = []
    for i in range(_NUM_CELLS):
        protocol, scores, x = _cell(i)
        store.write(protocol, scores, x)
        pictures.append(store.path(cells.cell_id(protocol)))
    line = folder / 'cells-0.jsonl'
    return [*pictures, *[line] * (3 * _NUM_CELLS)]


@functools.cache
def _cells_as_written():
    written = {}
    for i in range(_NUM_CELLS):
        protocol, scores, x = _cell(i)
        name = cells.cell_id(protocol)
        written[name] = (protocol, scores, images.to_uint8(x))
    return written


def _judge_cells(path, folder):
    expected = _cells_as_written()
    read = {cell['id']: cell for cell in cells.read(folder)}
    for name, cell in read.items():
        if name not in expected:
            return 'a cell that nobody wrote'
        if (cell['protocol'], cell['scores']) != expected[name][:2]:
            return 'a cell with other content'
    # Lines that are whole must have been read.
    for line in (folder / 'cells-0.jsonl').read_bytes().split(b'\n')[:-1]:
        for name in expected:
            if line in _lines_as_written(folder)[name] and name not in read:
                return 'a whole line was lost'
    missing = cells.Store(folder).missing(expected)
    for name in expected.keys() - set(missing):
        with Image.open(folder / 'cells' / f'{name}.png') as picture:
            if (np.asarray(picture) != expected[name][2]).any():
                return 'a done cell with another picture'
    return ''


_LINES: dict[pathlib.Path, dict[str, list[bytes]]] = {}


def _lines_as_written(folder):
    """The lines of the original, which lies beside what is damaged."""
    if folder not in _LINES:
        path = folder.parent / 'original' / 'cells-0.jsonl'
        lines = path.read_bytes().split(b'\n')[:-1]
        _LINES[folder] = {json.loads(line)['id']: [line] for line in lines}
    return _LINES[folder]


KINDS = {
    'weights, PyTorch zip': Kind(14, _write_zip, _judge_zip),
    'weights, PyTorch stream': Kind(10, _write_stream, _judge_stream),
    'weights, safetensors': Kind(10, _write_safetensors, _judge_safetensors),
    'weights, EDM pickle': Kind(8, _write_edm, _judge_edm),
    'weights, diffusers folder': Kind(8, _write_diffusers, _judge_diffusers),
    'kept prior': Kind(6, _write_prior, _judge_prior),
    'picture': Kind(20, _write_pictures, _judge_picture),
    'mask': Kind(6, _write_masks, _judge_mask),
    'kernel': Kind(4, _write_kernels, _judge_kernel),
    'set of pictures': Kind(6, _write_sets, _judge_set),
    'results of a sweep': Kind(8, _write_cells, _judge_cells),
}


# --- damage ----------------------------------------------------------------

# Text that says a type, a size or an order, and what else could stand there.
_SWAPS = (
    (b'FloatStorage', b'HalfStorage'),
    (b'FloatStorage', b'IntStorage'),
    (b'"F32"', b'"F16"'),
    (b'"F32"', b'"I32"'),
    (b'"F32"', b'"F64"'),
    (b'<f4', b'>f4'),
    (b'<f8', b'<f4'),
    (b'|u1', b'|i1'),
    (b'|u1', b'|b1'),
    (b'<u2', b'>u2'),
    (b'False', b'True'),
    (b'true', b'false'),
    (b'weight', b'bias'),
    (b'model', b'ema'),
    (b'linear', b'cosine'),
)
_EDGE = 2000  # bytes at each end, where what describes the rest stands


def damage(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """One to three things that happen to files.

    Args:
        rng: chooses.
        content: of the file.
        other: of another file of its kind, of which parts get into it.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if not data:
            break
        at = _place(rng, len(data))
        end = min(at + rng.choice((1, 2, 4, 8, 40, 500)), len(data))
        match rng.randrange(11):
            case 0 | 1 | 2:
                data[at] ^= 1 << rng.randrange(8)
            case 3:
                data[at] = rng.randrange(256)
            case 4:
                del data[at:]
            case 5:
                del data[at:end]
            case 6:
                data[at:at] = data[at:end]
            case 7:
                data[at:end] = bytes(end - at)
            case 8:
                start = _place(rng, len(other) or 1)
                if rng.random() < 0.5:
                    data[at:] = other[start:]
                else:
                    data[at:end] = other[start : start + end - at]
            case 9:
                data = _swap(rng, data)
            case 10:
                data = _number(rng, data)
    return bytes(data)


def _place(rng, length) -> int:
    if rng.random() < 0.4:
        return rng.randrange(length)
    near = rng.randrange(min(_EDGE, length))
    return near if rng.random() < 0.5 else length - 1 - near


def _swap(rng, data):
    pairs = [
        pair
        for a, b in _SWAPS
        for pair in ((a, b), (b, a))
        if pair[0] in data[: 10 * _EDGE]
    ]
    if not pairs:
        return data
    old, new = rng.choice(pairs)
    places = [m.start() for m in re.finditer(re.escape(old), data)]
    at = rng.choice(places)
    if rng.random() < 0.3:
        return bytearray(bytes(data).replace(old, new))
    data[at : at + len(old)] = new
    return data


def _number(rng, data):
    """Another number in place of one that is written out."""
    places = [*re.finditer(rb'-?\d+(\.\d+)?', bytes(data[: 10 * _EDGE]))]
    if not places:
        return data
    place = rng.choice(places)
    new = rng.choice(
        (
            *(b'0', b'-1', b'1', b'2', b'1e30', b'NaN', b'null', b'""', b'[]'),
            *(b'99999999999', b'0.5', b'true', b'Infinity', b'1' * 5000),
        )
    )
    data[place.start() : place.end()] = new
    return data


class Bench:
    """A kind's originals and the place where one of them is damaged.

    Args:
        name: of the kind.
        folder: empty.
    """

    def __init__(self, name: str, folder: pathlib.Path):
        self.name = name
        self._kind = KINDS[name]
        original, self._damaged = folder / 'original', folder / 'damaged'
        original.mkdir()
        paths = self._kind.write(original)
        shutil.copytree(original, self._damaged)
        self._paths = [path.relative_to(original) for path in paths]
        self._content = {p: (original / p).read_bytes() for p in self._paths}

    def check(self) -> None:
        """Raise unless all originals are read right."""
        for path in dict.fromkeys(self._paths):
            found = self._kind.judge(self._damaged / path, self._damaged)
            if found:
                raise AssertionError(f'{self.name}, {path}: {found}')

    def try_one(self, seed: str) -> tuple[str, str]:
        """Damage one file and read it: an outcome, and what was found.

        Args:
            seed: of what is done to which file.
        """
        rng = random.Random(f'{seed} {self.name}')
        path = rng.choice(self._paths)
        content = self._content[path]
        other = self._content[rng.choice(self._paths)]
        place = self._damaged / path
        place.write_bytes(damage(rng, content, other))
        try:
            wrong = self._kind.judge(place, self._damaged)
        except ValueError as error:
            said = str(error).replace(str(self._damaged), '')
            if said.isprintable() and 0 < len(said) < 1000:
                return 'refused', said
            return 'traceback', f'no sentence: {said[:300]!r}'
        except Exception as error:
            return 'traceback', f'{path}: {type(error).__name__}: {error}'[:300]
        finally:
            self._restore(place, content)
        return ('wrong', f'{path}: {wrong}') if wrong else ('right', '')

    def _restore(self, place, content):
        # Readers of results may have put other files beside it.
        place.write_bytes(content)
