"""A quick check that a model of the Hugging Face Hub is available, without loading it.

Where the Hub does not answer, the libraries that load a model request each of its files anew, for a minute and more.
"""

from pathlib import Path

from safereason.errors import InputError, one_line

SECONDS_TO_ANSWER = 10.0
"""Seconds to wait for an answer of the Hub."""
FILES = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""Files of which one is in the cache where a model was loaded before."""
SNAPSHOT = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
"""Files of a model that are downloaded with a revision; pickled weights are none of them."""


def is_id(name: str) -> bool:
    """Whether a name has the form of a Hub id, `org/name`."""
    return name.count("/") == 1 and not name.startswith((".", "/"))


def snapshot(hub_id: str, revision: str) -> str:
    """The folder of a revision in the cache of the Hub's client, downloaded where it is not there.

    Raises:
        InputError: The Hub cannot be reached, or has no such model or revision for this token.
    """
    from huggingface_hub import snapshot_download

    try:
        return str(
            snapshot_download(hub_id, revision=revision, allow_patterns=list(SNAPSHOT), etag_timeout=SECONDS_TO_ANSWER)
        )
    # Errors come from the client or from its HTTP library, which changes between versions.
    except Exception as error:
        raise InputError(_why_not(f"{hub_id}@{revision}", error)) from error


def check(location: str, revision: str | None = None) -> None:
    """Refuses a Hub id that neither the cache nor the Hub has. A folder passes.

    The Hub's client reads `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`.

    Args:
        location: A folder, or a Hub id `org/name`.
        revision: Branch, tag or commit of the Hub id.

    Raises:
        InputError: The Hub cannot be reached, or has no such model for this token.
    """
    if Path(location).is_dir():
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    # The cache comes first: a model that is there loads without a network.
    if any(isinstance(try_to_load_from_cache(location, name, revision=revision), str) for name in FILES):
        return
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{location}: is not in the cache of the Hub's client, and HF_HUB_OFFLINE forbids to fetch it; "
            "unset that, or name a folder that holds the model"
        )
    try:
        HfApi().model_info(location, revision=revision, timeout=SECONDS_TO_ANSWER)
    # Errors come from the client or from its HTTP library, which changes between versions.
    except Exception as error:
        raise InputError(_why_not(location, error)) from error


def _why_not(location: str, error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status is None:
        return (
            f"{location}: is not in the cache of the Hub's client, and the Hub cannot be reached ({one_line(error)}); "
            "check the network, or name a folder that holds the model"
        )
    return (
        f"{location}: the Hub has no such model for you (HTTP {status}); check the name, accept its terms at "
        f"https://huggingface.co/{location} where it has some, and set HF_TOKEN to a token of yours"
    )
