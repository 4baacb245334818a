"""The recipes of recipes/: what the plan says of each, offline, and runs of each on two-layer models of its classes.

A run's teacher answers through a server of ours, which writes real text in five languages; where the recipe loads its teacher,
that gives the signal: a random model of its class. Overridden are the models, how many prompts are asked and trained on, and what
needs a GPU or 4,096 tokens a batch.
"""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from families import BY_NAME, Family, model_of, tokenizer_of
from run_helpers import ROOT, made_once, run_forked
from server_helpers import said

from distill.core.jsonl import read_jsonl
from distill.core.run_folder import RunFolder
from distill.models.load import load_tokenizer
from distill.pipeline import PLANNED
from distill.plan import make_plan, stage_costs
from distill.planning.costs import Workload
from distill.planning.machine import GB, GPU_SPEEDS, OTHER_GPU_SPEEDS, Machine
from distill.recipe import load_recipe

RECIPES = ROOT / "recipes"
# name: parameters of the student, what the licences say
PLANS = {
    "qwen_to_1b": (1_057_049_344, "allow"),
    "deepseek_r1_to_1.5b": (1_543_714_304, "allow"),
    "kimi_k2_to_0.6b": (596_049_920, "allow"),
    "minimax_m2_to_0.6b": (596_049_920, "allow"),
    "ernie_4_5_to_0.3b": (360_748_032, "allow"),
    "gpt_oss_to_0.6b": (596_049_920, "allow"),
    "llama_to_1b": (1_235_814_400, "attribution"),
    "phone_4gb": (490_799_104, "allow"),
    "raspberry_pi": (1_510_073_344, "allow"),
    "smollm2_laptop": (70_484_108, "allow"),
    "two_teachers": (596_049_920, "allow"),
}
OWN_TESTS = {"quickstart", "smollm2_laptop"}  # are run whole elsewhere
RUN_HERE = [name for name in PLANS if name not in OWN_TESTS]
PLAN_SECONDS = 5.0  # of this process, beside other work and with imports; a second on a quiet core
LONGEST_LINE = 132


def test_every_recipe_is_tried_here():
    assert {path.stem for path in RECIPES.glob("*.yaml")} == set(PLANS) | OWN_TESTS


@pytest.mark.parametrize("name", PLANS)
def test_the_plan_is_made_offline_in_about_a_second(name, tmp_path):
    began = time.process_time()
    recipe = load_recipe(RECIPES / f"{name}.yaml", [f"run_folder={tmp_path}"])
    plan = make_plan(recipe, RunFolder(tmp_path), PLANNED)
    assert time.process_time() - began < PLAN_SECONDS
    parameters, level = PLANS[name]
    assert (plan.student["parameters"], plan.licence.level) == (parameters, level)
    prefix = plan.licence.name_prefix
    assert prefix is None or recipe.name.startswith(prefix), "the licence asks for that name"
    assert not [warning for warning in plan.warnings if "multiple of" in warning], "whole k-quants"


@pytest.mark.parametrize("name", RUN_HERE)
def test_a_recipe_says_what_was_run_and_is_a_page_wide(name):
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    assert re.search(r"# Planned, and run .*two-layer models of its classes", text)
    assert "not run here" in text
    assert max(map(len, text.splitlines())) <= LONGEST_LINE


@pytest.mark.parametrize("name", RUN_HERE)
def test_two_of_the_languages_can_be_taken_alone(name, tmp_path):
    two = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())["languages"][:2]
    overrides = [f"languages={two}", f"run_folder={tmp_path}"]
    if name == "deepseek_r1_to_1.5b":
        overrides.append(
            f"generate.prompts=[{{file: {RECIPES}/quickstart/prompts.jsonl, columns: "
            "{prompt: prompt, language: language, reference: reference}}]"
        )
    plan = make_plan(load_recipe(RECIPES / f"{name}.yaml", overrides), RunFolder(tmp_path), PLANNED)
    assert plan.work["num_held_out"] > 0


# qwen_to_1b: what its head says of four sizes of GPU, and of the user's own prompts

BUDGET = re.compile(r"#   ? ?(\d+) GB +(\d+) +(\d+) GB +(.*)")
CARDS = {80: "A100", 24: "RTX 3090", 12: "RTX 3060", 8: "RTX 4060"}


