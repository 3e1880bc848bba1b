"""Whether a model of the Hugging Face Hub can be had, said at once and without loading it.

The libraries that load a model ask for each of its files anew where the Hub does not answer, for a minute and more.
"""

from pathlib import Path

from safereason.errors import InputError, one_line

PATIENCE = 10.0
"""Seconds without an answer of the Hub."""
FILES = ("config.json", "adapter_config.json", "tokenizer_config.json")
"""One of them is in the cache where a model was loaded before."""


def check(location: str) -> None:
    """Refuses a Hub id that neither the cache nor the Hub has. A folder passes.

    The Hub's client reads `HF_TOKEN`, `HF_ENDPOINT`, `HF_HOME` and `HF_HUB_OFFLINE`.

    Args:
        location: A folder, or a Hub id `org/name`.

    Raises:
        InputError: The Hub cannot be reached, or has no such model for this token.
    """
    if Path(location).is_dir():
        return
    from huggingface_hub import HfApi, constants, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(location, name), str) for name in FILES):
        return
    if constants.HF_HUB_OFFLINE:
        raise InputError(
            f"{location}: is not in the cache of the Hub's client, and HF_HUB_OFFLINE forbids to ask for it; "
            "unset that, or name a folder that holds the model"
        )
    try:
        HfApi().model_info(location, timeout=PATIENCE)
    except Exception as error:  # of the client, or of its HTTP library
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
