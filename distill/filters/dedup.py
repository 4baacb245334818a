"""Duplicates: exact by a normalised key; near by MinHash, then by the true Jaccard similarity.

Broder 1997 (MinHash); Indyk and Motwani 1998 (bands of locality-sensitive hashing). Numpy only,
hashed with BLAKE2b: the same result on every machine. Numbers matter: two arithmetic problems that
differ in a number are two problems, however alike their words are.

Of each text 128 bytes are held; a kilobyte more of those that share a bucket with another.
"""

import re
from array import array
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from difflib import SequenceMatcher
from hashlib import blake2b
from typing import Any

import numpy as np

from distill.core.digests import digest
from distill.core.splitmix import splitmix
from distill.text.sentences import sentences
from distill.text.words import folded, is_unspaced, ngrams, words

NUM_PERMUTATIONS = 128
_WORDS_A_SHINGLE, _CHARACTERS_A_SHINGLE = 3, 5
# Texts made from one template can have thousands of near neighbours that are not duplicates; the
# likeliest are verified.
_MAX_VERIFIED = 32
_AT_ONCE = 2048  # texts whose signatures are made in one go: small enough for the cache
_MOST_UNITS = 1 << 18  # whose hashes are remembered
_COMMON = 10  # a sentence in more prompts than that is their form, not their question
# of two spellings of a word more than this is the same (difflib); "he" and "she" have just that
_SPELLING = 0.8
_SPACE = re.compile(r"\s+")
_DIGIT = re.compile(r"\d")


def exact_key(text: str) -> str:
    """Return 32 hex characters: equal if texts differ only in Unicode form, case, white space."""
    return digest(_SPACE.sub(" ", folded(text)).strip())


def near_prompts(
    texts: Sequence[str], threshold: float, groups: Sequence[Hashable]
) -> list[int | None]:
    """Return for each prompt the index of the earlier one of its group that it repeats, or None.

    Prompts about one passage, or under one long instruction, are alike as a whole and ask different
    things. So two repeat each other if they are near duplicates as a whole, and the sentences that
    only one of them has are alike, too: misspelt at most, or with so many character trigrams in
    common (Jaccard, `threshold`). White space, case, punctuation and typos do not tell prompts
    apart; another word does in a short sentence, and not in a long one (at 0.9 in one of 150
    letters); a sentence more or less does. Sentences that many prompts have are left out of the
    first comparison: that keeps it linear.
    """
    common = _common_sentences(texts)
    numbers = [_numbers(words(text)) if _DIGIT.search(text) else () for text in texts]
    return _near(
        len(texts),
        lambda index: _without(common, texts[index]),
        threshold,
        list(zip(groups, numbers, strict=True)),
        lambda a, b: _ask_the_same(sentences(texts[a]), sentences(texts[b]), threshold),
    )


def _numbers(units: Sequence[str]) -> tuple[str, ...]:
    return tuple(unit for unit in units if unit[0].isdigit())


def _common_sentences(texts: Sequence[str]) -> set[str]:
    """Return the sentences that many texts have.

    The hashes of all are counted first, 8 bytes each: the sentences of a million texts would be a
    second copy of them.
    """
    hashes = array("Q", (_hash64(s) for text in texts for s in set(sentences(text))))
    values, counts = np.unique(np.asarray(hashes), return_counts=True)
    likely = set(values[counts > _COMMON].tolist())
    if not likely:
        return set()
    of_likely = (s for text in texts for s in set(sentences(text)) if _hash64(s) in likely)
    return {sentence for sentence, num in Counter(of_likely).items() if num > _COMMON}


def _without(common: set[str], text: str) -> str:
    """Return a text without the sentences that many have, or all of it if they all are."""
    return " ".join(s for s in sentences(text) if s not in common) or text


def _ask_the_same(a: Sequence[str], b: Sequence[str], threshold: float) -> bool:
    """Return whether the sentences that only one of the two prompts has are alike."""
    only_a, only_b = _words_of_only(a, b), _words_of_only(b, a)
    trigrams_a, trigrams_b = (set(ngrams(" ".join(units), 3)) for units in (only_a, only_b))
    if _is_similar(trigrams_a, trigrams_b, threshold):
        return True
    return _differ_in_spelling(only_a, only_b)


def _words_of_only(a: Sequence[str], b: Sequence[str]) -> tuple[str, ...]:
    """Return the words of the sentences of `a`, each once, that are not in `b`."""
    in_b = set(b)
    return words(" ".join(sentence for sentence in dict.fromkeys(a) if sentence not in in_b))


def _is_similar(a: set[Any], b: set[Any], threshold: float) -> bool:
    """Return whether the Jaccard similarity of two sets is at least `threshold`."""
    num_common = len(a & b)
    return num_common >= threshold * (len(a) + len(b) - num_common)


