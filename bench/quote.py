"""What `make bench` has measured, as Markdown: `python -m bench.quote` renews the README's section from
bench/results.json. A test fails where the two differ."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from docs.documentation import replaced

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results.json"
README = ROOT / "README.md"


def table(results: dict[str, Any]) -> str:
    """The machine, the rows that have a target, and how many of them meet it."""
    machine, rows = results["machine"], [row for row in results["rows"] if row["target"] is not None]
    met = sum(row["met"] for row in rows)
    lines = [
        "",
        (
            f"On {machine['cores']} cores of a shared virtual machine ({machine['processor']}), Python"
            f" {machine['python']}: {met} of {len(rows)} targets are met."
        ),
        "",
        "| what | ours | theirs | beside | ratio | target |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        sign = "≤" if row["limit"] else "≥"
        ratio = f"{row['ratio']:,.3g}" if row["met"] else f"**{row['ratio']:,.3g}**"
        theirs = "" if row["theirs"] is None else f"{row['theirs']:,.4g} {row['unit']}"
        ours = f"{row['ours']:,.4g} {row['unit']}"
        lines.append(f"| {row['what']} | {ours} | {theirs} | {row['peer']} | {ratio} | {sign} {row['target']:g} |")
    why = [f"- {row['what']}: {row['note']}." for row in rows if not row["met"] and row["note"]]
    if why:
        lines += ["", "Those that are not met:", "", *why]
    return "\n".join([*lines, ""])


def main() -> None:
    """Write the section anew."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    README.write_text(
        replaced(README.read_text(encoding="utf-8"), "benchmarks", lambda: table(results)), encoding="utf-8"
    )
    sys.stdout.write(f"{README} renewed\n")


if __name__ == "__main__":
    main()
