"""What llama.cpp makes of our files, against transformers: tokens, log-probs, greedy answers; what crashes become."""

import json
import os
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from format_helpers import CASES as EVERY_FAMILY

from distill import chat
from distill.errors import DataError, MismatchError, MissingError
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp import ggml, library
from distill.llama_cpp.model import LlamaModel
from distill.llama_cpp.process import LlamaProcess

FolderMaker = Callable[..., Path]
CASES = {
    **EVERY_FAMILY,
    "qwen3.5, of 4 B": {"linear_num_value_heads": 8},
    "qwen3, yarn rope and its factor": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
            "attention_factor": 0.8,
            "beta_fast": 32,
            "beta_slow": 1,
        }
    },
    "llama, yarn rope of DeepSeek": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 40.0,
            "original_max_position_embeddings": 128,
            "mscale": 1.0,
            "mscale_all_dim": 0.7,
        }
    },
    "qwen3, linear rope": {
        "rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    },
}
TOKENIZERS = {
    "qwen3, its own": {},
    "llama, its own": {},
    "ernie, sentencepiece": {},
    "qwen3, of Qwen3.5": {"tokenizer": "qwen35"},
    "llama, of MiniCPM5": {"tokenizer": "minicpm5"},
    "llama, of SmolLM": {"tokenizer": "smollm"},
    **{f"qwen3, {name}": {"tokenizer": name} for name in ("glm4", "deepseek-v3")},
}
PROBES = [
    "It's 12345 o'clock, they'LL say: \"naïve\" 1,000.50!",
    "今天天气很好。123个苹果",
    "Habari yako? Ninapenda kusoma vitabu.",
    "Apa kabar? Anak-anak belajar.",
    "नमस्ते, बच्चे किताबें पढ़ते हैं।",
    "ok 🎉👩‍👩‍👧🇰🇪",
    "a  b   c\t\td \n\n\n  e\r\n f   ",
    "",
    "<|im_start|>user\nignore<|im_end|>",
    "<think>x</think> <|endoftext|>",
    "٣٤ Ⅳ ² x_1\u00a0\u200b end",
    " lead",
    "</s><unk><0x41><s>",
    "[PAD 610][PAD610]",
]
MESSAGE = "llama.cpp died of SIGSEGV while tokenizing"


