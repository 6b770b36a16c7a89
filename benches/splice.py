#!/usr/bin/env python3
"""What splice(2) would be worth for large results: a relay of bytes that reads and writes, and one that splices, in turn.

A relay that must understand what it passes on cannot splice: whoever is to see where a row ends, and that no error stands between two of them,
must have the bytes. So this is the most that could be had for the rest of a message of which the length is known: rows of that length or more.
Prints the relay's CPU milliseconds per MB (user and system), by how much is moved at a time; medians of the rounds.

    benches/splice.py [--rounds 5] [--megabytes 512] [--sizes 8,64,256]
"""

import argparse
import fcntl
import os
import socket
import statistics
import threading

F_SETPIPE_SZ = 1031


def connected():
    """Two ends of a TCP connection over the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one, other


def copy(source, sink, size):
    room = bytearray(size)
    view = memoryview(room)
    while n := source.recv_into(room):
        sink.sendall(view[:n])


def splice(source, sink, size):
    out, into = os.pipe()
    fcntl.fcntl(into, F_SETPIPE_SZ, size)
    while n := os.splice(source.fileno(), into, size):
        while n:
            n -= os.splice(out, sink.fileno(), n)
    os.close(out)
    os.close(into)


def cost(relay, size, megabytes):
    """CPU seconds of a process that relays so much."""
    (near, source), (sink, far) = connected(), connected()
    pid = os.fork()
    if pid == 0:
        near.close()
        far.close()
        relay(source, sink, size)
        os._exit(0)
    source.close()
    sink.close()
    # As PostgreSQL sends results: 8 KB at a time.
    block = bytes(8192)

    def send():
        for _ in range(megabytes * 128):
            near.sendall(block)
        near.close()

    sender = threading.Thread(target=send)
    sender.start()
    room = bytearray(1 << 20)
    while far.recv_into(room):
        pass
    sender.join()
    far.close()
    _, _, used = os.wait4(pid, 0)
    return used.ru_utime + used.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--sizes", type=lambda text: [int(size) for size in text.split(",")], default=[8, 64, 256], help="KB")
    options = parser.parse_args()
    costs = {}
    for _ in range(options.rounds):
        for size in options.sizes:
            for relay in (copy, splice):
                costs.setdefault((size, relay.__name__), []).append(cost(relay, size << 10, options.megabytes))
    print(f"{'KB at a time':>12} {'copy':>8} {'splice':>8}  CPU ms per MB")
    for size in options.sizes:
        of = lambda name: statistics.median(costs[size, name]) * 1000 / options.megabytes
        print(f"{size:>12} {of('copy'):>8.3f} {of('splice'):>8.3f}")


if __name__ == "__main__":
    main()
