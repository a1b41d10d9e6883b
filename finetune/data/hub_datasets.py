"""A dataset of the Hub: from the cache or the network, and its rows as plain records."""

from __future__ import annotations

import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING

from finetune.data.store import BYTES_PER_BATCH, ROWS_PER_BATCH
from finetune.data.tables import Record, named
from finetune.errors import DataError, EnvironmentFault

if TYPE_CHECKING:
    import datasets  # imported late: it takes seconds

PROBE_SECONDS = 3.0


def fetch_dataset(name: str, *, streaming: bool = False) -> dict[str, datasets.Dataset | datasets.IterableDataset]:
    """From the cache or the Hub; without a network the answer comes in seconds, not after the library's retries.

    With `streaming` the rows stay where they are until they are read.
    """
    import datasets

    offline = datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = offline or not _answers(datasets.config.HF_ENDPOINT)
        return dict(datasets.load_dataset(name, streaming=streaming))
    except datasets.exceptions.DatasetNotFoundError:
        raise DataError(name, "no such file, and no such dataset on the Hub") from None
    except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        if isinstance(error, ConnectionError | TimeoutError):
            what = f"cannot reach the Hub, and it is not in the cache ({reason})"
            raise EnvironmentFault(name, what, "Give a local file.") from None
        raise DataError(name, f"cannot be loaded from the Hub ({reason})", "Give a local file.") from None
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def dataset_rows(rows: datasets.Dataset | datasets.IterableDataset) -> Iterator[Record]:
    """Records, with class numbers as their names."""
    features = rows.features or {}
    held = {column: getattr(feature, "feature", feature) for column, feature in features.items()}  # by a list
    classes = {column: feature.names for column, feature in held.items() if hasattr(feature, "names")}
    size = rows.data.nbytes / max(len(rows), 1) if hasattr(rows, "data") else 0.0
    rows_of_a_batch = int(BYTES_PER_BATCH // max(size, 1.0))
    for batch in rows.iter(batch_size=max(1, min(ROWS_PER_BATCH, rows_of_a_batch))):
        columns = {column: named(values, names=classes.get(column, [])) for column, values in batch.items()}
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))


def _answers(endpoint: str) -> bool:
    if urllib.request.getproxies():
        return True  # behind a proxy only the library itself can tell
    try:
        address = urllib.parse.urlsplit(endpoint)
        place = (address.hostname or "", address.port or (80 if address.scheme == "http" else 443))
        socket.create_connection(place, timeout=PROBE_SECONDS).close()
    except OSError:
        return False
    return True
