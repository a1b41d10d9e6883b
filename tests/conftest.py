"""What every test stands on: no network, no cache of the person who runs it, no settings from outside.

The variables are set here, before any test file imports a library, because the libraries read them once, when imported.
"""

from __future__ import annotations

import atexit
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

_HOME = tempfile.mkdtemp(prefix="finetune-tests-")
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

_FROM_OUTSIDE = (
    # Each of these would lead back to the real caches, the Hub, or a launcher that is not there.
    *(
        "HF_HUB_CACHE",
        "HF_DATASETS_CACHE",
        "HF_EVALUATE_CACHE",
        "HF_METRICS_CACHE",
        "HF_MODULES_CACHE",
        "HF_ASSETS_CACHE",
    ),
    *("HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT"),
    *("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"),
)
for _name in _FROM_OUTSIDE:
    os.environ.pop(_name, None)
os.environ.update(
    HF_HOME=_HOME,
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_EVALUATE_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
)

# A shared machine may be slow for a moment; that is no failure of the code under test. The same commit is tested with
# the same examples; HYPOTHESIS_EXPLORE=1 looks for new ones.
settings.register_profile("house", deadline=None, derandomize="HYPOTHESIS_EXPLORE" not in os.environ)
settings.load_profile("house")


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Only this machine answers: a test that reaches further fails at once and by name."""
    real_connect, real_connect_ex, real_getaddrinfo = (
        socket.socket.connect,
        socket.socket.connect_ex,
        socket.getaddrinfo,
    )

    def connect(self: socket.socket, address: Any) -> None:
        _refuse_outside(self.family, address)
        real_connect(self, address)

    def connect_ex(self: socket.socket, address: Any) -> int:
        _refuse_outside(self.family, address)
        return real_connect_ex(self, address)

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_loopback(host):
            raise OSError(f"the tests may not look up {host!r}")
        return real_getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect)
        patch.setattr(socket.socket, "connect_ex", connect_ex)
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


def _refuse_outside(family: int, address: Any) -> None:
    if family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(address[0]):
        raise OSError(f"the tests may not connect to {address!r}")


def _is_loopback(host: Any) -> bool:
    name = host.decode() if isinstance(host, bytes) else host
    own_names = {None, "", "localhost", "::1", "0.0.0.0", "::", socket.gethostname()}
    return name in own_names or str(name).startswith("127.")
