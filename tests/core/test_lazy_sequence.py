"""A sequence whose items are made when they are asked for."""

import pytest

from distill.core.lazy_sequence import LazySequence


class Squares(LazySequence[int, "Squares"]):
    def __init__(self, numbers, asked):
        self.numbers = numbers
        self.asked = asked

    def __len__(self):
        return len(self.numbers)

    def _some(self, chosen):
        return Squares(self.numbers[chosen], self.asked)

    def _item(self, number):
        self.asked.append(number)
        return self.numbers[number] ** 2


def test_it_is_what_a_list_of_its_items_is():
    squares, listed = Squares(range(5), []), [0, 1, 4, 9, 16]
    assert squares == listed and list(squares[1:4]) == listed[1:4] and squares[-1] == 16
    assert list(reversed(squares)) == listed[::-1] and 9 in squares and squares.index(4) == 2
    assert squares != listed[:4] and squares != [0, 1, 4, 9, 17] and squares != 5
    with pytest.raises(IndexError):
        squares[5]


def test_a_slice_asks_for_no_item():
    asked: list[int] = []
    some = Squares(range(5), asked)[1:4]
    assert len(some) == 3 and asked == []
    assert some[0] == 1 and asked == [0]
