"""Many prompts at once give what each gives alone, by transformers' own generate where it can say so."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_shapes import POSITIONS, VOCABULARY, tiny_shape

from finetune.training.generating import Generated, context_tokens, generate
from finetune.training.next_token import GenerationSettings
from finetune.training.packed import prepare_packing

EOS = frozenset({2, 7, 11, 12})
PROMPTS = [
    [random.Random(number).randrange(3, VOCABULARY) for _ in range(length)]
    for number, length in enumerate((5, 1, 17, 9, 9, 3, 12, 2))
]


def alone(model: Any, prompt: list[int], *, most: int, **told: Any) -> Generated:
    """transformers' own generate on one prompt."""
    ids = torch.tensor([prompt])
    told = {"do_sample": False, "pad_token_id": 2, "eos_token_id": sorted(EOS), **told}
    row = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=most, **told)[0].tolist()
    row = row[1 if model.config.is_encoder_decoder else len(prompt) :]
    end = next((place for place, token in enumerate(row) if token in EOS), None)
    forced = model.config.is_encoder_decoder and model.generation_config.forced_eos_token_id is not None
    return Generated(row if end is None else row[:end], cut=end is None or (forced and end == most - 1))


@pytest.mark.parametrize(
    "told",
    [{}, {"repetition_penalty": 1.7}, {"no_repeat_ngram_size": 2, "min_new_tokens": 3}, {"num_beams": 2},
     {"num_beams": 3, "repetition_penalty": 1.3, "length_penalty": 0.5}],
    ids=["greedy", "repetition", "n-grams", "beams", "beams with history"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["gpt2", "llama", "mistral", "bloom", "mamba", "t5", "bart", "marian"])
def test_a_batch_writes_what_transformers_writes_alone(name: str, told: dict[str, Any]) -> None:
    model = tiny_shape(name, seed=10 if name == "bart" else 3)
    found = generate(model, PROMPTS, settings=GenerationSettings(10, **told), pad_id=2, eos_ids=EOS)
    assert found == [alone(model, prompt, most=10, **told) for prompt in PROMPTS]
    assert len({token for text in found for token in text.ids}) > 3


def test_these_models_end_some_texts_and_are_cut_in_others() -> None:
    found = generate(tiny_shape("gpt2", seed=3), PROMPTS, settings=GenerationSettings(10), pad_id=2, eos_ids=EOS)
    assert {text.cut for text in found} == {True, False}
    assert all(not EOS & {*text.ids} for text in found)
    assert all(len(text.ids) == 10 for text in found if text.cut)


def test_a_model_prepared_for_packing_writes_the_same() -> None:
    model = tiny_shape("llama", seed=3).train()
    before = generate(model, PROMPTS, settings=GenerationSettings(10), pad_id=2, eos_ids=EOS)
    assert prepare_packing(model)[0] == "segments"
    assert generate(model, PROMPTS, settings=GenerationSettings(10), pad_id=2, eos_ids=EOS) == before
    assert model.training


@pytest.mark.parametrize("name", ["gpt2", "t5", "mamba"])
@settings(deadline=None, max_examples=12)
@given(order=st.permutations(range(len(PROMPTS))), budget=st.integers(1, 300), beams=st.sampled_from([1, 1, 2]))
def test_what_is_drawn_depends_on_seed_and_key_alone(name: str, order: list[int], budget: int, beams: int) -> None:
    model = tiny_shape(name, seed=3)
    told = GenerationSettings(6, do_sample=True, temperature=1.5, top_k=30, top_p=0.95, seed=5, num_beams=beams)
    keys = [1000 + number for number in range(len(PROMPTS))]
    straight = generate(model, PROMPTS, settings=told, pad_id=2, eos_ids=EOS, keys=keys)
    shuffled = generate(
        model, [PROMPTS[n] for n in order], settings=told, pad_id=2, eos_ids=EOS, keys=[keys[n] for n in order],
        budget_tokens=budget,
    )  # fmt: skip
    assert shuffled == [straight[number] for number in order]


def test_seeds_and_keys_draw_different_texts_and_leave_the_global_generator_alone() -> None:
    model = tiny_shape("gpt2")
    told = GenerationSettings(8, do_sample=True, temperature=2.0, seed=1)
    state = torch.get_rng_state()
    first, twin = generate(model, [[5, 6], [5, 6]], settings=told, pad_id=2, eos_ids=set())
    assert first.ids != twin.ids
    again = generate(model, [[5, 6]], settings=told, pad_id=2, eos_ids=set(), keys=[1])
    assert again == [twin]
    other = GenerationSettings(8, do_sample=True, temperature=2.0, seed=2)
    assert generate(model, [[5, 6]], settings=other, pad_id=2, eos_ids=set())[0].ids != first.ids
    assert torch.equal(state, torch.get_rng_state())


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    model = tiny_shape("gpt2", seed=1)
    prompt = [9, 4, 30]
    told = GenerationSettings(1, do_sample=True, top_k=5)
    drawn = generate(model, [prompt] * 2000, settings=told, pad_id=2, eos_ids=set())
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1]
    best = logits.topk(5)
    expected = best.values.softmax(0)
    counts = torch.tensor([sum(text.ids == [token] for text in drawn) for token in best.indices.tolist()])
    assert int(counts.sum()) == 2000
    # Five counts of 2,000 draws: chi-squared with four degrees of freedom is below 18.5 in 999 of 1,000 cases.
    assert float(((counts - 2000 * expected) ** 2 / (2000 * expected)).sum()) < 18.5


