#!/usr/bin/env python3
"""Everything that docs/performance.md tells: what pgweir costs beside PostgreSQL itself, PgBouncer and haproxy, in one run.

Each round goes through all loads, and each load through all targets, so that whatever else the machine does falls on each
alike. A figure is the median over the rounds; the JSON has the smallest and the largest too, and what machine it was.

    benches/bench.py [--rounds 5] [--seconds 3] [--loads simple,copy,...] [--out benches/results/NAME.json]
"""

import argparse
import json
import math
import platform
import resource
import shutil
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

import rig as rigs

ROWS = 100_000
ORDERS = 1_000_000
# A minute of this many connections, as a second's.
CONNECTS = 5_000 / 60
MODES = ("simple", "extended", "prepared")
WIDE = f"SELECT aid, bid, abalance, filler FROM pgbench_accounts WHERE aid <= {ROWS}"
# DataRow: type, length and number of columns, and before each of four columns its length.
WIDE_BYTES = f"SELECT sum(23 + length(aid::text || bid || abalance || filler)) FROM ({WIDE}) AS rows"


def main():
    options = arguments()
    # An end by signal is an end like any other: the servers go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    results = {}
    with rigs.Rig() as rig:
        loads = [load for load in all_loads() if load.wanted(options.loads)]
        start(rig, options.pgweir, loads)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for load in loads:
                for target in load.targets:
                    figures = load.measure(rig, target, options.seconds)
                    results.setdefault(load.name, {}).setdefault(target, []).append(figures)
        calls = count_system_calls(rig) if not options.loads else {}
        memory = idle_memory(rig, options.idle) if options.idle else {}
    summary = {name: {target: summarise(runs) for target, runs in by.items()} for name, by in results.items()}
    report(summary, calls, memory)
    if options.out:
        document = {"machine": machine(), "rounds": options.rounds, "loads": summary, "system_calls": calls, "idle": memory}
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=1) + "\n")
        print(f"\nwritten to {options.out}")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pgweir", type=Path, default=rigs.built_pgweir(), help="the program (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--loads", type=lambda text: text.split(","), help="only loads whose names begin with one of these")
    parser.add_argument("--idle", type=int, default=10_000, help="idle clients whose memory is measured; 0: none")
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    options = parser.parse_args()
    if not options.pgweir.exists():
        sys.exit(f"{options.pgweir} is not built: cargo build --release")
    return options


# The loads.


class Load:
    """Something that clients do, whom it is done to, and how much of it was done."""

    unit = "transaction"

    def __init__(self, name, targets):
        self.name, self.targets = name, targets

    def wanted(self, prefixes):
        return not prefixes or any(self.name.startswith(prefix) for prefix in prefixes)

    def measure(self, rig, target, seconds, again=True):
        """Figures: how much was done, and the proxy's CPU time for each unit of it."""
        before, began = rig.cpu_seconds(target), time.monotonic()
        done, figures = self.work(rig, target, seconds)
        if not done and again:
            # Many clients on a busy machine may take that long to connect.
            print(f"{self.name}, {target}: nothing done in {seconds} s; once more, for longer", file=sys.stderr)
            return self.measure(rig, target, 2 * seconds, again=False)
        if not done:
            sys.exit(f"{self.name}, {target}: nothing done in {seconds} s either")
        took = time.monotonic() - began
        user, system = (after - b for after, b in zip(rig.cpu_seconds(target), before))
        figures.setdefault("rate", done / took)
        if not rigs.is_postgres(target):
            figures |= {"user_us": user * 1e6 / done, "system_us": system * 1e6 / done, "cpu_us": (user + system) * 1e6 / done}
        return figures


class Transactions(Load):
    """pgbench; latencies of every single transaction."""

    def __init__(self, name, targets, mode, clients, script="-S", database=None):
        super().__init__(name, targets)
        self.mode, self.clients, self.script, self.database = mode, clients, script, database

    def work(self, rig, target, seconds):
        database = self.database and self.database.get(target)
        with tempfile.TemporaryDirectory() as log:
            rig.pgbench(
                target, "-n", "-l", *([self.script] if self.script else []),
                "-M", self.mode, "-c", self.clients, "-j", 1, "-T", seconds, database=database, cwd=log,
            )  # fmt: skip
            lines = [line.split() for path in Path(log).iterdir() for line in path.read_text().splitlines()]
        if not lines:
            return 0, {}
        times, each = sorted(int(line[2]) for line in lines), {}
        for line in lines:
            each[line[0]] = each.get(line[0], 0) + 1
        slowest = min(each.values()) / statistics.mean(each.values()) if len(each) == self.clients else 0.0
        return len(times), {
            "rate": len(times) / seconds,
            "mean_us": statistics.mean(times),
            "median_us": times[len(times) // 2],
            "p99_us": times[math.ceil(len(times) * 0.99) - 1],
            "slowest": slowest,
        }


class Connects(Load):
    """New connections, each for one statement, at a given rate."""

    unit = "connection"

    def work(self, rig, target, seconds):
        said = rig.pgbench(target, "-n", "-S", "-C", "-c", 4, "-R", round(CONNECTS), "-T", seconds)
        return int(said.split("actually processed: ")[1].split()[0]), {}


class Megabytes(Load):
    """The same again and again until the time is over; counted by the bytes that pass."""

    unit = "MB"

    def __init__(self, name, targets, once, rows=0):
        """`rows`: how many pass each time, if they are to be told."""
        super().__init__(name, targets)
        self.once, self.rows = once, rows

    def work(self, rig, target, seconds):
        began, times, megabytes = time.monotonic(), 0, 0
        while time.monotonic() < began + seconds:
            megabytes += self.once(rig, target)
            times += 1
        rows = {"rows_per_s": times * self.rows / (time.monotonic() - began)} if self.rows else {}
        return megabytes, rows


def wide_result(rig, target):
    script = rig.write("wide.sql", WIDE + ";\n")
    rig.pgbench(target, "-n", "-f", script, "-c", 1, "-t", 5)
    return 5 * rig.wide_bytes / 1e6


def copy_out(rig, target):
    psql(rig, target, f"COPY ({WIDE}) TO STDOUT", stdout=subprocess.DEVNULL)
    return rig.copy_file.stat().st_size / 1e6


def copy_in(rig, target):
    with open(rig.copy_file, "rb") as rows:
        # In one transaction with its TRUNCATE, the table does not grow.
        psql(rig, target, "BEGIN", "TRUNCATE copied", "COPY copied FROM STDIN", "COMMIT", stdin=rows)
    return rig.copy_file.stat().st_size / 1e6


def orders_in(rig, target):
    """A million rows into a table that is spread over the shards, or is PostgreSQL's alone."""
    psql(rig, target, "TRUNCATE orders")
    with open(rig.orders_file, "rb") as rows:
        psql(rig, target, "COPY orders FROM STDIN", stdin=rows)
    return rig.orders_file.stat().st_size / 1e6


def psql(rig, target, *statements, **streams):
    said = [part for statement in statements for part in ("-c", statement)]
    subprocess.run([rig.pg_bin / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", *said, rig.url(target)], check=True, **streams)


def all_loads():
    everyone = ("direct", "haproxy", "pgbouncer", "weir1", "weir2")
    # Debian's PgBouncer may be too old to follow prepared statements: then it gets a connection for each client.
    sessions = {"pgbouncer": "sessions"} if rigs.pgbouncer_version() < (1, 21) else {}
    loads = [
        Transactions(f"{mode} {clients}", everyone, mode, clients, database=sessions if mode == "prepared" else None)
        for mode in MODES
        for clients in (1, 16, 200)
    ]
    loads += [Transactions(f"tpcb-like {mode}", everyone, mode, 16, None, sessions if mode == "prepared" else None) for mode in MODES]
    loads += [
        Megabytes("rows 100000", everyone, wide_result),
        Megabytes("copy out", everyone, copy_out),
        Megabytes("copy in", everyone, copy_in),
        Connects("connects scram", ("pgbouncer-scram", "weir-scram")),
        Transactions("tls simple 16", ("pgbouncer-tls", "weir-tls"), "simple", 16),
        Transactions("kept extended 1", ("direct", "weir1", "weir-kept"), "extended", 1),
        Transactions("kept extended 16", ("direct", "weir1", "weir-kept"), "extended", 16),
        Transactions("split prepared 16", ("weir1", "weir-split"), "prepared", 16),
        Transactions("shards simple 16", ("weir1", "weir-shards"), "simple", 16),
        Transactions("shards prepared 16", ("weir1", "weir-shards"), "prepared", 16),
        Megabytes("shards copy in", ("direct", "weir-four"), orders_in, rows=ORDERS),
    ]
    return loads


def start(rig, program, loads):
    """Starts what the loads need."""
    wanted = {target for load in loads for target in load.targets} | {"direct", "pgbouncer", "weir1"}
    rig.start_postgres("direct")
    rig.psql("direct", "CREATE TABLE copied (aid int, bid int, abalance int, filler char(84))")
    rig.wide_bytes = int(rig.psql("direct", WIDE_BYTES))
    rig.copy_file = rig.dir / "rows.txt"
    with open(rig.copy_file, "wb") as rows:
        psql(rig, "direct", f"COPY ({WIDE}) TO STDOUT", stdout=rows)
    certificate = make_certificate(rig)
    tls = (
        f'client_tls_sslmode = "require"\nclient_tls_cert_file = "{certificate[0]}"\nclient_tls_key_file = "{certificate[1]}"\n'
    )
    makers = {
        "haproxy": rig.start_haproxy,
        "pgbouncer": rig.start_pgbouncer,
        "pgbouncer-scram": lambda: rig.start_pgbouncer("pgbouncer-scram"),
        "pgbouncer-tls": lambda: rig.start_pgbouncer("pgbouncer-tls", tls=certificate),
        "weir1": lambda: rig.start_pgweir("weir1", program),
        "weir2": lambda: rig.start_pgweir("weir2", program, workers=2),
        "weir-scram": lambda: rig.start_pgweir("weir-scram", program),
        "weir-tls": lambda: rig.start_pgweir("weir-tls", program, general=tls),
        "weir-kept": lambda: rig.start_pgweir("weir-kept", program, general="prepare_unnamed = 5\n"),
        "weir-split": lambda: rig.start_split("weir-split", program, of="direct"),
        "weir-shards": lambda: rig.start_shards("weir-shards", program, first="direct"),
        "weir-four": lambda: start_four(rig, program),
    }
    for target, make in makers.items():
        if target in wanted:
            make()


def start_four(rig, program):
    """Four shards of an own table, of which PostgreSQL by itself has one too."""
    names = [f"shard-{letter}" for letter in "abcd"]
    for name in names:
        rig.start_postgres(name, scale=0)
    for name in ("direct", *names):
        rig.psql(name, "CREATE TABLE orders (id int8 NOT NULL, customer_id int8 NOT NULL, amount numeric(12,2), note text)")
    rig.orders_file = rig.dir / "orders.txt"
    rows = f"SELECT i, i * 7919 % 100003, i % 10007 / 100.0, md5(i::text) FROM generate_series(1, {ORDERS}::int8) i"
    with open(rig.orders_file, "wb") as out:
        psql(rig, "direct", f"COPY ({rows}) TO STDOUT", stdout=out)
    shards = "".join(
        f'[[databases.bench.shards]]\nname = "{name}"\nslots = [[{at * 4096}, {at * 4096 + 4095}]]\nprimary = "{rig.url(name)}"\n'
        for at, name in enumerate(names)
    )
    rig.start_pgweir(
        "weir-four", program,
        database=f'cross_shard_writes = "best_effort"\n{shards}[databases.bench.tables]\n'
        'orders = { key = "customer_id", type = "bigint" }\n',
    )  # fmt: skip


def make_certificate(rig):
    certificate, key = rig.dir / "server.crt", rig.dir / "server.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    for path in (certificate, key):
        if rig.user:
            shutil.chown(path, rig.user["user"], rig.user["group"])
    key.chmod(0o600)
    return certificate, key


# System calls and memory.


def count_system_calls(rig):
    """The proxies' system calls per transaction, one client, simple protocol."""
    counted = {}
    for target in ("haproxy", "pgbouncer", "weir1", "weir2"):
        load = Transactions("calls", (target,), "simple", 1)
        load.work(rig, target, 1)
        calls, (done, _) = rig.system_calls(target, lambda: load.work(rig, target, 3))
        if calls is not None:
            # What happens once a client, or once a second, is not of the transactions.
            each = {name: round(count / done, 3) for name, count in calls.items() if count / done >= 0.005}
            counted[target] = {"all": round(sum(each.values()), 2), **each}
    return counted


def idle_memory(rig, clients):
    """What an idle client takes, in bytes."""
    taken = {}
    for target, tls in (("pgbouncer", False), ("weir1", False), ("weir-tls", True)):
        if target not in rig.processes:
            continue
        before = rig.resident_bytes(target)
        crowd = get_context("spawn").Pipe()
        process = get_context("spawn").Process(
            target=stand_idle, args=(rig.ports[target], rig.databases[target], clients, tls, crowd[1])
        )
        process.start()
        if crowd[0].poll(300) and crowd[0].recv() == "there":
            time.sleep(2)
            taken[target] = round((rig.resident_bytes(target) - before) / clients)
        process.terminate()
        process.join()
    return taken


def stand_idle(port, database, clients, tls, told):
    """Logs in that many clients by trust, and tells when they are in."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (clients + 100, max(clients + 100, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    parameters = b"user\0bench\0database\0" + database.encode() + b"\0\0"
    startup = struct.pack("!ii", 8 + len(parameters), 196608) + parameters
    crowd = []
    for _ in range(clients):
        one = socket.create_connection(("127.0.0.1", port))
        # As every driver does.
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            one.sendall(struct.pack("!ii", 8, 80877103))
            assert one.recv(1) == b"S"
            one = context.wrap_socket(one)
        one.sendall(startup)
        said = b""
        while not said.endswith(b"Z\0\0\0\5I"):
            part = one.recv(4096)
            assert part, f"closed after {said!r}"
            said += part
        crowd.append(one)
    told.send("there")
    time.sleep(600)


# What it comes to.


def summarise(runs):
    """Median, smallest and largest of each figure."""
    names = sorted({name for run in runs for name in run})
    values = {name: [run[name] for run in runs if name in run] for name in names}
    return {
        name: {"median": round(statistics.median(v), 3), "min": round(min(v), 3), "max": round(max(v), 3)}
        for name, v in values.items()
    }


COLUMNS = (
    ("rate", "per s", ".0f"),
    ("mean_us", "mean µs", ".0f"),
    ("p99_us", "p99 µs", ".0f"),
    ("user_us", "user µs", ".1f"),
    ("system_us", "sys µs", ".1f"),
    ("cpu_us", "CPU µs", ".1f"),
    ("slowest", "slowest", ".2f"),
    ("rows_per_s", "rows/s", ".0f"),
)


def report(summary, calls, memory):
    heads = ["load", "target", *(head for _, head, _ in COLUMNS), "CPU min-max", "CPU ratio"]
    print("  ".join(f"{head:>{width(at)}}" for at, head in enumerate(heads)))
    for load, targets in summary.items():
        base = next((figures for target, figures in targets.items() if "cpu_us" in figures and target != "haproxy"), None)
        for target, figures in targets.items():
            cells = [load, target]
            cells += [format(figures[name]["median"], form) if name in figures else "" for name, _, form in COLUMNS]
            cpu = figures.get("cpu_us")
            cells.append(f"{cpu['min']:.1f}-{cpu['max']:.1f}" if cpu else "")
            # To PgBouncer, or to pgweir without what the load turns on.
            cells.append(f"{cpu['median'] / base['cpu_us']['median']:.2f}" if cpu and base else "")
            print("  ".join(f"{cell:>{width(at)}}" for at, cell in enumerate(cells)))
    for target, counted in calls.items():
        each = ", ".join(f"{name} {count}" for name, count in counted.items() if name != "all")
        print(f"system calls per simple transaction at one client, {target}: {counted['all']} ({each})")
    for target, taken in memory.items():
        print(f"memory of an idle client, {target}: {taken} bytes")


def width(column):
    return (18, 15)[column] if column < 2 else 11


def machine():
    cpu = [line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {
        "cpu": cpu[0] if cpu else platform.processor(),
        "cores": len(cpu),
        "kernel": platform.release(),
        "pgbouncer": ".".join(map(str, rigs.pgbouncer_version())),
        "date": time.strftime("%Y-%m-%d"),
    }


if __name__ == "__main__":
    main()