def _differ_in_spelling(a: Sequence[str], b: Sequence[str]) -> bool:
    """Return whether the words differ in spelling at most."""
    for change, a_start, a_end, b_start, b_end in SequenceMatcher(None, a, b).get_opcodes():
        if change == "equal":
            continue
        if change != "replace":
            return False
        letters_a, letters_b = "".join(a[a_start:a_end]), "".join(b[b_start:b_end])
        if SequenceMatcher(None, letters_a, letters_b).ratio() <= _SPELLING:
            return False
    return True


def near_duplicates(
    texts: Sequence[str], threshold: float = 0.8, groups: Sequence[Hashable] | None = None
) -> list[int | None]:
    """Return for each text the index of the earlier text that it repeats, or None.

    Shingles are 3 words, or 5 characters where a script has no spaces. A text repeats an earlier
    one that was kept if the Jaccard similarity of their shingle sets is at least `threshold` and
    the numbers in both are the same, in the same order; with `groups`, only within the same group.
    About 95 % of pairs at similarity 0.8 are found, 99.9 % at 0.9. Raise ValueError for a threshold
    outside (0, 1].
    """
    return _near(len(texts), texts.__getitem__, threshold, groups)


def _near(
    num: int,
    text_of: Callable[[int], str],
    threshold: float,
    groups: Sequence[Hashable] | None = None,
    alike: Callable[[int, int], bool] | None = None,
) -> list[int | None]:
    """Do what `near_duplicates` says, with `alike` only where that says so of the two indices.

    `text_of`: gives a text by its index below `num`.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold {threshold} is not in (0, 1]")
    bands_NB = _all_bands(num, text_of, threshold, groups)
    is_shared_NB = _is_shared(bands_NB)
    # what shares no bucket repeats nothing: its shingles need not be held
    compared = np.flatnonzero(is_shared_NB.any(axis=1))
    bands_NB, is_shared_NB = bands_NB[compared], is_shared_NB[compared]
    hashes, offsets, _ = _shingles(map(text_of, compared.tolist()))
    signatures_NP = _signatures(hashes, offsets)
    buckets: dict[int, array[int]] = {}
    originals: list[int | None] = [None] * num
    for place, index in enumerate(compared.tolist()):
        bands = bands_NB[place, is_shared_NB[place]].tolist()
        near = _members([buckets[band] for band in bands if band in buckets], place)
        near = _likeliest(near, place, signatures_NP)
        found = _first_repeated(place, near, threshold, hashes, offsets, compared, alike)
        if found is not None:
            originals[index] = int(compared[found])
            continue
        for band in bands:
            buckets.setdefault(band, array("q")).append(place)
    return originals


def _all_bands(
    num: int,
    text_of: Callable[[int], str],
    threshold: float,
    groups: Sequence[Hashable] | None,
) -> np.ndarray:
    """Return uint64[N, bands]: the buckets of each text."""
    group_numbers: dict[Hashable, int] = {}
    bands_NB = np.empty((num, NUM_PERMUTATIONS // _rows_a_band(threshold)), np.uint64)
    for start in range(0, num, _AT_ONCE):
        part = range(start, min(start + _AT_ONCE, num))
        hashes, offsets, numbers = _shingles(map(text_of, part))
        of_groups = groups[part.start : part.stop] if groups is not None else [None] * len(part)
        classes = [
            _hash64(f"{group_numbers.setdefault(group, len(group_numbers))} {of_text}")
            for group, of_text in zip(of_groups, numbers, strict=True)
        ]
        signatures_NP = _signatures(hashes, offsets)
        bands_NB[start : part.stop] = _bands(
            signatures_NP, threshold, np.array(classes, dtype=np.uint64)
        )
    return bands_NB


def _is_shared(bands_NB: np.ndarray) -> np.ndarray:
    """Return bool[N, bands]: whether a bucket is there more than once."""
    ordered = np.sort(bands_NB, axis=None)
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    is_shared_NB = np.empty(bands_NB.shape, bool)
    for band in range(bands_NB.shape[1]):
        is_shared_NB[:, band] = np.isin(bands_NB[:, band], shared)
    return is_shared_NB


def _members(buckets: list["array[int]"], end: int) -> np.ndarray:
    """Return all texts in the buckets, ascending, all below `end`."""
    if sum(map(len, buckets)) <= 64:
        return np.array(sorted({index for bucket in buckets for index in bucket}), dtype=np.int64)
    # templated texts fill buckets with thousands: a mask is then quicker than a set
    mask = np.zeros(end, dtype=bool)
    for bucket in buckets:
        mask[np.frombuffer(bucket, dtype=np.int64)] = True
    return np.flatnonzero(mask)


def _likeliest(near: np.ndarray, index: int, signatures_NP: np.ndarray) -> np.ndarray:
    """Return those of `near` whose signatures are most like the text's at `index`, ascending."""
    if len(near) <= _MAX_VERIFIED:
        return near
    num_shared = (signatures_NP[near] == signatures_NP[index]).sum(axis=1)
    return np.sort(near[np.argsort(-num_shared, kind="stable")[:_MAX_VERIFIED]])


