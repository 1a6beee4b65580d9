"""What the programs of the Prometheus family have in common: a configuration file, storage, and a port of their own."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.programs.available import PROGRAMS
from tests.programs.process import Process, free_port, session

Json = Any


class Service:
    """Such a program, from entering the context until leaving it."""

    name: str
    """What its files and its log are called."""
    process: Process

    def __init__(self, config: Json, *, program: str) -> None:
        """The configuration is what would stand in its file."""
        self._config = config
        self._program = PROGRAMS[program].files[0]
        self._http = session()
        self._stack = ExitStack()
        self.address = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"

    def options(self, data: Path) -> list[str]:
        """The flags that are its own; it may keep its data in this folder."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._http.close)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.name}-")))
            file = folder / f"{self.name}.yml"
            file.write_text(yaml.safe_dump(self._config))
            command = [self._program, f"--config.file={file}", f"--web.listen-address={self.address}"]
            self.process = stack.enter_context(Process(self.name, [*command, *self.options(folder / "data")], folder))
            self.process.ready(f"{self.url}/-/ready")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
