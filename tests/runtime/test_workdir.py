"""One folder, one run: resuming, refusing, locking."""

import copy
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from ddllm.config import default_config, resolve
from ddllm.errors import UserError
from ddllm.runtime.workdir import Workdir, read_json, write_json

CONFIG = resolve(default_config())


def changed(**values):
    config = copy.deepcopy(CONFIG)
    for key, value in values.items():
        section, name = key.split("__")
        assert config[section][name] != value
        config[section][name] = value
    return config


def begin(path: Path, config):
    with Workdir.open(path, config, "") as workdir:
        workdir.metrics.touch()


def test_new_folder_keeps_the_configuration_and_the_commands(tmp_path: Path):
    for command in ("first", "second"):
        with Workdir.open(tmp_path / "runs" / "one", CONFIG, command) as workdir:
            assert read_json(workdir.config) == CONFIG
    lines = (workdir.path / "commands.txt").read_text().splitlines()
    assert [line.split()[-1] for line in lines] == ["first", "second"]
    assert workdir.contents() == [("configuration", workdir.config)]


def test_nothing_computed_is_no_run(tmp_path: Path):
    with Workdir.open(tmp_path, CONFIG, "") as workdir:
        workdir.keep_origin({"corpus": "a"})
    with Workdir.open(tmp_path, changed(data__text_column="review"), "") as workdir:
        assert read_json(workdir.config)["data"]["text_column"] == "review"
        workdir.keep_origin({"corpus": "b"})


def test_keys_without_effect_may_differ(tmp_path: Path):
    begin(tmp_path, CONFIG)
    Workdir.open(tmp_path, changed(runtime__devices=3, distill__checkpoint_every=7, distill__checkpoints_kept=9), "").close()
    Workdir.open(tmp_path, changed(continual__methods=["recipe"], continual__seeds=4), "").close()


def test_what_analyses_are_asked_for_may_differ(tmp_path: Path):
    earlier = copy.deepcopy(CONFIG)
    del earlier["privacy"]["shadows"]  # a key that came later
    begin(tmp_path, earlier)
    Workdir.open(tmp_path, changed(privacy__shadows=8, privacy__texts=10, evaluate__transfer=["x"], evaluate__variation_draws=2), "").close()
    with pytest.raises(UserError, match=r"configuration: evaluate\.heads is 100 there and 7 here\. Use"):
        Workdir.open(tmp_path, changed(privacy__shadows=8, evaluate__heads=7), "")


def test_a_key_of_a_later_version_is_no_difference_at_its_default(tmp_path: Path):
    earlier = copy.deepcopy(CONFIG)
    del earlier["merge"]["tasks"], earlier["distill"]["second_moment"]
    begin(tmp_path, earlier)
    Workdir.open(tmp_path, CONFIG, "").close()
    with pytest.raises(UserError, match=r"distill\.second_moment is 'absent' there and 0\.5 here"):
        Workdir.open(tmp_path, changed(distill__second_moment=0.5), "")


def test_what_fine_tuning_does_not_depend_on_may_change_until_more_is_computed(tmp_path: Path):
    with Workdir.open(tmp_path, CONFIG, "") as workdir:
        workdir.finetune.mkdir()
        workdir.metrics.touch()
        write_json(workdir.results, {"config": CONFIG, "rows": [{"name": "full"}], "environment": {}})
    later = changed(distill__outer_steps=7, evaluate__heads=3)
    with Workdir.open(tmp_path, later, "") as workdir:
        assert read_json(workdir.config) == later
    for other, key in ((changed(finetune__rate=7.0), "finetune.rate"), (changed(evaluate__metric="f1_macro"), "evaluate.metric")):
        with pytest.raises(UserError, match=rf"{key} is .* there and"):
            Workdir.open(tmp_path, other, "")
    write_json(workdir.results, {"config": CONFIG, "rows": [{"name": "full"}, {"name": "random"}], "environment": {}})
    with pytest.raises(UserError, match=r"distill\.outer_steps is 7 there and 3000 here"):
        Workdir.open(tmp_path, CONFIG, "")
    write_json(workdir.results, {"config": CONFIG, "rows": [{"name": "full"}], "environment": {}})
    workdir.checkpoints.mkdir()
    with pytest.raises(UserError, match=r"distill\.outer_steps is 7 there and 3000 here"):
        Workdir.open(tmp_path, CONFIG, "")


def test_another_configuration_is_refused_by_its_keys(tmp_path: Path):
    begin(tmp_path, CONFIG)
    with pytest.raises(UserError, match=r"distill\.outer_steps is 3000 there and 7 here\. Use another --workdir or remove the folder"):
        Workdir.open(tmp_path, changed(distill__outer_steps=7), "")
    lacking = copy.deepcopy(CONFIG)
    del lacking["data"]["length"]
    with pytest.raises(UserError, match=r"data\.length is 512 there and 'absent' here"):
        Workdir.open(tmp_path, lacking, "")
    many = changed(
        **{f"distill__rate_{name}": 5.0 for name in ("embeddings", "labels", "rates", "head")},
        data__seed=5,
        data__length=5,
        model__name="x",
    )
    with pytest.raises(UserError, match=r"\(and 2 more keys\)") as caught:
        Workdir.open(tmp_path, many, "")
    assert str(caught.value).count(" there and ") == 5
    # A refused start must not keep the folder locked.
    Workdir.open(tmp_path, CONFIG, "").close()


def test_foreign_folders_are_refused(tmp_path: Path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not a run's folder"):
        Workdir.open(tmp_path, CONFIG, "")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    for path in (tmp_path / "thesis.tex", tmp_path / "thesis.tex" / "run"):
        with pytest.raises(UserError, match="is a file, not a folder"):
            Workdir.open(path, CONFIG, "")


def test_start_killed_before_its_configuration_was_written(tmp_path: Path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.abc.json").touch()
    Workdir.open(tmp_path, CONFIG, "").close()


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder that nobody may write in")
def test_unwritable_folder_is_refused():
    with pytest.raises(UserError, match="/proc/ddllm/run cannot be"):
        Workdir.open("/proc/ddllm/run", CONFIG, "")


def hold(path: Path, ready) -> None:
    workdir = Workdir.open(path, CONFIG, "")
    ready.set()
    signal.pause()
    workdir.close()


def test_lock_lasts_as_long_as_the_process(tmp_path: Path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    process = context.Process(target=hold, args=(tmp_path, ready))
    process.start()
    try:
        assert ready.wait(60)
        with pytest.raises(UserError, match="Another run is working in"):
            Workdir.open(tmp_path, CONFIG, "")
    finally:
        process.kill()
        process.join()
    Workdir.open(tmp_path, CONFIG, "").close()
