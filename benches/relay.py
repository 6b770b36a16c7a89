#!/usr/bin/env python3
"""What a proxy costs: pgbench -S against PostgreSQL itself, PgBouncer and pgweir with one worker.

Brings up a throwaway PostgreSQL with the proxies before it and goes through all of them in turn, round after round, so
that whatever else the machine does falls on each alike. Prints medians: transactions a second, and the proxy's own CPU time
(user and system, all threads) per transaction. PgBouncer follows named statements in transaction mode from 1.21 on only;
before, its `prepared` column is empty. With --before, another build of pgweir is measured in the same run.

    benches/relay.py [--rounds 3] [--seconds 3] [--clients 1,16,50] [--modes simple,extended,prepared] [--before FILE] [--gate 1.0]
"""

import argparse
import re
import signal
import statistics
import sys
from pathlib import Path

import rig as rigs


def measure(rig, target, mode, clients, seconds):
    """Transactions a second, and CPU microseconds of the proxy per transaction (none for PostgreSQL itself)."""
    before = sum(rig.cpu_seconds(target))
    said = rig.pgbench(target, "-n", "-S", "-M", mode, "-c", clients, "-j", 1, "-T", seconds)
    after = sum(rig.cpu_seconds(target))
    transactions = int(re.search(r"actually processed: (\d+)", said)[1])
    tps = float(re.search(r"^tps = ([\d.]+)", said, re.M)[1])
    return tps, None if target == "direct" else (after - before) * 1e6 / transactions


def cell(value, form):
    return "n/a" if value is None else format(value, form)


def ratio(ours, theirs):
    return ours / theirs if ours is not None and theirs else None


def report(results, targets, modes, clients_list):
    """Prints the table; gives the worst ratio of CPU time per transaction, pgweir to PgBouncer."""
    heads = ["mode", "clients", *(f"{t} tps" for t in targets), *(f"{t} µs" for t in targets if t != "direct"), "weir/bouncer"]
    if "before" in targets:
        heads.append("weir/before")
    print("  ".join(f"{head:>13}" for head in heads))
    worst = None
    for mode in modes:
        for clients in clients_list:
            tps, cpu = {}, {}
            for target in targets:
                runs = results.get((target, mode, clients), [])
                tps[target] = statistics.median(run[0] for run in runs) if runs else None
                costs = [run[1] for run in runs if run[1] is not None]
                cpu[target] = statistics.median(costs) if costs else None
            cost = ratio(cpu.get("pgweir"), cpu.get("pgbouncer"))
            worst = max(filter(None, (worst, cost)), default=None)
            row = [mode, str(clients), *(cell(tps[t], ".0f") for t in targets)]
            row += [*(cell(cpu[t], ".1f") for t in targets if t != "direct"), cell(cost, ".2f")]
            if "before" in targets:
                row.append(cell(ratio(cpu.get("pgweir"), cpu["before"]), ".2f"))
            print("  ".join(f"{value:>13}" for value in row))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    words = lambda text: text.split(",")
    parser.add_argument("--pgweir", type=Path, default=rigs.built_pgweir(), help="the program (default: %(default)s)")
    parser.add_argument("--before", type=Path, help="another build of it, to compare with")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--clients", type=words, default=["1", "16", "50"])
    parser.add_argument("--modes", type=words, default=["simple", "extended", "prepared"])
    parser.add_argument("--gate", type=float, help="fail when pgweir's CPU time per transaction exceeds PgBouncer's times this")
    options = parser.parse_args()
    if not options.pgweir.exists():
        sys.exit(f"{options.pgweir} is not built: cargo build --release")
    # An end by signal is an end like any other: the servers go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    targets = ["direct", "pgbouncer", *(["before"] if options.before else []), "pgweir"]
    clients_list = [int(clients) for clients in options.clients]
    results = {}
    with rigs.Rig() as rig:
        rig.start_postgres()
        rig.start_pgbouncer()
        rig.start_pgweir("pgweir", options.pgweir)
        if options.before:
            rig.start_pgweir("before", options.before)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for mode in options.modes:
                for clients in clients_list:
                    for target in targets:
                        if target == "pgbouncer" and mode == "prepared" and rigs.pgbouncer_version() < (1, 21):
                            continue
                        measured = measure(rig, target, mode, clients, options.seconds)
                        results.setdefault((target, mode, clients), []).append(measured)
    worst = report(results, targets, options.modes, clients_list)
    if options.gate and (worst is None or worst > options.gate):
        sys.exit(f"the worst ratio of CPU time per transaction is {cell(worst, '.2f')}, over {options.gate}")


if __name__ == "__main__":
    main()
