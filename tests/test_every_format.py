"""A whole run's student in every format that there is."""

import json
import shutil
from importlib.util import find_spec
from typing import get_args

from run_helpers import run_forked, small

from distill.recipe.sections import Format


def test_the_student_in_every_format_at_once(copy):
    """Written, loaded back, compared, recovered, chosen by bytes; bitsandbytes and compressed-tensors where they are installed."""
    for path in (copy / "quantize").iterdir():  # its 16-bit folder is there already
        if not path.name.startswith("w16a16"):
            path.unlink()
    for later in ("evaluate", "report"):
        shutil.rmtree(copy / later)
    formats = [
        name for name in get_args(Format) if name != "w4a16" or find_spec("compressed_tensors")
    ]
    given = small(
        copy,
        f"quantize.formats=[{', '.join(formats)}]",
        "quantize.recover=[q2_k, nf4]",
        "quantize.recover_steps=4",
        "quantize.budget_mb=0.5",
        "quantize.min_top_token_share=0",
    )
    result = run_forked(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    checks = json.loads((copy / "quantize" / "manifest.json").read_text())["result"]["formats"]
    assert set(checks) == {"w16a16", *formats}
    for name, check in checks.items():
        assert check["bytes"] > 0 and check["kl"] < 0.1 and check["failed"] is None, (name, check)
        place = (
            copy
            / "quantize"
            / (name if check["runtime"].startswith("transformers") else f"{name}.gguf")
        )
        assert place.exists() and check["decode_speed"] > 0 and check["peak_memory"] > 10e6
    assert checks["tq2_0"]["bytes"] < checks["f16"]["bytes"] and checks["mixed"]["bytes"] <= 500_000
    for name, said in (
        ("q2_k", "recovery"),
        ("nf4", "recovery"),
        ("mixed", "of what fits into 0.5 MB"),
    ):
        assert (
            checks[name]["note"].startswith(said) and f"quantize: {name}: {said}" in result.stdout
        )
    assert checks["mixed"]["note"] in (copy / "report" / "report.html").read_text()
