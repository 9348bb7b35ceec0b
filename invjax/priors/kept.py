"""Kept priors: folders that are written whole or not at all, and checked.

    card.json   what the prior is: plain data
    params/     its parameters, an Orbax checkpoint

Something new is written beside what is there, brought to the disk, and then
takes its place by the renaming of one file, `card.json`, which names the folder
of its parameters. Only then the old is removed. So an interruption or a full
disk leaves what was there, and a folder without a card that can be read is no
prior.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import re
import secrets
import shutil
import time

import flax.traverse_util
import jax
import numpy as np

from invjax.priors import convert, families
from invjax.priors.excerpts import excerpt

_CARD = 'card.json'
_CARD_FIELDS = ('name', 'architecture', 'num_train_steps')
_MAX_CARD = 1_000_000  # bytes
# The fields that say how the parameters are used; a checksum covers them too.
_USED_FIELDS = (
    'architecture',
    'noise_schedule',
    'num_train_steps',
    'rescale_timesteps',
)
# And of cards that name a family, other than guided-diffusion's.
_FAMILY_FIELDS = ('family', 'image_shape', 'parametrisation', 'noise_levels')
CHECKSUM = 'prior_sha256'

# What this module, and Orbax inside of it, put into a folder.
_PARAMS = re.compile(r'params(-[0-9a-f]{8})?')
# Of an earlier version, where it was interrupted.
_INTERRUPTED = re.compile(r'params\.orbax-checkpoint-tmp(-\d+)?')
_PRIVATE = re.compile(r'\.writing-[0-9a-f]{8}')
_ORBAX = re.compile(
    r'_CHECKPOINT_METADATA|_METADATA|_sharding|commit_success\.txt|descriptor'
    r'|array_metadatas|manifest\.ocdbt|d|ocdbt\.process_\d+'
)
# After which what an interrupted writer left is removed, in seconds.
_STALE = 24 * 3600


def save_prior(folder: str | os.PathLike, params: dict, card: dict) -> None:
    """Keep parameters and their card as a folder that `load_prior` takes.

    Args:
        folder: is replaced if it has a prior in it, once the new one is whole.
        params: nested dict of arrays, of any floating type.
        card: plain data with `name`, `architecture` (`convert.describe`),
            `noise_schedule` and `num_train_steps`, or with `name` and what
            `families.describe` gives; it gets a checksum.

    Raises:
        ValueError: if the folder has something else in it, if parameters are
            NaN or infinite, or if it cannot be written; what was there is then
            as it was.
    """
    write(pathlib.Path(folder).absolute(), params, card, replace=True)


def write(
    folder: pathlib.Path, params: dict, card: dict, replace: bool
) -> None:
    """`save_prior`; without `replace`, one that is there by now stays."""
    params = jax.tree.map(np.asarray, params)
    convert.refuse_nonfinite(flax.traverse_util.flatten_dict(params))
    refuse_foreign(folder)
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Of this process alone: two may convert the same file at once.
        private = folder / f'.writing-{secrets.token_hex(4)}'
        private.mkdir()
    except OSError as error:
        raise ValueError(_unwritable(folder, error)) from None
    try:
        num_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
        if shutil.disk_usage(folder).free < num_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            import orbax.checkpoint as ocp

            # By this process alone, also where it is one of several.
            alone = ocp.options.MultiprocessingOptions()
            if jax.process_count() > 1:
                alone = ocp.options.MultiprocessingOptions(
                    primary_host=jax.process_index(),
                    active_processes={jax.process_index()},
                    barrier_sync_key_prefix=private.name,
                )
            handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=alone)
            checkpointer = ocp.Checkpointer(
                handler, multiprocessing_options=alone
            )
            with _without_log(), checkpointer:
                checkpointer.save(private / 'params', params)
        except Exception:
            _remove_until_quiet(private)
            raise
        with _locked(folder):
            if replace or not has_checksum(folder):
                _put_in_place(private, folder, card)
    # Where the disk is full, Orbax raises more than OSError.
    except Exception as error:
        raise ValueError(_unwritable(folder, error)) from error
    finally:
        _remove(private)
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # which only an empty one is


def _unwritable(folder: pathlib.Path, error: Exception) -> str:
    reason = getattr(error, 'strerror', None) or type(error).__name__
    return (
        f'{folder} could not be written ({reason}); it must be a folder that '
        'can be written, with space for the parameters.'
    )


@contextlib.contextmanager
def _without_log():
    """Keep Orbax's account of a failure, a hundred lines, off the terminal."""
    logger = logging.getLogger('absl')
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _remove(folder: pathlib.Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _remove_until_quiet(folder: pathlib.Path) -> None:
    """Remove a folder that a failed save of Orbax may write into for a while.

    Its threads go on below Orbax after it raised, and make the folder anew; so
    it is gone when it has not been seen for a second.
    """
    last_seen = begin = time.monotonic()
    while time.monotonic() < min(last_seen + 1, begin + 10):
        if folder.exists():
            _remove(folder)
            last_seen = time.monotonic()
        time.sleep(0.02)


def _put_in_place(
    private: pathlib.Path, folder: pathlib.Path, card: dict
) -> None:
    """Move what was written, and then remove what it replaces."""
    name = 'params'
    if (folder / name).exists():
        name = f'params-{secrets.token_hex(4)}'
    card = {k: v for k, v in card.items() if k not in ('params', CHECKSUM)}
    card[CHECKSUM] = checksum(private / 'params', card)
    if name != 'params':
        card['params'] = name
    (private / _CARD).write_text(json.dumps(card, indent=2) + '\n')
    _sync_tree(private)
    (private / 'params').rename(folder / name)
    try:
        _sync(folder)
        # From here on the folder is the new prior.
        (private / _CARD).replace(folder / _CARD)
    except OSError:
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    _sync(folder)
    for entry in folder.iterdir():
        replaced = entry.name != name and (
            _PARAMS.fullmatch(entry.name) or _INTERRUPTED.fullmatch(entry.name)
        )
        left = _PRIVATE.fullmatch(entry.name) and entry.name != private.name
        if replaced or (left and _is_stale(entry)):
            shutil.rmtree(entry, ignore_errors=True)


def _is_stale(entry: pathlib.Path) -> bool:
    try:
        return time.time() - entry.stat().st_mtime > _STALE
    except OSError:
        return False  # its writer has just finished


def _sync_tree(folder: pathlib.Path) -> None:
    for parent, _, files in os.walk(folder):
        for name in files:
            _sync(pathlib.Path(parent, name))
        _sync(parent)


def _sync(path: str | os.PathLike) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(folder: pathlib.Path):
    """Hold a folder for one process at a time, where the disk has locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def refuse_foreign(folder: str | os.PathLike) -> None:
    """Raise a ValueError if a folder has in it what is not a prior's."""
    folder = pathlib.Path(folder).absolute()
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f'{folder} must be a folder, but it is a file.')
    foreign = sorted(
        entry.name for entry in folder.iterdir() if not _is_ours(entry)
    )
    if foreign:
        raise ValueError(
            f'{folder} must be a new or empty folder, or one with a prior '
            f'to replace, but it has {excerpt(foreign[0])} in it.'
        )


