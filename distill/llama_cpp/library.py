"""llama.cpp's C functions and structures, as the tested wheel of `xllamacpp` has them.

Structures go by value and change between versions of llama.cpp without a sign. So the wheel's
version is compared, and the default values that the library itself fills in must be where we expect
them; else nothing is called.
"""

import ctypes
from ctypes import c_bool, c_char_p, c_float, c_int, c_int32, c_size_t, c_uint32, c_void_p
from functools import cache

from distill.errors import MismatchError
from distill.llama_cpp import ggml

LOG_CALLBACK = ctypes.CFUNCTYPE(None, c_int, c_char_p, c_void_p)
LOG_WARNING, LOG_ERROR = 3, 4  # levels of ggml.h; 5 continues the line before
TOKEN_UNUSED = 1 << 1  # llama_token_attr


class ModelParams(ctypes.Structure):
    _fields_ = (
        ("devices", c_void_p),
        ("tensor_buft_overrides", c_void_p),
        ("n_gpu_layers", c_int32),
        ("split_mode", c_int),
        ("load_mode", c_int),
        ("lazy_mode", c_int),
        ("main_gpu", c_int32),
        ("tensor_split", c_void_p),
        ("progress_callback", c_void_p),
        ("progress_callback_user_data", c_void_p),
        ("kv_overrides", c_void_p),
        ("vocab_only", c_bool),
        ("check_tensors", c_bool),
        ("use_extra_bufts", c_bool),
        ("no_host", c_bool),
        ("no_alloc", c_bool),
        ("load_mtp", c_bool),
    )


class ContextParams(ctypes.Structure):
    _fields_ = (
        ("n_ctx", c_uint32),
        ("n_batch", c_uint32),
        ("n_ubatch", c_uint32),
        ("n_seq_max", c_uint32),
        ("n_rs_seq", c_uint32),
        ("n_outputs_max", c_uint32),
        ("n_outputs_max_per_seq", c_uint32),
        ("n_threads", c_int32),
        ("n_threads_batch", c_int32),
        ("ctx_type", c_int),
        ("rope_scaling_type", c_int),
        ("pooling_type", c_int),
        ("attention_type", c_int),
        ("flash_attn_type", c_int),
        ("rope_freq_base", c_float),
        ("rope_freq_scale", c_float),
        ("yarn_ext_factor", c_float),
        ("yarn_attn_factor", c_float),
        ("yarn_beta_fast", c_float),
        ("yarn_beta_slow", c_float),
        ("yarn_orig_ctx", c_uint32),
        ("defrag_thold", c_float),
        ("cb_eval", c_void_p),
        ("cb_eval_user_data", c_void_p),
        ("type_k", c_int),
        ("type_v", c_int),
        ("pointers", c_void_p * 3),
        ("embeddings", c_bool),
        ("offload_kqv", c_bool),
        ("no_perf", c_bool),
        ("op_offload", c_bool),
        ("swa_full", c_bool),
        ("kv_unified", c_bool),
        ("samplers", c_void_p),
        ("n_samplers", c_size_t),
        ("ctx_other", c_void_p),
    )


class Batch(ctypes.Structure):
    _fields_ = (
        ("n_tokens", c_int32),
        ("token", c_void_p),
        ("embd", c_void_p),
        ("pos", c_void_p),
        ("n_seq_id", c_void_p),
        ("seq_id", c_void_p),
        ("logits", c_void_p),
    )


MODEL_DEFAULTS = {
    "devices": None,
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "lazy_mode": 1,
    "main_gpu": 0,
    "kv_overrides": None,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
    "load_mtp": False,
}
CONTEXT_DEFAULTS = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_outputs_max": 0,
    "n_outputs_max_per_seq": 1,
    "n_threads": 4,
    "n_threads_batch": 4,
    "ctx_type": 0,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "rope_freq_base": 0.0,
    "rope_freq_scale": 0.0,
    "yarn_ext_factor": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "cb_eval": None,
    "type_k": 1,
    "type_v": 1,
    "embeddings": False,
    "offload_kqv": True,
    "no_perf": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}

