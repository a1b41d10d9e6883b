"""Launchers, machines and recipes that do not agree; processes that end, are killed or hang, and what the others do.

The processes are threads' worth of `Company` over one key-value store here; tests/test_processes.py starts real ones.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.run import get_args_parser

from finetune import cli, processes
from finetune.errors import EnvironmentFault, RecipeError, Stopped
from finetune.processes import TOLD, process_count, refuse_lost_processes, refuse_unlike_launch, tell_launcher
from finetune.recipe_training import ClassifierTraining
from finetune.training import company as module
from finetune.training.company import Company, Ending, joined

LONE = {"ACCELERATE_MIXED_PRECISION": "no", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (LONE, "accelerate launch was asked for several processes and started 1"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "mpirun started 2 processes, and none was told of the others"),
        ({"SLURM_STEP_NUM_TASKS": "4"}, "srun started 4 processes"),
    ],
)
def test_a_launcher_that_lost_processes_is_told(environment: dict[str, str], said: str) -> None:
    """F01."""
    with pytest.raises(RecipeError, match=said) as caught:
        refuse_lost_processes(environment)
    assert "accelerate launch --multi_gpu --num_processes" in str(caught.value)
    refuse_lost_processes({**environment, "WORLD_SIZE": "2"})


@pytest.mark.parametrize("environment", [{}, {"ACCELERATE_MIXED_PRECISION": "no"}, {"SLURM_STEP_NUM_TASKS": "1"}])
def test_one_process_that_was_meant_is_let_through(environment: dict[str, str]) -> None:
    refuse_lost_processes(environment)


def unlike(environment: dict[str, str], *, use_cpu: bool = False, gpus: int = 0, **extra: object) -> str:
    with pytest.raises(RecipeError) as caught:
        refuse_unlike_launch(use_cpu=use_cpu, precision="no", extra=extra, gpus=gpus, environment=environment)
    return str(caught.value)


def test_launch_and_recipe_must_agree() -> None:
    """F02 and F03, and what accelerate's file asks for beside the recipe."""
    assert "Add training.use_cpu=true" in unlike({"WORLD_SIZE": "2"})
    assert "FSDP was asked for without a GPU" in unlike(
        {"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, use_cpu=True
    )
    assert "FSDP was asked for without a GPU" in unlike({}, fsdp="full_shard")
    assert "DeepSpeed was asked for without a GPU" in unlike({}, deepspeed="ds.json")
    assert "mixed_precision bf16, the recipe for no" in unlike({"ACCELERATE_MIXED_PRECISION": "bf16"}, gpus=1)
    assert "machine with 1 GPU." in unlike({"WORLD_SIZE": "2"}, gpus=1)
    for environment, use_cpu, gpus in (({"WORLD_SIZE": "2"}, True, 0), ({"WORLD_SIZE": "2"}, False, 2), ({}, False, 0)):
        refuse_unlike_launch(use_cpu=use_cpu, precision="no", extra={}, gpus=gpus, environment=environment)
    across = {"WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8"}
    refuse_unlike_launch(use_cpu=False, precision="no", extra={}, gpus=8, environment=across)


def test_a_number_of_processes_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(EnvironmentFault, match="WORLD_SIZE: is 'two', not a number from 1"):
        process_count()


def test_a_port_in_use_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """F04. Without the agent of torchrun the first process opens the port itself."""
    taken = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", str(taken.port))
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    with (
        pytest.raises(
            EnvironmentFault, match=rf"port {taken.port} is in use by another program\. torchrun --standalone"
        ),
        joined(ClassifierTraining.model_validate({"use_cpu": True, "extra": {"ddp_timeout": 5}})),
    ):
        pass


def test_torchrun_takes_the_spelling_that_the_documentation_gives() -> None:
    """Its parser reads --run for an unfinished --run-path, unless it is told where its own words end."""
    told = get_args_parser().parse_args(["--nproc_per_node=2", "-m", "--", "finetune", "train", "r.yaml", "--run", "d"])
    assert [told.training_script, *told.training_script_args] == ["finetune", "train", "r.yaml", "--run", "d"]
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["--nproc_per_node", "2", "-m", "finetune", "train", "r.yaml", "--run", "d"])


