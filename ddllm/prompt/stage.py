"""The stage `prompt`: distilled text and real examples in prompts of GPT-family models."""

from pathlib import Path

from ddllm.artefact.base import Distilled
from ddllm.artefact.rows import TEXT
from ddllm.prompt.evaluate import evaluate_prompts
from ddllm.run import Run, load_scored, record
from ddllm.text.stage import folder_name


def prompt(run: Run) -> None:
    """Few-shot prompts out of distilled text and of real examples, answered by language models: the list "prompt" of the results."""

    def own() -> Distilled | Path:
        if run.distilled is not None and run.distilled.is_file():
            return run.distilled
        distilled = load_scored(run)[1]
        # A text is read as it was written, not as the tokens nearest to its embeddings.
        return run.distilled / TEXT if run.distilled is not None and "route" in distilled.card else distilled

    # Texts of a set with a name of its own lie in a folder of that name (see text/stage.py).
    texts = run.workdir.text / folder_name(run.name) if run.distilled is not None and run.distilled.is_dir() else run.workdir.text
    rows = evaluate_prompts(run.prepared, run.workdir.prompt, texts, own, run.metrics)
    record(run, [], {"prompt": rows})
