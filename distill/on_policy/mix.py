"""What a round learns from: answers of this round, of earlier ones, and the teacher's own."""

from collections.abc import Mapping, Sequence

from distill.core.digests import digest
from distill.data.samples import Sample
from distill.recipe.sections import Mix

ORIGINS = ("current", "earlier", "teacher")


def mixed(
    samples: Mapping[str, Sequence[Sample]], shares: Mix, number: int, seed: int
) -> dict[str, list[Sample]]:
    """Return the samples of round `number` by origin: all of this round's, of the others their share.

    Where an origin has none the others share its part. Which of them are taken follows from the
    seed, and is another choice in each round; no sample is taken twice, so that a scarce origin has
    less than its share.
    """
    wanted = {name: getattr(shares, name) for name in ORIGINS if samples.get(name)}
    chosen = {"current": list(samples["current"])}
    total = len(chosen["current"]) / wanted["current"] if chosen["current"] else 0.0
    for name in ("earlier", "teacher"):
        num = round(total * wanted.get(name, 0.0))
        of_origin = samples.get(name, ())
        places = [_place(sample, number, seed) for sample in of_origin]
        in_order = sorted(range(len(places)), key=places.__getitem__)
        chosen[name] = [of_origin[i] for i in in_order[:num]]
    return chosen


def _place(sample: Sample, number: int, seed: int) -> str:
    return digest("mix", str(seed), str(number), sample.key)
