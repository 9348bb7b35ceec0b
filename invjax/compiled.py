"""Compiled programs are kept on disk, so that a second run starts at once."""

import os
import pathlib
import tempfile

import jax


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
