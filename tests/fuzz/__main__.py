"""Runs one target under atheris; all other arguments are libFuzzer's.

    python -m tests.fuzz TARGET [-runs=N] [-max_total_time=SECONDS] [-seed=N] [DIRECTORY]

Without a seed one is chosen, and printed. New inputs go to the directory, if one is given; what fails goes to the
current one, and is replayed with `python -m tests.fuzz TARGET FILE`.
"""

import random
import sys
import tempfile
from pathlib import Path

from tests import fuzz


def main() -> None:
    """Fuzz."""
    usage = f"{__doc__}\nTargets: {', '.join(fuzz.TARGETS)}"
    if sys.argv[1:2] == ["--help"]:
        print(usage)
        return
    if len(sys.argv) < 2 or sys.argv[1] not in fuzz.TARGETS:
        sys.exit(usage)
    import atheris  # not there for every Python

    name, *arguments = sys.argv[1:]
    if not any(each.startswith("-seed=") for each in arguments):
        arguments.append(f"-seed={random.randrange(1, 2**31)}")
    print(f"{sys.executable} -m tests.fuzz {name} {' '.join(arguments)}", flush=True)
    with atheris.instrument_imports(include=["exporter", "yaml"], enable_loader_override=False):
        target = fuzz.target(name)
    files = [each for each in arguments if not each.startswith("-")]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        begin = Path(folder, "begin")
        begin.mkdir()
        for number, seed in enumerate(target.seeds):
            (begin / str(number)).write_bytes(seed)
        words = Path(folder, "words")
        words.write_text("".join(f'"{_escaped(word)}"\n' for word in target.words))
        if not any(Path(each).is_file() for each in files):
            files += [str(begin), *(str(fuzz.CORPUS / name) for _ in fuzz.corpus(name)[:1])]
        flags = [each for each in arguments if each.startswith("-")]
        command = [
            sys.argv[0],
            f"-dict={words}",
            "-timeout=120",
            "-max_len=4096",
            "-print_final_stats=1",
            *flags,
            *files,
        ]
        atheris.Setup(command, target.check)
        atheris.Fuzz()


def _escaped(word: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in word)


if __name__ == "__main__":
    main()
