"""The catalogue as text for a terminal: which teachers there are, what they need in memory, what their licences allow."""

import textwrap
from collections.abc import Mapping

from distill.catalog import catalog
from distill.catalog.catalog import Teacher, Verdict
from distill.errors import RecipeError
from distill.planning.machine import Room

GB = 1e9
WIDTH = 100
# type as plan knows it -> as people call it
TYPES = {"bfloat16": "bf16", "int8": "8-bit", "nf4": "4-bit"}
GGUF, GGUF_BYTES_PER_PARAMETER = "Q4_K_M", 0.61
CACHE_TOKENS = 4096  # of keys and values, in 16 bits


def table(room: Room, bytes_per_parameter: Mapping[str, float], overhead: float) -> str:
    """A line a model. overhead: bytes of the process.

    `*` marks what fits. A mixture of experts is not counted in 8 or 4 bits: bitsandbytes leaves its experts as they are,
    so only llama.cpp (Q4_K_M) or a server holds it so.
    """
    lines = [
        f"{room.name}: {room.loaded / GB:.1f} GB for a model; for {GGUF} {room.ram / GB:.1f} GB of RAM",
        f"Memory in GB to load a teacher and hold {CACHE_TOKENS:,} tokens, * = fits here.",
        "licence: may a student learn from its probabilities?",
        "",
        f"{'model':<42}{'all/active':>11}{'bf16':>8}{'8-bit':>7}{'4-bit':>7}{GGUF:>8}  licence",
    ]
    family = None
    for model in catalog.teachers():
        if model.family != family:
            family = model.family
            lines += ["", family]
        needs = needs_of(model, bytes_per_parameter, overhead)
        cells = [
            _cell(needs.get(kind), room.ram if kind == GGUF else room.loaded)
            for kind in (*TYPES, GGUF)
        ]
        size = _count(model.params) + (
            f"/{_count(model.active)}" if model.active is not None else ""
        )
        verdict = catalog.verdict(model.id, None)
        lines.append(
            f"  {model.id:<40}{size:>11}{cells[0]:>8}{cells[1]:>7}{cells[2]:>7}{cells[3]:>8}  "
            f"{verdict.level.replace('_', ' ')}{'' if model.checked == 'verified' else '?'}"
        )
    lines += [
        "",
        "? = known from a report or from memory only. all/active: parameters, and those that a token uses.",
        f"8 and 4 bits: dense models. {GGUF}: a GGUF file through llama.cpp on the CPU (teacher.gguf),",
        "mixtures of experts, too; or on a server that holds it so. `distill teachers NAME` shows one whole.",
    ]
    return "\n".join(lines)


def needs_of(
    model: Teacher, bytes_per_parameter: Mapping[str, float], overhead: float
) -> dict[str, float]:
    """Bytes of memory to load a model, by type; without what cannot be had, and empty where its size is not known."""
    if model.params is None:
        return {}
    kinds = ["bfloat16"] if model.active is not None else list(TYPES)
    factors = {kind: bytes_per_parameter[kind] for kind in kinds} | {GGUF: GGUF_BYTES_PER_PARAMETER}
    return {
        kind: overhead + model.params * factor + _cache_bytes(model)
        for kind, factor in factors.items()
    }


def _cache_bytes(model: Teacher) -> float:
    """0 where its shape is not known."""
    layers, _, _, heads, width = model.shape or (None,) * 5
    return CACHE_TOKENS * 2 * 2.0 * layers * heads * width if layers and heads and width else 0.0


