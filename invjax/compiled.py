"""Compiled programs are kept on disk, so that a second run starts at once.

JAX keeps what it compiles under a name that it makes of the lowered program, so
every process traces and lowers it again, which takes seconds for a network. A
binary that makes one picture finds its programs by what they are made of
(`find`): the sources, the versions, the machine, and the kinds of arguments.
"""

import contextlib
import dataclasses
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import pickle
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental.compilation_cache import compilation_cache

# How long a program took to load, for `jax.monitoring`.
LOADED = '/invjax/compiled/load_duration'

_PACKAGE = pathlib.Path(__file__).parent
# Rooms of which nothing is ever compiled: a change there makes no new program.
_NOT_COMPILED = ('commandline', 'comparison', 'report', 'study', 'training')
_VERSIONS = ('jax', 'jaxlib', 'flax', 'numpy', 'optax', 'dm-pix')
# Programs, of some megabytes each; the least recently used go first.
_MOST_KEPT = 32


def keep_programs() -> None:
    """Let JAX keep what it compiles, where the user has chosen no folder.

    The folder is `$JAX_COMPILATION_CACHE_DIR`, or `invjax/compiled` in the
    user's cache: one for binaries, tests and Python. JAX looks once, at its
    first compilation, so this is called on import.
    """
    if jax.config.values['jax_compilation_cache_dir'] is None:
        folder = _user_cache() / 'invjax' / 'compiled'
        jax.config.update('jax_compilation_cache_dir', str(folder))


def _user_cache() -> pathlib.Path:
    if os.environ.get('XDG_CACHE_HOME'):
        return pathlib.Path(os.environ['XDG_CACHE_HOME'])
    try:
        return pathlib.Path.home() / '.cache'
    except RuntimeError:  # A process of a user without a home.
        return pathlib.Path(tempfile.gettempdir())


_finds = False
_found: dict[str, Callable] = {}


def find_without_tracing() -> None:
    """Let `find` do so in this process, which runs the sources as they are.

    Not for notebooks and tests, which redefine functions: a program that is
    found by its sources would not know of it.
    """
    global _finds
    _finds = True


class _UnknownError(Exception):
    """Something may make a program another one, and has no words for it."""


def find(jitted, *args: Any, **static: Any) -> Callable:
    """The program of a jitted function for arguments of these kinds.

    Where `find_without_tracing` was called, it is loaded, without tracing, if an
    earlier process has kept it, and else compiled and kept. Elsewhere, and for
    arguments that plain words do not tell apart (functions of a user, several
    devices), it is the jitted function itself.

    Args:
        jitted: what `jax.jit` made of a function of this package.
        *args: pytrees; shapes, types and structure count.
        **static: the static arguments.

    Returns:
        A function of `args` alone. It gives away what `jitted` donates.
    """
    plain = functools.partial(jitted, **static)
    folder = _folder()
    if folder is None:
        return plain
    try:
        name = _name(jitted, args, static)
    except _UnknownError:
        return plain
    if name not in _found:
        path = folder / f'{name}.program'
        _found[name] = _load(path, args) or _compile(path, jitted, args, static)
    return _found[name]


def _folder() -> pathlib.Path | None:
    """Where whole programs are kept; None where none are to be."""
    values = jax.config.values
    folder = values['jax_compilation_cache_dir']
    if not (_finds and folder and values['jax_enable_compilation_cache']):
        return None
    # JAX can keep what it compiles in a store of a cloud, too.
    return None if '://' in folder else pathlib.Path(folder) / 'whole'


def _load(path: pathlib.Path, args) -> Callable | None:
    """A program that is kept; None where there is none that can be loaded.

    The folder is trusted as JAX's own is, whose files are run as well.
    """
    # It takes a tenth of a second to import.
    from jax.experimental import serialize_executable

    start = time.perf_counter()
    try:
        payload, out_tree = pickle.loads(path.read_bytes())
        program = serialize_executable.deserialize_and_load(
            payload, jax.tree.structure((args, {})), out_tree
        )
        os.utime(path)
    # What is damaged, or of another version, raises nearly anything.
    except Exception:
        return None
    seconds = time.perf_counter() - start
    jax.monitoring.record_event_duration_secs(LOADED, seconds)
    return program


def _compile(path: pathlib.Path, jitted, args, static) -> Callable:
    from jax.experimental import serialize_executable

    lowered = jitted.lower(*args, **static)
    with _without_cache():
        program = lowered.compile()
    try:
        payload, _, out_tree = serialize_executable.serialize(program)
        _write(path, pickle.dumps((payload, out_tree)))
    # Of a backend that cannot, or of a disk; the program itself is as good.
    except Exception:
        pass
    return program


