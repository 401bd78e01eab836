"""The stage `verify`: whether a folder reaches what its card says."""



from ddllm.artefact.verify import verify_distilled
from ddllm.run import Run, load_scored
from ddllm.runtime.progress import say


def verify(run: Run) -> None:
    """Train on the distilled data set again and compare with its card.

    Raises:
        ScoreDiffers: it does not reach what the card says.
    """
    prepared, distilled = load_scored(run)
    say(verify_distilled(prepared, distilled, str(run.distilled or run.workdir.distilled)))
