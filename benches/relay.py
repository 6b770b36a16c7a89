#!/usr/bin/env python3
"""What a proxy costs: pgbench -S against PostgreSQL itself, PgBouncer and pgweir with one worker.

Brings up a throwaway PostgreSQL with both proxies before it and goes through all of them in turn, round after round, so
that whatever else the machine does falls on each alike. Prints medians: transactions a second, and the proxy's own CPU time
(user and system, all threads) per transaction. PgBouncer follows named statements in transaction mode from 1.21 on only;
before, its `prepared` column is empty.

    benches/relay.py [--rounds 3] [--seconds 3] [--clients 1,16,50] [--modes simple,extended,prepared] [--gate 1.0]
"""

import argparse
import os
import pwd
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGETS = ("direct", "pgbouncer", "pgweir")
POOL_SIZE = 20
TICK = os.sysconf("SC_CLK_TCK")


class Bench:
    """The servers of one run; a context manager that ends them and removes their files."""

    def __init__(self, pgweir):
        self.pgweir = pgweir
        self.processes = {}
        self.ports = {}
        self.user = {}
        self.pg_bin = newest_postgres()
        self.dir = Path(tempfile.mkdtemp(prefix="pgweir-bench."))
        if os.geteuid() == 0:
            # PostgreSQL and PgBouncer refuse root.
            account = pwd.getpwnam("postgres")
            self.user = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            os.chown(self.dir, account.pw_uid, account.pw_gid)
        self.dir.chmod(0o755)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for name, process in reversed(self.processes.items()):
            process.send_signal(signal.SIGQUIT if name == "direct" else signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    def run(self, *command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)

    def start(self, name, *command):
        log = open(self.dir / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self.user
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.processes[name].poll() is None:
            if subprocess.run([self.pg_bin / "psql", "-Xqc", "select 1", self.url(name)], capture_output=True).returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"{name} did not start:\n{(self.dir / f'{name}.log').read_text()}")

    def url(self, name):
        return f"postgres://bench@127.0.0.1:{self.ports[name]}/{'postgres' if name == 'direct' else 'bench'}"

    def start_postgres(self):
        data = self.dir / "data"
        self.ports["direct"] = free_port()
        self.run(self.pg_bin / "initdb", "-D", data, "-U", "bench", "-A", "trust", "--locale=C.UTF-8", "--no-sync")
        with open(data / "postgresql.conf", "a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.ports['direct']}\nunix_socket_directories = ''\n"
                "max_connections = 200\nshared_buffers = '128MB'\nfsync = off\nautovacuum = off\n"
            )
        self.start("direct", self.pg_bin / "postgres", "-D", data)
        # The proxies' `bench` is this database under another name.
        subprocess.run([self.pg_bin / "pgbench", "-i", "-q", "-s", "5", self.url("direct")], check=True, capture_output=True)

    def start_pgbouncer(self):
        port = self.ports["pgbouncer"] = free_port()
        follows = "max_prepared_statements = 200\n" if pgbouncer_version() >= (1, 21) else ""
        ini = self.write(
            "pgbouncer.ini",
            f"[databases]\nbench = host=127.0.0.1 port={self.ports['direct']} dbname=postgres\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = trust\n"
            f"auth_file = {self.users()}\npool_mode = transaction\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 1000\n"
            f"log_connections = 0\nlog_disconnections = 0\n{follows}",
        )
        self.start("pgbouncer", shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "-q", ini)

    def start_pgweir(self):
        port = self.ports["pgweir"] = free_port()
        toml = self.write(
            "pgweir.toml",
            f'[pgweir]\nlisten_addr = "127.0.0.1"\nlisten_port = {port}\nworkers = 1\nauth_type = "trust"\n'
            f'auth_file = "{self.users()}"\ndefault_pool_size = {POOL_SIZE}\nmax_client_conn = 1000\n'
            f"log_connections = false\nlog_disconnections = false\n"
            f'[databases.bench]\nprimary = "postgres://127.0.0.1:{self.ports["direct"]}/postgres"\n',
        )
        program = self.dir / "pgweir"
        # The unprivileged user may not reach the directory it was built in.
        shutil.copy(self.pgweir, program)
        self.start("pgweir", program, toml)

    def users(self):
        return self.write("users.txt", '"bench" ""\n')

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path

    def cpu_seconds(self, name):
        """User and system time of all threads so far."""
        stat = Path(f"/proc/{self.processes[name].pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def measure(self, target, mode, clients, seconds):
        """Transactions a second, and CPU microseconds of the proxy per transaction (none for PostgreSQL itself)."""
        before = self.cpu_seconds(target)
        done = subprocess.run(
            [self.pg_bin / "pgbench", "-n", "-S", "-M", mode, "-c", str(clients), "-j", "1", "-T", str(seconds), self.url(target)],
            capture_output=True,
            text=True,
        )
        after = self.cpu_seconds(target)
        failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
        if done.returncode != 0 or "aborted" in done.stderr or (failed and int(failed[1])):
            sys.exit(f"{target}, {mode}, {clients} clients: pgbench failed\n{done.stdout}{done.stderr}")
        transactions = int(re.search(r"actually processed: (\d+)", done.stdout)[1])
        tps = float(re.search(r"^tps = ([\d.]+)", done.stdout, re.M)[1])
        return tps, None if target == "direct" else (after - before) * 1e6 / transactions


def newest_postgres():
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    if found:
        return max(found, key=lambda path: int(path.parent.name))
    if initdb := shutil.which("initdb"):
        return Path(initdb).resolve().parent
    sys.exit("PostgreSQL is not installed: scripts/install-deps.sh postgres")


def pgbouncer_version():
    program = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
    said = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    major, minor = re.search(r"(\d+)\.(\d+)", said).groups()
    return int(major), int(minor)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cell(value, form):
    return "n/a" if value is None else format(value, form)


def ratio(ours, theirs):
    return ours / theirs if ours is not None and theirs else None


def report(results, modes, clients_list):
    """Prints the table; gives the worst ratio of CPU time per transaction, pgweir to PgBouncer."""
    heads = ("mode", "clients", "direct tps", "bouncer tps", "weir tps", "tps ratio", "bouncer µs", "weir µs", "µs ratio")
    print("  ".join(f"{head:>11}" for head in heads))
    worst = None
    for mode in modes:
        for clients in clients_list:
            tps, cpu = {}, {}
            for target in TARGETS:
                runs = results.get((target, mode, clients), [])
                tps[target] = statistics.median(run[0] for run in runs) if runs else None
                costs = [run[1] for run in runs if run[1] is not None]
                cpu[target] = statistics.median(costs) if costs else None
            cost = ratio(cpu["pgweir"], cpu["pgbouncer"])
            worst = max(filter(None, (worst, cost)), default=None)
            row = (
                mode,
                str(clients),
                *(cell(tps[target], ".0f") for target in TARGETS),
                cell(ratio(tps["pgweir"], tps["pgbouncer"]), ".2f"),
                cell(cpu["pgbouncer"], ".1f"),
                cell(cpu["pgweir"], ".1f"),
                cell(cost, ".2f"),
            )
            print("  ".join(f"{value:>11}" for value in row))
    return worst


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    built = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target")) / "release" / "pgweir"
    words = lambda text: text.split(",")
    parser.add_argument("--pgweir", type=Path, default=built, help="the program (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--clients", type=words, default=["1", "16", "50"])
    parser.add_argument("--modes", type=words, default=["simple", "extended", "prepared"])
    parser.add_argument("--targets", type=words, default=list(TARGETS))
    parser.add_argument("--gate", type=float, help="fail when pgweir's CPU time per transaction exceeds PgBouncer's times this")
    options = parser.parse_args()
    if "pgweir" in options.targets and not options.pgweir.exists():
        sys.exit(f"{options.pgweir} is not built: cargo build --release")
    # An end by signal is an end like any other: the servers go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    clients_list = [int(clients) for clients in options.clients]
    results = {}
    with Bench(options.pgweir) as bench:
        bench.start_postgres()
        if "pgbouncer" in options.targets:
            bench.start_pgbouncer()
        if "pgweir" in options.targets:
            bench.start_pgweir()
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for mode in options.modes:
                for clients in clients_list:
                    for target in options.targets:
                        if target == "pgbouncer" and mode == "prepared" and pgbouncer_version() < (1, 21):
                            continue
                        measured = bench.measure(target, mode, clients, options.seconds)
                        results.setdefault((target, mode, clients), []).append(measured)
    worst = report(results, options.modes, clients_list)
    if options.gate and (worst is None or worst > options.gate):
        sys.exit(f"the worst ratio of CPU time per transaction is {cell(worst, '.2f')}, over {options.gate}")


if __name__ == "__main__":
    main()
