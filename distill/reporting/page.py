"""The report as HTML and its table as text. Everything that came from a model or a file is escaped."""

import html
from datetime import UTC, datetime
from typing import Any

from distill.core.run_folder import Manifest
from distill.recipe import Recipe
from distill.reporting import data
from distill.text.identification import by_script_only

STYLE = """
body{font:16px/1.55 system-ui,'Noto Sans',sans-serif;color:#1d2731;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid #d8dee4;padding-bottom:.2rem}
.verdict{background:#eef5fa;border-left:4px solid #2a6f97;padding:.7rem 1rem;margin:1rem 0}.faint{color:#5b6770;font-size:.9rem}
table{border-collapse:collapse;width:100%;font-size:.92rem;font-variant-numeric:tabular-nums}
th,td{padding:.3rem .5rem;border-bottom:1px solid #e3e8ec;text-align:right;vertical-align:top}
td{white-space:nowrap}th:first-child,td:first-child,td.text,th.text{text-align:left;white-space:normal}
tr.student td{background:#f2f8fc;font-weight:600}tr.failed td{color:#a6341b}
.pictures{display:grid;grid-template-columns:repeat(auto-fit,minmax(24rem,1fr));gap:1rem}figure{margin:0}figure svg{width:100%;height:auto}
figcaption{font-size:.9rem;font-weight:600}pre{white-space:pre-wrap;background:#f6f8fa;padding:.6rem;font-size:.86rem;margin:.2rem 0}
.scroll{overflow-x:auto}.wrong{color:#a6341b}@media(max-width:40rem){.pictures{grid-template-columns:1fr}}
"""


