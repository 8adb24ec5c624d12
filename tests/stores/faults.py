"""What may go wrong on the way to a store: rules that are used up, faults drawn by chance, and the log of what happened."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

# Besides these a fault may be a status, such as "503".
FAULTS = {
    "reset": "the connection is reset before the request reaches the store",
    "cut-request": "half of the request's body reaches the store, then both connections are reset",
    "cut": "half of the response's body comes, then the connection ends",
    "stall": "half of the response's body comes, then nothing for some seconds",
    "flip": "a bit of an object's content is changed on its way from the store",
    "flip-request": "a bit of an object's content is changed on its way to the store",
    "lost": "the store does what it was asked for, and the response is lost in a reset",
    "latency": "the request waits for some seconds",
}
# Google's client asks for the bucket in a thread of its own, whenever it likes: no fault of ours, and not in the log.
ASIDE = re.compile(r"GET /storage/v1/b/[^/?]+(\?|$)")
CHAOS = ("503", "429", "500", "reset", "cut", "stall", "flip", "flip-request", "cut-request", "lost", "latency")


@dataclass
class Rule:
    """A fault for the next `n` requests that match, after `skip` of them; a request that the fault can't hit uses nothing up."""

    fault: str
    method: str = ""  # of any
    path: str = ""  # a regular expression, searched for in the path with its query
    n: int = 1
    skip: int = 0
    retry_after: float | None = None  # of a status
    reason: str = ""  # of a status, as the store writes it: ExpiredToken, SlowDown
    seconds: float = 3600.0  # of stall and latency

    def __post_init__(self) -> None:
        if self.fault not in FAULTS and not self.fault.isdecimal():
            raise ValueError(f"fault {self.fault!r}: one of {', '.join(FAULTS)}, or a status")


@dataclass
class Entry:
    """A request: what came of it, and the bytes of bodies to the store and from it."""

    at: float
    method: str
    path: str
    status: int = 0  # 0 where none was sent to the client
    fault: str = ""
    sent: int = 0
    received: int = 0


@dataclass
class Chaos:
    """Faults by chance, until there were `total`: each kind in turn, where it can hit the request."""

    seed: int
    probability: float
    total: int
    kinds: Sequence[str] = CHAOS
    path: str = ""
    seconds: float = 0.5  # of stall and latency
    made: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def draw(self, method: str, path: str, content: bool) -> Rule | None:
        hit = self._random.random() < self.probability
        if not hit or self.made.total() >= self.total or not re.search(self.path, path):
            return None
        for kind in sorted(self.kinds, key=lambda kind: self.made[kind]):
            if fits(kind, method, content) and (kind != "lost" or method not in ("GET", "HEAD")):
                self.made[kind] += 1
                return Rule(kind, retry_after=1 if kind == "429" else None, seconds=self.seconds)
        return None


def fits(fault: str, method: str, content: bool) -> bool:
    """Whether a request can meet this fault, as far as that is known before the response; `content`: it writes an object's."""
    if fault in ("flip-request", "cut-request"):
        return content
    if fault in ("cut", "stall"):
        return method != "HEAD"
    return method == "GET" if fault == "flip" else True


class Faults:
    """The rules and the chaos of a proxy, and its log; safe to use from all threads."""

    def __init__(self) -> None:
        self.log: list[Entry] = []
        self._rules: list[Rule] = []
        self._chaos: Chaos | None = None
        self._lock = threading.Lock()

    def add(self, fault: str, **fields: Any) -> Rule:
        """A new rule, after those that there are; fields as in Rule."""
        rule = Rule(fault, **fields)
        with self._lock:
            self._rules.append(rule)
        return rule

    def chaos(self, seed: int, probability: float, total: int, **fields: Any) -> None:
        """Faults by chance from now on, fields as in Chaos; where no rule matches."""
        with self._lock:
            self._chaos = Chaos(seed, probability, total, **fields)

    def clear(self) -> None:
        """No rules, no chaos."""
        with self._lock:
            self._rules.clear()
            self._chaos = None

    def take(self, method: str, path: str, content: bool) -> Rule | None:
        """The fault of a request; `give_back` where it could not be made."""
        if ASIDE.match(f"{method} {path}"):
            return None
        with self._lock:
            for rule in self._rules:
                if (
                    rule.n <= 0
                    or rule.method not in ("", method)
                    or not re.search(rule.path, path)
                    or not fits(rule.fault, method, content)
                ):
                    continue
                if rule.skip > 0:
                    rule.skip -= 1
                    continue
                rule.n -= 1
                return rule
            return self._chaos.draw(method, path, content) if self._chaos is not None else None

    def give_back(self, rule: Rule) -> None:
        with self._lock:
            if any(rule is known for known in self._rules):
                rule.n += 1
            elif self._chaos is not None:
                self._chaos.made[rule.fault] -= 1

    def begin(self, method: str, path: str) -> Entry:
        entry = Entry(time.time(), method, path)
        if not ASIDE.match(f"{method} {path}"):
            with self._lock:
                self.log.append(entry)
        return entry

    def counts(self) -> dict[str, Any]:
        """Requests by method, by status and by fault, and bytes, up to now."""
        with self._lock:
            log = list(self.log)
            left = 0 if self._chaos is None else self._chaos.total - self._chaos.made.total()
        return {
            "requests": len(log),
            "methods": dict(Counter(entry.method for entry in log)),
            "statuses": dict(Counter(str(entry.status) for entry in log)),
            "faults": dict(Counter(entry.fault for entry in log if entry.fault)),
            "sent": sum(entry.sent for entry in log),
            "received": sum(entry.received for entry in log),
            "chaos_left": left,
        }

    def entries(self) -> list[dict[str, Any]]:
        with self._lock:
            return [asdict(entry) for entry in self.log]