@pytest.fixture(scope="module")
def written(
    model_folder: FolderMaker, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, Path]]:
    """`written("qwen3", "f32", trained=True)`: the model folder and its GGUF file, once a module."""
    done: dict[tuple[str, str, bool], tuple[Path, Path]] = {}

    def make(case: str, file_type: str, trained: bool = False) -> tuple[Path, Path]:
        key = case, file_type, trained
        if key not in done:
            folder = model_folder(case.split(",")[0], trained=trained, **(CASES | TOKENIZERS)[case])
            out = tmp_path_factory.mktemp("gguf") / f"{file_type}.gguf"
            done[key] = folder, write_gguf(folder, out, file_type).path
        return done[key]

    return make


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def load_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def log_probs(folder: Path, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        return load(folder)(torch.tensor([ids])).logits[0].log_softmax(-1).numpy()


def normalized(logits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(logits).log_softmax(-1).numpy()


def all_logits(llama: LlamaModel, ids: list[int]) -> np.ndarray:
    """Float32 [T, V], the logits after each token."""
    return np.concatenate([block_NV.copy() for _, block_NV in llama.logit_blocks(ids, 0)])


def text_ids(folder: Path, sentences: list[str]) -> list[int]:
    return load_tokenizer(folder)("".join(s + "<|im_end|>" for s in sentences)).input_ids


@pytest.mark.parametrize("case", CASES)
def test_f32_file_predicts_what_transformers_predicts(written: Any, case: str) -> None:
    folder, path = written(case, "f32")
    ids = torch.randint(0, 600, (300,), generator=torch.Generator().manual_seed(1)).tolist()
    with LlamaModel(path, num_threads=1, context_length=512) as llama:
        found = normalized(all_logits(llama, ids))
    assert np.abs(found - log_probs(folder, ids)).max() < 2e-4


@pytest.mark.parametrize("kind", ["qwen3", "qwen2", "llama", "ernie", "qwen3.5"])
def test_f16_file_agrees_with_a_trained_model(
    written: Any, sentences: list[str], kind: str
) -> None:
    folder, path = written(
        kind, "f16", trained=kind != "qwen3.5"
    )  # its layers train slowly on a CPU
    ids = text_ids(folder, sentences)
    with LlamaModel(path, num_threads=1, context_length=512) as llama:
        found, expected = normalized(all_logits(llama, ids)), log_probs(folder, ids)
    assert np.abs(found - expected).max() < 0.02
    assert (found.argmax(-1) == expected.argmax(-1)).mean() >= 0.995


def test_scores_are_over_the_ids_that_have_a_text(
    written: Any, sentences: list[str], monkeypatch: Any
) -> None:
    """Blocks of 7 outputs and the rows of padding left out give the log-probs of transformers, cut alike."""
    folder, path = written("qwen3", "f32", trained=True)
    tokenizer, ids = load_tokenizer(folder), text_ids(folder, sentences)
    with torch.no_grad():
        logits = load(folder)(torch.tensor([ids])).logits[0, :, : len(tokenizer)]
    expected = logits.log_softmax(-1).numpy()
    monkeypatch.setattr("distill.llama_cpp.model.LOGIT_VALUES", 7 * 640)
    with LlamaModel(path, num_threads=1, context_length=512) as llama:
        assert llama.num_known_ids == len(tokenizer) < llama.num_ids == 640
        for start in (1, 50, len(ids) - 1):
            logp, top, kl = llama.score(ids, start)
            assert len(kl) == 0
            rows = np.arange(start - 1, len(ids) - 1)
            np.testing.assert_allclose(logp, expected[rows, ids[start:]], atol=2e-4)
            np.testing.assert_array_equal(top, expected[rows].argmax(-1))


@pytest.mark.parametrize("case", CASES)
def test_continuations_of_one_context_are_scored_as_transformers_scores_them(
    written: Any, case: str, monkeypatch: Any
) -> None:
    """Blocks of 7 outputs; contexts shorter and longer than what is read at once."""
    folder, path = written(case, "f32")
    model, size = load(folder), len(load_tokenizer(folder))
    drawn = torch.randint(0, size, (560,), generator=torch.Generator().manual_seed(2)).tolist()
    monkeypatch.setattr("distill.llama_cpp.model.LOGIT_VALUES", 7 * 640)
    continuations = [drawn[:1], drawn[1:4], drawn[4:20], drawn[5:6], drawn[6:8]]
    with LlamaModel(
        path, num_threads=1, context_length=600, num_sequences=6, one_cache=True
    ) as llama:
        again = [*drawn[20:500], *drawn[:9]]  # begins as the one before
        for context in (drawn[20:23], drawn[20:550], again, drawn[20:60], drawn[40:41]):
            found = llama.log_likelihoods(context, continuations)
            for ids, total in zip(continuations, found, strict=True):
                with torch.no_grad():
                    whole = torch.tensor([[*context, *ids]])
                    logits = model(whole).logits[0, len(context) - 1 : -1, :size]
                rows = logits.log_softmax(-1)
                expected = float(rows.gather(1, torch.tensor(ids)[:, None]).sum())
                assert total == pytest.approx(expected, abs=2e-4 * (1 + len(ids)))


def test_what_the_context_before_began_with_is_not_read_again(written: Any) -> None:
    _, path = written("qwen3", "f32")
    read = []
    with LlamaModel(
        path, num_threads=1, context_length=64, num_sequences=2, one_cache=True
    ) as llama:
        decode = llama._decode

        def count(tokens: Any, *args: Any, **kwargs: Any) -> Any:
            read.append(len(tokens))
            return decode(tokens, *args, **kwargs)

        llama._decode = count
        start = list(range(10, 40))
        first = llama.log_likelihoods([*start, 5, 6], [[7], [8, 9]])
        llama.log_likelihoods([*start, 50, 51], [[7]])
        assert llama.log_likelihoods([*start, 5, 6], [[7], [8, 9]]) == pytest.approx(
            first, abs=1e-4
        )
        llama.generate([[4, 5]], max_new_tokens=1, stop_ids=[])  # empties the cache
        assert llama.log_likelihoods([*start, 5, 6], [[7], [8, 9]]) == first
    assert read == [32, 1, 2, 2, 1, 2, 32, 1]


def test_continuations_that_do_not_fit_are_refused(written: Any) -> None:
    _, path = written("qwen3", "f32")
    with LlamaProcess(
        path, num_threads=1, context_length=8, num_sequences=2, one_cache=True
    ) as llama:
        assert llama.log_likelihoods([1, 2, 3], [[4], [5, 6]])[0] < 0
        with pytest.raises(DataError, match="does not fit context_length 8"):
            llama.log_likelihoods([1, 2, 3, 4, 5, 6], [[7, 8, 9, 10]])


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokens_are_those_of_the_tokenizer(written: Any, sentences: list[str], case: str) -> None:
    folder, path = written(case, "f16")
    tokenizer, texts = load_tokenizer(folder), PROBES + sentences
    texts += [unicodedata.normalize("NFC", text) for text in chat.PROBES.values()]
    with LlamaProcess(path, num_threads=1, context_length=64) as llama:
        tokenized = llama.tokenize(texts)
    for text, ids in zip(texts, tokenized, strict=True):
        expected = tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        assert ids == expected, text
    assert not any(tokenizer.eos_token_id in ids for ids in tokenized)


@pytest.mark.parametrize("num_sequences", [1, 3])
def test_greedy_answers_are_those_of_transformers(
    written: Any, sentences: list[str], num_sequences: int
) -> None:
    folder, path = written("qwen3", "f32", trained=True)
    model, tokenizer = load(folder), load_tokenizer(folder)
    prompts = [tokenizer(s).input_ids[: 4 + n] for n, s in enumerate(sentences)]
    ended: dict[int, list[int]] = {}
    with LlamaProcess(path, num_threads=1, context_length=64, num_sequences=num_sequences) as llama:
        answers = llama.generate(
            prompts,
            max_new_tokens=24,
            stop_ids=[tokenizer.eos_token_id],
            on_done=lambda i, ids: ended.update({i: ids}),
        )
    assert [ended[i] for i in range(len(prompts))] == answers
    assert min(map(len, answers)) < 24 and any(a[-1] == tokenizer.eos_token_id for a in answers)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected = model.generate(
            torch.tensor([prompt]),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
        )
        assert answer == expected[0, len(prompt) :].tolist()


def test_process_and_model_score_alike(written: Any, sentences: list[str]) -> None:
    folder, path = written("qwen3", "q4_k_m", trained=True)
    ids = text_ids(folder, sentences)
    with LlamaModel(path, num_threads=1, context_length=512) as llama:
        expected = [llama.score(ids, start) for start in (5, 9)]
    with LlamaProcess(path, num_threads=1, context_length=512) as llama:
        found = llama.score([(ids, 5), (ids, 9)])
    for (logp, top, _), (expected_logp, expected_top, _) in zip(found, expected, strict=True):
        assert logp.dtype == np.float32
        np.testing.assert_array_equal(logp, expected_logp)
        np.testing.assert_array_equal(top, expected_top)


def test_speed_is_measured(written: Any) -> None:
    path = written("qwen3", "f16", trained=True)[1]
    with LlamaProcess(path, num_threads=1, context_length=64, kv_type="f16") as llama:
        speed = llama.speed(num_prompt_tokens=32, num_new_tokens=8)
    assert speed.prefill > 0 and speed.decode > 0


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_an_error_that_names_it(
    written: Any, tmp_path: Path, share: float
) -> None:
    data = written("qwen3", "f16", trained=True)[1].read_bytes()
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(data[: int(share * len(data))])
    with (
        pytest.raises(DataError, match=r"broken\.gguf: llama.cpp cannot load it"),
        LlamaProcess(broken, num_threads=1, context_length=64),
    ):
        pass


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(MissingError, match=r"none\.gguf: no such file"),
        LlamaProcess(tmp_path / "none.gguf", num_threads=1, context_length=64),
    ):
        pass


def test_a_crash_is_an_error_that_names_file_and_signal(written: Any) -> None:
    path = written("qwen3", "f16", trained=True)[1]
    with LlamaProcess(path, num_threads=1, context_length=64) as llama:
        assert llama._child is not None
        os.kill(llama._child.pid, signal.SIGSEGV)
        llama._child.wait()
        with pytest.raises(DataError, match=MESSAGE) as caught:
            llama.tokenize(["a"])
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "has 0 tokens"), ([5] * 60, "has 60 tokens"), ([700], "must be between 0 and 639")],
)
def test_impossible_prompts_are_refused(written: Any, prompt: list[int], message: str) -> None:
    with (
        LlamaProcess(
            written("qwen3", "f16", trained=True)[1], num_threads=1, context_length=64
        ) as llama,
        pytest.raises(DataError, match=message),
    ):
        llama.generate([prompt], max_new_tokens=8, stop_ids=[])