def page(
    recipe: Recipe,
    manifests: dict[str, Manifest],
    table: list[dict[str, Any]],
    verdict: str,
    pictures: dict[str, str],
    examples: list[dict[str, Any]],
    dropped: list[dict[str, Any]],
) -> str:
    title = recipe.report.title or recipe.name
    student = manifests["initialize"].result
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    seconds = sum(m.seconds for m in manifests.values())
    figures = "".join(
        f"<figure><figcaption>{_e(name)}</figcaption>{svg}</figure>"
        for name, svg in pictures.items()
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_e(title)}: distill report</title><style>{STYLE}</style></head><body>
<h1>{_e(title)}</h1>
<p class="faint">{today} · teacher {_e(recipe.teacher.model)} → student of {student["num_parameters"]:,} parameters
({_e(student["method"])}, {student["num_layers"]} layers, width {student["hidden_size"]}) · {seconds / 60:.1f} minutes of work on
{_e(manifests["train"].machine)}</p>
<div class="verdict">{_e(verdict)}</div>
<h2>What came out</h2><div class="scroll">{table_html(table)}</div>
<p class="faint">{_table_notes(manifests)}</p>
<h2>Pictures</h2><div class="pictures">{figures}</div>
{_languages(table)}
<h2>What they answered</h2>{_answers(examples)}
<h2>The data</h2>{_data(manifests, dropped)}
<h2>Quantized files</h2>{_files(manifests)}
<h2>Licences</h2>{_licences(manifests)}
<h2>What this report does not show</h2>{_limits(recipe, manifests)}
<h2>How it was made</h2>{_provenance(manifests)}
</body></html>
"""


def table_html(table: list[dict[str, Any]]) -> str:
    columns = [*_columns(table), *MACHINE_COLUMNS]
    head = "".join(f"<th>{name}</th>" for name, _ in columns)
    body = "".join(
        f"<tr class='{'student' if row['model'] == 'student' else 'failed' if row['failed'] else ''}'>"
        + "".join(f"<td>{_e(show(row))}</td>" for _, show in columns)
        + "</tr>"
        for row in table
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def table_text(table: list[dict[str, Any]]) -> str:
    """The same for a terminal, without what belongs to this machine; a line for each file that failed its check."""
    columns = _columns(table)
    cells = [[name for name, _ in columns], *([show(row) for _, show in columns] for row in table)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(
            c.ljust(w) if i == 0 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
    failed = [f"{row['model']} FAILED its check: {row['failed']}" for row in table if row["failed"]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:], *failed])


def _columns(table: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    columns: list[tuple[str, Any]] = [
        ("model", lambda r: r["model"] + (" (failed)" if r["failed"] else "")),
        ("MB", lambda r: f"{r['bytes'] / 1e6:,.2f}" if r["bytes"] else "–"),
        ("bits/weight", lambda r: f"{r['bits_per_weight']:.2f}" if r["bits_per_weight"] else "–"),
    ]
    if table[0]["exact_match"] is not None:
        columns += [
            ("exact match %", lambda r: f"{100 * r['exact_match']:.1f}"),
            (
                "95 % interval",
                lambda r: f"{100 * r['interval'][0]:.1f} – {100 * r['interval'][1]:.1f}",
            ),
        ]
    return [
        *columns,
        ("NLL", _or_dash("nll", "{:.4f}")),
        ("KL", _or_dash("kl", "{:.5f}")),
        ("same top token %", lambda r: f"{100 * r['agreement']:.2f}" if r["agreement"] else "–"),
        ("tokens/s", lambda r: f"{r['tokens_per_second']:,.0f}"),
    ]


def _or_dash(key: str, form: str, scale: float = 1.0) -> Any:
    return lambda row: "–" if row[key] is None else form.format(scale * row[key])


MACHINE_COLUMNS: list[tuple[str, Any]] = [
    ("refused %", _or_dash("refused", "{:.1f}", 100)),
    ("memory MB", _or_dash("peak_memory", "{:,.0f}", 1e-6)),
    ("prefill/s", _or_dash("prefill_speed", "{:,.0f}")),
    ("decode/s", _or_dash("decode_speed", "{:,.1f}")),
]


def _table_notes(manifests: dict[str, Manifest]) -> str:
    evaluate = manifests["evaluate"].result
    return _e(
        f"{evaluate['num_examples']} held-out prompts. NLL: nats a token of the teacher's own sampled answers; the "
        "teacher's is the floor. KL: nats a token from the 16-bit student's distribution to the file's, and same top token: share "
        "of positions where its likeliest token is the student's, both on validation samples. Tokens/s: batched greedy answers "
        "here, in each file's own runtime. Refused: answers that open with a refusal. Memory: of a process that loads the file, at "
        "most: in llama.cpp the mapped file, its keys and values and some 40 MB of Python, in transformers torch, too. Prefill and "
        "decode: one sequence, 128 tokens read and 32 written, tokens a second."
    )


def _languages(table: list[dict[str, Any]]) -> str:
    languages = list(table[0]["by_language"])
    if not languages:
        return ""
    head = "".join(f"<th>{_e(language)}</th>" for language in languages)
    body = "".join(
        f"<tr><td>{_e(row['model'])}</td>"
        + "".join(
            f"<td>{100 * row['by_language'].get(language, 0):.0f}</td>" for language in languages
        )
        + "</tr>"
        for row in table
    )
    return (
        f"<h2>Exact match by language, %</h2><div class='scroll'><table><thead><tr><th>model</th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _answers(examples: list[dict[str, Any]]) -> str:
    parts = []
    for example in examples:
        cells = ""
        for name in ("teacher", "student", "control"):
            if name in example:
                answer, right = example[name]
                mark = "" if right is None else " ✓" if right else " <span class='wrong'>✗</span>"
                cells += (
                    f"<figure><figcaption>{name}{mark}</figcaption><pre>{_e(answer)}</pre></figure>"
                )
        parts.append(f"<p>{_e(example['prompt'])}</p><div class='pictures'>{cells}</div>")
    return "".join(parts)


def _data(manifests: dict[str, Manifest], dropped: list[dict[str, Any]]) -> str:
    g, c, t = (manifests[s].result for s in ("generate", "capture", "train"))
    table = data.table_html(g["by_language"]) if "by_language" in g else ""
    reasons = (
        ", ".join(
            f"{_e(k)} {v:,}" for k, v in sorted(g["dropped_by_reason"].items(), key=lambda x: -x[1])
        )
        or "none"
    )
    kept = ", ".join(f"{_e(k)} {v:,}" for k, v in g["kept_by_language"].items())
    sources = ", ".join(f"{_e(k)} {v:,}" for k, v in g.get("prompts_by_source", {}).items())
    first: dict[str, dict[str, Any]] = {}
    for row in dropped:
        first.setdefault(row["reason"].partition(":")[0], row)
    shown = "".join(
        f"<p class='faint'>{_e(row['reason'])} ({_e(row['language'])})</p><pre>{_e(row['prompt'])}\n→ {_e(row.get('answer', ''))}</pre>"
        for row in first.values()
    )
    return (
        f"<p>{g['num_prompts']:,} prompts, {g['num_asked']:,} answers asked{f' (to prompts of {sources})' if sources else ''}, "
        f"{g['num_kept']:,} kept ({kept}); dropped: {reasons}. "
        f"{t['num_samples']:,} samples were learnt from, {t['num_validation']:,} gave the validation loss, {t['num_too_long']:,} "
        f"were longer than a row.</p>{table}<p>{_signal(c, g.get('retold'))}</p>"
        + (f"<p class='wrong'>{_e(g['warning'])}</p>" if g.get("warning") else "")
        + (
            f"<details><summary>One dropped answer for each reason</summary>{shown}</details>"
            if shown
            else ""
        )
    )


def _signal(captured: dict[str, Any], difference: str | None) -> str:
    own = (
        f", in its own tokenizer ({_e(difference)}): the teacher's NLL, in other tokens, cannot be compared"
        if difference
        else ""
    )
    if captured["signal"] == "none":
        return f"No signal was captured: the student learnt from the answers' text alone{own}."
    size = (
        f"{captured['num_tokens']:,} answer tokens, {captured['bytes_per_token']:.1f} bytes a token"
    )
    size += ", the last hidden state in 8 bits among them" if captured.get("hidden_size") else ""
    unknown = captured.get("num_unknown")
    told = (
        f" Of {unknown:,} tokens the server told nothing: they had no soft loss." if unknown else ""
    )
    return f"Signal: {_e(captured['signal'])}, {size}.{told}"


def _files(manifests: dict[str, Manifest]) -> str:
    rows = "".join(
        f"<tr><td>{_e(name)}{_failed(f)}{_note(f)}</td>"
        f"<td class='text'>{_e(f['runtime'])}</td><td class='text'>{_e(f['tokenization'])}</td>"
        f"<td>{f['nll_change']:+.5f}</td><td>{f['kl']:.6f}</td><td>{f['num_kl_tokens']:,}</td>"
        f"<td class='text'>{_e(', '.join(f'{k} × {v}' for k, v in f.get('tensor_types', {}).items()))}</td></tr>"
        for name, f in manifests["quantize"].result["formats"].items()
    )
    return (
        "<p class='faint'>Each file was loaded back in its own runtime and compared with the student on validation "
        "samples.</p><div class='scroll'><table><thead><tr><th>file</th><th class='text'>runtime</th>"
        "<th class='text'>tokenization</th><th>NLL change</th><th>KL</th><th>at tokens</th><th class='text'>tensors</th></tr>"
        f"</thead><tbody>{rows}</tbody></table></div>"
    )


def _failed(check: dict[str, Any]) -> str:
    return (
        f" <span class='wrong'>failed: {_e(check['failed'])}</span>" if check.get("failed") else ""
    )


def _note(check: dict[str, Any]) -> str:
    return f"<br><span class='faint'>{_e(check['note'])}</span>" if check.get("note") else ""


def _licences(manifests: dict[str, Manifest]) -> str:
    verdict = manifests["plan"].result["licence"]
    duties = "".join(f"<li>{_e(duty)}</li>" for duty in verdict["duties"])
    return f"<p>{_e(verdict['level'])}: {_e('; '.join(verdict['sentences']))}</p>" + (
        f"<ul>{duties}</ul>" if duties else ""
    )


def _limits(recipe: Recipe, manifests: dict[str, Manifest]) -> str:
    num = manifests["evaluate"].result["num_examples"]
    items = [
        f"Quality was measured on {num} prompts of the same kind as the training data: it says nothing about other work.",
        "Safety, refusals and content bias were not measured; a student inherits its teacher's.",
        "Speed is that of this machine and of batched work; a phone or a single chat will be slower.",
    ]
    if not recipe.generate.task:
        items.insert(0, "No task checked the answers: only their likelihood was measured.")
    if unknown := by_script_only(recipe.languages):
        items.append(f"The language of the answers: {unknown}.")
    return "<ul>" + "".join(f"<li>{_e(item)}</li>" for item in items) + "</ul>"


def _provenance(manifests: dict[str, Manifest]) -> str:
    rows = "".join(
        f"<tr><td>{_e(name)}</td><td>{m.seconds:,.1f} s</td><td class='text'>{_e(m.machine)}</td>"
        f"<td class='text'>{_e(m.finished)}</td></tr>"
        for name, m in manifests.items()
    )
    versions = ", ".join(f"{k} {v}" for k, v in manifests["train"].versions.items())
    return f"<table><tbody>{rows}</tbody></table><p class='faint'>{_e(versions)}</p>"


def _e(text: object) -> str:
    return html.escape(str(text))
