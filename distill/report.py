"""report: one HTML file that can be mailed, the same table as text, and a model card.

    report/report.html     everything in one file, pictures inside
    report/MODEL_CARD.md   base, teacher, licences, data lineage, figures, limits

Nothing is measured here: every figure comes from another stage's manifest.
"""

import json
from pathlib import Path
from typing import Any

from distill.core.files import write_atomic
from distill.core.jsonl import read_jsonl
from distill.core.processes import ALONE, Processes
from distill.core.results import ReportResult
from distill.core.run_folder import Fingerprint, Manifest, RunFolder, StageOutput
from distill.core.stage import Cost, Stage
from distill.planning.costs import PROCESS_BYTES, Workload
from distill.recipe import Recipe
from distill.reporting import plots
from distill.reporting.model_card import model_card
from distill.reporting.page import page, table_html, table_text

READS = ("plan", "generate", "capture", "initialize", "train", "quantize", "evaluate")


def run(recipe: Recipe, folder: RunFolder, processes: Processes = ALONE) -> StageOutput:
    stage = folder.stage("report")
    manifests = {name: folder.require(name, dict, recipe) for name in READS}
    table = rows(manifests)
    verdict = gain(manifests)
    pictures = {
        "Loss on the validation answers": plots.loss_curves(folder.stage("train"), manifests),
        "Student, control and teacher": plots.quality(table),
        "Size against quality": plots.size_against_quality(table),
        "Speed on this machine": plots.speed(table),
    }
    examples = _examples(folder.stage("evaluate"), manifests)
    dropped = [row for _, row in read_jsonl(folder.stage("generate") / "dropped.jsonl")]
    write_atomic(
        stage / "report.html", page(recipe, manifests, table, verdict, pictures, examples, dropped)
    )
    write_atomic(stage / "MODEL_CARD.md", model_card(recipe, manifests, table, verdict))
    text = table_text(table) + "\n\n" + verdict
    files = [stage / "report.html", stage / "MODEL_CARD.md"]
    return StageOutput(ReportResult(table, table_html(table), text, verdict), files)


def rows(manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    """The table: a row a model, from the figures of evaluate and quantize."""
    found = []
    quantized = manifests["quantize"].result["formats"]
    student_bytes = manifests["quantize"].result["student_bytes"]
    for name, figures in manifests["evaluate"].result["models"].items():
        check = quantized.get(name, {})
        size = check.get("bytes") or (
            student_bytes if name in ("student", "control") else figures.get("bytes")
        )
        found.append(
            {
                "model": name,
                "bytes": size,
                "bits_per_weight": check.get("bits_per_weight"),
                "exact_match": figures.get("exact_match"),
                "interval": figures.get("interval"),
                "nll": figures["nll"],
                "agreement": check.get("top_token_agreement"),
                "kl": check.get("kl"),
                "failed": check.get("failed"),
                "refused": figures["refused"] / manifests["evaluate"].result["num_examples"],
                "peak_memory": check.get("peak_memory"),
                "prefill_speed": check.get("prefill_speed"),
                "decode_speed": check.get("decode_speed"),
                "tokens_per_second": figures["tokens_per_second"],
                "runtime": figures["runtime"],
                "by_language": figures.get("by_language", {}),
            }
        )
    return found


def gain(manifests: dict[str, Manifest]) -> str:
    """One sentence: by how much KD beat the control, or that it did not."""
    against = manifests["evaluate"].result.get("student_against_control")
    if against is None:
        if manifests["train"].section["train"]["soft_weight"] == 0:
            return "The student learnt the answers' text alone, which is what a control does: there is no gain to tell."
        return (
            "There was no control (train.control: false), so what distillation gained is not known."
        )
    sentences = []
    for key, unit, better in (
        ("exact_match", "points of exact match", 1),
        ("nll", "nats a token of NLL", -1),
    ):
        if key not in against:
            continue
        d = against[key]
        scale = 100 if key == "exact_match" else 1
        number = f"{d['difference'] * scale:+.{1 if scale == 100 else 4}f} {unit}"
        interval = f"[{d['low'] * scale:+.{1 if scale == 100 else 4}f}, {d['high'] * scale:+.{1 if scale == 100 else 4}f}]"
        ends = sorted((d["low"] * better, d["high"] * better))
        says = (
            "beat" if ends[0] > 0 else "lost to" if ends[1] < 0 else "did not clearly differ from"
        )
        sentences.append(f"KD {says} the control: {number}, 95 % interval {interval}")
    return "; ".join(sentences) + "."


def _examples(stage: Path, manifests: dict[str, Manifest]) -> list[dict[str, Any]]:
    """For the first problem of each language: what each 16-bit model answered."""
    shown: dict[str, dict[str, Any]] = {}
    for name in ("teacher", "control", "student"):
        if name not in manifests["evaluate"].result["models"]:
            continue
        for example in json.loads((stage / f"{name}.json").read_text())["examples"]:
            mine = shown.setdefault(
                example["language"],
                {"prompt_id": example["prompt_id"], "prompt": example["prompt"]},
            )
            if mine["prompt_id"] == example["prompt_id"]:
                mine[name] = (example["answer"], example["right"])
    return list(shown.values())


def fingerprint(recipe: Recipe) -> Fingerprint:
    return Fingerprint({"report": recipe.report.identity()})


def cost(_: Workload) -> Cost:
    return Cost(PROCESS_BYTES, 2, disk=1e6)


STAGE = Stage(
    "report",
    "report.html and the model card",
    run,
    ReportResult,
    fingerprint,
    reads=READS,
    cost=cost,
    cheap=True,
)
