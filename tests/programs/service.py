"""What the programs of the Prometheus family have in common: a configuration file, storage, and a port of their own."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.programs.available import OLDEST, find
from tests.programs.process import Process, free_port, session

Json = Any


class Service:
    """Such a program, from entering the context until leaving it."""

    name: str
    """What it is called among the programs; its files and its log too."""
    process: Process

    def __init__(self, config: Json, *, release: str = OLDEST) -> None:
        """The configuration is what would stand in its file."""
        self._config = config
        self.program = find(self.name, release)
        self._http = session()
        self._stack = ExitStack()
        self.address = f"127.0.0.1:{free_port()}"

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{self.address}"

    def options(self, file: Path, data: Path) -> list[str]:
        """Its flags: it reads this file, and may keep its data in this folder."""
        return [f"--config.file={file}", f"--web.listen-address={self.address}"]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._http.close)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=f"{self.name}-")))
            file = folder / f"{self.name}.yml"
            file.write_text(yaml.safe_dump(self._config))
            command = self.program.command(*self.options(file, folder / "data"))
            self.process = stack.enter_context(Process(self.name, command, folder))
            self.process.ready(f"{self.url}/-/ready")
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
