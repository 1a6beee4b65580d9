"""The command line: flags and environment variables in, an exit status out."""

from __future__ import annotations

import asyncio
import functools
import os
import re
import sys
import tempfile
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO, TypeVar

import click

from exporter import __version__
from exporter.common import logs
from exporter.common.errors import ConfigError
from exporter.config import schema

DEFAULT_ADDRESS: Final = ":19180"
DEMO_ADDRESS: Final = "127.0.0.1:19180"
_PREFIX: Final = "HEAT_DEPLOYMENT_EXPORTER_"

F = TypeVar("F", bound=Callable[..., Any])


class _ServeByDefault(click.Group):
    """A group whose bare call, or one that begins with a flag, is `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0].startswith("-") and args[0] not in ("--help", "-h", "--version")):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def _option(flag: str, **attributes: Any) -> Callable[[F], F]:
    """An option in the way of the Prometheus exporters, which is an environment variable too."""
    name = re.sub(r"[.-]", "_", flag)
    return click.option(f"--{flag}", name, envvar=_PREFIX + name.upper(), show_envvar=True, **attributes)


_config_file = _option("config.file", metavar="FILE", help="The configuration; absent: the OS_* environment alone.")
_log_level = _option(
    "log.level", type=click.Choice(logs.LEVELS), default="info", show_default=True, help="The least that is logged."
)
_log_format = _option(
    "log.format", type=click.Choice(("logfmt", "json")), default="logfmt", show_default=True, help="How logs look."
)
_output = _option(
    "output",
    type=click.Choice(("table", "json")),
    default="table",
    show_default=True,
    help="How the summary looks; json: one line, for programs.",
)
_web_config_file = _option(
    "web.config.file", metavar="FILE", help="TLS, passwords and headers, in the format of Prometheus' exporters."
)
_telemetry_path = _option("web.telemetry-path", default="/metrics", show_default=True, help="Where the metrics are.")


def _shard(command: F) -> F:
    """The two flags that override the configuration's section `shard`, as one argument of that name."""

    @functools.wraps(command)
    def with_shard(*args: Any, shard_index: str | None, shard_total: int | None, **options: Any) -> Any:
        index = int(shard_index) if shard_index is not None and shard_index.isdecimal() else shard_index
        given = {"index": index, "total": shard_total}
        shard = {key: value for key, value in given.items() if value is not None}
        return command(*args, shard=shard, **options)

    index = _option("shard.index", metavar="NUMBER|auto", help="Which shard this is; auto: as the host name ends.")
    total = _option("shard.total", type=click.IntRange(1), metavar="NUMBER", help="How many shards there are.")
    return index(total(with_shard))  # type: ignore[return-value]


def _listen_address(default: str) -> Callable[[F], F]:
    return _option(
        "web.listen-address",
        multiple=True,
        default=[default],
        show_default=True,
        metavar="HOST:PORT",
        help="Where to listen; may be repeated.",
    )


@click.group(cls=_ServeByDefault, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="heat-deployment-exporter %(version)s")
def main() -> None:
    """Prometheus exporter for OpenStack Heat software deployments. Without a command: serve."""


@main.command()
@_config_file
@_listen_address(DEFAULT_ADDRESS)
@_telemetry_path
@_web_config_file
@_option("web.systemd-socket", is_flag=True, help="Listen on sockets from systemd instead of --web.listen-address.")
@_option("web.external-url", metavar="URL", help="How Prometheus reaches this exporter, for /sd.")
@_option("web.enable-lifecycle", is_flag=True, help="Allow POST /-/reload.")
@_shard
@_log_level
@_log_format
def serve(
    config_file: str | None,
    web_listen_address: tuple[str, ...],
    web_telemetry_path: str,
    web_config_file: str | None,
    web_systemd_socket: bool,
    web_external_url: str | None,
    web_enable_lifecycle: bool,
    shard: dict[str, Any],
    log_level: str,
    log_format: Any,
) -> None:
    """Fetch deployments periodically and serve them as metrics."""
    from exporter.cli.serve import Settings, parse_address

    logs.configure(level=log_level, format=log_format)
    _run(
        lambda: _serve(
            lambda: _load(config_file, shard),
            Settings(
                addresses=[parse_address(address) for address in web_listen_address],
                telemetry_path=web_telemetry_path,
                external_url=web_external_url,
                lifecycle=web_enable_lifecycle,
                web_config=web_config_file,
                systemd_socket=web_systemd_socket,
            ),
        )
    )


async def _serve(load: Callable[[], schema.Config], settings: Any) -> None:
    from exporter.cli.serve import serve

    await serve(load, settings)


@main.command()
@_config_file
@_option("output-file", metavar="FILE", help="Where to write, renamed into place; absent: stdout.")
@_output
@_shard
@_log_level
@_log_format
def once(
    config_file: str | None,
    output_file: str | None,
    output: Any,
    shard: dict[str, Any],
    log_level: str,
    log_format: Any,
) -> None:
    """Refresh everything once, and print it. Exit status 1 where anything failed.

    The summary is on stderr; as JSON, it is on stdout where --output-file leaves that free.
    """
    logs.configure(level=log_level, format=log_format)
    to = sys.stdout if output == "json" and output_file is not None else sys.stderr
    _run(lambda: _once(_load(config_file, shard), output_file, to=to, output=output, show=True))


@main.command()
@_config_file
@_output
@_shard
@_log_level
@_log_format
def check(config_file: str | None, output: Any, shard: dict[str, Any], log_level: str, log_format: Any) -> None:
    """Try the configuration, credentials, catalog and access, and say what would be scraped."""
    logs.configure(level=log_level, format=log_format)
    _run(lambda: _once(_load(config_file, shard), None, to=sys.stdout, output=output, show=False))


