"""Duplicates: exact by a normalised key, near by MinHash and locality-sensitive hashing, then the true Jaccard similarity.

Broder 1997 (MinHash); Indyk and Motwani 1998 (bands). Numpy only, hashed with BLAKE2b: the same result on every machine.
Numbers matter: two arithmetic problems that differ in a number are two problems, however alike their words are.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from difflib import SequenceMatcher
from functools import lru_cache
from hashlib import blake2b

import numpy as np

from distill.core.digests import digest
from distill.text.language import sentences
from distill.text.words import folded, is_unspaced, ngrams, words

NUM_PERMUTATIONS = 128
_WORDS_A_SHINGLE, _CHARACTERS_A_SHINGLE = 3, 5
# Texts made from one template can have thousands of near neighbours that are not duplicates; the likeliest are verified.
_MAX_VERIFIED = 32
_COMMON = 10  # a sentence in more prompts than that is their form, not their question
_SPELLING = 0.8  # of two spellings of a word more than this is the same (difflib); "he" and "she" have just that
_SPACE = re.compile(r"\s+")
_DIGIT = re.compile(r"\d")


def exact_key(text: str) -> str:
    """32 hex characters, equal for texts that differ only in Unicode form, case and white space."""
    return digest(_SPACE.sub(" ", folded(text)).strip())


def near_prompts(
    texts: Sequence[str], threshold: float, groups: Sequence[Hashable]
) -> list[int | None]:
    """For each prompt the index of the earlier prompt of its group that it repeats, or None.

    Prompts about one passage, or under one long instruction, are alike as a whole and ask different things. So two repeat each
    other if they are near duplicates as a whole, and the sentences that only one of them has are alike, too: misspelt at
    most, or with so many character trigrams in common (Jaccard, `threshold`). White space, case, punctuation and typos do not tell
    prompts apart; another word does in a short sentence, and not in a long one (at 0.9 in one of 150 letters); a sentence
    more or less does. Sentences that many prompts have are left out of the first comparison: that keeps it linear.
    """
    common = Counter(piece for text in texts for piece in set(sentences(text)))
    own = [
        " ".join(piece for piece in sentences(text) if common[piece] <= _COMMON) or text
        for text in texts
    ]
    del common
    numbers = [
        tuple(u for u in words(t) if u[0].isdigit()) if _DIGIT.search(t) else () for t in texts
    ]
    return near_duplicates(
        own,
        threshold,
        list(zip(groups, numbers, strict=True)),
        lambda a, b: _ask_the_same(texts[a], texts[b], threshold),
    )


@lru_cache(maxsize=1024)  # prompts about one passage stand together
def _sentences_of(text: str) -> dict[str, None]:
    return dict.fromkeys(sentences(text))


def _ask_the_same(a: str, b: str, threshold: float) -> bool:
    """Whether the sentences that only one of the two has are alike."""
    ours, theirs = _sentences_of(a), _sentences_of(b)
    left, right = (
        words(" ".join(s for s in one if s not in other))
        for one, other in ((ours, theirs), (theirs, ours))
    )
    trigrams = [set(ngrams(" ".join(units), 3)) for units in (left, right)]
    both = len(trigrams[0] & trigrams[1])
    return both >= threshold * (len(trigrams[0]) + len(trigrams[1]) - both) or _differ_in_spelling(
        left, right
    )


def _differ_in_spelling(left: Sequence[str], right: Sequence[str]) -> bool:
    for kind, i, j, k, n in SequenceMatcher(None, left, right).get_opcodes():
        if kind == "equal":
            continue
        if (
            kind != "replace"
            or SequenceMatcher(None, "".join(left[i:j]), "".join(right[k:n])).ratio() <= _SPELLING
        ):
            return False
    return True


def near_duplicates(
    texts: Sequence[str],
    threshold: float = 0.8,
    groups: Sequence[Hashable] | None = None,
    alike: Callable[[int, int], bool] | None = None,
) -> list[int | None]:
    """For each text the index of the earlier text that it repeats, or None.

    Shingles are 3 words, or 5 characters where a script has no spaces. A text repeats an earlier one that was kept if
    the Jaccard similarity of their shingle sets is at least `threshold` and the numbers in both are the same, in the
    same order; with `groups`, only within the same group; with `alike`, only if that says so of their two indices. About 95 % of
    pairs at similarity 0.8 are found, 99.9 % at 0.9.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    hashes, offsets, classes = _shingles(texts, groups)
    signatures_NP = _signatures(hashes, offsets)
    bands_NB = _bands(signatures_NP, threshold, classes)
    buckets: dict[int, array[int]] = {}
    result: list[int | None] = []
    for index, bands in enumerate(bands_NB.tolist()):
        near = _members([buckets[band] for band in bands if band in buckets], index)
        original = _first_repeated(index, near, threshold, signatures_NP, hashes, offsets, alike)
        result.append(original)
        if original is None:
            for band in bands:
                buckets.setdefault(band, array("q")).append(index)
    return result