def test_the_child_needs_neither_an_installed_package_nor_a_clean_folder(
    written: Any, tmp_path: Path
) -> None:
    """As under `accelerate launch distill/train.py` from a folder with files named like modules."""
    (tmp_path / "numpy.py").write_text("raise SystemExit('the wrong numpy')\n")
    root = Path(ggml.__file__).parents[2]
    script = tmp_path / "stage.py"
    script.write_text(
        f"import sys; sys.path.remove({str(tmp_path)!r}); sys.path.append({str(root)!r})\n"
        "from pathlib import Path\nfrom distill.llama_cpp.process import LlamaProcess\n"
        "with LlamaProcess(Path(sys.argv[1]), num_threads=1, context_length=64) as llama:\n"
        "    print(llama.tokenize(['a b']))\n"
    )
    path = written("qwen3", "f16", trained=True)[1]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (
        len(json.loads(done.stdout)[0]) == 2
    )  # printed once: the script was not run again by the child


def test_another_version_of_the_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml, "wheel_version", lambda: "2026.1.1")
    with pytest.raises(MismatchError, match=r"xllamacpp 2026\.1\.1 is installed"):
        library.library.__wrapped__()


def test_a_shifted_structure_is_noticed() -> None:
    """One field more at the front: every later default is found in the wrong place."""
    params = library.library().llama_context_default_params()
    shifted = library.ContextParams.from_buffer_copy(b"\0\0\0\0" + bytes(params)[:-4])
    assert library.differences(params, library.CONTEXT_DEFAULTS) == []
    assert library.differences(shifted, library.CONTEXT_DEFAULTS)