async def _once(settings: schema.Config, output_file: str | None, *, to: TextIO, output: Any, show: bool) -> None:
    from exporter.cli.report import progress, summarize
    from exporter.collector.collector import Collector

    async with Collector(settings).opened() as fleet:
        with progress("projects") as report:
            await fleet.once(report)
        text = fleet.page.plain("text")
        if output_file is not None:
            _write(Path(output_file), text)
        elif show:
            try:
                sys.stdout.buffer.write(text)
                sys.stdout.buffer.flush()
            except OSError as error:
                raise ConfigError(f"stdout can't be written: {error.strerror}") from None
        try:
            succeeded = summarize(fleet, to=to, output=output)
        except OSError as error:
            raise ConfigError(f"the summary can't be written: {error.strerror}") from None
        if not succeeded:
            raise SystemExit(1)


def _write(path: Path, content: bytes) -> None:
    """Put the file in its place whole: whoever reads it sees the old one or the new one."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
                # The collector that reads it is another user.
                Path(file.name).chmod(0o644)
                Path(file.name).replace(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"--output-file: {path}: can't be written: {error.strerror or error}") from None


@main.command()
@_listen_address(DEMO_ADDRESS)
@_telemetry_path
@_web_config_file
@_option("seed", type=int, default=1, show_default=True, help="What the simulated cloud's chance begins with.")
@_log_level
@_log_format
def demo(
    web_listen_address: tuple[str, ...],
    web_telemetry_path: str,
    web_config_file: str | None,
    seed: int,
    log_level: str,
    log_format: Any,
) -> None:
    """Serve metrics of a simulated cloud whose deployments start, finish and fail while you watch."""
    logs.configure(level=log_level, format=log_format)
    _run(lambda: _demo(web_listen_address, web_telemetry_path, web_config_file, seed))


_DEMO: Final = """
refresh: {interval: 5s, discovery: 1m}
thresholds: {stuck_after: 10m}
clouds: [{name: demo, cloud: simulator}]
"""


async def _demo(addresses: tuple[str, ...], path: str, web_config: str | None, seed: int) -> None:
    from exporter.cli.serve import Settings, parse_address
    from exporter.simulator import Plan, Simulator, build

    settings = Settings(
        addresses=[parse_address(address) for address in addresses], telemetry_path=path, web_config=web_config
    )

    with tempfile.TemporaryDirectory(prefix="heat-deployment-exporter-") as folder:
        async with Simulator(build(Plan(seed=seed))) as simulator:
            entries = Path(folder) / "clouds.yaml"
            entries.touch(mode=0o600)
            entries.write_text(simulator.clouds_yaml())
            # Only the simulated cloud: whatever the caller's environment names is left alone.
            for name in [name for name in os.environ if name.startswith("OS_")]:
                del os.environ[name]
            os.environ["OS_CLIENT_CONFIG_FILE"] = str(entries)
            shown = addresses[0] if not addresses[0].startswith(":") else f"127.0.0.1{addresses[0]}"
            scheme = "http" if web_config is None else "http(s)"
            click.echo(
                f"Serving a simulated cloud on {scheme}://{shown}/, metrics on {path} (Ctrl-C ends it)", err=True
            )
            await _serve(lambda: schema.parse(_DEMO, source="demo"), settings)


@main.command()
@_option("listen-address", default="127.0.0.1:0", show_default=True, metavar="HOST:PORT", help="Loopback, as a rule.")
@_option("projects", type=click.IntRange(1), default=4, show_default=True, help="How many projects.")
@_option("servers", type=click.IntRange(1), default=60, show_default=True, help="How many servers in all.")
@_option("deployments", type=click.IntRange(0), default=400, show_default=True, help="How many deployments in all.")
@_option("output-bytes", type=click.IntRange(0), default=400, show_default=True, help="Output of a deployment.")
@_option(
    "output-style",
    type=click.Choice(("plain", "ansible", "nested", "unicode", "mixed")),  # `outputs.STYLES`, imported when needed
    default="mixed",
    show_default=True,
    help="What the output looks like: lines, Ansible's JSON, lists of objects, many scripts, or some of each.",
)
@_option("churn", type=click.FloatRange(0), default=0.5, show_default=True, help="Actions that start per second.")
@_option("faults", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Share of requests that fail.")
@_option("token-lifetime", type=click.FloatRange(1), default=3600.0, show_default=True, help="In seconds.")
@_option("seed", type=int, default=1, show_default=True, help="What chance begins with.")
def simulate(listen_address: str, **options: Any) -> None:
    """Run the simulated cloud alone, and print the clouds.yaml to use it."""
    _run(lambda: _simulate(listen_address, options))


async def _simulate(listen_address: str, options: dict[str, Any]) -> None:
    import signal

    from exporter.cli.serve import parse_address
    from exporter.simulator import Plan, Simulator, build

    host, port = parse_address(listen_address)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(build(Plan(**options)), host=host or "127.0.0.1", port=port) as simulator:
        click.echo(simulator.clouds_yaml())
        click.echo(f"Simulating a cloud on {simulator.auth_url} (Ctrl-C ends it)", err=True)
        await stop.wait()


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        asyncio.run(work())
    except ConfigError as error:
        _refuse(error)
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _refuse(error: ConfigError) -> NoReturn:
    click.echo(str(error), err=True)
    raise SystemExit(2)


def _load(file: str | None, shard: Mapping[str, Any] | None) -> schema.Config:
    """Load the configuration file; its patterns of metric families have to select some."""
    from exporter.metrics.families import FAMILIES

    return schema.load(file, shard=shard, families=[family.name for family in FAMILIES])
