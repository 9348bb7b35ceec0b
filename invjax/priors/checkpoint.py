"""From a name or a path to a prior: download, convert once, keep, restore.

A kept prior is a folder with `params/`, an Orbax checkpoint, and `card.json`,
which says what it is and has a checksum of both. `faces64` comes with the
project; what is converted or downloaded is kept beside it, in a folder named by
the source's hash. A source is a file of weights (guided-diffusion's, EDM's), a
folder that diffusers saved, or a repository of such a folder on the hub.
"""

import hashlib
import os
import pathlib
import re
import warnings
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import invjax
from invjax import hub, schedule
from invjax.priors import (
    check,
    convert,
    diffusers_folder,
    edm,
    edm_file,
    families,
    kept,
    torch_file,
)
from invjax.priors.card import Card, read_entries
from invjax.priors.denoiser import Denoiser
from invjax.priors.kept import save_prior
from invjax.priors.unet import NetworkPrior, UNet

__all__ = ['KNOWN_PRIORS', 'checkpoint_root', 'load_prior', 'save_prior']


class KnownPrior(NamedTuple):
    """A prior that is loaded by its name.

    Attributes:
        note: what it was trained on, and its licence.
        size_mib: of the file of weights.
        repository: on the Hugging Face hub; None for an embedded prior, and for
            a file that no hub has.
        filename: of the weights: in that repository, where None stands for a
            folder that diffusers saved; or as it is put into the folder of
            checkpoints.
        page: where such a file is to be found.
        sha256: of that file, or of the names and values of an embedded prior's
            parameters; None as long as nobody has checked it.
        network: the architecture that the file must have; None where the file
            or a card says it.
    """

    note: str
    size_mib: int
    repository: str | None = None
    filename: str | None = None
    page: str | None = None
    sha256: str | None = None
    network: UNet | None = None

    @property
    def is_embedded(self) -> bool:
        """Whether it comes with the project."""
        return self.repository is None and self.filename is None


KNOWN_PRIORS = {
    'faces64': KnownPrior(
        'faces at 64 x 64, embedded; non-commercial research use',
        size_mib=23,
        sha256='0b031bbcf6eca6147623b8ed3f0cd789c88596b29e539d00dc36cc898c798829',
    ),
    'phantoms64': KnownPrior(
        'grey slices of made-up bodies at 64 x 64 (invjax.phantoms), embedded; no '
        'rights are claimed',
        size_mib=7,
        sha256='b3a13b3c2034e8d89b82421a7261dc54829fc29e14be3d250db54087dd2ebf8c',
    ),
    'ffhq256': KnownPrior(
        'FFHQ at 256 x 256 (Choi et al., ILVR, 2021), which DPS and others use; '
        'weights BSD 3-Clause by their page on the hub, data for non-commercial '
        'use (CC BY-NC-SA 4.0)',
        size_mib=357,
        repository='deepinv/diffunet',
        filename='diffusion_ffhq_10m.pt',
        network=UNet(),
    ),
    'edm_ffhq64': KnownPrior(
        'FFHQ at 64 x 64, by NVIDIA (Karras et al., 2022); weights CC BY-NC-SA '
        '4.0, as the data',
        size_mib=236,
        filename='edm-ffhq-64x64-uncond-vp.pkl',
        page='https://github.com/NVlabs/edm',
    ),
    'celebahq256': KnownPrior(
        'CelebA-HQ at 256 x 256 (Ho et al., 2020); weights Apache 2.0, data for '
        'non-commercial research',
        size_mib=434,
        repository='google/ddpm-ema-celebahq-256',
    ),
    'church256': KnownPrior(
        'LSUN churches at 256 x 256 (Ho et al., 2020); weights Apache 2.0',
        size_mib=434,
        repository='google/ddpm-ema-church-256',
    ),
    'bedroom256': KnownPrior(
        'LSUN bedrooms at 256 x 256 (Ho et al., 2020); weights Apache 2.0',
        size_mib=434,
        repository='google/ddpm-ema-bedroom-256',
    ),
    'cat256': KnownPrior(
        'LSUN cats at 256 x 256 (Ho et al., 2020); weights Apache 2.0',
        size_mib=434,
        repository='google/ddpm-ema-cat-256',
    ),
    'cifar32': KnownPrior(
        'CIFAR-10 at 32 x 32 (Ho et al., 2020); weights Apache 2.0',
        size_mib=136,
        repository='google/ddpm-cifar10-32',
    ),
}