def budgets() -> dict[int, tuple[int, int, list[str]]]:
    """Return by gigabytes of the GPU: hours, gigabytes in use, overrides."""
    found: dict[int, tuple[int, int, list[str]]] = {}
    overrides: list[str] = []
    for line in (RECIPES / "qwen_to_1b.yaml").read_text().splitlines():
        match = BUDGET.match(f"{line}  ")
        if match is not None:
            overrides = match[4].split()
            found[int(match[1])] = (int(match[2]), int(match[3]), overrides)
        elif overrides and re.match(r"# {20,}\w+\.\w+=", line):
            overrides += line[1:].split()
        else:
            overrides = []
    return found


@pytest.mark.parametrize("gigabytes", CARDS)
def test_the_hours_and_memory_of_a_gpu_are_the_plans(gigabytes, tmp_path):
    hours, memory, overrides = budgets()[gigabytes]
    name = CARDS[gigabytes]
    speeds = next((s for gpu, s in GPU_SPEEDS.items() if gpu in name), OTHER_GPU_SPEEDS)
    machine = Machine(8, 32 * GB, 500 * GB, name, gigabytes * GB, *speeds)
    recipe = load_recipe(RECIPES / "qwen_to_1b.yaml", overrides)
    vocabulary = recipe.student.vocabulary
    work = Workload.of(recipe, machine, vocabulary=vocabulary and vocabulary.size)
    costs = stage_costs(work, PLANNED).values()
    assert sum(cost.seconds for cost in costs) / 3600 == pytest.approx(hours, abs=0.5)
    assert max(cost.memory for cost in costs) / GB == pytest.approx(memory, abs=0.5)
    assert max(cost.memory for cost in costs) < gigabytes * GB
    assert str(work.demand).endswith(
        "27,000 prompts to write, 20,000 answers, about 16,380 thousand tokens in all"
    )
    assert work.sample_tokens == pytest.approx(6.3e6, rel=0.01)


def test_the_line_for_the_users_own_prompts_can_be_switched_on(tmp_path):
    text = (RECIPES / "qwen_to_1b.yaml").read_text()
    own = "    # - {file: my_prompts.jsonl, share: 0.2, verify: false}\n"
    assert text.count(own) == 1 and text.count("share: 0.614,") == 1
    text = text.replace(own, own.replace("# ", "")).replace("share: 0.614,", "share: 0.414,")
    text = text.replace("file: ", f"file: {RECIPES}/").replace(f"{RECIPES}/my", "my")
    (tmp_path / "r.yaml").write_text(text)
    (tmp_path / "my_prompts.jsonl").write_text(
        '{"prompt": "Habari za asubuhi?", "language": "sw"}\n'
    )
    recipe = load_recipe(tmp_path / "r.yaml", [f"run_folder={tmp_path / 'run'}"])
    assert recipe.generate.prompts[0].share == 0.2
    assert make_plan(recipe, RunFolder(tmp_path / "run"), PLANNED).work["num_answers"] > 0


# the runs

LANGUAGES = {"English": "en", "Chinese": "zh", "Swahili": "sw", "Indonesian": "id", "Hindi": "hi"}
ANSWERS = {
    "en": "That is best done step by step. First look at what you have, then write down what is missing, and ask "
    "somebody who has done it before.",
    "zh": "这件事最好一步一步来。先看看手头有什么，再写下还缺什么，最后问问做过的人。",
    "sw": "Ni vizuri kufanya jambo hili hatua kwa hatua. Kwanza angalia ulichonacho, kisha andika kinachokosekana, "
    "halafu muulize aliyewahi kulifanya.",
    "id": "Sebaiknya dikerjakan selangkah demi selangkah. Lihat dulu apa yang sudah ada, catat apa yang kurang, lalu "
    "tanyakan kepada orang yang pernah melakukannya.",
    "hi": "यह काम एक-एक कदम करके करना अच्छा रहता है। पहले देखिए कि आपके पास क्या है, फिर जो कमी है उसे लिखिए और किसी अनुभवी व्यक्ति से पूछिए।",
}
REFUSALS = {
    "en": "I'm sorry, but I can't help with that.",
    "zh": "抱歉，我不能帮你做这件事。",
    "sw": "Samahani, siwezi kukusaidia kwa jambo hilo.",
    "id": "Maaf, saya tidak bisa membantu hal itu.",
    "hi": "क्षमा करें, मैं इसमें मदद नहीं कर सकता।",
}


