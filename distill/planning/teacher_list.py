"""The catalogue as text for a terminal: which teachers there are, what they need and allow."""

import textwrap

from distill.catalog import catalog
from distill.catalog.catalog import LicenceVerdict
from distill.catalog.facts import ModelFacts
from distill.errors import RecipeError
from distill.planning.costs import BYTES_PER_PARAMETER, PROCESS_BYTES
from distill.planning.machine import GB, Room

WIDTH = 100
# Type as plan knows it -> as people call it
TYPES = {"bfloat16": "bf16", "int8": "8-bit", "nf4": "4-bit"}
GGUF, GGUF_BYTES_PER_PARAMETER = "Q4_K_M", 0.61
CACHE_TOKENS = 4096  # of keys and values, in 16 bits

THINKING = {
    "never": "never",
    "always": "always",
    "on": "on unless switched off",
    "off": "off unless switched on",
}
TAGS = {
    "both": "the model writes <think> and </think>",
    "channels": "in channels: analysis, then final",
    "close": "the template writes <think>, the model only </think>",
}
LEGEND = f"""
? = known from a report or from memory only. all/active: parameters, and those that a token uses.
8 and 4 bits: dense models. {GGUF}: a GGUF file through llama.cpp on the CPU (teacher.gguf),
mixtures of experts, too; or on a server that holds it so. `distill teachers NAME` shows one whole.
""".strip()
DOUBTS = {"verified": "", "secondary": "by report", "memory": "from memory"}


