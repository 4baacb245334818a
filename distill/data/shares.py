"""How many prompts of each language or source are asked, and in which order groups take turns."""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

from distill.errors import DataError
from distill.recipe.sections import Generate

if TYPE_CHECKING:
    from distill.data.samples import Prompt

Item = TypeVar("Item")


def mixed(options: Generate, prompts: list["Prompt"]) -> list["Prompt"]:
    """Return the first prompts of each language, or source, by its share of the total.

    All, where no shares are given.
    """
    if options.mix is None:
        return prompts
    kind, shares = options.mix
    return by_shares(prompts, shares, options.num_prompts, kind)


def by_shares(
    prompts: list["Prompt"],
    shares: Mapping[str, float],
    num: int | None,
    kind: Literal["language", "source"] = "language",
) -> list["Prompt"]:
    """Return the first prompts of each `kind`, by its share of the total.

    The total is `num`, or less where one has too few. Raise DataError for one without prompts.
    """
    names = [getattr(prompt, kind) for prompt in prompts]
    available = Counter(names)
    missing = [name for name in shares if not available[name]]
    if missing:
        where = "generate.shares" if kind == "language" else "generate.prompts: share"
        raise DataError(
            f"{where}: {missing[0]}: no usable prompt in that {kind}; add some, or take it out"
        )
    # the epsilon forgives 0.1 + 0.2 in the shares: 30 prompts are 0.3 of 100, not of 99
    total = min(int(available[name] / share + 1e-6) for name, share in shares.items())
    if num is not None:
        total = min(total, num)
    num_left = {name: max(1, round(share * total)) for name, share in shares.items()}
    chosen = []
    for prompt, name in zip(prompts, names, strict=True):
        if num_left[name] > 0:
            num_left[name] -= 1
            chosen.append(prompt)
    return chosen


def take_turns(
    items: Sequence[Item],
    group_of: Callable[[Item], Hashable],
    groups: Sequence[Hashable] | None = None,
    num: int | None = None,
) -> list[Item]:
    """Return the first `num` items (None: all) in an order in which their groups take turns.

    The first of each group comes first, then the second of each that has one, and so on. In a turn
    they stand in the order of `groups`, those that it lacks at the end, or without it as in `items`.
    """
    rank = {group: number for number, group in enumerate(groups or ())}
    num_seen: Counter[Hashable] = Counter()
    order = []
    for index, item in enumerate(items):
        group = group_of(item)
        place = rank.get(group, len(rank)) if groups else 0
        order.append((num_seen[group], place, index))
        num_seen[group] += 1
    return [items[index] for _, _, index in sorted(order)[:num]]