_SUFFIXES = ('.pt', '.pth', '.bin', '.ckpt', '.safetensors', '.pkl')
_REPOSITORY = re.compile(r'[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}')

# What only the user can know of a file, besides `convert.OVERRIDES`.
_TRAINING = ('noise_schedule', 'num_train_steps', 'rescale_timesteps')
_CHOICES = ('weights_key', 'check', 'preconditioning')


_OPTIONS = (*convert.OVERRIDES, *_TRAINING, *_CHOICES)


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


def _project_folder() -> pathlib.Path:
    """`checkpoints/` of the clone, or that inside of an installed package."""
    package = pathlib.Path(invjax.__file__).parent
    clone = package.parent / 'checkpoints'
    return clone if clone.is_dir() else package / 'checkpoints'


def _embedded(name: str) -> pathlib.Path:
    """An embedded prior's folder, in a clone or in an installed package."""
    folder = _project_folder() / name
    if (folder / 'card.json').exists():
        return folder
    raise ValueError(
        f'the embedded prior {name!r} is not in checkpoints/{name}; '
        'the clone or the installation is incomplete.'
    )


def load_prior(
    prior: str | os.PathLike,
    dtype=jnp.float32,
    remat=False,
    size: tuple[int, int] | None = None,
    label: int | None = None,
    **overrides,
) -> NetworkPrior | Denoiser:
    """Load a trained prior; convert and keep it where that is the first time.

    Args:
        prior: a name of KNOWN_PRIORS; a file of PyTorch or safetensors weights
            or a snapshot of EDM, whatever it is called; a folder that
            diffusers saved, or its repository on the hub, OWNER/NAME; or a
            folder that this function or `save_prior` made.
        dtype: of the computation, float32 or bfloat16.
        remat: whether gradients recompute the inside of blocks to save memory.
        size: (H, W) of the images, where it is not that of the training.
        label: the class of the images, for a network that tells classes apart;
            such a prior needs one, here or by its `with_label`.
        **overrides: what a file does not tell of itself. Others have it on
            their card. Of its architecture: `convert.OVERRIDES`. Of its
            training: `noise_schedule` (default: linear), `num_train_steps`
            (1000) and `rescale_timesteps` (False: the network takes timesteps
            as they are, not as if there were 1000). `weights_key` takes other
            weights than averaged ones (`torch_file.read_weights`).
            `preconditioning` is that of a state dict of EDM's networks, one of
            `edm.PRECONDITIONINGS` (EDMPrecond). `check` (True) says whether
            what is converted must denoise a picture, as weights that were
            trained do (`check.py`).

    Returns:
        The prior, its parameters in float32. Its `card` has `name`, `sha256` of
        the source, `architecture` and more.

    Raises:
        ValueError, FileNotFoundError: one sentence on what was given and what
            it must be.
    """
    folder = _folder_of(str(prior), overrides)
    loaded = _restore(folder, dtype=dtype, remat=remat)
    if label is not None:
        if (
            not isinstance(loaded, NetworkPrior)
            or loaded.network.num_classes is None
        ):
            raise ValueError(
                f'label must be left out, since {prior} tells no classes apart, '
                f'got {label}.'
            )
        loaded = loaded.with_label(label)
    return loaded if size is None else loaded.with_size(*size)


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
        if known.filename is not None:
            weights = _fetch(prior, known, known.filename)
            return _converted(weights, {}, prior)
        if known.repository is not None:
            return _of_repository(known.repository, {}, prior)
        return _embedded(prior)
    if is_kept:
        return path
    if path.is_file():
        if path.name in diffusers_folder.WEIGHTS and (
            diffusers_folder.is_folder(path.parent)
        ):
            return _of_diffusers(path.parent, overrides)
        return _converted(path, overrides)
    if path.is_dir() and diffusers_folder.is_folder(path):
        return _of_diffusers(path, overrides)
    if path.suffix in _SUFFIXES:
        raise FileNotFoundError(f'there is no file {prior}.')
    if not path.exists() and _REPOSITORY.fullmatch(prior):
        return _of_repository(prior, overrides)
    raise ValueError(
        f'prior must be one of {", ".join(KNOWN_PRIORS)}, a file of weights, a '
        'folder that diffusers saved, OWNER/NAME of one on the hub, or the '
        f'folder of a kept prior, got {prior!r}.'
    )