def table(room: Room) -> str:
    """Return a line for each model, with `*` where it fits into `room`.

    A mixture of experts is not counted in 8 or 4 bits: bitsandbytes leaves its experts as they are,
    so only llama.cpp (Q4_K_M) or a server holds it so.
    """
    lines = [
        f"{room.name}: {room.loaded / GB:.1f} GB for a model; "
        f"for {GGUF} {room.ram / GB:.1f} GB of RAM",
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
        lines.append(_table_line(model, room))
    return "\n".join([*lines, "", LEGEND])


def _table_line(model: ModelFacts, room: Room) -> str:
    needs = memory_needs(model)
    bf16, int8, nf4, gguf = (
        _cell(needs.get(kind), _room_of(kind, room)) for kind in (*TYPES, GGUF)
    )
    size = _rounded(model.params)
    if model.active is not None:
        size += f"/{_rounded(model.active)}"
    verdict = _plain(catalog.verdict(model.id, None).level)
    doubt = "" if model.checked == "verified" else "?"
    return f"  {model.id:<40}{size:>11}{bf16:>8}{int8:>7}{nf4:>7}{gguf:>8}  {verdict}{doubt}"


def memory_needs(model: ModelFacts) -> dict[str, float]:
    """Return the bytes of memory to load a model, by type.

    A type that cannot be had is left out; nothing is there where the model's size is not known.
    """
    if model.params is None:
        return {}
    types = ["bfloat16"] if model.active is not None else list(TYPES)
    factors = {name: BYTES_PER_PARAMETER[name] for name in types} | {GGUF: GGUF_BYTES_PER_PARAMETER}
    return {
        name: PROCESS_BYTES + model.params * factor + _cache_bytes(model)
        for name, factor in factors.items()
    }


def _cache_bytes(model: ModelFacts) -> float:
    """Return the bytes of keys and values; 0 where the model's shape is not known."""
    if model.shape is None:
        return 0.0
    layers, _, _, heads, width = model.shape
    if not (layers and heads and width):
        return 0.0
    return CACHE_TOKENS * 2 * 2.0 * layers * heads * width


def _room_of(type_name: str, room: Room) -> float:
    return room.ram if type_name == GGUF else room.loaded


def show_model(model_id: str, room: Room) -> str:
    """Return all that the catalogue says of one model.

    Raises RecipeError for an id that is not in it, naming near ones.
    """
    model = catalog.find(model_id)
    if model is None:
        near = " or ".join(catalog.near(model_id))
        hint = f"did you mean {near}?" if near else "`distill teachers` lists them"
        raise RecipeError(f"model {model_id!r} is not in the catalogue; {hint}")
    rows = {
        "model": model_id,
        "same facts": ", ".join(i for i in (model.id, *model.also) if i != model_id),
        "family": model.family,
        "parameters": _exact(model.params),
        "active a token": _exact(model.active),
        "shape": _shape(model),
        "context": f"{model.context:,} tokens" if model.context else "",
        "vocabulary": f"{model.group}, {model.width:,} wide" if model.group and model.width else "",
        "memory": _memory(model, room),
        "sampling": _sampling(model.sampling),
        "while thinking": _sampling(model.sampling_thinking),
        **_template_rows(model),
        "note": model.note or "",
        "source": catalog.source(model),
    }
    lines = [_row(name, text) for name, text in rows.items() if text]
    answers = catalog.verdict(model_id, None, use="outputs")
    probabilities = catalog.verdict(model_id, None, use="logits")
    lines += ["", *_verdict_lines("learning from its answers", answers)]
    lines += ["", *_verdict_lines("learning from its probabilities", probabilities)]
    return "\n".join(lines)


def _memory(model: ModelFacts, room: Room) -> str:
    needs = []
    for name, need in memory_needs(model).items():
        fits = " (fits)" if need <= _room_of(name, room) else ""
        needs.append(f"{TYPES.get(name, name)} {need / GB:.1f} GB{fits}")
    if not needs:
        return ""
    rooms = f"{room.name} {room.loaded / GB:.1f} GB, {GGUF} in {room.ram / GB:.1f} GB of RAM"
    return f"{', '.join(needs)}; {rooms}"


def _template_rows(model: ModelFacts) -> dict[str, str]:
    """Return what is known of the model's chat template, by the title of a row."""
    template = catalog.template(model)
    if template is None:
        return {}
    rows = {"thinking": THINKING[template.thinking]}
    if template.tags:
        rows["thinking"] += f"; {TAGS[template.tags]}"
    if template.switch:
        rows["switch"] = f"generate.enable_thinking (the template's {template.switch})"
    if template.history:
        rows["history"] = f"reasoning of earlier answers is {template.history} by the template"
    if template.system:
        rows["system prompt"] = (
            f"{template.system!r}... is the template's own: set generate.system_prompt"
        )
    origin = (template.note, f"from {template.source}", DOUBTS[template.checked])
    rows["template"] = "; ".join(part for part in origin if part)
    return rows


def _verdict_lines(title: str, verdict: LicenceVerdict) -> list[str]:
    level, commercial = _plain(verdict.level), _plain(verdict.commercial)
    lines = [_row(title, f"{level}; selling the student: {commercial}")]
    lines += [_row("", sentence) for sentence in verdict.sentences]
    lines += [_row("", f"- {duty}") for duty in verdict.duties]
    return lines


def _plain(level: str) -> str:
    return level.replace("_", " ")


def _row(title: str, text: str) -> str:
    """Return a title and its text, which begins in a column of its own and is wrapped there."""
    column = 34 if title.startswith("learning") or not title else 18
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"{title:<{column}}",
        subsequent_indent=" " * column,
        break_on_hyphens=False,
    )


def _cell(need: float | None, room: float) -> str:
    if need is None:
        return "-"
    decimals = 0 if need >= 1000 * GB else 1
    mark = "*" if need <= room else " "
    return f"{need / GB:,.{decimals}f}{mark}"


def _rounded(number: int | None) -> str:
    if number is None:
        return "-"
    for unit, size in (("T", 1e12), ("B", 1e9)):
        if number >= size:
            decimals = 0 if number >= 100 * size else 1
            return f"{number / size:.{decimals}f}{unit}"
    return f"{number / 1e6:.0f}M"


def _exact(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def _shape(model: ModelFacts) -> str:
    names = ("layers", "hidden", "query heads", "key/value heads", "head width")
    parts = zip(model.shape or (), names, strict=False)
    return ", ".join(f"{value} {name}" for value, name in parts if value is not None)


def _sampling(values: tuple[float | None, ...] | None) -> str:
    names = ("temperature", "top_p", "top_k")
    parts = zip(values or (), names, strict=False)
    return ", ".join(f"{name} {value:g}" for value, name in parts if value is not None)
