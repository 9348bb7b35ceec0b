"""Files of the Hugging Face hub."""

import pathlib
from collections.abc import Callable


def fetch(repository: str, filename: str) -> str:
    """The local path of a file of the hub, downloaded if need be.

    Without a network it fails at once. Which exception that is depends on the
    hub's version and its HTTP library, so callers catch every `Exception`.

    Args:
        repository: owner/name.
        filename: of the file in it.
    """
    # Imported late: only a download needs it.
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return huggingface_hub.hf_hub_download(
            repository, filename, local_files_only=True
        )
    except LocalEntryNotFoundError:
        # Without a network, a download tries for 23 s whatever its
        # etag_timeout; a look at the file's headers fails at once.
        url = huggingface_hub.hf_hub_url(repository, filename)
        huggingface_hub.get_hf_file_metadata(url, timeout=3.0)
        return huggingface_hub.hf_hub_download(repository, filename)


def fetch_folder(
    repository: str,
    choose: Callable[[list[str]], list[list[str]]],
    check: Callable[[str, bool], object],
) -> tuple[str, str]:
    """The local folder of some files of a repository, and its revision.

    What has been downloaded once is not asked for again. Exceptions are those
    of `fetch`, and what `check` raises.

    Args:
        repository: owner/name.
        choose: from the names of all its files to those that are needed: small
            ones that say what the others are, and then the others.
        check: raises a ValueError for a local folder that is not what is
            needed; with False the others are not there yet.
    """
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = huggingface_hub.snapshot_download(
            repository, local_files_only=True
        )
        check(folder, True)
        return folder, pathlib.Path(folder).name
    # Not there, or a part of it: an interrupted download leaves one.
    except (LocalEntryNotFoundError, ValueError):
        info = huggingface_hub.HfApi().model_info(repository, timeout=3.0)
    small, others = choose([file.rfilename for file in info.siblings or ()])
    if not small:
        raise ValueError('it has no files of the kind that is needed')
    folder = _download(repository, small)
    check(folder, False)
    if others:
        folder = _download(repository, others)
    check(folder, True)
    return folder, pathlib.Path(folder).name


def _download(repository: str, names: list[str]) -> str:
    """The folder in which these files of a repository are."""
    import huggingface_hub

    for name in names:
        path = huggingface_hub.hf_hub_download(repository, name)
    return str(pathlib.Path(path).parents[names[-1].count('/')])


def why_not(error: Exception) -> str:
    """What an exception of a download means, in some words."""
    return {
        'RepositoryNotFoundError': 'there is no such repository, or it is '
        'private and needs a login (HF_TOKEN)',
        'GatedRepoError': 'its owner asks for consent on its page first, and '
        'for a login (HF_TOKEN)',
    }.get(type(error).__name__, f'no connection ({type(error).__name__})')
