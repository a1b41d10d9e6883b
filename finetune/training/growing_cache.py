"""The cache of keys and values of a batch that is being written: it grows in place, and caches join to one."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer

ROOM_TO_GROW = 64  # tokens that a full cache gets on top


def keeps_all_keys(network: PreTrainedModel) -> bool:
    """Does every layer keep all keys? With a sliding window some forget."""
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=network.config).layers)


def new_cache(network: PreTrainedModel) -> Cache:
    if not keeps_all_keys(network):
        cache = DynamicCache(config=network.config)
        return EncoderDecoderCache(cache, _growing()) if network.config.is_encoder_decoder else cache
    return EncoderDecoderCache(_growing(), _growing()) if network.config.is_encoder_decoder else _growing()


def _growing() -> DynamicCache:
    # Without a config, because of T5's the library counts the encoder's layers; they come as the decoder writes them.
    cache = DynamicCache()
    cache.layer_class_to_replicate = _GrowingLayer
    return cache


def joined_caches(caches: list[Cache], *, longest: int) -> Cache:
    """The rows of all caches in one, their last tokens side by side; a cache alone stays as it is."""
    if len(caches) == 1:
        return caches[0]
    whole = _growing()
    for layers in zip(*(cache.layers for cache in caches), strict=True):
        keys, values = (
            # What lies before a row's first token is masked, but must be a number.
            torch.cat([torch.nn.functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])
            for parts in ([layer.keys for layer in layers], [layer.values for layer in layers])
        )
        whole.update(keys, values, len(whole.layers))
    return whole


class _GrowingLayer(DynamicLayer):  # type: ignore[no-untyped-call]
    """Keys and values with room to grow: a step writes its token where the stock layer copies the whole cache."""

    _rooms: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *arguments: Any, **named: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        held = self.get_seq_length()
        needed = held + key_states.shape[-2]
        if self._rooms is None or len(self._rooms[0]) != len(key_states) or self._rooms[0].shape[-2] < needed:
            self._rooms = (self._grown(self.keys, key_states, needed), self._grown(self.values, value_states, needed))
        keys, values = self._rooms
        keys[:, :, held:needed] = key_states
        values[:, :, held:needed] = value_states
        self.keys, self.values = keys[:, :, :needed], values[:, :, :needed]
        return self.keys, self.values

    def _grown(self, held: torch.Tensor | None, new: torch.Tensor, needed: int) -> torch.Tensor:
        room = new.new_empty(*new.shape[:2], needed + ROOM_TO_GROW, new.shape[3])
        if held is not None and held.numel():
            room[:, :, : held.shape[-2]] = held
        return room

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        if self._rooms is not None:
            held = self.get_seq_length()
            keys, values = (room[indices] for room in self._rooms)
            self._rooms = keys, values
            self.keys, self.values = keys[:, :, :held], values[:, :, :held]
