"""From a name or a path to a prior: download, convert once, keep, restore.

A kept prior is a folder with `params/`, an Orbax checkpoint, and `card.json`,
which says what it is and has a checksum of both. `faces64` comes with the
project; what is converted or downloaded is kept beside it, in a folder named by
the source file's hash.
"""

import hashlib
import os
import pathlib
import re
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp

import invjax
from invjax import hub, schedule
from invjax.priors import check, convert, kept, torch_file
from invjax.priors.card import Card
from invjax.priors.kept import save_prior
from invjax.priors.unet import NetworkPrior, UNet

__all__ = ['KNOWN_PRIORS', 'checkpoint_root', 'load_prior', 'save_prior']


class KnownPrior(NamedTuple):
    """A prior that is loaded by its name.

    Attributes:
        repository: on the Hugging Face hub, or None for an embedded one.
        filename: of the weights in that repository.
        size_mib: of that file.
        sha256: of that file; None as long as nobody has checked it.
        network: the architecture that the file must have; None for an embedded
            prior, whose card says it.
        note: what it was trained on, and its licence.
    """

    repository: str | None
    filename: str | None
    size_mib: int
    sha256: str | None
    network: UNet | None
    note: str


KNOWN_PRIORS = {
    'faces64': KnownPrior(
        repository=None,
        filename=None,
        size_mib=23,
        sha256='8c6701b6141cff7cd184cc7e23156fecec3d6ec480efcb666e8b8747b9018719',
        network=None,
        note='faces at 64 x 64, embedded; non-commercial research use',
    ),
    'ffhq256': KnownPrior(
        repository='deepinv/diffunet',
        filename='diffusion_ffhq_10m.pt',
        size_mib=357,
        sha256=None,
        network=UNet(),
        note='FFHQ at 256 x 256, by the authors of DPS; CC BY-NC-SA 4.0',
    ),
}

_SUFFIXES = ('.pt', '.pth', '.safetensors')

# What only the user can know of a file, besides `convert.OVERRIDES`.
_TRAINING = ('noise_schedule', 'num_train_steps', 'rescale_timesteps')
_CHOICES = ('weights_key', 'check')


def checkpoint_root() -> pathlib.Path:
    """The folder where converted priors are kept.

    `$INVJAX_CHECKPOINTS` if set; else `checkpoints/` of the clone; else, for an
    installed package, a folder in the user's cache.
    """
    if 'INVJAX_CHECKPOINTS' in os.environ:
        return pathlib.Path(os.environ['INVJAX_CHECKPOINTS']).absolute()
    clone = pathlib.Path(invjax.__file__).parents[1]
    if (clone / 'setup.cfg').exists():
        return clone / 'checkpoints'
    return pathlib.Path.home() / '.cache' / 'invjax' / 'checkpoints'


def _embedded(name: str) -> pathlib.Path:
    """An embedded prior's folder, in a clone or in an installed package."""
    package = pathlib.Path(invjax.__file__).parent
    for folder in (package.parent / 'checkpoints', package / 'checkpoints'):
        if (folder / name / 'card.json').exists():
            return folder / name
    raise ValueError(
        f'the embedded prior {name!r} is not in checkpoints/{name}; '
        'the clone or the installation is incomplete.'
    )


def load_prior(
    prior: str | os.PathLike, dtype=jnp.float32, remat=False, **overrides
) -> NetworkPrior:
    """Load a trained prior; convert and keep it where that is the first time.

    Args:
        prior: a name of KNOWN_PRIORS; a file of PyTorch or safetensors weights,
            whatever it is called; or a folder that this function or
            `save_prior` made.
        dtype: of the computation, float32 or bfloat16.
        remat: whether gradients recompute the inside of blocks to save memory.
        **overrides: what a file does not tell of itself. Others have it on
            their card. Of its architecture: `convert.OVERRIDES`. Of its
            training: `noise_schedule` (default: linear), `num_train_steps`
            (1000) and `rescale_timesteps` (False: the network takes timesteps
            as they are, not as if there were 1000). `weights_key` takes other
            weights than averaged ones (`torch_file.read_weights`). `check`
            (True) says whether a file that is converted must denoise a picture,
            as weights that were trained do (`check.py`).

    Returns:
        The prior, its parameters in float32. Its `card` has `name`, `sha256` of
        the source file, `architecture` and more.

    Raises:
        ValueError, FileNotFoundError: one sentence on what was given and what
            it must be.
    """
    folder = _folder_of(str(prior), overrides)
    return _restore(folder, dtype=dtype, remat=remat)


