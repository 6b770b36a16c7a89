#!/usr/bin/env python3
"""What io_uring would be worth: one relay of bytes (benches/uring.c) that waits by epoll, and by io_uring in two ways, in turn.

The relay understands nothing of the protocol and pools nothing, so that nearly all it does is what is compared: the most that
io_uring could bring to a proxy that has work of its own besides. Prints for each form and number of clients, by pgbench -S with
the simple protocol: transactions a second and the relay's own CPU time (user and system, without the logins) per transaction,
medians with their smallest and largest; system calls per transaction; and tps and CPU time against those of epoll.

The kernel's count of CPU time is exact, but is shared out between user and system by where its ticks fell: with so little user
time only the sum is to be believed. The system calls are counted apart, as the difference of a long run and a short one: with
strace, which slows the relay, so that with many clients one wait serves more than it would; with perf where there is no strace.

Before it measures, each form must pass on a large result unchanged and to a slow reader, and keep nothing of connections that
are gone. Where the kernel does not permit io_uring the script says so, and that is all.

    benches/uring.py [--rounds 5] [--seconds 3] [--clients 1,16,200] [--forms epoll,uring,uring-multishot]
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import rig as rigs

FORMS = ["epoll", "uring", "uring-multishot"]
# Transactions of the runs that are counted, all clients together.
COUNTED = (2000, 6000)
CONNECTIONS = 1000


def build(rig):
    program = rig.dir / "uring"
    source = Path(__file__).with_name("uring.c")
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", program, source], check=True)
    program.chmod(0o755)
    return program


def start(rig, program, form):
    rig.ports[form] = rigs.free_port()
    rig.databases[form] = "postgres"
    rig.start(form, program, form, str(rig.ports[form]), str(rig.ports["direct"]))


# Whether it relays.


def ask(rig, target, statement, pause=0.0, room=1 << 16):
    """The length and digest of all that is answered to a login and one statement; the reader waits before it reads."""
    with socket.socket() as client:
        # The less room, the sooner the relay has to wait.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        client.settimeout(60)
        client.connect(("127.0.0.1", rig.ports[target]))
        startup = struct.pack("!i", 196608) + b"user\0bench\0database\0postgres\0\0"
        client.sendall(struct.pack("!i", len(startup) + 4) + startup)
        said = b""
        while not said.endswith(b"Z\0\0\0\x05I"):
            said += client.recv(1 << 16)
        query = statement.encode() + b"\0"
        # The end of what is asked comes with it, and must not cut off the answer.
        client.sendall(b"Q" + struct.pack("!i", len(query) + 4) + query)
        client.shutdown(socket.SHUT_WR)
        time.sleep(pause)
        digest, length = hashlib.sha256(), 0
        while got := client.recv(1 << 16):
            digest.update(got)
            length += len(got)
        return length, digest.hexdigest()


def send_much(rig, target):
    """What PostgreSQL makes of a text of 8 MB."""
    statement = "select md5('" + "0123456789abcdef" * (8 << 16) + "')"
    return ask(rig, target, statement)


def open_sockets(rig, target):
    """Of a pair that goes away meanwhile, none."""
    count = 0
    for file in Path(f"/proc/{rig.processes[target].pid}/fd").iterdir():
        try:
            count += os.readlink(file).startswith("socket:")
        except FileNotFoundError:
            pass
    return count


def come_and_go(rig, target):
    """Connections of all kinds: left at once, reset, in the middle of a large result."""
    for number in range(CONNECTIONS):
        with socket.create_connection(("127.0.0.1", rig.ports[target])) as client:
            if number % 3 == 1:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if number % 3 == 2:
                startup = struct.pack("!i", 196608) + b"user\0bench\0database\0postgres\0\0"
                query = b"table pgbench_accounts\0"
                client.sendall(struct.pack("!i", len(startup) + 4) + startup + b"Q" + struct.pack("!i", len(query) + 4) + query)
                client.recv(1)


def check(rig, form):
    def same(what, got, wanted):
        if got != wanted:
            sys.exit(f"{form}: {what}: {got}, not {wanted}")

    large = "copy pgbench_accounts to stdout"
    same("a large result", ask(rig, form, large), ask(rig, "direct", large))
    same("a slow reader", ask(rig, form, large, pause=0.5, room=4096), ask(rig, "direct", large))
    same("a large statement", send_much(rig, form), send_much(rig, "direct"))
    come_and_go(rig, form)
    deadline = time.monotonic() + 20
    # The one that listens stays.
    while open_sockets(rig, form) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    same("sockets after all have gone", open_sockets(rig, form), 1)


# What it costs.


def measure(rig, form, clients, seconds):
    """Transactions a second, and the relay's user and system microseconds per transaction."""
    idle = open_sockets(rig, form)
    with ThreadPoolExecutor(1) as pool:
        # Its time runs while the clients log in, one after the other; then all begin.
        run = pool.submit(rig.pgbench, form, "-n", "-S", "-c", clients, "-j", 1, "-T", seconds + clients // 100)
        while not run.done() and open_sockets(rig, form) < idle + 2 * clients:
            time.sleep(0.005)
        before = rig.cpu_seconds(form)
        said = run.result()
    after = rig.cpu_seconds(form)
    transactions = int(re.search(r"actually processed: (\d+)", said)[1])
    if not transactions:
        sys.exit(f"{form}: no transaction in {seconds} s with {clients} clients: more --seconds")
    tps = float(re.search(r"^tps = ([\d.]+)", said, re.M)[1])
    user, system = ((then - first) * 1e6 / transactions for first, then in zip(before, after))
    return {"tps": tps, "user": user, "system": system, "cpu": user + system}


def perf_calls(rig, name, work):
    """As `Rig.system_calls`, all calls as one."""
    if not shutil.which("perf"):
        return None, work()
    command = ["perf", "stat", "-x", ",", "-e", "raw_syscalls:sys_enter", "-p", str(rig.processes[name].pid)]
    counter = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    time.sleep(0.5)
    result = work()
    counter.send_signal(signal.SIGINT)
    count = re.search(r"^(\d+),", counter.communicate()[1], re.M)
    return count and {"all": int(count[1])}, result


def calls(rig, form, clients):
    """System calls per transaction by name; none if nothing can count them."""
    count = rig.system_calls if shutil.which("strace") else lambda name, work: perf_calls(rig, name, work)
    runs = []
    for transactions in COUNTED:
        each = transactions // clients
        made, _ = count(form, lambda: rig.pgbench(form, "-n", "-S", "-c", clients, "-j", 1, "-t", each))
        if not made:
            return None
        runs.append((made, each * clients))
    (short, few), (long, many) = runs
    return {name: (long[name] - short.get(name, 0)) / (many - few) for name in long}


# The table.


def spread(runs, what, form):
    values = [run[what] for run in runs]
    return f"{statistics.median(values):{form}} ({min(values):{form}}..{max(values):{form}})"


def against_epoll(results, form, clients, what):
    medians = [statistics.median(run[what] for run in results.get((name, clients), [{what: 0}])) for name in (form, "epoll")]
    return f"{medians[0] / medians[1]:.2f}" if medians[1] else "n/a"


def report(results, counts, forms, clients_list):
    heads = ["tps", "user µs", "system µs", "both µs"]
    wide = " ".join(f"{head:>22}" for head in heads)
    print(f"{'clients':>7} {'form':<15} {wide} {'calls':>6} {'tps/epoll':>9} {'µs/epoll':>9}")
    for clients in clients_list:
        for form in forms:
            runs = results[form, clients]
            row = [spread(runs, "tps", ".0f"), *(spread(runs, what, ".1f") for what in ("user", "system", "cpu"))]
            made = counts[form, clients]
            ratios = [against_epoll(results, form, clients, what) for what in ("tps", "cpu")]
            print(
                f"{clients:>7} {form:<15} "
                + " ".join(f"{cell:>22}" for cell in row)
                + f" {f'{sum(made.values()):.2f}' if made else 'n/a':>6} {ratios[0]:>9} {ratios[1]:>9}"
            )
    print("\nsystem calls per transaction, by name:")
    for clients in clients_list:
        for form in forms:
            made = sorted((counts[form, clients] or {}).items(), key=lambda item: -item[1])
            print(f"{clients:>7} {form:<15} " + (", ".join(f"{name} {n:.2f}" for name, n in made if n >= 0.005) or "n/a"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: text.split(",")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each pgbench run")
    parser.add_argument("--clients", type=lambda text: [int(number) for number in words(text)], default=[1, 16, 200])
    parser.add_argument("--forms", type=words, default=FORMS)
    options = parser.parse_args()
    if unknown := set(options.forms) - set(FORMS):
        parser.error(f"there is no form {', '.join(sorted(unknown))}: {', '.join(FORMS)}")
    # An end by signal is an end like any other: the servers go too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    results, counts = {}, {}
    with rigs.Rig() as rig:
        program = build(rig)
        # As the user that it will run as: what is permitted may hang on that.
        probe = subprocess.run([program, "probe"], capture_output=True, text=True, **rig.user)
        print(probe.stdout.strip() or probe.stderr.strip())
        if probe.returncode == 3:
            return
        if probe.returncode:
            sys.exit(f"the probe ended with status {probe.returncode}")
        rig.start_postgres()
        for form in options.forms:
            start(rig, program, form)
            check(rig, form)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr)
            for clients in options.clients:
                for form in options.forms:
                    results.setdefault((form, clients), []).append(measure(rig, form, clients, options.seconds))
        print("counting system calls", file=sys.stderr)
        for clients in options.clients:
            for form in options.forms:
                counts[form, clients] = calls(rig, form, clients)
    report(results, counts, options.forms, options.clients)


if __name__ == "__main__":
    main()