def _members(buckets: list["array[int]"], end: int) -> np.ndarray:
    """All texts in the buckets, ascending, all below `end`."""
    if sum(map(len, buckets)) <= 64:
        return np.array(sorted({other for bucket in buckets for other in bucket}), dtype=np.int64)
    # templated texts fill buckets with thousands: a mask is then quicker than a set
    mask = np.zeros(end, dtype=bool)
    for bucket in buckets:
        mask[np.frombuffer(bucket, dtype=np.int64)] = True
    return np.flatnonzero(mask)


def _first_repeated(
    index: int,
    candidates: np.ndarray,
    threshold: float,
    signatures_NP: np.ndarray,
    hashes: np.ndarray,
    offsets: np.ndarray,
    alike: Callable[[int, int], bool] | None,
) -> int | None:
    if not len(candidates):
        return None
    if len(candidates) > _MAX_VERIFIED:
        shared = (signatures_NP[candidates] == signatures_NP[index]).sum(axis=1)
        candidates = np.sort(candidates[np.argsort(-shared, kind="stable")[:_MAX_VERIFIED]])
    mine = set(hashes[offsets[index] : offsets[index + 1]].tolist())
    for other in candidates.tolist():
        theirs = set(hashes[offsets[other] : offsets[other + 1]].tolist())
        common = len(mine & theirs)
        if common >= threshold * (len(mine) + len(theirs) - common) and (
            alike is None or alike(index, other)
        ):
            return other
    return None


def _hash64(text: str) -> int:
    return int.from_bytes(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
    )


def _shingles(
    texts: Sequence[str], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(uint64 hashes of all shingles, int64 offsets[N + 1] into them, uint64 class[N]: numbers and group)."""
    known: dict[str, int] = {}
    group_numbers: dict[Hashable, int] = {}
    pieces, lengths, classes = [], [], np.empty(len(texts), dtype=np.uint64)
    for index, text in enumerate(texts):
        units = words(text) or [exact_key(text)]  # only punctuation or emoji: as a whole
        for unit in units:
            if unit not in known:
                known[unit] = _hash64(unit)
        hashes = np.array([known[unit] for unit in units], dtype=np.uint64)
        shingles = _combine(
            hashes, _CHARACTERS_A_SHINGLE if is_unspaced(units) else _WORDS_A_SHINGLE
        )
        pieces.append(shingles)
        lengths.append(len(shingles))
        group = (
            group_numbers.setdefault(groups[index], len(group_numbers)) if groups is not None else 0
        )
        numbers = " ".join(unit for unit in units if unit[0].isdigit())
        classes[index] = _hash64(f"{group} {numbers}")
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return (np.concatenate(pieces) if pieces else np.empty(0, np.uint64)), offsets, classes


def mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014), elementwise on uint64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _combine(hashes: np.ndarray, size: int) -> np.ndarray:
    """Hash of every run of `size` neighbours; one hash of all where there are fewer."""
    size = min(size, len(hashes))
    count = len(hashes) - size + 1
    result = hashes[:count].copy()
    for shift in range(1, size):
        result = mix(result) + hashes[shift : shift + count]
    return mix(result)


def _signatures(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """uint32[N, 128]: the least value of each permutation over a text's shingles.

    A permutation is multiply-shift hashing, (a x + b) mod 2**64 >> 32 (Dietzfelbinger et al. 1997).
    """
    generator = np.random.Generator(np.random.PCG64(20241))
    a = generator.integers(0, 2**63, NUM_PERMUTATIONS, dtype=np.uint64) * np.uint64(2) + np.uint64(
        1
    )
    b = generator.integers(0, 2**63, NUM_PERMUTATIONS, dtype=np.uint64)
    num_texts = len(offsets) - 1
    signatures_NP = np.empty((num_texts, NUM_PERMUTATIONS), dtype=np.uint32)
    for start in range(0, num_texts, 2048):  # small enough for the cache
        end = min(start + 2048, num_texts)
        part = hashes[offsets[start] : offsets[end]]
        starts = offsets[start:end] - offsets[start]
        for p in range(NUM_PERMUTATIONS):
            values = ((part * a[p] + b[p]) >> np.uint64(32)).astype(np.uint32)
            signatures_NP[start:end, p] = np.minimum.reduceat(values, starts)
    return signatures_NP


def _bands(signatures_NP: np.ndarray, threshold: float, classes: np.ndarray) -> np.ndarray:
    """uint64[N, bands]: a bucket for each band of the signature; texts of different classes share none.

    16 bands of 8 rows from 0.8 on; lower thresholds need more, shorter bands.
    """
    rows = 8 if threshold >= 0.8 else 4 if threshold >= 0.5 else 2
    bands = NUM_PERMUTATIONS // rows
    parts_NBR = signatures_NP.reshape(-1, bands, rows).astype(np.uint64)
    result = mix(classes)[:, None] + np.arange(bands, dtype=np.uint64)[None, :]
    for r in range(rows):
        result = mix(result) + parts_NBR[:, :, r]
    return mix(result)
