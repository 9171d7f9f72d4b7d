"""Models from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from likeness.errors import LikenessError


def hub_folder(model: str, files: Sequence[str], not_here: str, advice: str, revision: str | None = None) -> Path:
    """The folder of a hub repository's files (patterns), from the cache where they are there already.

    Raises LikenessError: `not_here` (what was looked for in vain), the hub's reason, `advice`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # The number of the HTTP error comes first, then what it means: no such revision, no such model, a gated one.
        reason = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
        raise LikenessError(f"{not_here}, and the hub did not give it ({reason}); {advice}") from None