def _folder_of(prior: str, overrides: dict) -> pathlib.Path:
    path = pathlib.Path(prior).expanduser().absolute()
    is_kept = (path / 'card.json').is_file()
    if overrides and (prior in KNOWN_PRIORS or is_kept):
        raise ValueError(
            f'{", ".join(overrides)} of {prior} cannot be overridden, since its '
            'architecture is known; only that of a file can.'
        )
    if prior in KNOWN_PRIORS:
        known = KNOWN_PRIORS[prior]
        if known.repository is None:
            return _embedded(prior)
        return _converted(_fetch(prior, known), {}, prior)
    if is_kept:
        return path
    if path.is_file():
        return _converted(path, overrides)
    if path.suffix in _SUFFIXES:
        raise FileNotFoundError(f'there is no file {prior}.')
    raise ValueError(
        f'prior must be one of {", ".join(KNOWN_PRIORS)}, a file of PyTorch or '
        f'safetensors weights, or the folder of a kept prior, got {prior!r}.'
    )


def _fetch(name: str, known: KnownPrior) -> pathlib.Path:
    """The weights of a known prior as a local file, downloaded if need be."""
    placed = checkpoint_root() / known.filename
    if placed.is_file():
        return placed
    try:
        return pathlib.Path(hub.fetch(known.repository, known.filename))
    except Exception as error:
        # Offline, behind a proxy, or gone: each has a class of its own, and
        # the user's way out is the same.
        raise ValueError(
            f'{name} could not be downloaded ({type(error).__name__}); get '
            f'{known.filename} ({known.size_mib} MiB) from '
            f'https://huggingface.co/{known.repository} and put it at {placed}, '
            'or pass --prior=/path/to/it.'
        ) from error


def _converted(
    path: pathlib.Path, options: dict, name: str | None = None
) -> pathlib.Path:
    """The folder of a converted file; made if it is not there yet."""
    known = KNOWN_PRIORS.get(name)
    _check_options(options)
    sha256 = torch_file.file_sha256(path)
    if known is not None and known.sha256 not in (None, sha256):
        raise ValueError(
            f'{path} is not {name}: its SHA256 is {sha256}, not {known.sha256}.'
        )
    stem = name if name is not None else path.stem
    folder = checkpoint_root() / _folder_name(stem, sha256, options)
    if kept.has_checksum(folder):
        return folder
    architecture = {
        name: value
        for name, value in options.items()
        if name not in (*_TRAINING, *_CHOICES)
    }
    weights = torch_file.read_weights(path, options.get('weights_key'))
    try:
        params, network = convert.convert(
            weights.tensors,
            None if known is None else known.network,
            **architecture,
        )
        if not (
            known or 'image_size' in options or convert.usual_side(network)
        ):
            raise ValueError(
                'the size of its images cannot be told from its shapes; set '
                'image_size to the side that it was trained on.'
            )
        card = {
            'name': stem,
            'source': path.name,
            'sha256': sha256,
            'weights': weights.key,
            'averaged': weights.averaged,
            'architecture': convert.describe(network),
            **_training(options, None if known else network),
            'note': 'converted from a file' if known is None else known.note,
        }
        if options.get('check', True):
            check.refuse_unless_it_denoises(_prior(params, Card(card)))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    kept.write(folder, params, card, replace=False)
    return folder


