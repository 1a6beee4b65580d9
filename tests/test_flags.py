"""Each flag is an environment variable as well, and does the same as one."""

import asyncio
import json
import signal
from typing import Any

import click
import pytest

from exporter.cli import commands
from tests import harness
from tests.harness import FIRST, SECOND, Cloud, Exporter, Samples, run, scraper, started

cloud = harness.cloud
pytestmark = harness.sdk_warning

PREFIX = "HEAT_DEPLOYMENT_EXPORTER_"
COMMANDS = commands.main.commands
FLAGS = [(name, option) for name, command in COMMANDS.items() for option in command.params]
SAMPLES = {
    "config.file": "/etc/one.yaml",
    "output-file": "/tmp/one.prom",
    "web.config.file": "/etc/web.yml",
    "web.listen-address": "127.0.0.1:9",
    "web.telemetry-path": "/own",
    "web.external-url": "https://prometheus.example/heat",
    "listen-address": "127.0.0.1:9",
    "shard.index": "2",
}
"""What a flag that takes a text may have."""


def flag_of(option: click.Parameter) -> str:
    """The flag without its dashes."""
    return option.opts[0].removeprefix("--")


def sample(option: click.Parameter) -> str:
    """A value that differs from the flag's default."""
    if isinstance(option.type, click.Choice):
        return str(next(choice for choice in option.type.choices if choice != option.default))
    if isinstance(option.type, click.types.FloatParamType):
        return "1" if option.default == 0 else "0.25" if option.default == 0.5 else "77"
    if isinstance(option.type, click.types.IntParamType):
        return "7"
    return SAMPLES[flag_of(option)]


def parsed(command: str, *arguments: str) -> dict[str, Any]:
    """What the command is given with these arguments, in the environment as it is."""
    return COMMANDS[command].make_context(command, list(arguments)).params


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """No variable of the machine's has a say."""
    for _, option in FLAGS:
        monkeypatch.delenv(str(option.envvar), raising=False)


@pytest.mark.parametrize(
    ("command", "option"), FLAGS, ids=lambda each: each if isinstance(each, str) else flag_of(each)
)
def test_a_flag_is_a_variable_too(monkeypatch: pytest.MonkeyPatch, command: str, option: click.Option) -> None:
    """Each flag of each command has a variable of its own name, which does what the flag does and yields to it; empty,
    it is as absent."""
    flag, variable = flag_of(option), PREFIX + flag_of(option).upper().replace(".", "_").replace("-", "_")
    assert option.envvar == variable
    default = parsed(command)
    if option.is_flag:
        expected = parsed(command, f"--{flag}")
        assert (default[str(option.name)], expected[str(option.name)]) == (False, True)
        for value in ("true", "1", "yes"):
            monkeypatch.setenv(variable, value)
            assert parsed(command) == expected
        for value in ("false", "0", "no"):
            monkeypatch.setenv(variable, value)
            assert parsed(command) == default
            assert parsed(command, f"--{flag}") == expected
    else:
        expected = parsed(command, f"--{flag}", sample(option))
        assert expected[str(option.name)] != default[str(option.name)]
        monkeypatch.setenv(variable, sample(option))
        assert parsed(command) == expected
        if (usual := default[str(option.name)]) is not None:
            assert parsed(command, f"--{flag}", str(usual[0] if option.multiple else usual)) == default
    monkeypatch.setenv(variable, "")
    assert parsed(command) == default


def test_only_the_version_has_no_variable() -> None:
    """Outside of the commands there is `--version` alone. It has no variable, for it is a question and no setting: set
    in an environment it would keep every command from running."""
    assert [option.opts for option in commands.main.params] == [["--version"]]
    assert commands.main.params[0].envvar is None


async def test_variables_of_serve(cloud: Cloud):
    """With nothing but variables `serve` listens, shows its metrics, names itself in /sd and lets itself be reloaded as
    with the flags."""
    variables = {
        "CONFIG_FILE": str(cloud.configure()),
        "WEB_LISTEN_ADDRESS": "127.0.0.1:0",
        "WEB_TELEMETRY_PATH": "/own",
        "WEB_EXTERNAL_URL": "https://prometheus.example/heat",
        "WEB_ENABLE_LIFECYCLE": "true",
        "LOG_FORMAT": "json",
    }
    for name, value in variables.items():
        cloud.monkeypatch.setenv(PREFIX + name, value)
    async with started("serve") as process, scraper() as session:
        port = json.loads(await process.said("listening"))["ports"]
        exporter = Exporter(f"http://127.0.0.1:{port}", session)
        assert (await exporter.get()).status == 404

        async def shown() -> bool:
            answer = await exporter.get("/own")
            return answer.status == 200 and Samples.of(answer.text).total("heat_up") == 2

        await harness.eventually(shown, "both projects are up")
        entries = json.loads((await exporter.get("/sd")).text)
        assert [each["targets"] for each in entries] == [["prometheus.example"]] * 2
        assert {each["labels"]["__metrics_path__"] for each in entries} == {"/heat/probe"}
        assert {each["labels"]["__scheme__"] for each in entries} == {"https"}
        assert (await exporter.get("/-/reload", method="POST")).status == 200
        assert await process.stopped(signal.SIGTERM) == 0


async def test_without_its_variable_nothing_is_reloaded(cloud: Cloud):
    """A variable that says no is as good as no flag: reloading by HTTP stays forbidden."""
    cloud.monkeypatch.setenv(f"{PREFIX}WEB_ENABLE_LIFECYCLE", "false")
    async with harness.serving("--config.file", cloud.configure()) as (_, exporter):
        assert (await exporter.get("/-/reload", method="POST")).status == 403


async def test_variables_of_once_and_check(cloud: Cloud):
    """`once` writes the file that its variable names, and `check` counts as the shard that its variables say."""
    target = cloud.folder / "heat.prom"
    cloud.monkeypatch.setenv(f"{PREFIX}CONFIG_FILE", str(cloud.configure()))
    cloud.monkeypatch.setenv(f"{PREFIX}OUTPUT", "json")
    cloud.monkeypatch.setenv(f"{PREFIX}LOG_LEVEL", "error")
    cloud.monkeypatch.setenv(f"{PREFIX}SHARD_TOTAL", "2")
    shards = []
    for index in ("0", "1"):
        cloud.monkeypatch.setenv(f"{PREFIX}SHARD_INDEX", index)
        shards.append({each["project"] for each in json.loads((await run("check")).stdout)["projects"]})
    assert shards[0].isdisjoint(shards[1])
    assert shards[0] | shards[1] == {FIRST, SECOND}
    cloud.monkeypatch.delenv(f"{PREFIX}SHARD_INDEX")
    cloud.monkeypatch.delenv(f"{PREFIX}SHARD_TOTAL")
    cloud.monkeypatch.setenv(f"{PREFIX}OUTPUT_FILE", str(target))
    done = await run("once")
    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout)["ok"] is True
    assert Samples.of(await asyncio.to_thread(target.read_text)).total("heat_up") == 2


async def test_a_variable_that_can_t_be_meant_is_refused(cloud: Cloud):
    """A variable's bad value ends a command as the flag's does: status 2, and flag and value are told."""
    cloud.monkeypatch.setenv(f"{PREFIX}LOG_LEVEL", "loud")
    done = await run("serve")
    assert (done.status, done.stdout) == (2, "")
    assert "--log.level" in done.stderr
    assert "'loud'" in done.stderr
    assert "Traceback" not in done.stderr
