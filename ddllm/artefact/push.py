"""A folder on a hub: `push` makes a data-set repository of it by `huggingface_hub`."""

from os.path import expanduser
from pathlib import Path
from typing import Any

from ddllm.artefact.folder import FILES, load_distilled
from ddllm.errors import UserError


def push(folder: str | Path, repo_id: str, private: bool = False, token: str | None = None, endpoint: str | None = None) -> str:
    """Upload a distilled data set, its own files alone, and return the address.

    Args:
        folder: of the data set; it is loaded first, so that nothing broken is published.
        repo_id: "owner/name"; made where it is not there yet.
        private: whether only its owner sees a new one.
        token: of the hub's account; left out, the one that `hf auth login` stored.
        endpoint: address of another hub than Hugging Face's.

    Raises:
        UserError: the folder is broken, or the hub refused or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, HTTPError, LocalTokenNotFoundError  # pyright: ignore[reportPrivateImportUsage]

    examples = load_distilled(folder).data.examples
    api: Any = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        message = f"Distilled data set, {examples} examples"
        api.upload_folder(
            repo_id=repo_id, folder_path=expanduser(folder), repo_type="dataset", allow_patterns=list(FILES), commit_message=message
        )
    except HFValidationError as error:
        raise UserError(f"{repo_id!r} is no possible name of a repository ({error}); give owner/name.") from None
    except LocalTokenNotFoundError:
        raise UserError("there is no account to upload with; run `hf auth login`, or give a token.") from None
    except (HTTPError, OSError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise UserError(f"{repo_id} could not be uploaded: {reason}; check name, token and network, and call it again.") from error
    return f"{api.endpoint}/datasets/{repo_id}"