PROTOTYPES = {
    "llama_log_set": (None, [LOG_CALLBACK, c_void_p]),
    "llama_backend_init": (None, []),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c_void_p, [c_char_p, ModelParams]),
    "llama_model_free": (None, [c_void_p]),
    "llama_model_get_vocab": (c_void_p, [c_void_p]),
    "llama_init_from_model": (c_void_p, [c_void_p, ContextParams]),
    "llama_free": (None, [c_void_p]),
    "llama_set_n_threads": (None, [c_void_p, c_int32, c_int32]),
    "llama_n_ctx_seq": (c_uint32, [c_void_p]),
    "llama_vocab_n_tokens": (c_int32, [c_void_p]),
    "llama_vocab_get_attr": (c_int, [c_void_p, c_int32]),
    "llama_vocab_bos": (c_int32, [c_void_p]),
    "llama_vocab_get_add_bos": (c_bool, [c_void_p]),
    "llama_vocab_get_text": (c_char_p, [c_void_p, c_int32]),
    "llama_tokenize": (c_int32, [c_void_p, c_char_p, c_int32, c_void_p, c_int32, c_bool, c_bool]),
    "llama_decode": (c_int32, [c_void_p, Batch]),
    "llama_get_logits": (ctypes.POINTER(c_float), [c_void_p]),
    "llama_get_memory": (c_void_p, [c_void_p]),
    "llama_memory_clear": (None, [c_void_p, c_bool]),
    "llama_memory_seq_cp": (None, [c_void_p, c_int32, c_int32, c_int32, c_int32]),
    "llama_memory_seq_pos_min": (c_int32, [c_void_p, c_int32]),
    "llama_memory_seq_rm": (c_bool, [c_void_p, c_int32, c_int32, c_int32]),
}


@cache
def library() -> ctypes.CDLL:
    """Return the shared object with prototypes set and its layout checked.

    Raises MismatchError for another version.
    """
    lib = ggml.library()
    wheel, install = ggml.wheel_version(), f"run `pip install xllamacpp=={ggml.TESTED_WHEEL}`"
    if wheel != ggml.TESTED_WHEEL:
        raise MismatchError(
            f"xllamacpp {wheel} is installed; its llama.cpp may have other structures: {install}"
        )
    for name, (result, arguments) in PROTOTYPES.items():
        function = getattr(lib, name, None)
        if function is None:
            raise MismatchError(f"xllamacpp {wheel} does not export {name}: {install}")
        function.restype, function.argtypes = result, arguments
    for structure, expected in (
        (lib.llama_model_default_params(), MODEL_DEFAULTS),
        (lib.llama_context_default_params(), CONTEXT_DEFAULTS),
    ):
        if wrong := differences(structure, expected):
            name = type(structure).__name__
            raise MismatchError(f"xllamacpp {wheel}: {name}.{wrong[0]}; not as tested: {install}")
    lib.llama_backend_init()
    return lib


def differences(structure: ctypes.Structure, expected: dict[str, object]) -> list[str]:
    """Return `field is X, not Y` for each field that does not hold its default."""
    actual = {name: getattr(structure, name) for name in expected}
    return [
        f"{name} is {actual[name]!r}, not {value!r}"
        for name, value in expected.items()
        if actual[name] != value
    ]


class Log:
    """llama.cpp's messages, kept instead of printed.

    `problem` is the last error, else the last warning.
    """

    def __init__(self) -> None:
        self._lines: dict[int, str] = {}
        self._callback = LOG_CALLBACK(self._take)  # must outlive every call into the library

    def install(self, lib: ctypes.CDLL) -> None:
        lib.llama_log_set(self._callback, None)

    def _take(self, level: int, text: bytes, _data: object) -> None:
        if level in (LOG_WARNING, LOG_ERROR) and text.strip():
            self._lines[level] = text.decode("utf-8", "replace").strip()

    @property
    def problem(self) -> str:
        return self._lines.get(LOG_ERROR) or self._lines.get(LOG_WARNING) or "no reason given"


LOG = Log()
