"""Files of the Hugging Face hub."""


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