class Teacher:
    """What a good teacher would say: `reply` is the `Api`'s."""

    def __init__(self, reasoning: str | None):
        self.reasoning = reasoning
        rows = {
            name: [row for _, row in read_jsonl(RECIPES / name)]
            for name in (
                "assistant/seeds.jsonl",
                "assistant/held_out.jsonl",
                "assistant/decline.jsonl",
                "quickstart/prompts.jsonl",
            )
        }
        self.language = {row["prompt"]: row["language"] for found in rows.values() for row in found}
        self.declined = {row["prompt"] for row in rows["assistant/decline.jsonl"]}
        self.reference = {
            row["prompt"]: row["reference"] for row in rows["quickstart/prompts.jsonl"]
        }
        # what it writes when it is asked for prompts: held-out ones that no run of these evaluates on
        self.prompts = {code: [] for code in ANSWERS}
        for row in rows["assistant/held_out.jsonl"][NUM_EVALUATED:]:
            self.prompts[row["language"]].append(row["prompt"])

    def reply(self, number: int, body: dict[str, Any]) -> dict[str, Any]:
        asked = body["messages"][-1]["content"]
        wanted = re.search(r"Write it in (\w+), between <prompt>", asked)
        if wanted is not None:
            return said(f"<prompt>{self.prompts[LANGUAGES[wanted[1]]].pop()}</prompt>")
        language = self.language.get(asked, "en")
        text = REFUSALS[language] if asked in self.declined else ANSWERS[language]
        if asked in self.reference:
            text = f"{text} = {self.reference[asked]}"
        if self.reasoning is None:
            return said(text)
        return said(text, reasoning_content=self.reasoning)


@dataclass(frozen=True)
class Run:
    """A recipe's classes: `teacher` is None where nothing of it is on this machine.

    `formats`: of its files; one run of each class of students writes GGUF, the others the 16-bit folder alone.
    """

    recipe: str
    student: str
    teacher: str | None = None
    reasoning: str | None = None
    key: str | None = None
    formats: str = "[]"
    more: tuple[str, ...] = ()
    names: tuple[str, ...] = ()  # of several teachers; `teacher` is then the first one's class
    own_tokenizer: bool = False  # Qwen's own 151,669 tokens, where they can be had

    @property
    def sections(self) -> list[str]:
        """Return where the fields of the teachers are."""
        return [f"teachers.{name}" for name in self.names] or ["teacher"]


RUNS = [
    Run("qwen_to_1b", "qwen3", "qwen3", formats="[q8_0]", own_tokenizer=True),
    Run(
        "deepseek_r1_to_1.5b",
        "qwen2.5",
        reasoning="We add what is asked for.",
        key="DEEPSEEK_KEY",
        formats="[q8_0]",
        more=("train.optimizer=adamw",),
    ),
    Run("kimi_k2_to_0.6b", "qwen3", key="KIMI_KEY"),
    Run("minimax_m2_to_0.6b", "qwen3", reasoning="The user asks something.", key="MINIMAX_KEY"),
    Run("ernie_4_5_to_0.3b", "ernie4.5", "ernie4.5-moe", formats="[q8_0]"),
    Run("gpt_oss_to_0.6b", "qwen3", reasoning="We need to answer."),
    Run("llama_to_1b", "llama", "llama", formats="[q8_0]", more=("train.optimizer=adamw",)),
    Run("phone_4gb", "qwen3", "qwen3"),
    Run("raspberry_pi", "qwen3", "qwen3"),
    Run("two_teachers", "qwen3", "qwen3", key="KIMI_KEY", names=("qwen", "kimi")),
]
NUM_EVALUATED = 5  # of each source
QWEN_ROWS = 151_936  # of Qwen3's tables, more than its tokenizer has tokens
SMALL = [
    "generate.num_prompts=10",
    "train.max_steps=2",
    "train.batch_tokens=4096",
    "train.validation_share=0.1",
    "quantize.num_sequences=4",
    f"evaluate.num_examples={2 * NUM_EVALUATED}",
    "evaluate.max_new_tokens=8",
]


def few_prompts(recipe: str) -> str:
    """Return the recipe's prompts as an override: the teacher writes one in each language for each source."""
    prompts = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["generate"]["prompts"]
    if isinstance(prompts, str):
        prompts = [{"file": prompts}]
    for source in prompts:
        source["file"] = str(RECIPES / source["file"])
        if "num" in source:
            source["num"] = 5
    return f"generate.prompts={yaml.safe_dump(prompts, default_flow_style=True, width=10_000)}"


