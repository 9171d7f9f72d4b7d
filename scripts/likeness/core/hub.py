"""Models from the Hugging Face hub."""

from collections.abc import Sequence
from pathlib import Path

from likeness.core.errors import LikenessError


def hub_folder(model: str, files: Sequence[str], not_here: str, advice: str, revision: str | None = None) -> Path:
    """The folder with files of a hub repository, from the cache if it has them. `files` are patterns.

    Raises LikenessError if the hub does not give them. The message has `not_here` (what is missing on this machine),
    the hub's reason, and `advice`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=list(files)))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        # The first line has the number of the HTTP error, the second its meaning: an unknown revision, an unknown
        # model, a gated model.
        reason = " ".join([line.strip() for line in str(error).splitlines() if line.strip()][:2])
        raise LikenessError(f"{not_here}, and the hub did not give it ({reason}); {advice}") from None
