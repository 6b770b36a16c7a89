"""Reads what callgrind writes, as far as the counts here need it: instructions by function and by source file, and calls."""

import re
from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Profile:
    """Instructions, and how often each function was called."""

    total: int = 0
    # Of the function itself, with what the compiler has put into it.
    own: Counter = field(default_factory=Counter)
    # With all that it calls.
    inclusive: Counter = field(default_factory=Counter)
    # Of the lines of a source file, wherever the compiler has put them.
    by_file: Counter = field(default_factory=Counter)
    calls: Counter = field(default_factory=Counter)
    # By caller and called.
    callers: Counter = field(default_factory=Counter)

    def __sub__(self, other):
        def less(name):
            left, right = Counter(getattr(self, name)), getattr(other, name)
            left.subtract(right)
            return left

        return Profile(self.total - other.total, *(less(name) for name in ("own", "inclusive", "by_file", "calls", "callers")))


def read(path):
    """The profile of one dump. A function that calls itself, by whatever way, counts once for each time in `inclusive`."""
    profile, names = Profile(), {}
    function = file = called = None

    def named(kind, text):
        """Names are written once, then by number: `(12) name`, `(12)`. Files share their numbers, and functions theirs."""
        number, _, name = text.partition(" ")
        key = ("function" if kind in ("fn", "cfn") else "object" if kind in ("ob", "cob") else "file", number)
        if name:
            names[key] = name
        return names.get(key, number)

    calling = False
    with open(path) as lines:
        for line in lines:
            kind, equals, rest = line.rstrip("\n").partition("=")
            if equals and kind in ("fl", "fi", "fe", "fn", "cfi", "cfl", "cfn", "ob", "cob"):
                name = named(kind, rest)
                if kind == "fn":
                    function = name
                elif kind in ("fl", "fi", "fe"):
                    file = name
                elif kind == "cfn":
                    called = name
            elif equals and kind == "calls":
                profile.calls[called] += int(rest.split()[0])
                profile.callers[function, called] += int(rest.split()[0])
                calling = True
            elif line[:1].isdigit() or line[:1] in "+-*":
                fields = line.split()
                cost = int(fields[1]) if len(fields) > 1 else 0
                profile.inclusive[function] += cost
                if not calling:
                    profile.own[function] += cost
                    profile.by_file[file] += cost
                    profile.total += cost
                calling = False
    return profile


# What the standard library and crates are called from: `/rustc/HASH/library/`, `~/.cargo/registry/src/INDEX-HASH/`.
ORIGINS = re.compile(r"^.*/(?:registry/src/[^/]+|rustc/[^/]+)/")


def short(file):
    """A source file without the place where it was built."""
    file = ORIGINS.sub("", file)
    return file[file.rfind("/src/") + 1 :] if "/src/" in file and file.startswith("/") else file
