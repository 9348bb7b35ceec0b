"""From a name or a path to a prior: download, convert once, keep, restore.

A kept prior is a folder with `params/`, an Orbax checkpoint, and `card.json`,
which says what it is. `faces64` comes with the project; what is converted or
downloaded is kept beside it, in a folder named by the source file's hash.
"""

import json
import os
import pathlib
import shutil
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

import invjax
from invjax import hub
from invjax.priors import convert, torch_file
from invjax.priors.card import Card
from invjax.priors.unet import NetworkPrior, UNet


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
        prior: a name of KNOWN_PRIORS; a `.pt`, `.pth` or `.safetensors` file;
            or a folder that this function or `save_prior` made.
        dtype: of the computation, float32 or bfloat16.
        remat: whether gradients recompute the inside of blocks to save memory.
        **overrides: what shapes cannot tell of a file's architecture
            (`convert.OVERRIDES`). The others have it on their card.

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
    kept = (path / 'card.json').is_file()
    if overrides and (prior in KNOWN_PRIORS or kept):
        raise ValueError(
            f'{", ".join(overrides)} of {prior} cannot be overridden, since its '
            'architecture is known; only that of a file can.'
        )
    if prior in KNOWN_PRIORS:
        known = KNOWN_PRIORS[prior]
        if known.repository is None:
            return _embedded(prior)
        return _converted(_fetch(prior, known), {}, prior)
    if kept:
        return path
    if path.is_file() and path.suffix in _SUFFIXES:
        return _converted(path, overrides)
    if path.suffix in _SUFFIXES:
        raise FileNotFoundError(f'there is no file {prior}.')
    raise ValueError(
        f'prior must be one of {", ".join(KNOWN_PRIORS)}, a file that ends in '
        f'{", ".join(_SUFFIXES)}, or the folder of a kept prior, '
        f'got {prior!r}.'
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
    path: pathlib.Path, overrides: dict, name: str | None = None
) -> pathlib.Path:
    """The folder of a converted file; made if it is not there yet."""
    known = KNOWN_PRIORS.get(name)
    sha256 = torch_file.file_sha256(path)
    if known is not None and known.sha256 not in (None, sha256):
        raise ValueError(
            f'{path} is not {name}: its SHA256 is {sha256}, not {known.sha256}.'
        )
    stem = name if name is not None else path.stem
    suffix = ''.join(f'-{k}={v}' for k, v in sorted(overrides.items()))
    folder = checkpoint_root() / f'{stem}-{sha256[:12]}{suffix}'
    if (folder / 'card.json').is_file():
        return folder
    state_dict = torch_file.read_state_dict(path)
    try:
        params, network = convert.convert(
            state_dict, None if known is None else known.network, **overrides
        )
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    card = {
        'name': stem,
        'source': path.name,
        'sha256': sha256,
        'architecture': convert.describe(network),
        'noise_schedule': 'linear',
        'num_train_steps': 1000,
        'note': known.note if known is not None else 'converted from a file',
    }
    save_prior(folder, params, card)
    return folder


def save_prior(folder: str | os.PathLike, params: dict, card: dict) -> None:
    """Keep parameters and their card as a folder that `load_prior` takes.

    Args:
        folder: is replaced if it has a prior in it.
        params: nested dict of arrays, of any floating type.
        card: plain data with `name`, `architecture` (`convert.describe`),
            `noise_schedule` and `num_train_steps`.

    Raises:
        ValueError: if the folder has something else in it.
    """
    folder = pathlib.Path(folder).absolute()
    if folder.exists():
        # Orbax begins with a `params.` of another ending, which an interruption
        # leaves.
        others = {
            entry.name
            for entry in folder.iterdir()
            if not entry.name.startswith(('params', 'card.json'))
        }
        if others:
            raise ValueError(
                f'{folder} must be a new or empty folder, or one with a prior '
                f'to replace, but it has {min(others)} in it.'
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    with ocp.PyTreeCheckpointer() as checkpointer:
        checkpointer.save(folder / 'params', params)
    # Last, since its presence says that the folder is complete.
    text = json.dumps(card, indent=2) + '\n'
    (folder / 'card.json').write_text(text)


def _restore(folder: pathlib.Path, dtype, remat) -> NetworkPrior:
    card = Card.read(folder)
    network = convert.network_from_description(
        card['architecture'], dtype=dtype, remat=remat
    )
    with ocp.PyTreeCheckpointer() as checkpointer:
        metadata = checkpointer.metadata(folder / 'params').item_metadata
        # As NumPy arrays, so that a checkpoint does not ask for the devices
        # that it was written on.
        numpy_args = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray), metadata.tree
        )
        params = checkpointer.restore(
            folder / 'params', restore_args=numpy_args
        )
    return NetworkPrior(
        params=jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float32), params
        ),
        network=network,
        noise_schedule=card['noise_schedule'],
        num_train_steps=card['num_train_steps'],
        card=card,
    )
