"""A trimmed tokenizer made by hand: a BPE's bytes, special tokens and first merges."""

import json
import shutil
from pathlib import Path

from distill.core.jsonl import read_jsonl, write_jsonl
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.models.load import load_tokenizer
from distill.shaping.trimmed import KEPT, TrimmedVocabulary


def trimmed_by_hand(parent: Path, folder: Path, num_merges: int) -> TrimmedVocabulary:
    """Return the parent's tokenizer with its first merges alone; `folder` is written to."""
    shutil.copytree(parent, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    model, added = tokenizer["model"], tokenizer["added_tokens"]
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    made = {"".join(merge) for merge in merges[num_merges:]}
    kept = sorted(i for token, i in model["vocab"].items() if token not in made)
    parent_ids = sorted({*kept, *(token["id"] for token in added)})
    new_id = {old: new for new, old in enumerate(parent_ids)}
    model["vocab"] = {t: new_id[i] for t, i in model["vocab"].items() if i in new_id}
    model["merges"] = merges[:num_merges]
    for token in added:
        token["id"] = new_id[token["id"]]
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return TrimmedVocabulary(load_tokenizer(str(folder)), tuple(parent_ids))


def retokenized(trimmed: TrimmedVocabulary, parent: Path, ids: list[int]) -> list[int]:
    """Return the same text, special tokens among it, in the trimmed tokenizer's ids."""
    text = load_tokenizer(str(parent)).decode(ids, skip_special_tokens=False)
    return trimmed.tokenizer(text, add_special_tokens=False).input_ids


def write_trim(run: RunFolder, parent: Path, trimmed: TrimmedVocabulary) -> list[Sample]:
    """Write what the stage `trim` makes of the run's samples, and return them in the trimmed ids."""
    stage = run.stage("trim")
    trimmed.write(stage)
    samples = []
    for _, row in read_jsonl(run.stage("generate") / KEPT):
        for name in ("prompt_ids", "answer_ids"):
            row[name] = retokenized(trimmed, parent, row[name])
        samples.append(Sample(**row))
    write_jsonl(stage / KEPT, [sample.row() for sample in samples])
    return samples