def _of_repository(
    repository: str, options: dict, name: str | None = None
) -> pathlib.Path:
    """The folder of a prior whose source is on the hub."""
    try:
        folder, revision = hub.fetch_folder(
            repository, diffusers_folder.choose, diffusers_folder.check
        )
    except ValueError as error:
        raise ValueError(f'{name or repository} is no prior: {error}') from None
    except Exception as error:
        size = f' of {KNOWN_PRIORS[name].size_mib} MiB' if name else ''
        raise ValueError(
            f'{name or repository} could not be downloaded: '
            f'{hub.why_not(error)}; get the folder{size} from '
            f'https://huggingface.co/{repository}, with its configurations and '
            'weights, and pass --prior=/path/to/it.'
        ) from error
    fields = {'repository': repository, 'revision': revision}
    if name is not None:
        fields['note'] = KNOWN_PRIORS[name].note
    stem = name or repository.replace('/', '_')
    return _of_diffusers(pathlib.Path(folder), options, stem, fields)


def _of_diffusers(
    path: pathlib.Path,
    options: dict,
    stem: str | None = None,
    fields: dict | None = None,
) -> pathlib.Path:
    """The folder of what diffusers saved; made if it is not there yet."""
    _check_options(options, ('check',))
    if stem is None:
        stem = path.parent.name if path.name == 'unet' else path.name
    sha256 = families.folder_sha256(path)
    folder = checkpoint_root() / _folder_name(stem, sha256, options)
    if not kept.has_checksum(folder):
        prior, described = families.read_folder(path)
        card = {'name': stem, 'sha256': sha256, **described, **(fields or {})}
        _keep(folder, path, prior, card, options)
    return folder


def _keep(folder, source, prior, card: dict, options: dict) -> None:
    """Check a prior that was converted, and write it."""
    if options.get('check', True):
        labelled = getattr(prior.network, 'num_classes', None) is not None
        try:
            check.refuse_unless_it_denoises(
                prior.with_label(0) if labelled else prior, *_remedy(card)
            )
        except ValueError as error:
            raise ValueError(f'{source}: {error}') from None
    kept.write(folder, prior.params, card, replace=False)


def _remedy(card: dict) -> list[str]:
    """What to advise where a prior does not denoise; see `check`."""
    if 'family' not in card:
        return []
    if 'weights' in card:
        return ['set preconditioning to that of its training']
    return ['it may not be trained, or be damaged']


def _fetch(name: str, known: KnownPrior, filename: str) -> pathlib.Path:
    """The weights of a known prior as a local file, downloaded if need be."""
    placed = checkpoint_root() / filename
    if placed.is_file():
        return placed
    if known.repository is None:
        raise ValueError(
            f'{name} is on no hub; get {filename} ({known.size_mib} MiB) '
            f'from {known.page} and put it at {placed}, or pass '
            '--prior=/path/to/it.'
        )
    try:
        return pathlib.Path(hub.fetch(known.repository, filename))
    except Exception as error:
        # Offline, behind a proxy, or gone: each has a class of its own, and
        # the user's way out is the same.
        raise ValueError(
            f'{name} could not be downloaded ({type(error).__name__}); get '
            f'{filename} ({known.size_mib} MiB) from '
            f'https://huggingface.co/{known.repository} and put it at {placed}, '
            'or pass --prior=/path/to/it.'
        ) from error


