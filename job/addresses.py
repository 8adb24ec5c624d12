"""Addresses within any text, without the secrets in them: passwords, tokens, signatures. Every error's words pass here."""

from __future__ import annotations

import re
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

CHECKSUM = re.compile(r"sha256=[0-9a-f]{64}", re.I)
_HOST = re.compile(r"[\w.-]*|(?:localhost|[\w-]+(?:\.[\w-]+)+|\[[0-9a-f:.]+\])(?::\d*)?", re.I)
_WITH_PORT = re.compile(r"(?:\[[0-9a-f:.]+\]|[^:]*)(?::\d*)?", re.I)

_PLAIN = ("id", "download", "dl", "format", "file", "filename", "name", "version", "export", "confirm", "raw", "ref", "path")
_PLAIN_VALUE = re.compile(r"[\w .,()+~/-]*")  # an address or a query within the value may hold secrets of its own
MATRIX = re.compile(r";([^;/]+)")  # a parameter within a path: `/pets.zip;token=...`

_OPENING = r"""'"`<({\[=,"""
_BEFORE = rf"(?<![^\s{_OPENING}])"
_WITHIN = re.compile(
    r"(?P<start>[a-z0-9+.-]{0,20}://+|https?:/*)(?P<rest>\S+)"
    # as scp and curl take them, and as a browser shows them
    rf"|{_BEFORE}(?P<slashes>//+)?(?P<user>[^\s/@:{_OPENING}]+:(?!\\)[^\s/]+@)(?P<host>[\w\[]\S*)"
    rf"|{_BEFORE}(?://+)?(?P<asked>(?:(?:[\w-]+\.)+[a-z]{{2,}}|(?:\d+\.){{3}}\d+|localhost)(?::\d+)?/[^\s?]*\?\S+)",
    re.I,
)
_SPACED = re.compile(r"(?:(?!://)[^@])*@\S*")  # the rest of a password that holds spaces
_CLOSING = "'\"`>)]},;:"

Parts = tuple[str, str, str, list[tuple[str, str]], str]

_standing: dict[str, str] = {}


@contextmanager
def standing_for(path: str, address: str) -> Iterator[None]:
    """While inside, whatever is said of a local copy names the address that it stands for."""
    _standing[path] = address
    try:
        yield
    finally:
        _standing.pop(path, None)


def named(text: str) -> str:
    """Any text, in which local copies go by their addresses."""
    for path, address in _standing.items():
        text = text.replace(path, address)
    return text


def hidden(text: str) -> str:
    """Any text, in which addresses are without user info and the values of unknown parameters; the rest is as it was."""
    text = named(text)
    for _ in range(4):  # what was left out may have stood between two parts of another address
        before, text = text, _hidden(text)
        if text == before:
            break
    return text


def _hidden(text: str) -> str:
    made, at = "", 0
    while match := _WITHIN.search(text, at):
        made += text[at : match.start()]
        at = match.end()
        start, rest = match["start"], match["rest"]
        if match["user"]:
            start, rest = (match["slashes"] or "") + "...@", match["host"]
        elif match["asked"]:
            start, rest = "", match.group()
        elif "@" not in rest and not _HOST.fullmatch(host := cut(rest)[0]) and not host.endswith(":..."):
            spaced = _SPACED.match(text, at)
            rest, at = (rest + spaced.group(), spaced.end()) if spaced else (rest, at)
        bare = rest.rstrip(_CLOSING)
        made += public(start, bare) + rest[len(bare) :]
    return made + text[at:]


def public(start: str, rest: str) -> str:
    """An address as people may read it, also one that is not valid; `start` is its scheme with the slashes."""
    start, host, path, query, fragment = split(start, rest)
    path = MATRIX.sub(lambda match: ";" + _seen(*parameter(match[1])), hidden(path))
    if not CHECKSUM.fullmatch(fragment) and fragment not in ("", "sha256=..."):  # the latter is how we write one ourselves
        fragment = "..."
    return joined(start + host + path, [_seen(*pair) for pair in query], fragment)


def split(start: str, rest: str) -> Parts:
    """Scheme with its slashes, host with its port, path, parameters, fragment; the user info is left out.

    An address need not be valid: a password with an unescaped `/`, `?` or `#` reads as a path, so what comes before a
    later `@` is left out too where the host before it is none.
    """
    authority, rest = cut(rest)
    user, at, host = authority.rpartition("@")
    if "@" in rest and (not _HOST.fullmatch(host) or (at and ":" not in user)):
        host, rest = cut(rest.rpartition("@")[2])
    if not _WITH_PORT.fullmatch(host):
        host = host.partition(":")[0] + ":..."
    rest, _, fragment = rest.partition("#")
    path, _, query = rest.partition("?")
    return start, host, path, [parameter(part) for part in re.split("[&;]", query) if part], fragment


def cut(text: str) -> tuple[str, str]:
    """The authority and what follows it."""
    authority = re.split("[/?#]", text, maxsplit=1)[0]
    return authority, text[len(authority) :]


def is_plain(name: str, value: str) -> bool:
    """Whether a parameter is of those that hold no secret."""
    return name.lower() in _PLAIN and bool(_PLAIN_VALUE.fullmatch(urllib.parse.unquote(value)))


def joined(start: str, parameters: list[str], fragment: str) -> str:
    """An address of its parts."""
    return start + ("?" + "&".join(parameters) if parameters else "") + (f"#{fragment}" if fragment else "")


def parameter(text: str) -> tuple[str, str]:
    """Name and value; a lone word is a value without a name, since it may be a secret (base64 ends in `=`)."""
    name, _, value = text.partition("=")
    return (name, value) if value.strip("=") or name.lower() in _PLAIN else ("", text)


def _seen(name: str, value: str) -> str:
    return f"{name}={value}" if is_plain(name, value) else f"{name}=..." if name else "..."
