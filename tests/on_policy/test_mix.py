"""What a round learns from."""

from distill.data.samples import Sample
from distill.on_policy.mix import mixed
from distill.recipe.sections import Mix


def samples(name, num):
    return [Sample(f"{name}{i}", f"p{i}", "q", "en", None, "a", [1], [2]) for i in range(num)]


def sizes(of, shares=Mix(), number=2):  # noqa: B008 - a frozen section
    return {name: len(part) for name, part in mixed(of, shares, number, 1).items()}


def test_each_origin_has_its_share_and_all_of_this_rounds_answers_are_learnt():
    of = {"current": samples("c", 40), "earlier": samples("e", 90), "teacher": samples("t", 90)}
    assert sizes(of) == {"current": 40, "earlier": 20, "teacher": 20}
    assert sizes(of, Mix(current=0.8, earlier=0.0, teacher=0.2)) == {
        "current": 40,
        "earlier": 0,
        "teacher": 10,
    }


def test_a_scarce_origin_gives_what_it_has_and_nothing_twice():
    of = {"current": samples("c", 40), "earlier": samples("e", 3), "teacher": samples("t", 90)}
    chosen = mixed(of, Mix(), 2, 1)
    assert len(chosen["earlier"]) == 3 == len({s.key for s in chosen["earlier"]})
    assert sizes({"current": samples("c", 40), "teacher": samples("t", 9)})["earlier"] == 0


def test_each_round_takes_others_and_the_same_when_it_is_made_again():
    of = {"current": samples("c", 10), "earlier": [], "teacher": samples("t", 90)}
    one, again, next_one = (mixed(of, Mix(), n, 1)["teacher"] for n in (1, 1, 2))
    assert one == again
    assert {s.key for s in one} != {s.key for s in next_one}
