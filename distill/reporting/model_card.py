"""The student's model card: what a person must know, and must pass on, before using it."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from distill.core.run_folder import Manifest
from distill.recipe import Recipe
from distill.recipe.sections import W16A16
from distill.reporting.page import table_text


def model_card(
    recipe: Recipe, manifests: dict[str, Manifest], table: list[dict[str, Any]], verdict: str
) -> str:
    student, data = manifests["initialize"].result, manifests["generate"].result
    licence = manifests["plan"].result["licence"]
    sources = ", ".join(f"`{source.name}`" for source in recipe.generate.prompts)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    start = {
        "random": "random weights of a Qwen3 shape",
        "base": f"{recipe.student.model} (revision {recipe.student.revision or 'not pinned'})",
        "layers": f"{student['num_layers']} evenly spaced layers of {recipe.student.model} "
        f"(revision {recipe.student.revision or 'not pinned'})",
    }[recipe.student.method]
    duties = (
        "\n".join(f"- {duty}" for duty in licence["duties"]) or "- none recorded in the catalogue"
    )
    languages = "\n".join(f"  - {language}" for language in recipe.languages)
    steps = manifests["train"].result["roles"]["student"]["num_steps"]
    quantized = manifests["quantize"].result
    bits = round(8 * quantized["student_bytes"] / student["num_parameters"])
    files = (
        "\n".join(f"- {_file(name, check)}" for name, check in quantized["formats"].items())
        or "- No quantized files."
    )
    base = f"base_model: {recipe.student.model}\n" if recipe.student.model else ""
    return f"""---
library_name: transformers
pipeline_tag: text-generation
{base}language:
{languages}
tags:
  - distillation
---

# {recipe.report.title or recipe.name}

A student of {student["num_parameters"]:,} parameters, distilled from **{recipe.teacher.model}**. Modified on {today}: initialized,
distilled and quantized with `distill`.

## Lineage

- Teacher: {recipe.teacher.model}, revision {recipe.teacher.revision or "not pinned"}, {_way(recipe)}.
- Student began as: {start}.
- Data: {data["num_kept"]:,} answers of the teacher to {data["num_prompts"]:,} prompts of {sources}, filtered
  (dropped: {", ".join(f"{k} {v}" for k, v in data["dropped_by_reason"].items()) or "none"}).
- Training: {_training(recipe, data.get("retokenized"))}, {steps:,} steps.

## Files

- `train/student`: the student as it was trained, for further training, {bits}-bit weights, any adapter merged in.
{files}

## Licences

{licence["level"]}: {"; ".join(licence["sentences"])}

{duties}

Model names are used only to state origin. This is not legal advice.

## Figures

{manifests["evaluate"].result["num_examples"]} held-out prompts; NLL in nats a token of the teacher's sampled answers.

```
{table_text(table)}
```

{verdict}

## Limits

- Measured on prompts of the same kind as the training data; nothing is known about other uses.
- Safety, refusals and content bias were not measured. A student inherits them from its teacher.
- llama.cpp does not normalise text: give the GGUF files NFC text, or Bengali, Hindi and Yoruba may be read as other tokens.
- Do not use it where a wrong answer can hurt somebody.
"""


def _training(recipe: Recipe, difference: str | None) -> str:
    if recipe.capture.signal == "none":
        own = f", in the student's own tokenizer ({difference})" if difference else ""
        return f"cross-entropy on the text of the answers{own}"
    return (
        f"{recipe.train.divergence} on the {recipe.capture.signal} signal (weight {recipe.train.soft_weight}), cross-entropy\n"
        f"  (weight {recipe.train.hard_weight}), hidden states (weight {recipe.train.hidden_weight})"
    )


def _way(recipe: Recipe) -> str:
    """How the teacher was run."""
    if recipe.teacher.gguf:
        return f"run by llama.cpp as the file {Path(recipe.teacher.gguf).name}"
    if recipe.teacher.server:
        return "asked on a server"
    return f"run locally, quantization {recipe.teacher.quantization}"


def _file(name: str, check: dict[str, Any]) -> str:
    place = f"quantize/{name}.gguf" if check["runtime"] == "llama.cpp" else f"quantize/{name}"
    failed = f"; **failed**: {check['failed']}" if check.get("failed") else ""
    others = " and vLLM" if name in (W16A16, "w4a16") else ""
    return f"`{place}`: for {check['runtime']}{others}, {check['bytes'] / 1e6:,.2f} MB, {check['bits_per_weight']} bits a weight{failed}"