def few_held_out(recipe: str, folder: Path) -> list[str]:
    """Return the recipe's held-out prompts as an override, the first of each file; they are written to `folder`."""
    sources = yaml.safe_load((RECIPES / f"{recipe}.yaml").read_text())["evaluate"].get("prompts")
    if sources is None:
        return []
    sources = [sources] if isinstance(sources, dict) else sources
    for source in sources:
        rows = (RECIPES / source["file"]).read_text(encoding="utf-8").splitlines()
        source["file"] = str(folder / Path(source["file"]).name)
        Path(source["file"]).write_text("\n".join(rows[:NUM_EVALUATED]), encoding="utf-8")
    return [f"evaluate.prompts={yaml.safe_dump(sources, default_flow_style=True, width=10_000)}"]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """`model_folder("qwen3")`: a random model of that class with the tokenizer in a folder, else a small one."""

    def made(name: str, own: Path | None = None) -> Path:
        def make(folder: Path) -> None:
            family: Family = BY_NAME[name]
            tokenizer, sizes = tokenizer_of(family), {}
            if own is not None:
                template = tokenizer.chat_template
                tokenizer = load_tokenizer(str(own))
                tokenizer.chat_template = template
                sizes = {"vocab_size": QWEN_ROWS, "tie_word_embeddings": True}
            model = model_of(family, tokenizer, max_position_embeddings=8192, **sizes)
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)

        ending = "" if own is None else "_own_tokens"
        return made_once(tmp_path_factory, f"two_layers_{name}{ending}", make)

    return made


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.recipe)
def test_the_recipe_runs_on_two_layer_models_of_its_classes(
    run, model_folder, qwen_tokenizer, api, tmp_path
):
    api.reply = Teacher(run.reasoning).reply
    own = qwen_tokenizer if run.own_tokenizer else None
    student = model_folder(run.student, own)
    overrides = [
        few_prompts(run.recipe),
        *few_held_out(run.recipe, tmp_path),
        *SMALL,
        *run.more,
        f"quantize.formats={run.formats}",
        *(f"{section}.server={api.url}" for section in run.sections),
        f"student.model={student}",
        "student.licence=apache-2.0",
        f"run_folder={tmp_path / 'run'}",
    ]
    if run.teacher is not None:
        first = run.sections[0]
        overrides += [f"{first}.model={model_folder(run.teacher, own)}"]
        overrides += [f"{first}.licence=apache-2.0"]
    keys = {run.key: "a key"} if run.key else {}
    done = run_forked(RECIPES / f"{run.recipe}.yaml", *overrides, **keys)
    assert done.returncode == 0, done.stderr[-3000:]
    folder = tmp_path / "run"

    def result(stage: str) -> dict[str, Any]:
        return json.loads((folder / stage / "manifest.json").read_text())["result"]

    recipe = load_recipe(RECIPES / f"{run.recipe}.yaml")
    kept = [row for _, row in read_jsonl(folder / "generate" / "kept.jsonl")]
    assert {row["language"] for row in kept} == set(recipe.languages)
    if own is not None:
        trim = result("trim")
        assert (trim["parent_vocab_size"], trim["vocab_size"]) == (
            len(load_tokenizer(str(own))),
            49_152,
        )
    tokenizer = load_tokenizer(str(student))
    learnt = tokenizer.decode(kept[0]["answer_ids"])
    if run.reasoning is not None:
        assert (run.reasoning in learnt) == (recipe.generate.reasoning == "short")
    dropped = [row["reason"] for _, row in read_jsonl(folder / "generate" / "dropped.jsonl")]
    assert not [reason for reason in dropped if not reason.startswith("beyond_share")]
    assert result("train")["roles"]["student"]["num_steps"] == 2
    assert all(made["top_token_agreement"] > 0.8 for made in result("quantize")["formats"].values())
    evaluated, sources = result("evaluate"), recipe.evaluate.prompts or []
    student_figures = evaluated["models"]["student"]
    if (
        recipe.generate.task is not None and len(sources) > 1
    ):  # one that is checked, one that is not
        assert evaluated["num_examples"] == 2 * NUM_EVALUATED
        assert student_figures["unchecked"] == NUM_EVALUATED
    assert (student_figures["exact_match"] is None) == (recipe.generate.task is None)
    assert (folder / "report" / "report.html").is_file()
