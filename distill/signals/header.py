"""What a signal is and whose: the part of a shard that must agree before anyone trains on it."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

Kind = Literal["sampled", "top_k", "dense"]
FORMAT = 1


@dataclass(frozen=True)
class SignalHeader:
    """Equal headers mean interchangeable signals.

    kind: sampled, top_k or dense.
    vocab_size: ids that teacher and student share, 0 .. vocab_size-1; the signal is renormalised over them. At most
        2^20.
    num_draws: sampled only, draws a token (at most 65,535). top_k: top_k only, ids kept a token.
    loss_temperature: at which the teacher's distribution was taken; a stored signal cannot be tempered afterwards.
    hidden_size: width of the teacher's last hidden states, if those are stored beside the signal; None if not.
    fingerprints: of teacher, teacher_dtype, teacher_quantization, tokenizer, chat_template.
    format: of the bytes. Raises ValueError for numbers that do not fit the kind.
    """

    kind: Kind
    vocab_size: int
    num_draws: int | None = None
    top_k: int | None = None
    loss_temperature: float = 1.0
    hidden_size: int | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def __post_init__(self) -> None:
        if not 1 <= self.vocab_size <= 1 << 20:
            raise ValueError(f"vocab_size is {self.vocab_size}, expected 1 to {1 << 20}")
        given = {"num_draws": self.num_draws is not None, "top_k": self.top_k is not None}
        if given != {"num_draws": self.kind == "sampled", "top_k": self.kind == "top_k"}:
            raise ValueError(
                f"{self.kind}: num_draws={self.num_draws}, top_k={self.top_k} do not fit this kind"
            )
        if self.num_draws is not None and not 1 <= self.num_draws <= 65_535:
            raise ValueError(f"num_draws is {self.num_draws}, expected 1 to 65535")
        if self.top_k is not None and not 1 <= self.top_k <= self.vocab_size:
            raise ValueError(
                f"top_k is {self.top_k}, expected 1 to the {self.vocab_size} ids there are"
            )

        if self.hidden_size is not None and self.hidden_size < 1:
            raise ValueError(f"hidden_size is {self.hidden_size}, expected at least 1")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "SignalHeader":
        return cls(**values)

    def differences(self, found: "SignalHeader") -> Iterator[tuple[str, Any, Any]]:
        """(field, ours, found's) for every field that differs; a fingerprint is `fingerprints.tokenizer`."""
        for name in [f.name for f in fields(self) if f.name != "fingerprints"]:
            ours, theirs = getattr(self, name), getattr(found, name)
            if ours != theirs:
                yield name, ours, theirs
        for name in sorted(self.fingerprints.keys() | found.fingerprints.keys()):
            ours, theirs = self.fingerprints.get(name), found.fingerprints.get(name)
            if ours != theirs:
                yield f"fingerprints.{name}", ours, theirs
