"""The table as a person sees it."""

import io

import pytest
from rich.console import Console

from ddllm.report.analyses import markdown_analyses, print_analyses
from ddllm.report.table import markdown_table, print_table

ROWS = [
    {
        "name": "full",
        "examples_per_class": None,
        "accuracy_mean": 0.8213,
        "accuracy_std": 0.0,
        "runs": 1,
        "seconds": 412.4,
        "percent_of_full": 100.0,
    }
    | {"note": "3 epochs of AdamW, parameters chosen on validation"},
    {
        "name": "random",
        "examples_per_class": 3,
        "accuracy_mean": 0.5531,
        "accuracy_std": 0.031,
        "runs": 5,
        "seconds": 1.2,
        "percent_of_full": 67.34,
    }
    | {"head": "redrawn", "inner_steps": 3, "floats": None},
    {
        "name": "distilled",
        "examples_per_class": 3,
        "accuracy_mean": 0.788,
        "accuracy_std": 0.0,
        "runs": 1,
        "seconds": 0.4,
        "percent_of_full": 95.94,
    }
    | {"head": "zero", "inner_steps": 3, "floats": 73740, "note": "the head is the same every time"},
    {"name": "distilled, redrawn heads", "examples_per_class": 3, "accuracy_mean": 0.7, "accuracy_std": 0.0123, "runs": 100, "seconds": 0.4}
    | {"percent_of_full": 85.23, "head": "redrawn", "inner_steps": 3, "floats": 73740},
]
RESULTS = {
    "config": {"data": {"source": "embedded"}, "model": {"name": "../models/my-bert"}},
    "rows": ROWS,
    "environment": {},
}


def printed(results) -> list[str]:
    file = io.StringIO()
    print_table(results, Console(file=file, width=80))
    return file.getvalue().splitlines()


def test_table_fits_eighty_columns_and_says_everything():
    lines = printed(RESULTS)
    assert max(map(len, lines)) <= 80
    assert lines[0].strip() == "Rotten Tomatoes (embedded) with my-bert"
    by_name = {line.split("  ")[0].strip(): line.split() for line in lines}
    assert by_name["full"] == ["full", "–", "–", "–", "82.1", "±", "–", "100.0", "412"]
    assert by_name["random real"] == ["random", "real", "3", "3", "–", "55.3", "±", "3.1", "(5)", "67.3", "1.2"]
    assert by_name["distilled"] == ["distilled", "3", "3", "73,740", "78.8", "±", "–", "95.9", "0.4"]
    text = " ".join(" ".join(lines).split())
    assert "70.0 ± 1.2 (100)" in text
    assert "distilled: the head is the same every time" in text


def test_numbers_are_aligned_on_the_right():
    lines = [line for line in printed(RESULTS) if "±" in line and "mean" not in line]
    assert len(lines) == len(ROWS)
    assert len({len(line.rstrip()) for line in lines}) == 1


def test_rows_of_one_name_are_told_apart_by_their_heads():
    rows = [{**ROWS[2]}, {**ROWS[3], "name": "distilled"}]
    text = markdown_table({**RESULTS, "rows": rows})
    assert "| distilled, zero head |" in text and "| distilled, redrawn head |" in text


def test_names_found_in_the_data_come_first():
    results = {**RESULTS, "environment": {"data": "SST-2", "model": "bert-base-uncased"}}
    assert printed(results)[0].strip() == "SST-2 with bert-base-uncased"


def test_every_figure_shown_has_a_column():
    rows = [row | {"f1_macro_mean": row["accuracy_mean"] - 0.1, "f1_macro_std": row["accuracy_std"]} for row in ROWS[1:]]
    results = {**RESULTS, "rows": [ROWS[0], *rows], "environment": {"figures": ["accuracy", "f1_macro"]}}
    lines = markdown_table(results).splitlines()
    assert lines[2] == "| training data | per class | inner steps | floats | accuracy, % | macro F1, % | % of full | seconds |"
    assert "| 82.1 ± – | – |" in lines[4] and "| 55.3 ± 3.1 (5) | 45.3 ± 3.1 |" in lines[5]
    wide = {**results, "rows": [row | {"floats": 1_110_838, "seconds": 1234.0} for row in results["rows"]]}
    shown = " ".join(" ".join(line.rstrip() for line in printed(wide)).split())
    assert "random real 3" in shown and "1,110,838 55.3 ± 3.1 (5) 45.3 ± 3.1 67.3 1,234" in shown and "…" not in shown and "seconds" in shown
    assert max(map(len, printed(results))) <= 80 and "Figures on the test texts" in lines[-3]


def test_markdown():
    lines = markdown_table(RESULTS).splitlines()
    assert lines[2] == "| training data | per class | inner steps | floats | accuracy, % | % of full | seconds |"
    assert lines[5] == "| random real examples | 3 | 3 | – | 55.3 ± 3.1 (5) | 67.3 | 1.2 |"
    assert lines[4] == "| full | – | – | – | 82.1 ± – | 100.0 | 412 |"
    assert all(line.count("|") == 8 for line in lines[2:8])
    assert lines[-1] == "- distilled: the head is the same every time"


ATTACK = {"auc": 0.5, "auc_low": 0.4, "auc_high": 0.6, "tpr_at_1_percent_fpr": 0.02, "members": 3, "others": 3}