def _first_repeated(
    place: int,
    near: np.ndarray,
    threshold: float,
    hashes: np.ndarray,
    offsets: np.ndarray,
    compared: np.ndarray,
    alike: Callable[[int, int], bool] | None,
) -> int | None:
    """Return the first of `near` that the text at `place` repeats, or None.

    All are places in `compared`, which holds the indices that `alike` knows them by.
    """
    if not len(near):
        return None
    shingles = set(hashes[offsets[place] : offsets[place + 1]].tolist())
    for other in near.tolist():
        others_shingles = set(hashes[offsets[other] : offsets[other + 1]].tolist())
        if not _is_similar(shingles, others_shingles, threshold):
            continue
        if alike is None or alike(int(compared[place]), int(compared[other])):
            return other
    return None


def _hash64(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


def _shingles(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the shingles of all texts, where each text's begin, and the numbers in each.

    uint64 hashes of all shingles, int64 offsets[N + 1] into them, N texts of numbers.
    """
    hash_of_unit: dict[str, int] = {}
    all_shingles, lengths, numbers = array("Q"), array("q"), []
    for text in texts:
        units = words(text) or (exact_key(text),)  # only punctuation or emoji: as a whole
        if len(hash_of_unit) > _MOST_UNITS:
            hash_of_unit.clear()
        for unit in units:
            if unit not in hash_of_unit:
                hash_of_unit[unit] = _hash64(unit)
        hashes = np.array([hash_of_unit[unit] for unit in units], dtype=np.uint64)
        size = _CHARACTERS_A_SHINGLE if is_unspaced(units) else _WORDS_A_SHINGLE
        shingles = _combine(hashes, size)
        all_shingles.frombytes(shingles.tobytes())
        lengths.append(len(shingles))
        numbers.append(" ".join(_numbers(units)))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return np.asarray(all_shingles), offsets, numbers


def _combine(hashes: np.ndarray, size: int) -> np.ndarray:
    """Hash every run of `size` neighbours; all in one where there are fewer."""
    size = min(size, len(hashes))
    num_runs = len(hashes) - size + 1
    combined = hashes[:num_runs].copy()
    for shift in range(1, size):
        combined = splitmix(combined) + hashes[shift : shift + num_runs]
    return splitmix(combined)


def _signatures(hashes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return uint32[N, 128]: the least value of each permutation over a text's shingles.

    A permutation is multiply-shift hashing, (a x + b) mod 2**64 >> 32 (Dietzfelbinger et al. 1997).
    """
    generator = np.random.Generator(np.random.PCG64(20241))
    a = generator.integers(0, 2**63, NUM_PERMUTATIONS, dtype=np.uint64)
    a = a * np.uint64(2) + np.uint64(1)  # odd
    b = generator.integers(0, 2**63, NUM_PERMUTATIONS, dtype=np.uint64)
    num_texts = len(offsets) - 1
    signatures_NP = np.empty((num_texts, NUM_PERMUTATIONS), dtype=np.uint32)
    for start in range(0, num_texts, _AT_ONCE):
        end = min(start + _AT_ONCE, num_texts)
        part = hashes[offsets[start] : offsets[end]]
        starts = offsets[start:end] - offsets[start]
        for p in range(NUM_PERMUTATIONS):
            values = ((part * a[p] + b[p]) >> np.uint64(32)).astype(np.uint32)
            signatures_NP[start:end, p] = np.minimum.reduceat(values, starts)
    return signatures_NP


def _bands(signatures_NP: np.ndarray, threshold: float, classes: np.ndarray) -> np.ndarray:
    """Return uint64[N, bands]: a bucket for each band of the signature.

    Texts of different classes share none. 16 bands of 8 rows from 0.8 on; lower thresholds need
    more, shorter bands.
    """
    num_rows = _rows_a_band(threshold)
    num_bands = NUM_PERMUTATIONS // num_rows
    parts_NBR = signatures_NP.reshape(-1, num_bands, num_rows).astype(np.uint64)
    buckets_NB = splitmix(classes)[:, None] + np.arange(num_bands, dtype=np.uint64)[None, :]
    for row in range(num_rows):
        buckets_NB = splitmix(buckets_NB) + parts_NBR[:, :, row]
    return splitmix(buckets_NB)


def _rows_a_band(threshold: float) -> int:
    if threshold >= 0.8:
        return 8
    return 4 if threshold >= 0.5 else 2