def _converted(
    path: pathlib.Path, options: dict, name: str | None = None
) -> pathlib.Path:
    """The folder of a converted file; made if it is not there yet."""
    known = None if name is None else KNOWN_PRIORS.get(name)
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
    if _is_snapshot(path):
        _check_options(options, ('check',))
        prior, fields = families.read_snapshot(path)
    else:
        weights = torch_file.read_weights(path, options.get('weights_key'))
        try:
            prior, fields = _of_weights(weights.tensors, options, known)
        except ValueError as error:
            raise ValueError(f'{path}: {error}') from None
        fields = {
            'weights': weights.key,
            'averaged': weights.averaged,
            **fields,
        }
    note = 'converted from a file' if known is None else known.note
    card = {'name': stem, 'source': path.name, 'sha256': sha256, 'note': note}
    _keep(folder, path, prior, card | fields, options)
    return folder


def _is_snapshot(path: pathlib.Path) -> bool:
    with path.open('rb') as file:
        return edm_file.is_one(file.read(64))


def _of_weights(tensors: dict, options: dict, known: KnownPrior | None):
    """A prior from a state dict, and fields for its card."""
    if families.is_edm(tensors):
        _check_options(options, _CHOICES)
        return families.read_edm_tensors(
            tensors, options.get('preconditioning', edm.PRECONDITIONINGS[0])
        )
    if 'conv_in.weight' in tensors:
        raise ValueError(
            'its names are those of diffusers, which keeps what the network is '
            'beside it; give the folder with its config.json and its scheduler.'
        )
    _check_options(options, (*convert.OVERRIDES, *_TRAINING, *_CHOICES[:2]))
    architecture = {
        name: value
        for name, value in options.items()
        if name not in (*_TRAINING, *_CHOICES)
    }
    params, network = convert.convert(
        tensors, None if known is None else known.network, **architecture
    )
    if not (known or 'image_size' in options or convert.usual_side(network)):
        raise ValueError(
            'the size of its images cannot be told from its shapes; set '
            'image_size to the side that it was trained on.'
        )
    fields = {
        'architecture': convert.describe(network),
        **_training(options, None if known else network),
    }
    return _prior(params, Card(fields)), fields


def _check_options(options: dict, known: tuple[str, ...] = _OPTIONS) -> None:
    """Refuse an option that is not among those, or whose value cannot be."""
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
    preconditioning = options.get('preconditioning', edm.PRECONDITIONINGS[0])
    if preconditioning not in edm.PRECONDITIONINGS:
        raise ValueError(
            f'preconditioning must be one of {", ".join(edm.PRECONDITIONINGS)}, '
            f'got {preconditioning!r}.'
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


def _restore(folder: pathlib.Path, dtype, remat) -> NetworkPrior | Denoiser:
    params, fields = kept.read(folder)
    beside = Card.read(folder)
    tuned = beside.tuned or _published(fields)
    card = Card(fields, tuned, beside.calibrated, beside.choices)
    if not kept.has_checksum(folder):
        warnings.warn(
            f'{folder} has no checksum, so damage to it would not be noticed; '
            'convert its weights again.',
            stacklevel=3,
        )
    return _prior(params, card, dtype=dtype, remat=remat)


def _published(fields: dict) -> tuple[dict, ...]:
    """Defaults of a known prior that its authors, or others, published."""
    known = KNOWN_PRIORS.get(fields['name'])
    if known is None:
        return ()
    # Another file may have been given this name.
    if known.filename is None:
        is_known = fields.get('repository') == known.repository
    else:
        is_known = fields.get('source') == known.filename
    if not is_known:
        return ()
    return read_entries(_project_folder() / fields['name'] / 'defaults.toml')


def _prior(params: dict, card: Card, **fields) -> NetworkPrior | Denoiser:
    """A prior of parameters, as its card says; `fields` are of its network."""
    if 'family' in card:
        return families.from_description(card, params, **fields)
    num_train_steps = card['num_train_steps']
    if card.get('rescale_timesteps'):
        fields['timestep_scale'] = 1000 / num_train_steps
    return NetworkPrior(
        params=jax.device_put(
            jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), params)
        ),
        network=convert.network_from_description(
            card['architecture'], **fields
        ),
        noise_schedule=card['noise_schedule'],
        num_train_steps=num_train_steps,
        card=card,
    )