@pytest.mark.parametrize("name", ["[draft] mine", "mine [/b]", ":cat: [1]"])
def test_names_are_no_markup(name):
    row = ROWS[0] | {"name": name, "note": f"like {name}"}
    results = {**RESULTS, "rows": [row], "environment": {"data": name}}
    lines = [" ".join(line.split()) for line in printed(results)]
    assert lines[0] == f"{name} with my-bert" and f"{name} – – – 82.1 ± – 100.0 412" in lines and lines[-1] == f"{name}: like {name}"
    out = io.StringIO()
    attack = {"name": name, "attack": name, "note": f"like {name}", **ATTACK}
    print_analyses({"privacy": [attack]}, Console(file=out, width=120))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert lines[0] == f"Membership inference: {name}" and f"{name} 0.500 0.400 to 0.600 2.0 % – 3 3" in lines and lines[-1] == f"{name}: like {name}"


def test_names_do_not_break_markdown_tables():
    row = ROWS[0] | {"name": "a | b\\|\nc", "note": "one\ntwo"}
    lines = markdown_table({**RESULTS, "rows": [row], "environment": {"data": "my\ndata"}}).splitlines()
    assert lines[0] == "### my data with my-bert"
    assert lines[4:] == [r"| a \| b\\\| c | – | – | – | 82.1 ± – | 100.0 | 412 |", "", r"- a | b\| c: one two"]
    attack = {"name": "my\nrow", "attack": "x|y\nz", "note": "one\ntwo", **ATTACK}
    lines = markdown_analyses({"privacy": [attack]}).splitlines()
    assert lines[1] == "### Membership inference: my row"
    assert lines[5:] == [r"| x\|y z | 0.500 | 0.400 to 0.600 | 2.0 % | – | 3 | 3 |", "", "- x|y z: one two"]


def test_attacks_fit_a_terminal_of_eighty_columns():
    rates = {"tpr_at_1_percent_fpr": 1.0, "tpr_at_0.1_percent_fpr": None}
    row = {"attack": "LiRA offline, distilled", "auc": 1.0, "auc_low": 0.998, "auc_high": 1.0, **rates, "members": 1821, "others": 1821}
    out = io.StringIO()
    print_analyses({"privacy": [{"name": "distilled", **row}]}, Console(file=out, width=80))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]
    assert "LiRA offline, 1.000 0.998 to 1.000 100.0 % – 1,821 1,821" in lines and "distilled" in lines
    assert "…" not in out.getvalue()


def prompt_row(name, count, note="", model="m"):
    figures = {"accuracy_mean": 0.5, "accuracy_std": 0.1, "uncalibrated_mean": 0.5, "uncalibrated_std": 0.1, "runs": 4}
    return {"name": "distilled", "variation": name, "examples_per_class": count, "model": model, "note": note, **figures}


def prompt_notes(rows):
    return [line[2:] for line in markdown_analyses({"prompt": rows}).splitlines() if line.startswith("- ")]


def test_a_note_stands_alone_only_where_it_holds_for_all():
    same = "the same examples in every run"
    rows = [prompt_row("no examples", 0, "m on 9 texts"), prompt_row("random", 1)] + [prompt_row("k_centers", count, same) for count in (1, 2, 4)]
    assert prompt_notes([*rows, prompt_row("random", 2)]) == ["no examples: m on 9 texts", f"k_centers: {same}"]
    # Where few lack it, these are named; of rows with the same name, what tells them apart.
    assert prompt_notes([row | {"note": row["note"] and same} for row in rows if row["variation"] != "no examples"]) == [f"all but random: {same}"]
    own = [prompt_row("theirs", 1), prompt_row("theirs", 2, same), prompt_row("random", 1), prompt_row("random", 2)]
    assert prompt_notes(own) == [f"theirs (per class 2, model m): {same}"]
    assert prompt_notes([row | {"note": same} for row in own]) == [same]


def test_a_name_stands_before_a_note_once():
    rows = [prompt_row("soft prompt, as text", None, "the nearest tokens", model) for model in ("m", "n")]
    assert prompt_notes([prompt_row("random", 1), *rows, prompt_row("random", 1, model="n")]) == ["soft prompt, as text: the nearest tokens"]


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("runs", [1, 3])
def test_every_column_of_tasks_in_turn_is_shown(width, runs):
    figures = {f"{name}_mean": 0.8494 for name in ("accuracy", "average", "forgetting", "transfer")}
    figures |= {name.replace("_mean", "_std"): 0.0121 for name in figures}
    row = {"name": "distilled", "tasks": 2, "runs": runs, **figures, "percent_of_joint": 94.4, "bytes": 102_345, "seconds": 1234.5}
    rows = [row | {"method": method, "after": 2} for method in ("elastic weight consolidation", "herding sentences alone")]
    out = io.StringIO()
    print_analyses({"continual": rows}, Console(file=out, width=width))
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= width
    shown = text.split()
    for word in ("elastic", "weight", "herding", "sentences", "alone", "memory"):
        assert word in shown, text
    if width >= 80:  # on less, words are broken too
        for word in ("accuracy,", "mean", "forgetting", "backward", "transfer", "bytes", "seconds", "102,345", "94.4", "1,234"):
            assert word in shown, text
