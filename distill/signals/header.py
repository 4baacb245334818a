"""What a signal is and whose: the part of a shard that must agree before anyone trains on it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Kind = Literal["sampled", "top_k", "dense", "chunks"]
FORMAT = 1
# The temperature at which every signal is captured. A stored one cannot be tempered afterwards, so
# it stands in each shard, and a shard of another is refused.
LOSS_TEMPERATURE = 1.0


@dataclass(frozen=True)
class SignalHeader:
    """Equal headers mean interchangeable signals.

    kind: sampled, top_k, dense or chunks.
    vocab_size: the ids that it is about, 0 .. vocab_size-1: the student's; its probabilities of them
        make 1. At most 2^20. Of chunks they are the teacher's: that signal is about its own
        tokens, and serves students of any tokenizer.
    num_draws: sampled only, draws a token (at most 65,535). top_k: top_k only, ids kept a token.
    draw_log_probs: sampled only, the log-probs of the ids drawn are stored beside them.
    hidden_size: width of the teacher's last hidden states, if those are stored beside the signal;
        None if not.
    fingerprints: of teacher, teacher_dtype, teacher_quantization, tokenizer, chat_template; where a
        server scored, its name of the model, if that is another; of a trimmed tokenizer, which of
        the teacher's ids it has, and what becomes of the others.
    format: of the bytes. Raises ValueError for numbers that do not fit the kind.
    """

    kind: Kind
    vocab_size: int
    num_draws: int | None = None
    top_k: int | None = None
    hidden_size: int | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT
    draw_log_probs: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= 1 << 20:
            raise ValueError(f"vocab_size is {self.vocab_size}, expected 1 to {1 << 20}")
        has_draws = self.num_draws is not None
        has_top_k = self.top_k is not None
        if (has_draws, has_top_k) != (self.kind == "sampled", self.kind == "top_k"):
            raise ValueError(
                f"{self.kind}: num_draws={self.num_draws}, top_k={self.top_k} do not fit this kind"
            )
        if self.draw_log_probs and self.kind != "sampled":
            raise ValueError(f"{self.kind}: draw_log_probs belongs to sampled")
        if self.num_draws is not None and not 1 <= self.num_draws <= 65_535:
            raise ValueError(f"num_draws is {self.num_draws}, expected 1 to 65535")
        if self.top_k is not None and not 1 <= self.top_k <= self.vocab_size:
            raise ValueError(
                f"top_k is {self.top_k}, expected 1 to the {self.vocab_size} ids there are"
            )
        if self.hidden_size is not None and self.hidden_size < 1:
            raise ValueError(f"hidden_size is {self.hidden_size}, expected at least 1")

    def to_json(self) -> dict[str, Any]:
        """Return what a shard holds; its hash names the folder of a signal, so it never changes.

        A later field is left out where it has its default.
        """
        values = asdict(self) | {"loss_temperature": LOSS_TEMPERATURE}
        if not self.draw_log_probs:
            del values["draw_log_probs"]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SignalHeader":
        """Return the header; whoever reads a shard has compared its loss temperature."""
        return cls(**{name: v for name, v in values.items() if name != "loss_temperature"})

    def differences(self, other: "SignalHeader") -> Iterator[tuple[str, Any, Any]]:
        """Yield (name, own value, other's value) of every field that differs.

        The name of a fingerprint is like `fingerprints.tokenizer`.
        """
        names = [f.name for f in fields(self) if f.name != "fingerprints"]
        pairs = [(name, getattr(self, name), getattr(other, name)) for name in names]
        for name in sorted(self.fingerprints.keys() | other.fingerprints.keys()):
            values = self.fingerprints.get(name), other.fingerprints.get(name)
            pairs.append((f"fingerprints.{name}", *values))
        for name, own, others in pairs:
            if own != others:
                yield name, own, others