def whole(
    model_id: str, room: Room, bytes_per_parameter: Mapping[str, float], overhead: float
) -> str:
    """All that the catalogue says of one model. Raises RecipeError for an id that is not in it, naming near ones."""
    model = catalog.find(model_id)
    if model is None:
        near = catalog.near(model_id)
        hint = f"did you mean {' or '.join(near)}?" if near else "`distill teachers` lists them"
        raise RecipeError(f"model {model_id!r} is not in the catalogue; {hint}")
    needs = needs_of(model, bytes_per_parameter, overhead)
    memory = [
        f"{TYPES.get(kind, kind)} {need / GB:.1f} GB{' (fits)' if need <= (room.ram if kind == GGUF else room.loaded) else ''}"
        for kind, need in needs.items()
    ]
    rooms = f"{room.name} {room.loaded / GB:.1f} GB, {GGUF} in {room.ram / GB:.1f} GB of RAM"
    rows = {
        "model": model_id,
        "same facts": ", ".join(i for i in (model.id, *model.also) if i != model_id),
        "family": model.family,
        "parameters": _exact(model.params),
        "active a token": _exact(model.active),
        "shape": _shape(model),
        "context": f"{model.context:,} tokens" if model.context else "",
        "vocabulary": f"{model.group}, {model.width:,} wide" if model.group and model.width else "",
        "memory": f"{', '.join(memory)}; {rooms}" if memory else "",
        "sampling": _sampling(model.sampling),
        "while thinking": _sampling(model.sampling_thinking),
        **_template(model),
        "note": model.note or "",
        "source": catalog.source(model),
    }
    lines = [_row(name, text) for name, text in rows.items() if text]
    uses: tuple[tuple[catalog.Use, str], ...] = (
        ("outputs", "its answers"),
        ("logits", "its probabilities"),
    )
    for use, title in uses:
        lines += ["", *_verdict(f"learning from {title}", catalog.verdict(model_id, None, use=use))]
    return "\n".join(lines)


def _template(model: Teacher) -> dict[str, str]:
    found = catalog.template(model)
    if found is None:
        return {}
    words = {
        "never": "never",
        "always": "always",
        "on": "on unless switched off",
        "off": "off unless switched on",
    }
    tags = {
        "both": "the model writes <think> and </think>",
        "channels": "in channels: analysis, then final",
        "close": "the template writes <think>, the model only </think>",
    }
    return {
        "thinking": words[found.thinking] + (f"; {tags[found.tags]}" if found.tags else ""),
        "switch": f"generate.enable_thinking (the template's {found.switch})"
        if found.switch
        else "",
        "history": f"reasoning of earlier answers is {found.history} by the template"
        if found.history
        else "",
        "system prompt": f"{found.system!r}... is the template's own: set generate.system_prompt"
        if found.system
        else "",
        "template": "; ".join(
            filter(None, [found.note, f"from {found.source}", _doubt(found.checked)])
        ),
    }


def _verdict(title: str, verdict: Verdict) -> list[str]:
    lines = [
        _row(
            title,
            f"{verdict.level.replace('_', ' ')}; selling the student: {verdict.commercial.replace('_', ' ')}",
        )
    ]
    return (
        lines
        + [_row("", text) for text in verdict.sentences]
        + [_row("", f"- {duty}") for duty in verdict.duties]
    )


def _row(name: str, text: str) -> str:
    indent = " " * 34 if name.startswith("learning") or not name else " " * 18
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{name:<{len(indent)}}",
        subsequent_indent=indent,
        break_on_hyphens=False,
    )


def _doubt(checked: str) -> str:
    return {"verified": "", "secondary": "by report", "memory": "from memory"}[checked]


def _cell(need: float | None, room: float) -> str:
    if need is None:
        return "-"
    return f"{need / GB:,.{0 if need >= 1000 * GB else 1}f}{'*' if need <= room else ' '}"


def _count(number: int | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9)):
        if number >= size:
            return f"{number / size:.{0 if number >= 100 * size else 1}f}{unit}"
    return f"{number / 1e6:.0f}M"


def _exact(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _shape(model: Teacher) -> str:
    names = ("layers", "hidden", "query heads", "key/value heads", "head width")
    return ", ".join(
        f"{value} {name}"
        for value, name in zip(model.shape or (), names, strict=False)
        if value is not None
    )


def _sampling(values: tuple[float | None, ...] | None) -> str:
    names = ("temperature", "top_p", "top_k")
    return ", ".join(
        f"{name} {value:g}"
        for value, name in zip(values or (), names, strict=False)
        if value is not None
    )
