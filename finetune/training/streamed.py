"""Training examples out of a stream: an epoch is the next so many of them, and a checkpoint knows where it began.

The examples of an epoch are all at hand, so that their order, packing and share of each process are those of any other
training. Processes encode a share of the documents each, and exchange what came of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets
import pyarrow as pa
import torch

from finetune.data.streams import LEFT_OUT, Portion

Portions = Callable[[int], Iterator[Portion]]
DROPPED = "stream: "  # before the counters of what was left out


class Table(Protocol):
    """What a lesson reads: as many examples as it is long, indexed by a draw."""

    def __len__(self) -> int: ...

    def __getitem__(self, draw: Any) -> Any: ...


@dataclass
class StreamedTable:
    """The examples of the epoch at hand; `turn_to` reads those of another.

    `portions(place)` yields documents without end; `encode` makes an Arrow table of them, a row an
    example; `open` makes of the rows of an epoch what the lesson reads. `counters` is where a checkpoint keeps numbers:
    `stream_place` is the place of the portion in which the epoch begins, `stream_skip` how many of its examples belong
    to the epoch before.
    """

    examples: int
    portions: Portions
    encode: Callable[[datasets.Dataset], pa.Table]
    open: Callable[[pa.Table], Table]
    counters: MutableMapping[str, float]
    _epoch: int = -1
    _table: Table | None = None
    _next: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.counters.update(stream_epoch=0, stream_place=0, stream_skip=0, stream_rows=0)
        self.counters.update({DROPPED + reason: 0 for reason in LEFT_OUT})

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, draw: Any) -> Any:
        assert self._table is not None, "turn_to comes first"
        return self._table[draw]

    def turn_to(self, epoch: int) -> None:
        """Read the examples of this epoch: the one of `counters`, or one after it. Raises what `portions` raises."""
        while self._epoch != epoch:
            if self._epoch >= 0:
                self.counters.update(self._next, stream_epoch=self._epoch + 1)
            self._epoch = int(self.counters["stream_epoch"])
            assert self._epoch <= epoch, "a stream does not run backwards"
            self._table = self.open(self._read())

    def _read(self) -> pa.Table:
        place, skip = int(self.counters["stream_place"]), int(self.counters["stream_skip"])
        tables, held, began = list[pa.Table](), 0, place
        for portion in self.portions(place):
            table = encoded_in_shares(portion.documents, self.encode)
            self._count(portion)
            left = table.slice(min(skip, len(table)))
            taken = left.slice(0, self.examples - held)
            if len(taken):
                tables, held = [*tables, taken], held + len(taken)
            if held == self.examples:
                used = len(table) - len(left) + len(taken)
                whole = used == len(table)
                self._next = {"stream_place": portion.place if whole else began, "stream_skip": 0 if whole else used}
                break
            skip, began = 0, portion.place
        return pa.concat_tables(tables).combine_chunks()

    def _count(self, portion: Portion) -> None:
        if portion.place <= self.counters["stream_rows"]:
            return  # the one that an epoch ended in is read again for the next
        self.counters["stream_rows"] = portion.place
        for reason, rows in portion.dropped.items():
            self.counters[DROPPED + reason] += rows

    def notes(self) -> list[str]:
        """How many rows were read, and which were left out."""
        left_out = [f"{int(self.counters[DROPPED + reason]):,} {reason}" for reason in LEFT_OUT]
        return [f"train: {int(self.counters['stream_rows']):,} rows streamed; {', '.join(left_out)}"]


def encoded_in_shares(documents: datasets.Dataset, encode: Callable[[datasets.Dataset], pa.Table]) -> pa.Table:
    """`encode` of all documents, of which every process makes its share; all get the same table."""
    world = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
    if world == 1:
        return encode(documents)
    per_process = -(-len(documents) // world)
    first = min(torch.distributed.get_rank() * per_process, len(documents))
    mine = encode(documents.select(range(first, min(first + per_process, len(documents)))))
    return pa.concat_tables([_from_bytes(part) for part in _gathered(_to_bytes(mine), world)])


def _gathered(content: torch.Tensor, world: int) -> list[torch.Tensor]:
    """The bytes of every process, in their order; on the device that the processes exchange tensors on."""
    device = "cuda" if torch.distributed.get_backend() == "nccl" else "cpu"
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(world)]
    torch.distributed.all_gather(sizes, torch.tensor([len(content)], device=device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(content)] = content.to(device)
    all_padded = [torch.empty_like(padded) for _ in range(world)]
    torch.distributed.all_gather(all_padded, padded)
    return [each[: int(size)].cpu() for each, size in zip(all_padded, sizes, strict=True)]


def _to_bytes(table: pa.Table) -> torch.Tensor:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return torch.frombuffer(bytearray(sink.getvalue()), dtype=torch.uint8)


def _from_bytes(content: torch.Tensor) -> pa.Table:
    return pa.ipc.open_stream(pa.py_buffer(content.numpy())).read_all()