def _is_ours(entry: pathlib.Path) -> bool:
    """Whether an entry of a folder is what `write` puts there."""
    if _PRIVATE.fullmatch(entry.name) or _INTERRUPTED.fullmatch(entry.name):
        return entry.is_dir()
    if _PARAMS.fullmatch(entry.name):
        return entry.is_dir() and all(
            _ORBAX.fullmatch(inner.name) for inner in entry.iterdir()
        )
    if entry.name != _CARD or not entry.is_file():
        return False
    if is_kept(entry.parent):
        return True
    # A card that was cut short stands beside the parameters that it is of.
    try:
        json.loads(entry.read_text())
    except ValueError:
        return (entry.parent / 'params' / '_METADATA').is_file()
    return False


def is_kept(folder: pathlib.Path) -> bool:
    """Whether a folder has a card that can be read, and parameters."""
    try:
        return _params_folder(folder, read_card(folder)).is_dir()
    except ValueError:
        return False


def has_checksum(folder: pathlib.Path) -> bool:
    """Whether it is kept, and by a version that wrote checksums."""
    return is_kept(folder) and CHECKSUM in read_card(folder)


def read_card(folder: pathlib.Path) -> dict:
    """The card of a kept prior.

    Raises:
        ValueError: there is none, or it cannot be read.
    """
    path = folder / _CARD
    try:
        if path.stat().st_size > _MAX_CARD:
            raise ValueError('too long')
        card = json.loads(path.read_text())
        needed = _FAMILY_FIELDS if 'family' in card else ('noise_schedule',)
        missing = [n for n in (*_CARD_FIELDS, *needed) if n not in card]
        if not isinstance(card, dict) or missing:
            raise ValueError('fields are missing')
    # Damaged text raises nearly anything.
    except Exception as error:
        raise ValueError(
            f'{folder} is no prior: its {_CARD} cannot be read '
            f'({type(error).__name__}); convert the weights again.'
        ) from None
    return card


