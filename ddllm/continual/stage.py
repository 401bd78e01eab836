"""The stage `continual`: every method of config.continual through all tasks, for the list "continual" of the results.

    python -m ddllm.main --config configs/ag_news.py:model=embedded --mode=continual,report --config.continual.tasks="World,Sports|Business,Sci/Tech"

Pieces that are finished (a task's fine-tuning, a task's distilled set, a task's figures) are found by the next start of the same command.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ddllm.continual.course import WITH_SETS, WITH_TEXTS, Course
from ddllm.continual.keep import check_room
from ddllm.continual.lessons import Lesson, read_lessons
from ddllm.continual.measures import measure
from ddllm.prepare import Prepared
from ddllm.run import Run, record
from ddllm.runtime.processes import from_first, is_first
from ddllm.runtime.progress import say
from ddllm.runtime.storage import read_json, write_json
from ddllm.runtime.workdir import TASKS

Row = dict[str, Any]
MEASURES = ("accuracy", "average", "forgetting", "transfer")
NOTES = {
    "finetune": "no memory: the lower bound",
    "ewc": "elastic weight consolidation: two copies of the parameters, in float32",
    "random": "random texts, stored as token numbers, in as many bytes as distilled sets take",
    "herding": "texts chosen by herding, stored as token numbers, in as many bytes as distilled sets take",
    "random_alone": "trained from the pretrained weights on the random texts alone, rate and passes chosen on validation texts of all tasks so far",
    "herding_alone": "trained from the pretrained weights on the herding texts alone, rate and passes chosen on validation texts of all tasks so far",
    "distilled": "each task's distilled set replayed beside new texts",
    "recipe": "trained from the pretrained weights on the merged distilled sets alone",
    "update": "trained from the pretrained weights on one distilled set, which each task's texts have updated",
    "joint": "all texts so far, from the pretrained weights: the upper bound",
}


def continual(run: Run) -> None:
    """Tasks one after the other with every memory of config.continual: the list "continual" of the results."""
    record(run, [], {"continual": learn_in_turn(run)})


def learn_in_turn(run: Run) -> list[Row]:
    """Run all methods for all seeds, and return the rows of the list "continual"."""
    folder, prepared = run.workdir.path / "continual", run.prepared
    names, lessons = read_lessons(prepared, run.workdir.tokens)
    for number, lesson in enumerate(lessons, 1):
        say(f"  task {number}: {lesson.name}, {len(lesson.tokens.train):,} training and {len(lesson.tokens.test):,} test texts")
    run.keep_origin({TASKS: " ".join(lesson.tokens.fingerprint for lesson in lessons)})
    config = prepared.config
    wanted = [method for method in config.continual.methods]
    room = check_room(prepared, lessons) if set(wanted) & {*WITH_SETS, *WITH_TEXTS} else [config.continual.memory] * len(lessons)
    found: dict[str, list[list[Row]]] = {method: [] for method in wanted}
    for seed in range(config.seed, config.seed + config.continual.seeds):
        course = Course(seeded(prepared, seed, names), names, lessons, folder / f"seed-{seed}", run.metrics, room)
        for method in wanted:
            found[method].append(through(course, method))
    rows = summarise(found, lessons)
    say(f"  what each task left: {folder}")
    return rows


def seeded(prepared: Prepared, seed: int, names: tuple[str, ...]) -> Prepared:
    """What is prepared with a seed and a learner of all classes; fine-tuning as course.py says."""
    config = prepared.config.copy_and_resolve_references()
    with config.unlocked():
        config.seed = seed
        config.finetune.update({"train_words": False, "validations": 1})
    head = replace(prepared.learner.head, classes=len(names))
    return replace(prepared, config=config, learner=replace(prepared.learner, head=head, head_seed=seed))


def through(course: Course, method: str) -> list[Row]:
    """Figures of one method after each lesson; those that are there are not measured again."""
    course_folder = course.folder / "figures"
    paths = [course_folder / f"{method}-{number}.json" for number in range(1, len(course.lessons) + 1)]

    def read(path: Path) -> Row | None:
        return read_json(path) if path.exists() else None

    found = from_first(lambda: [read(path) for path in paths])
    if all(figures is not None for figures in found):
        return [figures for figures in found if figures is not None]

    def finished(number: int, figures: Row) -> None:
        if found[number] is None:
            found[number] = figures
            if is_first():
                course_folder.mkdir(parents=True, exist_ok=True)
                write_json(paths[number], figures)
        shown = ", ".join(f"{100 * value:.1f}" for value in figures["accuracies"])
        say(f"  {method}, seed {course.seed}, after task {number + 1}: {100 * figures['accuracy']:.1f} % ({shown} by task)")

    course.run(method, finished)
    return [figures for figures in found if figures is not None]


def summarise(found: dict[str, list[list[Row]]], lessons: list[Lesson]) -> list[Row]:
    """A row for each method and lesson: means and deviations over seeds, with joint training's accuracy as the measure of all others."""
    rows = []
    for method, seeds in found.items():
        for number in range(len(lessons)):
            runs = []
            for figures in seeds:
                matrix = [figures[row]["accuracies"] for row in range(number + 1)]
                runs.append({"accuracy": figures[number]["accuracy"], **measure(matrix)})
            row: Row = {"method": method, "after": number + 1, "tasks": len(lessons), "runs": len(runs), "note": NOTES[method]}
            for name in MEASURES:
                values = [run[name] for run in runs]
                row |= {f"{name}_mean": float(np.mean(values)), f"{name}_std": float(np.std(values, ddof=1)) if len(values) > 1 else 0.0}
            row["bytes"] = round(float(np.mean([figures[number]["bytes"] for figures in seeds])))
            row["seconds"] = float(np.mean([sum(figures[each]["seconds"] for each in range(number + 1)) for figures in seeds]))
            row["texts"] = seeds[0][number]["texts"]
            rows.append(row)
    for row in rows:
        joint = next((other for other in rows if other["method"] == "joint" and other["after"] == row["after"]), None)
        row["percent_of_joint"] = round(100 * row["accuracy_mean"] / joint["accuracy_mean"], 2) if joint and joint["accuracy_mean"] else None
    return rows
