#!/usr/bin/env python3
"""What the settings of the release profile are worth: builds pgweir by several, and measures them in turn.

Each profile inherits `release` and changes one thing. Built into target/NAME/, so that the release build stays; a build takes minutes. Prints
for each the size of the program's code, and medians of CPU time per transaction of pgbench -S, all profiles in turn, round after round;
with --count, instructions per transaction instead (benches/count.py), which a busy machine does not change.

    benches/profiles.py [--profiles release,fat,o2,...] [--build-only] [--count] [--rounds 5] [--seconds 3] [--clients 1,16] [--modes simple,prepared]
"""

import argparse
import os
import statistics
import subprocess
import sys
from pathlib import Path

import relay
import rig as rigs

# `abort` is here to be known, not to be used: a panic in the task of one client must not end all others.
# `native` is for the machine that builds: its program may not run on another.
PROFILES = {
    "release": {},
    "fat": {"lto": '"fat"'},
    "units16": {"codegen-units": "16"},
    "o2": {"opt-level": "2"},
    "size": {"opt-level": '"s"'},
    "abort": {"panic": '"abort"'},
    "native": {},
}


def target():
    return Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target"))


def build(name):
    """The program by that profile."""
    settings = [f"profile.{name}.inherits='release'", *(f"profile.{name}.{key}={value}" for key, value in PROFILES[name].items())]
    config = [part for setting in settings for part in ("--config", setting)] if name != "release" else []
    # Flags for all of rustc would build what release has built anew: each such profile has a directory of its own.
    environment = {**os.environ, "CARGO_ENCODED_RUSTFLAGS": "-Ctarget-cpu=native"} if name == "native" else None
    command = ["cargo", "build", "--locked", "--all-features", "--bin", "pgweir", "--profile", name, *config]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, env=environment)
    return target() / name / "pgweir"


def code_bytes(program):
    """Bytes of its machine code."""
    said = subprocess.run(["size", "-A", program], check=True, capture_output=True, text=True).stdout
    return next(int(line.split()[1]) for line in said.splitlines() if line.startswith(".text"))


def count(program, options):
    command = [Path(__file__).parent / "count.py", "--program", program, "--clients", ",".join(options.clients), "--modes", ",".join(options.modes)]
    subprocess.run(command, check=True)


def measure(programs, options):
    results = {}
    with rigs.Rig() as rig:
        rig.start_postgres()
        for name, program in programs.items():
            rig.start_pgweir(name, program)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for mode in options.modes:
                for clients in map(int, options.clients):
                    for name in programs:
                        _, cost = relay.measure(rig, name, mode, clients, options.seconds)
                        results.setdefault((mode, clients), {}).setdefault(name, []).append(cost)
    print(f"\n{'CPU µs':>20}" + "".join(f"{name:>10}" for name in programs))
    for (mode, clients), costs in results.items():
        print(f"{mode + ' ' + str(clients):>20}" + "".join(f"{statistics.median(costs[name]):>10.1f}" for name in programs))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--profiles", type=words, default=list(PROFILES))
    parser.add_argument("--build-only", action="store_true", help="build, and tell the sizes")
    parser.add_argument("--count", action="store_true", help="count instructions instead of measuring time")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--clients", type=words, default=["1", "16"])
    parser.add_argument("--modes", type=words, default=["simple", "prepared"])
    options = parser.parse_args()
    if unknown := set(options.profiles) - set(PROFILES):
        parser.error(f"there is no profile {', '.join(sorted(unknown))}: {', '.join(PROFILES)}")
    programs = {name: build(name) for name in options.profiles}
    for name, program in programs.items():
        print(f"{name:10} {code_bytes(program) / 1e6:6.2f} MB of code")
    if options.count:
        for name, program in programs.items():
            print(f"\n{name}", flush=True)
            count(program, options)
    elif not options.build_only:
        measure(programs, options)


if __name__ == "__main__":
    main()
