#!/usr/bin/env python3
"""Counts the instructions of the pure parts (benches/counted.rs) and compares them with the baseline.

    benches/check.py             fails when a part takes over 5 % more than benches/baseline.json says
    benches/check.py --write     writes the baseline

Counted with valgrind, as the difference of two runs, so that what a part prepares does not count. The numbers hold for one
compiler: with another version the comparison is printed all the same, and a new baseline is what it asks for.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
BASELINE = HERE / "baseline.json"
ALLOWED = 1.05
RUNS = (400, 1200)


def build() -> str:
    """Builds the program; its path."""
    command = ["cargo", "bench", "--locked", "--no-run", "--bench", "counted", "--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=HERE.parent, check=True, stdout=subprocess.PIPE, text=True)
    artifacts = [json.loads(line) for line in built.stdout.splitlines()]
    paths = [a["executable"] for a in artifacts if a.get("executable") and a["target"]["name"] == "counted"]
    if not paths:
        raise SystemExit("cargo has built no program called counted")
    return paths[-1]


def instructions(program: str, part: str, times: int) -> int:
    """Instructions of the whole program when it runs the part that many times."""
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", program, part, str(times)]
    ran = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    collected = re.search(r"Collected : (\d+)", ran.stderr)
    if ran.returncode or not collected:
        raise SystemExit(f"{part}: valgrind has counted nothing\n{ran.stderr}")
    return int(collected[1])


def per_run(program: str, part: str) -> int:
    """Instructions of one run of the part. The smaller of two counts: tables are seeded at random."""
    few, many = RUNS
    counts = [(instructions(program, part, many) - instructions(program, part, few)) / (many - few) for _ in range(2)]
    return round(min(counts))


def compiler() -> str:
    return subprocess.run(["rustc", "--version"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the baseline instead of comparing with it")
    arguments = parser.parse_args()
    program = build()
    parts = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    now = {part: per_run(program, part) for part in parts}
    if arguments.write:
        BASELINE.write_text(json.dumps({"compiler": compiler(), "instructions": now}, indent=2) + "\n")
    if not BASELINE.is_file():
        for part, count in now.items():
            print(f"{part:32} {count:>10}")
        print(f"there is no baseline to compare with: --write makes {BASELINE.name}", file=sys.stderr)
        return 1
    baseline = json.loads(BASELINE.read_text())
    before = baseline["instructions"]
    if baseline["compiler"] != compiler():
        print(f"the baseline is of {baseline['compiler']}, this is {compiler()}: differences may be the compiler's", file=sys.stderr)
    failed = []
    print(f"{'instructions':32} {'baseline':>10} {'now':>10}  ratio")
    for part, count in now.items():
        known = before.get(part)
        ratio = count / known if known else None
        if ratio is None or ratio > ALLOWED:
            failed.append(part)
        print(f"{part:32} {known or '-':>10} {count:>10}  {f'{ratio:.3f}' if ratio else 'not in the baseline'}")
    gone = sorted(set(before) - set(now))
    if gone:
        print(f"in the baseline only: {', '.join(gone)}")
    if failed or gone:
        print(f"over {ALLOWED - 1:.0%} more than the baseline, or not in it: {', '.join(failed + gone)}. If that is meant, --write makes a new one.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
