"""What `accelerate launch` passes on of the user's configuration, and what of it is not taken here.

Accelerate reads these variables wherever it starts, on every backend, whoever set them: a launcher
that found a configuration file, or the user's shell. Other engines would die in `train`, after the
teacher has been paid; compilation, precision and accumulation would change the training unsaid.
"""

from collections.abc import Mapping

from distill.errors import MismatchError

SHARD = "set train.shard=full in the recipe"
# variable: (whose engine it starts, what to do in its place)
ENGINES = {
    "ACCELERATE_USE_FSDP": ("FSDP", SHARD),
    "ACCELERATE_USE_DEEPSPEED": ("DeepSpeed", f"in place of ZeRO {SHARD}"),
    "ACCELERATE_USE_MEGATRON_LM": ("Megatron-LM", SHARD),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("a parallelism configuration", SHARD),
}
# variable: (its name in accelerate's configuration, the value that changes nothing, who decides here)
OVERRULED = {
    "ACCELERATE_DYNAMO_BACKEND": ("dynamo_backend", "no", "nothing is compiled here"),
    "ACCELERATE_MIXED_PRECISION": ("mixed_precision", "no", "train.precision decides"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": (
        "gradient_accumulation_steps",
        "1",
        "train.batch_tokens and train.micro_batch_tokens decide",
    ),
}
OFF = ("", "0", "f", "false", "n", "no", "off")


def refuse_other_engines(environment: Mapping[str, str]) -> None:
    """Raise MismatchError where accelerate would train by an engine of its own configuration."""
    for variable, (engine, way_out) in ENGINES.items():
        value = environment.get(variable, "")
        if value.lower() in OFF:
            continue
        raise MismatchError(
            f"accelerate's configuration asks for {engine} ({variable}={value[:40]}), which is not "
            f"used here: {way_out}, launch with `accelerate launch --multi_gpu --num_processes N` "
            f"(which leaves that configuration's engine out), and unset {variable} where your shell "
            "sets it"
        )


def overruled(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each setting of accelerate's configuration that counts for nothing here."""
    lines = []
    for variable, (name, neutral, who_decides) in OVERRULED.items():
        value = environment.get(variable) or neutral
        if value.lower() != neutral:
            lines.append(f"accelerate's {name} {value[:40]} is not taken: {who_decides}")
    return lines