def test_the_context_ends_a_text_with_a_cut() -> None:
    model = tiny_shape("gpt2")
    assert context_tokens(model) == POSITIONS
    long = [5] * (POSITIONS - 3)
    found = generate(model, [long, [5]], settings=GenerationSettings(30), pad_id=2, eos_ids=set())
    assert [len(text.ids) for text in found] == [3, 30]
    assert all(text.cut for text in found)
    with pytest.raises(ValueError, match="no room"):
        generate(model, [[5] * POSITIONS], settings=GenerationSettings(30), pad_id=2, eos_ids=set())
    beams = generate(model, [long, [5]], settings=GenerationSettings(30, num_beams=2), pad_id=2, eos_ids=set())
    assert [len(text.ids) for text in beams] == [3, 30]


def test_the_decoder_of_a_pair_has_its_own_context() -> None:
    bart = tiny_shape("bart")
    found = generate(bart, [[5] * POSITIONS], settings=GenerationSettings(500), pad_id=1, eos_ids=set())
    assert len(found[0].ids) == POSITIONS - 1
    with pytest.raises(ValueError, match="longer than the model's"):
        generate(bart, [[5] * (POSITIONS + 1)], settings=GenerationSettings(5), pad_id=1, eos_ids=set())
    assert context_tokens(tiny_shape("t5")) is None


def test_no_prompt_is_empty() -> None:
    with pytest.raises(ValueError, match="empty prompt"):
        generate(tiny_shape("gpt2"), [[]], settings=GenerationSettings(5), pad_id=2, eos_ids=EOS)
    assert generate(tiny_shape("gpt2"), [], settings=GenerationSettings(5), pad_id=2, eos_ids=EOS) == []


@pytest.mark.parametrize("beams", [1, 2])
def test_tokens_are_told_as_they_are_written_and_documents_as_they_end(beams: int) -> None:
    model = tiny_shape("gpt2", seed=3)
    told: dict[int, list[int]] = {number: [] for number in range(len(PROMPTS))}
    done: list[int] = []
    found = generate(
        model, PROMPTS, settings=GenerationSettings(10, num_beams=beams), pad_id=2, eos_ids=EOS, budget_tokens=50,
        on_documents=done.append, on_token=lambda document, token: told[document].append(token),
    )  # fmt: skip
    assert [told[number] for number in range(len(PROMPTS))] == [text.ids for text in found]
    assert sum(done) == len(PROMPTS)


def test_what_the_models_own_settings_force_is_kept() -> None:
    model = tiny_shape("bart", seed=3)
    model.generation_config.update(forced_bos_token_id=17, begin_suppress_tokens=[30], suppress_tokens=[31, 32])
    found = generate(model, PROMPTS, settings=GenerationSettings(8), pad_id=2, eos_ids=EOS)
    assert found == [alone(model, prompt, most=8) for prompt in PROMPTS]
    assert all(text.ids[0] == 17 for text in found)


def test_a_listener_may_stop_the_writing() -> None:
    model = tiny_shape("gpt2", seed=3).train()

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generate(model, PROMPTS, settings=GenerationSettings(10), pad_id=2, eos_ids=EOS, on_documents=stop)
    assert model.training