def _params_folder(folder: pathlib.Path, card: dict) -> pathlib.Path:
    name = card.get('params', 'params')
    if not isinstance(name, str) or not _PARAMS.fullmatch(name):
        raise ValueError(f'{folder} is no prior: its {_CARD} is damaged.')
    return folder / name


def checksum(params_folder: pathlib.Path, card: dict) -> str:
    """SHA-256 of the files of parameters and of how a card says to use them.

    Of the files rather than of the numbers: so damage is noticed before
    anything is made of it.

    Args:
        params_folder: that Orbax wrote. What a file manager adds to it, names
            that begin with a dot, does not matter.
        card: other fields than `_USED_FIELDS` do not matter.
    """
    used = {name: card.get(name) for name in _USED_FIELDS}
    used |= {name: card[name] for name in _FAMILY_FIELDS if name in card}
    digest = hashlib.sha256(json.dumps(used, sort_keys=True).encode())
    files = {
        path.relative_to(params_folder).as_posix(): path
        for path in params_folder.rglob('[!.]*')
        if path.is_file()
    }
    for name in sorted(files):
        with files[name].open('rb') as file:
            content = hashlib.file_digest(file, 'sha256').hexdigest()
        digest.update(f'{name} {content}\n'.encode())
    return digest.hexdigest()


def read(folder: pathlib.Path) -> tuple[dict, dict]:
    """The parameters of a kept prior, NumPy arrays as they are kept; its card.

    Raises:
        ValueError: it is damaged: it cannot be read, does not have the shapes
            of its architecture, or does not have its checksum.
    """
    folder = folder.absolute()  # as Orbax needs it
    card = read_card(folder)
    params_folder = _params_folder(folder, card)
    again = 'remove it and convert the weights again.'
    if CHECKSUM in card and card[CHECKSUM] != checksum(params_folder, card):
        raise ValueError(
            f'{folder} is damaged: its parameters and its card do not have the '
            f'checksum that the card says; {again}'
        )
    try:
        if 'family' in card:
            shapes = families.flax_shapes(card)
        else:
            network = convert.network_from_description(card['architecture'])
            shapes = convert.flax_shapes(network)
        params = _read_params(params_folder, shapes)
    # Orbax and what is below it raise nearly anything.
    except Exception as error:
        raise ValueError(
            f'{folder} is damaged: its parameters cannot be read '
            f'({excerpt(str(error)) or type(error).__name__}); {again}'
        ) from None
    leaves = flax.traverse_util.flatten_dict(params)
    try:
        convert.refuse_nonfinite(leaves)
    except ValueError as error:
        raise ValueError(f'{folder}: {error}') from None
    return params, card


def _read_params(folder: pathlib.Path, shapes: dict) -> dict:
    """The arrays that Orbax wrote, by TensorStore, which it writes them with.

    Orbax itself takes half a second to import and to look at them.
    """
    import tensorstore as ts

    metadata = json.loads((folder / '_METADATA').read_text())
    if not metadata['use_ocdbt']:
        raise ValueError('they are not kept as this version keeps them')
    context = ts.Context()

    def opened(path):
        spec = {
            'driver': 'zarr3' if metadata['use_zarr3'] else 'zarr',
            'kvstore': {
                'driver': 'ocdbt',
                'base': f'file://{folder}/',
                'path': '.'.join(path) + '/',
            },
            # A part that is not there would be read as zeros.
            'fill_missing_data_reads': False,
        }
        return ts.open(spec, read=True, open=True, context=context)

    paths = [
        tuple(part['key'] for part in entry['key_metadata'])
        for entry in metadata['tree_metadata'].values()
    ]
    waiting = {path: opened(path) for path in paths}
    stores = {path: store.result() for path, store in waiting.items()}
    # Before it is read, since a damaged shape may ask for any memory.
    if {path: store.shape for path, store in stores.items()} != shapes:
        raise ValueError('they do not fit the architecture on the card')
    reads = {path: store.read() for path, store in stores.items()}
    return flax.traverse_util.unflatten_dict(
        {path: read.result() for path, read in reads.items()}
    )
