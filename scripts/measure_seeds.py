#!/usr/bin/env python3
"""How much student and control vary with the seed of `initialize` and `train`, on the same answers and signals.

    python scripts/measure_seeds.py recipes/quickstart.yaml runs/quickstart --out seeds.jsonl
    python scripts/measure_seeds.py recipes/quickstart.yaml runs/quickstart --out seeds.jsonl train.warmup_share=0.2

RUN is a finished run of the recipe: its kept answers, its signals and its teacher's answers to the held-out prompts
are taken, and nothing is written there. Overrides change the student and its training, as on the command line of
`distill run`; each seed is trained by the project's own stages. `--more N` asks N problems more of the market task,
with numbers that nobody has met: 300 answers alone have a standard error of almost 3 points. Each seed is a JSON line
of --out and is not trained again; one that was killed is started over. The table at the end is over the seeds of each
setting in --out. (`train.repeats` repeats the training within a run; this compares settings.) With rounds in the recipe
(`rounds.num_rounds=2`) the student that they kept is measured beside the one that they began with; its seconds and
tokens are those of the rounds alone, without the training before them.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmark_sections import table

from distill import initialize, rounds, teachers, train
from distill.core.processes import ALONE
from distill.core.progress import Progress
from distill.core.results import Round, RoundsResult
from distill.core.run_folder import RunFolder
from distill.data.prompts import split_prompts
from distill.data.samples import Prompt
from distill.evaluation.eval_set import EvalSet, eval_sets
from distill.evaluation.figures import figures_of
from distill.evaluation.models import evaluate_transformers
from distill.models.load import Placement, load_model
from distill.recipe import Recipe, load_recipe
from distill.tasks import market

MORE_SEED = 5  # of the problems of --more; the recipe's own are of seed 3
Line = dict[str, Any]


def held_out(recipe: Recipe, run: RunFolder, num_more: int) -> EvalSet:
    """The recipe's held-out prompts with the teacher's answers, then more without (they have no NLL)."""
    tokenizers = teachers.connect(recipe, run).tokenizers
    prompts = split_prompts(recipe)[1]
    answers = run.stage("evaluate") / "teacher_answers.jsonl"
    own = eval_sets(recipe, prompts, tokenizers, answers, run.stage("train") / "student")[0]
    rows = market.examples(
        num_more, MORE_SEED, splits=["eval"], without={prompt.text for prompt in prompts}
    )
    more = [
        Prompt(({"role": "user", "content": row["prompt"]},), row["language"], row["reference"])
        for row in rows
    ]
    return replace(
        own,
        prompts=own.prompts + more,
        prompt_ids=own.prompt_ids + [tokenizers.prompt_ids(recipe, list(p.messages)) for p in more],
        teacher_ids=own.teacher_ids + [None] * len(more),
        num_bytes=own.num_bytes + [0] * len(more),
    )


def train_anew(recipe: Recipe, run: RunFolder, work: Path) -> dict[str, tuple[Path, Line]]:
    """Make and train student, control and rounds in the folder `work`; return each one's folder and cost."""
    folder = RunFolder(work)
    for name in ("generate", "capture"):
        folder.stage(name).symlink_to(run.stage(name))
    folder.stage("initialize").mkdir()
    initialize.run(recipe, folder)
    folder.stage("train").mkdir()
    output = train.run(recipe, folder, ALONE)
    assert output is not None  # this is the main process
    roles = {
        role: (folder.stage("train") / role, asdict(figures))
        for role, figures in output.result.roles.items()
    }
    if recipe.rounds is not None:
        folder.stage("rounds").mkdir()
        output = rounds.run(recipe, folder, ALONE)
        assert output is not None
        roles["rounds"] = (folder.stage("rounds") / "student", cost_of_rounds(output.result))
    return roles


def cost_of_rounds(result: RoundsResult) -> Line:
    """Return what the rounds after the training took, and each one's validation."""
    made = result.rounds[1:]
    return {
        "seconds": sum(sum(each.seconds.values()) for each in result.rounds),
        "num_tokens": sum(each.trained.num_tokens for each in made if each.trained),
        "best": result.best,
        "rounds": [told_of_round(each) for each in result.rounds],
    }


def told_of_round(made: Round) -> Line:
    return {
        "validation": made.validation and asdict(made.validation),
        "guards": made.guards and asdict(made.guards),
        "seconds": made.seconds,
        "red": made.red,
    }


def measure(recipe: Recipe, eval_set: EvalSet, num_own: int, model: Path) -> Line:
    """Exact match of the first `num_own` prompts and of the others, NLL of the former, what was right."""
    loaded = load_model(str(model), Placement("cpu", "float32"))
    with Progress("answers", len(eval_set.prompts), "answers", shown=False) as bar:
        figures = figures_of(eval_set, evaluate_transformers(eval_set, loaded, bar))
    right = [int(example["right"]) for example in figures["examples"]]
    more = right[num_own:]
    return {
        "exact_match": sum(right[:num_own]) / num_own,
        "more": sum(more) / len(more) if more else None,
        "nll": figures["nll"],
        "right": "".join(map(str, right)),
    }


def lines_of(path: Path) -> list[Line]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]


def summary(lines: Sequence[Line]) -> str:
    """A table of mean ± standard deviation over the seeds of each setting and role."""
    rows = []
    for setting in dict.fromkeys(line["setting"] for line in lines):
        of_setting = [line for line in lines if line["setting"] == setting]
        for role in of_setting[0]["roles"]:
            figures = [line["roles"][role] for line in of_setting if role in line["roles"]]
            rows.append([setting or "as it is", role, str(len(figures)), *_cells(figures)])
    head = ["setting", "role", "seeds", "exact match %", "of more %", "NLL", "seconds"]
    return table(head, rows)


def _cells(figures: Sequence[Line]) -> Iterable[str]:
    for name, factor, digits in (
        ("exact_match", 100, 1),
        ("more", 100, 1),
        ("nll", 1, 4),
        ("seconds", 1, 0),
    ):
        values = [factor * f[name] for f in figures if f[name] is not None]
        yield mean_and_deviation(values, digits)


def mean_and_deviation(values: Sequence[float], digits: int) -> str:
    """Return the cell of a table for one value of each seed; `-` where there is none."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {statistics.stdev(values):.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", type=Path)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, one a seed")
    parser.add_argument("--seeds", default="1,2,3,4,5", help="with commas between")
    parser.add_argument("--more", type=int, default=0, help="held-out problems beside the recipe's")
    parser.add_argument("overrides", nargs="*", metavar="FIELD=VALUE")
    options = parser.parse_intermixed_args(arguments)
    setting = " ".join(options.overrides)
    run = RunFolder(options.run.resolve())
    own = load_recipe(options.recipe, [*options.overrides, f"run_folder={run.path}"])
    eval_set = held_out(own, run, options.more)
    num_own = len(eval_set.prompts) - options.more
    for seed in map(int, options.seeds.split(",")):
        done = [(line["setting"], line["seed"]) for line in lines_of(options.out)]
        if (setting, seed) in done:
            continue
        recipe = load_recipe(
            options.recipe, [*options.overrides, f"seed={seed}", "train.repeats=1"]
        )
        with tempfile.TemporaryDirectory() as work:
            trained = train_anew(recipe, run, Path(work))
            roles = {
                role: cost | measure(recipe, eval_set, num_own, model)
                for role, (model, cost) in trained.items()
            }
        line = {"setting": setting, "seed": seed, "roles": roles}
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(summary([line]), flush=True)
    print(summary(lines_of(options.out)))


if __name__ == "__main__":
    main()
