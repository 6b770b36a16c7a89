"""A throwaway PostgreSQL with proxies before it, and what each of them costs: the ground that the benchmarks stand on."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

POOL_SIZE = 20
TICK = os.sysconf("SC_CLK_TCK")
PASSWORD = "bench"


class Rig:
    """The servers of one run; a context manager that ends them and removes their files."""

    def __init__(self, pool_size=POOL_SIZE):
        self.pool_size = pool_size
        self.processes = {}
        self.ports = {}
        self.databases = {}
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
            process.send_signal(signal.SIGQUIT if is_postgres(name) else signal.SIGKILL)
            process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)

    # Servers.

    def start_postgres(self, name="direct", scale=5):
        """A cluster whose database `postgres` has the tables of pgbench, if `scale` is not 0."""
        data = self.dir / name
        self.run(self.pg_bin / "initdb", "-D", data, "-U", "bench", "-A", "trust", "--locale=C.UTF-8", "--no-sync")
        self.configure_postgres(name)
        if scale:
            self.pgbench(name, "-i", "-q", "-s", scale)
            self.psql(name, "VACUUM ANALYZE", f"ALTER USER bench PASSWORD '{PASSWORD}'")

    def start_replica(self, name, of):
        """A streaming replica of the cluster `of`."""
        self.run(self.pg_bin / "pg_basebackup", "-D", self.dir / name, "-R", "-X", "stream", "-c", "fast", "-d", self.url(of))
        self.configure_postgres(name)

    def configure_postgres(self, name):
        port = self.ports[name] = free_port()
        self.databases[name] = "postgres"
        with open(self.dir / name / "postgresql.conf", "a") as conf:
            conf.write(
                f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n"
                "max_connections = 600\nshared_buffers = '128MB'\nfsync = off\nautovacuum = off\nmax_wal_senders = 10\n"
            )
        self.start(name, self.pg_bin / "postgres", "-D", self.dir / name)

    def start_pgbouncer(self, name="pgbouncer", tls=None):
        """PgBouncer. Its database `sessions` is pooled by sessions, for versions that do not follow prepared statements."""
        port = self.ports[name] = free_port()
        self.databases[name] = "bench"
        follows = "max_prepared_statements = 200\n" if pgbouncer_version() >= (1, 21) else ""
        if tls:
            follows += f"client_tls_sslmode = require\nclient_tls_cert_file = {tls[0]}\nclient_tls_key_file = {tls[1]}\n"
        ini = self.write(
            f"{name}.ini",
            f"[databases]\nbench = host=127.0.0.1 port={self.ports['direct']} dbname=postgres\n"
            f"sessions = host=127.0.0.1 port={self.ports['direct']} dbname=postgres pool_mode=session pool_size=250\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = {self.auth_type(name)}\n"
            f"auth_file = {self.users()}\npool_mode = transaction\ndefault_pool_size = {self.pool_size}\nmax_client_conn = 12000\n"
            f"log_connections = 0\nlog_disconnections = 0\n{follows}",
        )
        self.start(name, shutil.which("pgbouncer") or "/usr/sbin/pgbouncer", "-q", ini)

    def start_haproxy(self, name="haproxy"):
        """haproxy in TCP mode with one thread: a relay that understands nothing of what it relays."""
        port = self.ports[name] = free_port()
        self.databases[name] = "postgres"
        conf = self.write(
            f"{name}.cfg",
            "global\n  maxconn 2000\n  nbthread 1\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n"
            f"listen bench\n  bind 127.0.0.1:{port}\n  server one 127.0.0.1:{self.ports['direct']}\n",
        )
        self.start(name, shutil.which("haproxy") or "/usr/sbin/haproxy", "-db", "-q", "-f", conf)

    def start_pgweir(self, name, program, workers=1, general="", database=None):
        """pgweir, the file `program`. `general` is added to `[pgweir]`; `database` replaces the settings of `bench`."""
        port = self.ports[name] = free_port()
        self.databases[name] = "bench"
        database = database or f'primary = "{self.url("direct")}"\n'
        toml = self.write(
            f"{name}.toml",
            f'[pgweir]\nlisten_addr = "127.0.0.1"\nlisten_port = {port}\nworkers = {workers}\nauth_type = "{self.auth_type(name)}"\n'
            f'auth_file = "{self.users()}"\ndefault_pool_size = {self.pool_size}\nmax_client_conn = 12000\n'
            f"log_connections = false\nlog_disconnections = false\n{general}[databases.bench]\n{database}",
        )
        copy = self.dir / f"{name}.bin"
        # The unprivileged user may not reach the directory it was built in.
        shutil.copy(program, copy)
        self.start(name, copy, toml)

    def start_split(self, name, program, of="direct"):
        """pgweir before the cluster `of` and a replica of it."""
        self.start_replica(f"{name}-replica", of=of)
        urls = f'primary = "{self.url(of)}"\nreplicas = ["{self.url(f"{name}-replica")}"]\n'
        self.start_pgweir(name, program, database=f'{urls}probe_user = "bench"\n')

    def start_shards(self, name, program, first="direct"):
        """pgweir before two shards by `aid`: the cluster `first` and another. Both have all rows: which one a key is asked from is all that matters."""
        self.start_postgres(f"{name}-2")
        halves = ((first, 0, 8191), (f"{name}-2", 8192, 16383))
        shards = "".join(
            f'[[databases.bench.shards]]\nname = "s{at}"\nslots = [[{low}, {high}]]\nprimary = "{self.url(server)}"\n'
            for at, (server, low, high) in enumerate(halves)
        )
        tables = '[databases.bench.tables]\npgbench_accounts = { key = "aid", type = "integer" }\n'
        self.start_pgweir(name, program, database=f"{shards}{tables}")

    def start(self, name, *command):
        log = open(self.dir / f"{name}.log", "ab")
        self.processes[name] = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", **self.user
        )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and self.processes[name].poll() is None:
            if self.try_psql(name, "select 1").returncode == 0:
                return
            time.sleep(0.1)
        sys.exit(f"{name} did not start:\n{(self.dir / f'{name}.log').read_text()}")

    def auth_type(self, name):
        return "scram-sha-256" if "scram" in name else "trust"

    # Clients.

    def url(self, name, database=None):
        return f"postgres://bench@127.0.0.1:{self.ports[name]}/{database or self.databases[name]}"

    def try_psql(self, name, *statements):
        said = [part for statement in statements for part in ("-c", statement)]
        return subprocess.run(
            [self.pg_bin / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", *said, self.url(name)],
            capture_output=True,
            text=True,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )

    def psql(self, name, *statements):
        done = self.try_psql(name, *statements)
        if done.returncode != 0:
            sys.exit(f"psql on {name} failed: {done.stderr}")
        return done.stdout

    def pgbench(self, name, *arguments, database=None, cwd=None):
        """What pgbench says when all went well."""
        done = subprocess.run(
            [self.pg_bin / "pgbench", *map(str, arguments), self.url(name, database)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, "PGPASSWORD": PASSWORD},
        )
        failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
        if done.returncode != 0 or "aborted" in done.stderr or (failed and int(failed[1])):
            sys.exit(f"pgbench {' '.join(map(str, arguments))} on {name} failed\n{done.stdout}{done.stderr}")
        return done.stdout

    # What a process has taken.

    def cpu_seconds(self, name):
        """User and system time of all its threads so far."""
        stat = Path(f"/proc/{self.processes[name].pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return int(fields[11]) / TICK, int(fields[12]) / TICK

    def resident_bytes(self, name):
        status = Path(f"/proc/{self.processes[name].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) * 1024

    def system_calls(self, name, work):
        """The system calls of the process while `work()` runs, by name, and what that gave; none without strace."""
        if not shutil.which("strace"):
            return None, work()
        out = self.dir / "strace"
        trace = subprocess.Popen(
            ["strace", "-f", "-c", "-o", out, "-p", str(self.processes[name].pid)], stderr=subprocess.DEVNULL
        )
        time.sleep(0.5)
        result = work()
        trace.send_signal(signal.SIGINT)
        trace.wait()
        # Columns: % time, seconds, usecs/call, calls, [errors,] name.
        rows = [line.split() for line in out.read_text().splitlines()]
        return {row[-1]: int(row[3]) for row in rows if len(row) >= 5 and row[3].isdigit() and row[-1] != "total"}, result

    # Files and commands.

    def run(self, *command):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)

    def users(self):
        return self.write("users.txt", f'"bench" "{PASSWORD}"\n')

    def write(self, name, text):
        path = self.dir / name
        path.write_text(text)
        return path


def is_postgres(name):
    return name in ("direct", "replica") or name.startswith("shard")


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


def built_pgweir():
    """Where cargo puts the release build."""
    return Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).parent.parent / "target")) / "release" / "pgweir"
