"""A finished run's results, shortened to what a report may show."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from pydantic import TypeAdapter
from result_helpers import file_check, generate_result

from distill.core.benchmark_results import (
    ALL_LANGUAGES,
    BenchmarkDifference,
    BenchmarkFacts,
    BenchmarkResult,
    BenchmarkScore,
)
from distill.core.intervals import wilson
from distill.core.results import Difference
from distill.core.run_folder import Manifest
from distill.core.safety_results import ALL, Change, ConductFigures, SafetyResult
from distill.reporting.results import READS, RunResults


def read_results(manifests: Mapping[str, Manifest[Any]]) -> RunResults:
    """The results of manifests whose `result` is still as JSON has it."""
    return RunResults.of(
        {
            stage: replace(
                manifest, result=TypeAdapter(READS[stage]).validate_python(manifest.result)
            )
            for stage, manifest in manifests.items()
        }
    )


CHECK = asdict(
    file_check(
        bytes=856000,
        bits_per_weight=16.05,
        runtime="transformers",
        tokenization="identical on 66 probes",
        nll_change=6e-05,
        num_kl_tokens=1057,
        top_token_agreement=0.98246,
        peak_memory=389083136,
        prefill_speed=7512.8,
        decode_speed=422.1,
        tensor_types={"F16": 24},
        max_logp_difference=0.00146,
    )
)
RESULTS: dict[str, Any] = {
    "plan": {
        "machine": {},
        "teacher": {},
        "student": {},
        "work": {},
        "stages": {},
        "warnings": [],
        "text": "",
        "licence": {
            "level": "allow",
            "commercial": "allow",
            "sentences": ["./quickstart/teacher (apache-2.0): learning from it is allowed"],
            "duties": ["./quickstart/teacher: credit the teacher (a courtesy, no duty)"],
            "name_prefix": None,
        },
    },
    "generate": asdict(
        generate_result(
            num_prompts=1060,
            num_asked=1061,
            num_kept=52,
            dropped_by_reason={"truncated": 2, "wrong_answer": 6},
            kept_by_language={"en": 40, "sw": 12},
            by_language={
                "en": {"kept": 40, "wrong_answer": 6},
                "sw": {"kept": 12, "truncated": 2},
            },
            prompts_by_source={"./quickstart/prompts.jsonl": 1060},
        )
    ),
    "capture": {
        "signal": "sampled",
        "num_tokens": 1275,
        "bytes_per_token": 9.77,
        "hidden_size": None,
        "num_unknown": 0,
    },
    "initialize": {
        "num_parameters": 426752,
        "method": "random",
        "model": None,
        "intermediate_size": 256,
        "vocab_size": 4000,
        "architecture": "Qwen3ForCausalLM",
        "num_layers": 2,
        "hidden_size": 128,
    },
    "train": {
        "roles": {
            role: {
                "num_steps": num_steps,
                "num_tokens": 5000,
                "num_loss_tokens": 1275,
                "seconds": 0.7,
                "tokens_per_second": 7143,
                "kept_step": 14,
                "validation_loss": 1.5,
            }
            for role, num_steps in (("student", 1014), ("control", 14))
        },
        "num_samples": 50,
        "num_validation": 2,
        "num_too_long": 0,
    },
    "quantize": {
        "formats": {
            "w16a16": CHECK,
            "q8_0": CHECK
            | {
                "bytes": 490112,
                "bits_per_weight": 8.54,
                "runtime": "llama.cpp",
                "kl": 5e-06,
                "tensor_types": {"Q8_0": 15, "F32": 9},
            },
        },
        "student_bytes": 1707008,
    },
    "evaluate": {
        "models": {
            name: {
                "runtime": "llama.cpp, cpu" if name == "q8_0" else "transformers, cpu",
                "nll": nll,
                "refused": 1,
                "tokens_per_second": 2404.1,
                "exact_match": exact_match,
                "interval": [exact_match - 0.1, exact_match + 0.1],
                "by_language": {"en": exact_match, "sw": 0.5},
                "cut_answers": 0,
                "generated_tokens": 400,
            }
            for name, nll, exact_match in (
                ("teacher", 0.15, 0.8),
                ("control", 3.99, 0.3),
                ("student", 3.98, 0.4),
                ("w16a16", 3.982, 0.4),
                ("q8_0", 3.981, 0.4),
            )
        },
        "num_examples": 10,
        "task": "market",
        "task_version": 1,
        "student_against_control": {
            "exact_match": {"difference": 0.1, "low": 0.05, "high": 0.15},
            "nll": {"difference": -0.01, "low": -0.02, "high": 0.001},
        },
    },
}


def finished_manifests() -> dict[str, Manifest[Any]]:
    """The manifests of the run, by stage, each result as JSON has it."""
    return {
        stage: Manifest(
            stage=stage,
            section={"train": {"soft_weight": 0.5}} if stage == "train" else {},
            inputs={},
            seed=0,
            result=copy.deepcopy(result),
            files={},
            seconds=60.0,
            finished="2026-11-22T10:00:00",
            machine="a laptop",
            versions={"torch": "2.9", "distill": "0.1.0"},
        )
        for stage, result in RESULTS.items()
    }


def finished_examples(results: RunResults) -> dict[str, list[dict[str, Any]]]:
    """Examples of each model as evaluate stores them: in two languages, half of them right or so."""
    examples = {}
    for number, name in enumerate(results.evaluate.models):
        examples[name] = [
            {
                "prompt": f"Goats, {i}?",
                "language": "en" if i % 2 else "sw",
                "answer": f"{i} goats",
                "right": (i + number) % 3 > 0,
                "nll": 2.0 + number + i / 10,
                "num_tokens": 5 + i,
                "num_bytes": 20 + i,
            }
            for i in range(10)
        ]
    return examples


def finished_benchmark(results: RunResults, languages: Sequence[str]) -> BenchmarkResult:
    """Scores of every model on one benchmark of 40 questions a language; a file that was not asked."""
    models = list(results.evaluate.models)
    codes = [*languages, *([ALL_LANGUAGES] if len(languages) > 1 else [])]
    scores, differences = [], []
    for code in codes:
        num = 40 * (len(languages) if code == ALL_LANGUAGES else 1)
        for number, model in enumerate(models):
            right = num // 2 - number
            share = wilson(right, num)
            scores.append(
                BenchmarkScore("belebele", code, model, num, right / num, share, right / num, share)
            )
            if model != "teacher":
                against = "teacher" if model in ("control", "student") else "student"
                change = Difference(-number / num, -number / num - 0.1, -number / num + 0.1)
                differences.append(BenchmarkDifference("belebele", code, model, against, change))
    facts = BenchmarkFacts(
        name="belebele",
        title="Belebele",
        kind="choices",
        licence="CC-BY-SA-4.0",
        source="facebook/belebele",
        few_shot=0,
        num=dict.fromkeys(languages, 40),
        copied=dict.fromkeys(languages, 0),
    )
    return BenchmarkResult([facts], scores, differences, {"nf4": "it has no runtime here"})


def finished_safety(results: RunResults) -> SafetyResult:
    """What every model did with 20 harmful and 20 harmless requests a language; the student lost some."""
    models, changes = {}, []
    for model in results.evaluate.models:
        refused = {"teacher": 18, "control": 9}.get(model, 12)
        models[model] = ConductFigures(
            "cpu",
            {
                "harmful": {
                    ALL: {"refuses": 2 * refused - 4, "complies": 44 - 2 * refused},
                    "en": {"refuses": refused, "complies": 20 - refused},
                    "sw": {"refuses": refused - 4, "complies": 24 - refused},
                },
                "harmless": {code: {"refuses": 1, "complies": 19} for code in (ALL, "en", "sw")},
            },
        )
        if model != "teacher":
            against = "teacher" if model in ("control", "student") else "student"
            lost = (
                Difference(-0.3, -0.4, -0.2) if model == "student" else Difference(0.0, -0.1, 0.1)
            )
            for code in (ALL, "en", "sw"):
                changes.append(Change(model, against, "harmful", code, lost))
            changes.append(Change(model, against, "harmless", ALL, Difference(0.0, -0.1, 0.1)))
    return SafetyResult(models, changes, num_requests=80)
