"""Processes on loopback ports, and waiting for what they do."""

import random
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import requests

from tests.programs.newer import GUARD, PATH

T = TypeVar("T")


def eventually(condition: Callable[[], T], *, timeout: float = 60.0, interval: float = 0.05, what: str = "") -> T:
    """The first true answer of `condition`; an error that tells the last answer once the time is over.

    A refused connection or a failed assertion inside `condition` is an answer that is not true yet.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = condition()
        except (OSError, AssertionError) as error:  # requests' own errors are OSErrors
            last: object = error
        else:
            if answer:
                return answer
            last = answer
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or condition}: not within {timeout:g} s, last: {last!r}")
        time.sleep(interval)


PORTS = range(15_000, 30_000)
"""Those that tests are given: below the ones that the kernel gives to whoever asks for any."""


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on, given to nobody else before this process has ended."""
    for port in random.sample(PORTS, len(PORTS)):
        with socket.socket() as listener, socket.socket(socket.AF_UNIX) as name, suppress(OSError):
            name.bind(f"\0heat-deployment-exporter-test-port-{port}")
            listener.bind(("127.0.0.1", port))
            name.detach()  # the kernel takes it back when we end
            return port
    raise RuntimeError("no port is free")


def session() -> requests.Session:
    """An HTTP session that leaves the machine's proxies and .netrc alone."""
    http = requests.Session()
    http.trust_env = False
    return http


class Process:
    """A program that runs between start and `stop()`, its output in a log file.

    Its environment is a plain one (no proxies, no virtual environment), and it dies with the thread that started it.
    """

    patience: float = 10.0
    """How many seconds it may take to end when asked to."""

    def __init__(self, name: str, command: Iterable[str], folder: Path, **environment: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        plain = {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*GUARD, *command],
                cwd=folder,
                env=plain | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> int | None:
        """The exit status, None while it runs."""
        return self._process.poll()

    def tail(self, lines: int = 40) -> str:
        """The last lines of the log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def wait(self, timeout: float = 60.0) -> None:
        """Returns once the program has ended well; an error with the end of its log otherwise."""
        try:
            code: int | None = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.stop()
            code = None
        if code != 0:
            ending = "did not end" if code is None else f"ended with {code}"
            raise RuntimeError(f"{self.name} {ending}; its log ends:\n{self.tail()}")

    def ready(self, url: str, *, timeout: float = 60.0) -> None:
        """Returns once `url` answers below 400; an error with the end of the log when that does not come."""
        with session() as http:

            def answers() -> bool:
                return self._process.poll() is not None or http.get(url, timeout=timeout).status_code < 400

            try:
                eventually(answers, timeout=timeout, what=url)
            except AssertionError as error:
                raise RuntimeError(f"{self.name}: {error}; its log ends:\n{self.tail()}") from None
        if self._process.poll() is not None:
            raise RuntimeError(f"{self.name} ended with {self._process.returncode}; its log ends:\n{self.tail()}")

    def stop(self) -> None:
        """Ends the program, by force if it does not want to; nothing of it is left afterwards."""
        self._process.terminate()
        try:
            self._process.wait(self.patience)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