# ---- signs of life


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Everything ten times as fast; the list gets the exit codes of processes that were ended from beside."""
    codes: list[int] = []

    monkeypatch.setattr(module, "SECONDS_BETWEEN_SIGNS", 0.05)
    monkeypatch.setattr(module, "SECONDS_OF_GRACE", 0.4)
    monkeypatch.setattr("finetune.training.company.os._exit", codes.append)
    return codes


@pytest.fixture
def three(quick: list[int]) -> Iterator[list[Company]]:
    server = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    made = []
    for number in range(3):
        store = torch.distributed.TCPStore(
            "127.0.0.1", server.port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=5)
        )
        made.append(Company(number=number, count=3, silence_s=0.6))
        made[-1].connect(store)
    yield made
    for each in made:
        each._over.set()
    time.sleep(0.1)


def wait_until(true: Callable[[], bool], *, seconds: float = 5.0) -> None:
    last = time.monotonic() + seconds
    while not true() and time.monotonic() < last:
        time.sleep(0.02)
    assert true()


def test_they_agree_on_what_the_writer_says(three: list[Company]) -> None:
    found: dict[int, str] = {}

    def ask(each: Company) -> None:
        found[each.number] = each.agreed("folder", f"r-{each.number}")

    threads = [threading.Thread(target=ask, args=(each,)) for each in reversed(three)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert found == {0: "r-0", 1: "r-0", 2: "r-0"}


def test_who_is_done_is_not_missed(three: list[Company], quick: list[int]) -> None:
    with three[0].training():
        three[1].part()
        three[2].part()
        time.sleep(1.2)
    assert quick == []
    assert three[0].who_is_gone() is None


def test_a_silent_process_ends_the_others_and_the_writer_says_which(
    three: list[Company], quick: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    """F06: as after SIGSTOP, which stops signs and work alike."""
    ended: list[str] = []
    three[0].on_end, three[0].resume_hint = ended.append, "Go on with X."
    three[2]._over.set()
    with three[0].training():
        wait_until(lambda: len(quick) == 2)
    assert quick == [EnvironmentFault.exit_code] * 2
    said = capfd.readouterr().err
    assert said.count("error:") == 1
    assert "process 2 (of 0 to 2): has given no sign of life for 0.6 s" in said
    assert said.rstrip().endswith("Go on with X.")
    assert len(ended) == 1


def test_outside_of_training_a_long_silence_is_nothing(three: list[Company], quick: list[int]) -> None:
    three[2]._over.set()
    time.sleep(1.2)
    assert quick == []


def test_a_broken_exchange_tells_who_is_gone(three: list[Company]) -> None:
    """F05, a killed process: gloo breaks at once, and says nothing of whom."""
    three[1]._over.set()
    with (
        pytest.raises(EnvironmentFault, match=r"process 1 \(of 0 to 2\): was killed or has crashed"),
        three[0].training(),
    ):
        raise RuntimeError("Connection closed by peer")


def test_who_was_stopped_and_comes_back_hears_why_the_others_left(three: list[Company]) -> None:
    """After SIGCONT its exchange is broken; that is no fault of the program, and has been told."""
    three[0]._say(Ending(2, "has given no sign of life", EnvironmentFault.exit_code))
    with (
        pytest.raises(EnvironmentFault, match=r"process 2 \(of 0 to 2\): has given no sign of life"),
        three[2].training(),
    ):
        raise RuntimeError("Connection closed by peer")


def test_an_error_of_our_own_stays_what_it_is(three: list[Company]) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), three[0].training():
        raise RuntimeError("shapes differ")


def test_what_one_process_got_wrong_the_writer_tells(
    three: list[Company], quick: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    """F05, a process that raises."""
    error = RecipeError("data.csv", "no such file")
    three[1].end(error)
    assert error.__notes__ == [TOLD]
    wait_until(lambda: len(quick) == 2)
    assert set(quick) == {RecipeError.exit_code}
    assert capfd.readouterr().err.count("process 1 (of 0 to 2): data.csv: no such file") == 1


def test_what_all_got_wrong_is_said_by_the_writer_alone(
    three: list[Company], quick: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    errors = [RecipeError("data.csv", "no such file") for _ in three]
    threads = [threading.Thread(target=each.end, args=(error,)) for each, error in zip(three, errors, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert [TOLD in getattr(error, "__notes__", ()) for error in errors] == [False, True, True]
    assert (quick, capfd.readouterr().err) == ([], "")


def test_a_launcher_that_stops_the_rest_is_not_the_reason(three: list[Company]) -> None:
    three[1].end(RecipeError("data.csv", "no such file"))
    stopped = Stopped("run", "stopped by SIGTERM")
    assert "process 1" in str(module._cause(stopped, three[0]))
    assert module._cause(stopped, Company()) is stopped


def test_all_stopped_together_is_a_stop(three: list[Company]) -> None:
    three[1].end(Stopped("run", "stopped by SIGTERM"))
    stopped = Stopped("run", "stopped by SIGTERM")
    assert module._cause(stopped, three[0]) is stopped


def test_one_alone_needs_nobody() -> None:
    alone = Company()
    assert alone.agreed("folder", "r-1") == "r-1"
    assert alone.who_is_gone() is None
    assert Ending(1, "x", 5).process == 1


# ---- the command line


def test_the_launcher_is_told_in_its_own_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """torch prints the message of this file beside the number of the process."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    file = tmp_path / "error.json"
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    tell_launcher("data.csv: no such file")
    tell_launcher("a second word does not replace the first")
    failure = ProcessFailure(local_rank=1, pid=1, exitcode=2, error_file=str(file))
    assert "data.csv: no such file\n" in ChildFailedError("finetune", {1: failure}).format_msg()


@pytest.mark.parametrize("verb", ["evaluate", "predict"])
def test_other_verbs_run_in_one_process(
    verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert cli.main([verb, "run", *(["--text", "x"] if verb == "predict" else [])]) == 2
    assert f"{verb} runs in one process, and was launched in 2" in capsys.readouterr().err


def complaint(rank: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, *words: str) -> str:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(cli, "SECONDS_FOR_THE_WRITER", 0.0)
    assert cli.main(words) == 2
    return str(capsys.readouterr().err)


def test_a_refused_recipe_is_refused_by_the_writer_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait for the launcher to end them; one whose machine alone lacks the file still says so."""
    assert complaint("0", monkeypatch, capsys, "train", "none.yaml").startswith("error: none.yaml")
    assert complaint("1", monkeypatch, capsys, "train", "none.yaml").startswith("process 1: error: none.yaml")
    waited: list[float] = []
    monkeypatch.setattr(processes.time, "sleep", waited.append)
    monkeypatch.setattr(cli, "SECONDS_FOR_THE_WRITER", 5.0)
    assert cli.main(["train", "none.yaml"]) == 2
    assert waited == [5.0]


def test_a_wrong_word_is_refused_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit):
        cli.main(["trian"])
    assert capsys.readouterr().err == ""
