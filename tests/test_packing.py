"""Packing loses nothing and wastes little; windows and blocks predict every token but the first exactly once."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune.data.packing import best_fit, blocks_of, fill_rate, windows_of


@st.composite
def sizes_and_room(draw: st.DrawFn) -> tuple[list[int], int]:
    room = draw(st.integers(1, 60))
    return draw(st.lists(st.integers(1, room), max_size=60)), room


@given(sizes_and_room())
def test_every_sequence_is_in_one_block_that_holds_it(given_: tuple[list[int], int]) -> None:
    lengths, room = given_
    bins = best_fit(lengths, room=room)
    assert sorted(number for numbers in bins for number in numbers) == list(range(len(lengths)))
    filled = [sum(lengths[number] for number in numbers) for numbers in bins]
    assert all(0 < tokens <= room for tokens in filled)
    # No two blocks fit into one: then all but one are more than half full.
    assert all(first + second > room for first, second in itertools.combinations(filled, 2))
    assert len(bins) <= 2 * -(-sum(lengths) // room) + 1
    assert fill_rate(lengths, bins, room=room) == pytest.approx(sum(filled) / (len(bins) * room) if bins else 0.0)


@given(sizes_and_room())
def test_each_sequence_goes_into_the_fullest_block_with_room(given_: tuple[list[int], int]) -> None:
    """Against the definition, written the slow way: only the free rooms are compared, for blocks may tie."""
    lengths, room = given_
    free: list[int] = []
    for size in sorted(lengths, reverse=True):
        fitting = [number for number, left in enumerate(free) if left >= size]
        if not fitting:
            free.append(room - size)
        else:
            free[min(fitting, key=lambda number: free[number])] -= size
    bins = best_fit(np.array(lengths, dtype=np.int32), room=room)
    assert sorted(room - sum(lengths[number] for number in numbers) for numbers in bins) == sorted(free)


def test_many_sequences_are_packed_fast_and_full() -> None:
    lengths = np.clip(np.random.default_rng(0).lognormal(4.5, 0.8, 100_000).astype(int), 1, 512)
    began = time.process_time()
    bins = best_fit(lengths, room=512)
    assert time.process_time() - began < 5
    assert fill_rate(lengths, bins, room=512) > 0.99
    assert bins == best_fit(lengths.tolist(), room=512)


def test_known_blocks() -> None:
    assert best_fit([3, 7, 5, 5, 2, 8], room=10) == [[5, 4], [1, 0], [2, 3]]
    assert best_fit([], room=10) == []
    assert fill_rate([], [], room=10) == 0.0


@pytest.mark.parametrize("lengths", [[4, 11], [0, 3]])
def test_what_no_block_holds_is_refused(lengths: list[int]) -> None:
    with pytest.raises(ValueError, match=f"of {min(lengths)} to {max(lengths)} tokens do not fit blocks of 1 to 10"):
        best_fit(lengths, room=10)


@given(length=st.integers(0, 300), most=st.integers(2, 40), data=st.data())
def test_windows_predict_every_token_but_the_first_once(length: int, most: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(0, most - 1))
    spans = windows_of(length, most=most, stride=stride)
    predicted = [number for start, end, first in spans for number in range(first, end)]
    assert predicted == list(range(1, length))
    for number, (start, end, first) in enumerate(spans):
        assert 0 < end - start <= most
        assert first > start
        assert number == 0 or first - start == max(stride, 1)
        assert number == len(spans) - 1 or end - start == most
    assert len(spans) == (length > 0) + max(0, -(-(length - most) // (most - max(stride, 1))))


@given(length=st.integers(0, 300), most=st.integers(2, 40))
def test_blocks_share_one_token(length: int, most: int) -> None:
    spans = blocks_of(length, most=most)
    assert all(before[1] - 1 == start and first == start + 1 for before, (start, _, first) in itertools.pairwise(spans))
    assert [number for _, end, first in spans for number in range(first, end)] == list(range(1, length))


@pytest.mark.parametrize(("most", "stride"), [(1, 0), (4, 4), (4, -5)])
def test_windows_without_room_are_refused(most: int, stride: int) -> None:
    with pytest.raises(ValueError, match=f"windows of {most} tokens have no room after {stride}"):
        windows_of(9, most=most, stride=stride)
