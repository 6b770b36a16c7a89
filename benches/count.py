#!/usr/bin/env python3
"""Instructions of a proxy per transaction: pgbench -S against one worker under callgrind.

Unlike CPU time these counts come out alike on a busy machine: to 1 % with one client; with more it hangs on the load how many
of them one wait serves. They say nothing of what the kernel does, and nothing of cold caches. Two runs of different length are
counted, and the difference is what is told, so that logging in does not count; what the proxy does at rest meanwhile does.

    benches/count.py [--program FILE] [--pgbouncer] [--modes simple,extended,prepared] [--clients 1,16] [--pool 20] [--before one|split|shards] [--top 40] [--callers NAME] [--json FILE]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import callgrind
import rig as rigs

# Transactions of each client's two runs.
FEW, MANY = 200, 1200
# Functions of the C library whose calls are told: how often the kernel is asked, and for memory and the time.
CALLS = ("send", "recv", "sendto", "recvfrom", "read", "write", "epoll_wait", "epoll_ctl", "malloc", "free", "realloc", "clock_gettime", "memcpy")


class Counted(rigs.Rig):
    """A rig whose proxy runs under callgrind."""

    def start(self, name, *command):
        if name in ("pgweir", "pgbouncer"):
            out = self.dir / "callgrind"
            out.mkdir(exist_ok=True)
            shutil.chown(out, *([self.user["user"], self.user["group"]] if self.user else [os.getuid(), os.getgid()]))
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out}/{name}", *command]
        super().start(name, *command)

    def dump(self, name, number):
        """What was counted since the last dump."""
        process = self.processes[name].pid
        path = self.dir / "callgrind" / f"{name}.{number}"
        said = subprocess.run(["callgrind_control", "-d", str(process)], capture_output=True, text=True, **self.user)
        deadline = time.monotonic() + 30
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        if not path.exists():
            sys.exit(f"callgrind has written nothing: {said.stdout}{said.stderr}")
        return callgrind.read(path)


def count(rig, name, mode, clients, dumps):
    """The profile of MANY - FEW transactions of each client."""
    profiles = []
    for transactions in (FEW, FEW, MANY):
        rig.dump(name, next(dumps))
        rig.pgbench(name, "-n", "-S", "-M", mode, "-c", clients, "-j", 1, "-t", transactions)
        # Clients have left, and what they leave is done.
        time.sleep(1)
        profiles.append(rig.dump(name, next(dumps)))
    return profiles[2] - profiles[1]


def tell(title, counter, per, top, total):
    print(f"\n{title}")
    for name, cost in counter.most_common(top):
        print(f"{cost / per:>10.1f} {cost / total:>6.1%}  {name[:160]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--program", type=Path, default=rigs.built_pgweir(), help="pgweir (default: %(default)s)")
    parser.add_argument("--pgbouncer", action="store_true", help="count PgBouncer instead")
    parser.add_argument("--modes", type=words, default=["simple", "extended", "prepared"])
    parser.add_argument("--clients", type=words, default=["1", "16"])
    parser.add_argument("--pool", type=int, default=rigs.POOL_SIZE, help="server connections; with fewer than clients, they wait for each other (default: %(default)s)")
    parser.add_argument("--before", choices=["one", "split", "shards"], default="one", help="what pgweir stands before: a server, one with a replica, two shards")
    parser.add_argument("--top", type=int, default=0, help="so many functions and files of each load")
    parser.add_argument("--callers", default="", help="of functions whose name contains this, who calls them how often")
    parser.add_argument("--json", type=Path, help="where the totals are written to as well")
    options = parser.parse_args()
    name = "pgbouncer" if options.pgbouncer else "pgweir"
    totals, dumps = {}, iter(range(1, 1000))
    with Counted(options.pool) as rig:
        rig.start_postgres()
        if options.pgbouncer:
            rig.start_pgbouncer()
        else:
            starts = {"one": rig.start_pgweir, "split": rig.start_split, "shards": rig.start_shards}
            starts[options.before](name, options.program)
        for mode in options.modes:
            if options.pgbouncer and mode == "prepared" and rigs.pgbouncer_version() < (1, 21):
                continue
            for clients in map(int, options.clients):
                profile = count(rig, name, mode, clients, dumps)
                per = (MANY - FEW) * clients
                totals[f"{mode} {clients}"] = round(profile.total / per)
                calls = {call: sum(n for f, n in profile.calls.items() if f.split("@")[0].split("'")[0] in (call, f"__{call}", f"__libc_{call}")) for call in CALLS}
                told = ", ".join(f"{call} {n / per:.2f}" for call, n in calls.items() if n)
                print(f"{mode:9} {clients:3} clients: {profile.total / per:8.0f} instructions per transaction; calls: {told}", flush=True)
                if options.callers:
                    for (caller, called), calls in profile.callers.most_common():
                        if options.callers in called and calls > 0:
                            print(f"{calls / per:>10.2f}  {called[:40]} by {caller[:160]}")
                if options.top:
                    tell("with what they call", profile.inclusive, per, options.top, profile.total)
                    tell("functions", profile.own, per, options.top, profile.total)
                    files = callgrind.Counter()
                    for file, cost in profile.by_file.items():
                        files[callgrind.short(file or "?")] += cost
                    tell("source files", files, per, options.top, profile.total)
    if options.json:
        options.json.write_text(json.dumps(totals, indent=2) + "\n")


if __name__ == "__main__":
    main()