@contextlib.contextmanager
def _without_cache():
    """Compile anew, whatever JAX's own cache has.

    What comes out of it cannot be kept a second time: a program of the CPU has
    lost its functions when it is written again.
    """
    # JAX looks at its setting when it sets up its cache, and not again.
    jax.config.update('jax_enable_compilation_cache', False)
    compilation_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update('jax_enable_compilation_cache', True)
        compilation_cache.reset_cache()


def _write(path: pathlib.Path, content: bytes) -> None:
    """Put a file in place whole, and remove what was not used for longest."""
    path.parent.mkdir(parents=True, exist_ok=True)
    private = path.with_suffix(f'.{secrets.token_hex(4)}')
    try:
        private.write_bytes(content)
        private.replace(path)
    finally:
        private.unlink(missing_ok=True)
    kept = sorted(path.parent.iterdir(), key=lambda p: p.stat().st_mtime)
    for old in kept[:-_MOST_KEPT]:
        old.unlink(missing_ok=True)


def _name(jitted, args, static) -> str:
    """A program's name: a hash of all that it depends on.

    Raises:
        _UnknownError: for what has no words that are surely its own.
    """
    leaves, tree = jax.tree.flatten(args)
    parts = [
        _environment(),
        *(f'{n}={v!r}' for n, v in sorted(jax.config.values.items())),
        _words(jitted.__wrapped__),
        *(f'{n}={_words(v)}' for n, v in sorted(static.items())),
        _words_of_tree(tree),
        *map(_words_of_leaf, leaves),
    ]
    return hashlib.sha256('\n'.join(parts).encode()).hexdigest()


@functools.cache
def _environment() -> str:
    """Sources, versions and the machine."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob('*.py')):
        parts = path.relative_to(_PACKAGE).parts
        if parts[0] not in _NOT_COMPILED:
            digest.update(f'{"/".join(parts)}\n'.encode())
            digest.update(path.read_bytes())
    devices = jax.devices()
    return '\n'.join(
        [
            digest.hexdigest(),
            sys.version,
            *(f'{n} {importlib.metadata.version(n)}' for n in _VERSIONS),
            *(
                f'{n}={os.environ.get(n)}'
                for n in ('XLA_FLAGS', 'LIBTPU_INIT_ARGS')
            ),
            f'{len(devices)} {devices[0].platform} {devices[0].device_kind}',
            str(devices[0].client.platform_version),
            *_processor(),
        ]
    )


def _processor() -> list[str]:
    """What the machine's code depends on: the processor, and how many of it."""
    try:
        lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    kind = {line for line in lines if line.startswith(('flags', 'model name'))}
    return [platform.machine(), str(os.cpu_count()), *sorted(kind)]


def _words_of_leaf(leaf) -> str:
    if isinstance(leaf, jax.core.Tracer):
        raise _UnknownError('what is traced')
    here = {jax.devices()[0]}
    if isinstance(leaf, jax.Array) and leaf.sharding.device_set != here:
        raise _UnknownError('an array on another device')
    kind = jax.typeof(leaf)
    return f'{kind.dtype} {kind.shape} {kind.weak_type}'


_NONE, _LEAF = jax.tree.structure(None), jax.tree.structure(0)


def _words_of_tree(tree) -> str:
    """The structure of a pytree, with all that is static in it."""
    if tree == _NONE:
        return 'None'
    if tree == _LEAF:
        return '*'
    kind, static = tree.node_data()
    parts = map(_words_of_tree, tree.children())
    return f'{_words(kind)}[{_words(static)}]({", ".join(parts)})'


def _words(value) -> str:
    """Words for plain data and for what packages define, unlike all others'."""
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return f'{type(value).__name__} {value!r}'
    if type(value) in (tuple, list):
        return f'{type(value).__name__}({", ".join(map(_words, value))})'
    if type(value) is dict:
        pairs = (f'{_words(k)}: {_words(v)}' for k, v in value.items())
        return f'dict({", ".join(pairs)})'
    if isinstance(value, np.dtype):
        return f'dtype {value}'
    if hasattr(value, '__qualname__'):
        return _words_of_definition(value)
    if dataclasses.is_dataclass(value):
        fields = (
            f'{field.name}={_words(getattr(value, field.name))}'
            for field in dataclasses.fields(value)
        )
        return f'{_words_of_definition(type(value))}({", ".join(fields)})'
    raise _UnknownError(repr(value))


def _words_of_definition(value) -> str:
    """Where a class or function is defined, if its sources are all it is."""
    module, name = value.__module__, value.__qualname__
    root = module.partition('.')[0]
    if root not in ('invjax', 'builtins', 'numpy', 'jax', 'flax', 'ml_dtypes'):
        raise _UnknownError(repr(value))
    found = getattr(sys.modules.get(module), name, None)
    # A jitted function stands there in place of what it is of.
    if found is not value and getattr(found, '__wrapped__', 0) is not value:
        raise _UnknownError(repr(value))
    return f'{module}.{name}'
