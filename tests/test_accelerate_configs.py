"""The files of recipes/accelerate: what the installed accelerate makes of them, without starting anything."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env, prepare_simple_launcher_cmd_env

FOLDER = Path(__file__).resolve().parent.parent / "recipes" / "accelerate"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
COMMAND = ["-m", "finetune", "train", "recipe.yaml", "--run", "folder"]


def launched(name: str) -> Namespace:
    """The arguments of `accelerate launch --config_file FILE -m finetune ...`, filled from the file."""
    parser = launch_command_parser()
    arguments = parser.parse_args(["--config_file", str(FOLDER / f"{name}.yaml"), *COMMAND])
    return _validate_launch_command(arguments)[0]


def test_every_size_has_a_file() -> None:
    assert FILES == ["deepspeed_zero3", "fsdp2", "one_gpu", "several_gpus", "two_nodes"]


@pytest.mark.parametrize("name", FILES)
def test_accelerate_knows_every_key(name: str) -> None:
    path = FOLDER / f"{name}.yaml"
    assert isinstance(load_config_from_file(str(path)), ClusterConfig)  # it refuses unknown keys at the top
    known = {action.dest for action in launch_command_parser()._actions}
    text = path.read_text(encoding="utf-8")
    values = yaml.safe_load(text)
    for section in ("fsdp_config", "deepspeed_config"):
        assert set(values.get(section, {})) <= known
    # What the recipe decides, the launcher's file leaves to it.
    assert values["mixed_precision"] == "no"
    assert f"--config_file recipes/accelerate/{name}.yaml" in text


@pytest.mark.parametrize("name", FILES)
def test_the_command_reaches_finetune_whole(name: str) -> None:
    arguments = launched(name)
    assert [arguments.training_script, *arguments.training_script_args] == COMMAND[1:]


def test_one_gpu_is_started_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.delenv(variable, raising=False)
    arguments = launched("one_gpu")
    assert not (arguments.multi_gpu or arguments.use_fsdp or arguments.use_deepspeed)
    command, environment = prepare_simple_launcher_cmd_env(arguments)
    assert command[1:] == COMMAND
    assert "MASTER_PORT" not in environment, "this is how a launch that lost its processes is known"


def test_several_gpus_and_two_nodes_are_started_by_torch() -> None:
    arguments = launched("several_gpus")
    assert (arguments.multi_gpu, arguments.num_processes, arguments.num_machines) == (True, 2, 1)
    prepare_multi_gpu_env(arguments)
    assert arguments.nproc_per_node == "2"
    arguments = launched("two_nodes")
    assert (arguments.multi_gpu, arguments.num_processes, arguments.num_machines) == (True, 16, 2)
    arguments.machine_rank = 1  # the second machine looks for no free port
    prepare_multi_gpu_env(arguments)
    assert (arguments.nproc_per_node, arguments.nnodes, str(arguments.node_rank)) == ("8", "2", "1")
    assert str(arguments.main_process_port) == "29500"
    assert "192.0.2.1" in f"{arguments.main_process_ip} {getattr(arguments, 'rdzv_endpoint', '')}"


def test_fsdp2_cuts_and_saves_whole_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = launched("fsdp2")
    assert arguments.use_fsdp
    environment = prepare_multi_gpu_env(arguments)
    for variable, value in environment.items():
        if variable.startswith(("FSDP", "ACCELERATE")):
            monkeypatch.setenv(variable, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2
    assert plugin.reshard_after_forward is True
    assert plugin.state_dict_type.name == "FULL_STATE_DICT"
    assert plugin.cpu_ram_efficient_loading is False


def test_deepspeed_cuts_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = launched("deepspeed_zero3")
    assert arguments.use_deepspeed
    arguments.deepspeed_fields_from_accelerate_config = ""  # as its own launcher sets it
    monkeypatch.setattr("accelerate.utils.launch._filter_args", lambda args, *rest: args)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    for variable, value in environment.items():
        if variable.startswith("ACCELERATE"):
            monkeypatch.setenv(variable, value)
    monkeypatch.setattr("accelerate.utils.dataclasses.is_deepspeed_available", lambda: True, raising=False)
    monkeypatch.setattr("accelerate.utils.deepspeed.is_deepspeed_available", lambda: True, raising=False)
    monkeypatch.setattr("accelerate.utils.imports.is_deepspeed_available", lambda: True)
    plugin = DeepSpeedPlugin()
    assert plugin.deepspeed_config["zero_optimization"]["stage"] == 3
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == 1
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
