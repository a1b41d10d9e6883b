"""The documents of a step, and the micro-batches it is cut into."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_fits import classification
from torch.utils.data import BatchSampler, RandomSampler

from finetune.training.batches import (
    DocumentSampler,
    DocumentTable,
    Step,
    collate_step,
    cut_micro_batches,
    keyed_seed,
    pad_windows,
)

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=60)


def cost(groups: list[list[int]], lengths: list[int], pass_cost: int) -> int:
    return sum(len(group) * max(lengths[index] for index in group) + pass_cost for group in groups)


def sorted_greedy(lengths: list[int], budget: int) -> list[list[int]]:
    """What one would write first: longest first, a new batch when the budget is full."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


@given(lengths=LENGTHS, budget=st.integers(8, 400), pass_cost=st.integers(0, 100))
def test_micro_batches_hold_every_window_once_within_the_budget(
    lengths: list[int], budget: int, pass_cost: int
) -> None:
    groups = cut_micro_batches(lengths, budget_tokens=budget, pass_cost_tokens=pass_cost)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(len(g) == 1 or len(g) * max(lengths[i] for i in g) <= budget for g in groups)
    assert cost(groups, lengths, pass_cost) <= cost(sorted_greedy(lengths, budget), lengths, pass_cost)
    longest = [max(lengths[i] for i in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


@given(lengths=st.lists(st.integers(1, 30), min_size=1, max_size=8), budget=st.integers(8, 120))
@settings(max_examples=50)
def test_no_other_cut_of_the_sorted_windows_is_cheaper(lengths: list[int], budget: int) -> None:
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    cheapest = None
    for cuts in itertools.product([False, True], repeat=len(lengths) - 1):
        groups = [[order[0]]]
        for index, new in zip(order[1:], cuts, strict=True):
            if new:
                groups.append([index])
            else:
                groups[-1].append(index)
        if all(len(g) == 1 or len(g) * lengths[g[0]] <= budget for g in groups):
            cheapest = min(cheapest or 10**9, cost(groups, lengths, 24))
    assert cost(cut_micro_batches(lengths, budget_tokens=budget, pass_cost_tokens=24), lengths, 24) == cheapest


SAMPLERS = {
    "documents": st.integers(1, 60),
    "per_step": st.integers(1, 12),
    "processes": st.integers(1, 4),
    "seed": st.integers(0, 2**31 - 1),
    "epoch": st.integers(0, 5),
}


@given(**SAMPLERS)
def test_every_document_is_in_one_step_of_one_process(
    documents: int, per_step: int, processes: int, seed: int, epoch: int
) -> None:
    samplers = [
        DocumentSampler(documents=documents, per_step=per_step, seed=seed, process=process, processes=processes)
        for process in range(processes)
    ]
    for sampler in samplers:
        sampler.epoch = epoch
    steps = list(samplers[0].steps())
    # Exactly torch's own random sampling, with a generator keyed by (seed, epoch).
    generator = torch.Generator().manual_seed(keyed_seed(seed, epoch))
    plain = BatchSampler(RandomSampler(range(documents), generator=generator), per_step, drop_last=False)
    assert steps == list(plain)
    draws = [list(sampler) for sampler in samplers]
    assert {len(drawn) for drawn in draws} == {len(steps)} == {len(samplers[0])}
    for number, step in enumerate(steps):
        seen = [[document for document, _ in drawn[number]] for drawn in draws]
        assert all(documents_of_step == step for documents_of_step in seen), "all processes see the same step"
        mine = [document for drawn in draws for document, role in drawn[number] if role == "mine"]
        assert sorted(mine) == sorted(step)
        for process, drawn in enumerate(draws):
            roles = [role for _, role in drawn[number]]
            # A process without a document of its own must still join the gradient exchange.
            assert roles.count("stand-in") == (0 if "mine" in roles else 1)
            assert ("mine" in roles) == (process < len(step))


def test_the_order_depends_on_seed_and_epoch_only() -> None:
    def order(seed: int, epoch: int, noise: int) -> list[list[int]]:
        torch.manual_seed(noise)
        sampler = DocumentSampler(documents=50, per_step=8, seed=seed)
        sampler.epoch = epoch
        return list(sampler.steps())

    assert order(1, 0, noise=1) == order(1, 0, noise=2)
    assert order(1, 0, noise=1) != order(1, 1, noise=1)
    assert order(1, 0, noise=1) != order(2, 0, noise=1)


def steps_of(processes: int, *, per_step: int, weights: tuple[float, ...] | None = None) -> list[list[Step]]:
    """The steps of one epoch over 5 documents of 1 to 3 windows, for each process."""
    windows = [[[5 + document, number] for number in range(1 + document % 3)] for document in range(5)]
    task = classification(3, class_weights=weights)
    table = DocumentTable([{"windows": rows} for rows in windows], labels=[0, 1, 2, 0, 1])
    collate = collate_step(task)
    return [
        [
            collate([table[draw] for draw in draws])
            for draws in DocumentSampler(documents=5, per_step=per_step, seed=3, process=process, processes=processes)
        ]
        for process in range(processes)
    ]


@pytest.mark.parametrize("weights", [None, (0.5, 1.0, 2.0)])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_a_step_knows_its_documents_and_its_normaliser(processes: int, weights: tuple[float, ...] | None) -> None:
    whole = steps_of(1, per_step=4, weights=weights)[0]
    shares = steps_of(processes, per_step=4, weights=weights)
    for number, step in enumerate(whole):
        parts = [part[number] for part in shares]
        assert {round(part.normaliser, 5) for part in parts} == {round(step.normaliser, 5)}
        taught = [
            (tuple(window), int(target), round(float(weight), 5))
            for part in parts
            for window, target, weight in zip(part.windows, part.targets, part.weights, strict=True)
            if weight
        ]
        assert sorted(taught) == sorted(
            (tuple(window), int(target), round(float(weight), 5))
            for window, target, weight in zip(step.windows, step.targets, step.weights, strict=True)
        )
        # A document's windows share one weight of 1, in one step.
        owners = {window[0] for window in step.windows}
        for owner in owners:
            share = [float(w) for window, w in zip(step.windows, step.weights, strict=True) if window[0] == owner]
            assert sum(share) == pytest.approx(1) and len(set(share)) == 1 and len(share) == 1 + (owner - 5) % 3


def test_a_last_step_smaller_than_the_processes_has_a_stand_in_of_weight_zero() -> None:
    last = [part[-1] for part in steps_of(3, per_step=4)]
    assert float(last[0].weights.sum()) == 1.0
    for idle in last[1:]:
        assert idle.windows == last[0].windows
        assert not idle.weights.any()


def test_padding_is_masked() -> None:
    batch = pad_windows([[7, 8, 9], [7]], pad_id=4)
    assert batch["input_ids"].tolist() == [[7, 8, 9], [7, 4, 4]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]


def test_numpy_lengths_are_taken_too() -> None:
    assert cut_micro_batches(np.array([3, 9, 3]), budget_tokens=9, pass_cost_tokens=0) == [[1], [0, 2]]


@given(lengths=st.lists(st.integers(1, 500), min_size=1, max_size=40), processes=st.integers(2, 4))
def test_processes_get_about_as_many_tokens_of_a_step(lengths: list[int], processes: int) -> None:
    """Longest first to whoever has least."""
    tokens = np.array(lengths)
    loads, seen = [], []
    for process in range(processes):
        sampler = DocumentSampler(
            documents=len(lengths), per_step=len(lengths), seed=3, process=process, processes=processes,
            lengths=lambda: tokens,
        )  # fmt: skip
        (draws,) = list(sampler)
        mine = [document for document, role in draws if role == "mine"]
        assert mine or draws[0][1] == "stand-in"
        loads.append(int(tokens[mine].sum()))
        seen += mine
    assert sorted(seen) == list(range(len(lengths)))
    # What no rule that gives to whoever has least can exceed (Graham 1966); dealing round by round does.
    assert max(loads) <= sum(lengths) / processes + (1 - 1 / processes) * max(lengths) + 1e-9


def test_lengths_are_those_of_all_windows_of_a_document() -> None:
    table = DocumentTable([{"windows": [[1, 2], [3]]}, {"windows": [[4]]}], labels=[0, 1])
    assert table.lengths().tolist() == [3, 1]