def _check_options(options: dict) -> None:
    """Refuse an option that is unknown, or whose value cannot be."""
    known = (*convert.OVERRIDES, *_TRAINING, *_CHOICES)
    unknown = set(options) - set(known)
    if unknown:
        raise ValueError(
            f'{", ".join(sorted(unknown))} cannot be overridden; '
            f'choose among {", ".join(known)}.'
        )
    schedules = tuple(schedule.SCHEDULES)
    if options.get('noise_schedule', schedules[0]) not in schedules:
        raise ValueError(
            f'noise_schedule must be one of {", ".join(schedules)}, got '
            f'{options["noise_schedule"]!r}.'
        )
    num_train_steps = options.get('num_train_steps', 1000)
    if type(num_train_steps) is not int or not 2 <= num_train_steps <= 100_000:
        raise ValueError(
            'num_train_steps must be a number from 2 to 100000, got '
            f'{num_train_steps!r}.'
        )
    for name, kind in (
        ('rescale_timesteps', bool),
        ('check', bool),
        ('weights_key', str),
    ):
        if name in options and type(options[name]) is not kind:
            raise ValueError(
                f'{name} must be of type {kind.__name__}, got '
                f'{options[name]!r}.'
            )


def _training(options: dict, network: UNet | None) -> dict:
    """How a network was trained, for its card.

    Args:
        options: of the user.
        network: None if it is known to be of the defaults.
    """
    asked = ['noise_schedule', 'num_train_steps']
    if options.get('num_train_steps') != 1000:
        asked.append('rescale_timesteps')
    missing = [name for name in asked if name not in options]
    # The weights of guided-diffusion resample inside residual blocks.
    if network is not None and network.resample != 'resblock' and missing:
        raise ValueError(
            f'set {", ".join(missing)}: it resamples as the networks of '
            'improved-diffusion (Nichol and Dhariwal, 2021) do, which were '
            'trained with several noise schedules, such as cosine over 4000 '
            'steps with rescaled timesteps.'
        )
    return {
        'noise_schedule': options.get('noise_schedule', 'linear'),
        'num_train_steps': options.get('num_train_steps', 1000),
        'rescale_timesteps': options.get('rescale_timesteps', False),
    }


def _folder_name(stem: str, sha256: str, options: dict) -> str:
    """A name for a converted file with these options, of a length that fits."""
    stem = re.sub(r'[^\w.-]', '_', stem, flags=re.ASCII)[:80]
    suffix = ''.join(f'-{k}={v}' for k, v in sorted(options.items()))
    if not re.fullmatch(r'[\w.=-]{0,100}', suffix, flags=re.ASCII):
        digest = hashlib.sha256(suffix.encode('utf-8', 'surrogatepass'))
        suffix = f'-{digest.hexdigest()[:12]}'
    return f'{stem}-{sha256[:12]}{suffix}'


def _restore(folder: pathlib.Path, dtype, remat) -> NetworkPrior:
    params, fields = kept.read(folder)
    beside = Card.read(folder)
    card = Card(fields, beside.tuned, beside.calibrated)
    if not kept.has_checksum(folder):
        warnings.warn(
            f'{folder} has no checksum, so damage to it would not be noticed; '
            'convert its weights again.',
            stacklevel=3,
        )
    return _prior(params, card, dtype=dtype, remat=remat)


def _prior(params: dict, card: Card, **fields) -> NetworkPrior:
    """A prior of parameters, as its card says; `fields` are of its UNet."""
    num_train_steps = card['num_train_steps']
    if card.get('rescale_timesteps'):
        fields['timestep_scale'] = 1000 / num_train_steps
    return NetworkPrior(
        params=jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32), params
        ),
        network=convert.network_from_description(
            card['architecture'], **fields
        ),
        noise_schedule=card['noise_schedule'],
        num_train_steps=num_train_steps,
        card=card,
    )
