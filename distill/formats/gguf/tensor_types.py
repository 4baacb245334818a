"""Which ggml type each tensor of a GGUF file gets: the stock mixtures of `llama-quantize`.

Without importance matrix, read from llama.cpp's `llama_tensor_get_type` (dense models). The name of
a file type says little: 'q4_k_m' of a model whose rows are not multiples of 256 holds no Q4_K at
all. So the types are counted in the written file and reported.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gguf import GGML_QUANT_SIZES, LlamaFileType
from gguf import GGMLQuantizationType as Type

FILE_TYPES = {
    "f32": (LlamaFileType.ALL_F32, Type.F32),
    "f16": (LlamaFileType.MOSTLY_F16, Type.F16),
    "bf16": (LlamaFileType.MOSTLY_BF16, Type.BF16),
    "q8_0": (LlamaFileType.MOSTLY_Q8_0, Type.Q8_0),
    "q6_k": (LlamaFileType.MOSTLY_Q6_K, Type.Q6_K),
    "q5_k_m": (LlamaFileType.MOSTLY_Q5_K_M, Type.Q5_K),
    "q4_k_m": (LlamaFileType.MOSTLY_Q4_K_M, Type.Q4_K),
    "q4_0": (LlamaFileType.MOSTLY_Q4_0, Type.Q4_0),
    "iq4_nl": (LlamaFileType.MOSTLY_IQ4_NL, Type.IQ4_NL),
    "q3_k_m": (LlamaFileType.MOSTLY_Q3_K_M, Type.Q3_K),
    "q2_k": (LlamaFileType.MOSTLY_Q2_K, Type.Q2_K),
    "tq2_0": (LlamaFileType.MOSTLY_TQ2_0, Type.TQ2_0),
}
# blocks of 256 that do not fit the row -> the type with blocks of 32 that takes their place
FALLBACKS = {
    Type.Q2_K: Type.Q4_0,
    Type.Q3_K: Type.Q4_0,
    Type.TQ2_0: Type.Q4_0,
    Type.Q4_K: Type.Q5_0,
    Type.Q5_K: Type.Q5_1,
    Type.Q6_K: Type.Q8_0,
}


@dataclass(frozen=True)
class Mixture:
    """A file type for one model; `heads_per_kv` is query heads per key/value head."""

    file_type: str
    num_layers: int
    heads_per_kv: int
    tied: bool

    def type_of(self, name: str, num_columns: int) -> Type:
        """Return the type of the matrix with this GGUF name and row length. Vectors stay F32."""
        base = FILE_TYPES[self.file_type][1]
        if base in (Type.F32, Type.F16, Type.BF16):
            return base
        return _fitting(self._wanted(base, name, num_columns), num_columns)

    def _wanted(self, base: Type, name: str, num_columns: int) -> Type:
        if name == "output.weight" or (self.tied and name == "token_embd.weight"):
            if base == Type.Q8_0 or num_columns % _block(base):
                return Type.Q8_0
            return Type.Q6_K
        if name == "token_embd.weight":
            return Type.Q4_K if base == Type.TQ2_0 else base
        layer, role = int(name.split(".")[1]), name.split(".")[2]
        if role in ("attn_v", "attn_qkv"):  # in Qwen3.5 each layer has one or the other
            return self._value(base, layer)
        if role == "ffn_down":
            return self._down(base, layer)
        if role == "attn_output":
            return {"q2_k": Type.Q3_K, "q3_k_m": Type.Q4_K}.get(self.file_type, base)
        return base

    def _value(self, base: Type, layer: int) -> Type:
        many = self.heads_per_kv >= 4
        match self.file_type:
            case "q2_k":
                return Type.Q4_K if many else Type.Q3_K
            case "q3_k_m":
                return Type.Q5_K if layer < 2 else Type.Q4_K
            case "iq4_nl" if many:
                return Type.Q5_K
            case "q4_k_m" | "q5_k_m" if self._more_bits(layer):
                return Type.Q6_K
        return base

    def _down(self, base: Type, layer: int) -> Type:
        match self.file_type:
            case "q2_k":
                return Type.Q3_K
            case "q3_k_m":
                return Type.Q5_K if layer < self.num_layers // 16 else Type.Q4_K
            case "iq4_nl" if layer < self.num_layers // 8:
                return Type.Q5_K
            case "q4_k_m" | "q5_k_m" if self._more_bits(layer):
                return Type.Q6_K
        return base

    def _more_bits(self, layer: int) -> bool:
        """Return whether rounding hurts this layer most.

        It does in the first and last eighth of the layers, and in every third between.
        """
        eighth = self.num_layers // 8
        return layer < eighth or layer >= 7 * self.num_layers // 8 or (layer - eighth) % 3 == 2


def file_type_of(types: Iterable[Type]) -> str:
    """Return the name for a file with such tensors.

    By the type that most of them have, of those that name a file type.
    """
    names = {kind: name for name, (_, kind) in FILE_TYPES.items()}
    counts = Counter(kind for kind in types if kind in names)
    return names[counts.most_common(1)[0][0]] if counts else "q8_0"


def _block(type_id: Type) -> int:
    return GGML_QUANT_SIZES[type_id][0]


def _fitting(wanted: Type, num_columns: int) -> Type:
    """Return `wanted`, or what llama.cpp falls back to.

    F16 at the end, where llama.cpp itself may refuse the file.
    """
    if num_columns % _block(wanted) == 0:
        return wanted
    smaller = FALLBACKS.get(wanted)
    if smaller is None or num_columns % _block(smaller):
        return Type.F16
    return smaller
