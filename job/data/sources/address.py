"""What an address of a source says: its kind, its name, and the secrets that nobody else may read.

A web address may hold a name and a password, or a signature in its query. `shown` is the address for people and logs,
`identity` the one to compare and to keep in files; neither holds a secret.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from job.addresses import CHECKSUM, MATRIX, Parts, cut, hidden, is_plain, joined, parameter, public, split
from job.config.folders import meant
from job.errors import UserError
from job.storage import opening

HOSTS = ("www.kaggle.com", "kaggle.com")
_ADDRESS = re.compile(r"\s*(?:(?!kaggle:)[a-z][a-z0-9+.-]+://+|https?:/*)", re.I)  # `https:/x` too: it may hold a password all the same
_HASHED = re.compile(r"sha256:[0-9a-f]{12}")

# what a new signature of the same address changes
_SIGNATURE = re.compile(
    r"sig|signature|token|key|x-amz-.*|x-goog-.*|expires|policy|se|sp|sv|sr|st|spr|sk.*|auth.*|pass.*|access.*|credential"
    r"|awsaccesskeyid|googleaccessid|key-pair-id",
    re.I,
)

_DATASET = re.compile(r"(?P<owner>[\w-]+)/(?P<name>[\w-]+)(?:/versions/(?P<version>\d+))?", re.ASCII)
_PAGES = (  # with the tabs of a page after the name
    re.compile(rf"datasets/{_DATASET.pattern}(?:/(?!versions/)[\w-]+)*", re.ASCII),
    re.compile(rf"api/v1/datasets/download/{_DATASET.pattern}", re.ASCII),
    re.compile(r"(?:competitions|c)/(?P<competition>[\w-]+)(?:/[\w-]+)*", re.ASCII),
    re.compile(r"api/v1/competitions/data/download-all/(?P<competition>[\w-]+)", re.ASCII),
)
_SHORT = (re.compile(r"competition/(?P<competition>[\w-]+)", re.ASCII), re.compile(rf"(?!(?:datasets|competitions?|c)/){_DATASET.pattern}"))
_ELSEWHERE = {"hf": ("is on Hugging Face, which is not read by this name", "download it first, e.g. hf download, and give the folder")}
_OBJECTS = re.compile(r"(?:gs|s3)://[^/@?#]+(?:/[^?#]*)?", re.S | re.I)  # in the form that `canonical` gives: there is no secret in it


def canonical(text: str) -> str:
    """The one way to write a source that can be named in several: those of Kaggle, and addresses; paths are left alone.

    Returns:
        `kaggle:owner/name`, with `/versions/N` where one was named, `kaggle:competition/NAME`, `http(s)://...`, `gs://...`,
        `s3://...`, or a path.

    Raises:
        UserError: it names nothing on Kaggle, or is an address of a kind that is not read.
    """
    bare = text.strip()
    if bare[:7].lower() == "kaggle:":
        return _kaggle(bare[7:]) or _not_on_kaggle("kaggle:" + shown(bare[7:]))
    if bare.lower().startswith(tuple(f"{host}/" for host in HOSTS)) and not Path(bare).exists():
        bare = f"https://{bare}"
    scheme, mark, rest = bare.partition("://")
    scheme = scheme.lower()
    if (right := meant(bare)) and not Path(bare).exists():
        raise UserError(shown(text), "is no address of a bucket", f"write {shown(right)}")
    if not mark or not re.fullmatch(r"[a-z][\w+.-]*", scheme):
        return text
    if scheme == "file":
        return _file(text, rest)
    if opening.is_bucket(bare):
        return opening.canonical(bare)
    if scheme not in ("https", "http"):
        what, fix = _ELSEWHERE.get(scheme, (f"is an address of an unknown kind, {scheme}://", "download it first and give the file"))
        raise UserError(shown(text), what, fix)
    host, tail = cut(rest)
    found = _kaggle(rest) if host.lower() in HOSTS else ""
    if host.lower() in HOSTS and not found and not tail.startswith("/api/"):
        _not_on_kaggle(shown(text))
    return found or f"{scheme}://{rest}"


def shown(text: str) -> str:
    """An address as people may read it, also one that is not valid: without user info and the values of unknown parameters.

    What is no web address is given back as it is, but for addresses within it.
    """
    match = _ADDRESS.match(text)
    return public(match.group().strip(), text[match.end() :].strip()) if match else hidden(text)


def identity(text: str) -> str:
    """What tells a source from others: the same for an address that was signed anew, and for its own result.

    What `shown` hides is left out where it is part of a signature, and a short hash elsewhere. What is no web address is
    given back as it is.
    """
    if not _ADDRESS.match(text) or _OBJECTS.fullmatch(text):
        return text
    start, host, path, query, fragment = _split(text)
    path = MATRIX.sub(lambda match: "".join(f";{text}" for text in _compared([parameter(match[1])])), hidden(path))
    return joined(start.lower() + host.lower() + path, _compared(query), fragment.lower() if CHECKSUM.fullmatch(fragment) else "")


def _compared(pairs: list[tuple[str, str]]) -> list[str]:
    made = []
    for name, value in pairs:
        if is_plain(name, value) or _HASHED.fullmatch(value):
            made.append(f"{name}={value}" if name else value)
        elif not _SIGNATURE.fullmatch(urllib.parse.unquote(name)):
            hashed = f"sha256:{hashlib.sha256(value.encode('utf-8', 'surrogateescape')).hexdigest()[:12]}"
            made.append(f"{name}={hashed}" if name else hashed)
    return made


def last_part(text: str) -> str:
    """The last part of an address's path without parameters, or of a path: what a file of no other name is called."""
    if not _ADDRESS.match(text) or _OBJECTS.fullmatch(text):
        return Path(text).name
    return urllib.parse.unquote(MATRIX.sub("", _split(text)[2])).rstrip("/").rpartition("/")[2]


def valid(url: str) -> urllib.parse.SplitResult:
    """The parts of a web address that can be asked for.

    Raises:
        UserError: it cannot.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        if parts.hostname and parts.port != 0 and re.fullmatch(r"[!-~]+", url):
            return parts
    except ValueError:
        pass
    fix = "write %2F for /, %3F for ? and %23 for # in a password" if "@" in url else "write https://host/file.zip, with %20 for a space"
    raise UserError(shown(url), "is not a valid web address", fix)


def checksum(text: str) -> str:
    """The SHA-256 that an address asks for; empty where it asks for none.

    Raises:
        UserError: something else follows the `#`.
    """
    fragment = text.partition("#")[2]
    if fragment and not CHECKSUM.fullmatch(fragment):
        fix = "write %23 for # in a password" if "@" in fragment else "write #sha256= and 64 hexadecimal digits"
        raise UserError(shown(text), "what follows # is not a valid checksum", fix)
    return fragment.partition("=")[2].lower()


def credentials(url: str) -> tuple[str, str]:
    """A valid address without its user info, and the Authorization header that says the same; empty where there is none."""
    netloc = urllib.parse.urlsplit(url).netloc
    user, at, host = netloc.rpartition("@")
    if not at:
        return url, ""
    name, _, password = user.partition(":")
    pair = urllib.parse.unquote_to_bytes(name) + b":" + urllib.parse.unquote_to_bytes(password)
    return url.replace(netloc, host, 1), f"Basic {base64.b64encode(pair).decode()}"


def redacted(words: str, *urls: str) -> str:
    """What a server says, without the secrets of the addresses that were asked, in whatever way it writes them."""
    found = {form for url in urls for secret in _secrets(url) for form in _forms(secret)} - {""}
    if not found:
        return words
    return re.sub("|".join(map(re.escape, sorted(found, key=len, reverse=True))), "...", words, flags=re.I)


def _secrets(url: str) -> Iterator[str]:
    netloc = urllib.parse.urlsplit(url).netloc
    user, _, path, query, _ = netloc.rpartition("@")[0], *_split(url)[1:]
    yield from user.split(":", 1)
    yield from (value for name, value in [*query, *map(parameter, MATRIX.findall(path))] if not is_plain(name, value))
    pair = credentials(url)[1].removeprefix("Basic ")
    yield from (pair, pair.rstrip("="))


def _forms(secret: str) -> Iterator[str]:
    unquoted = urllib.parse.unquote(secret)
    for plain in (unquoted, unquoted.replace("+", " "), urllib.parse.unquote_plus(secret)):
        for form in (secret, plain, urllib.parse.quote(plain), urllib.parse.quote(plain, safe="")):
            yield from (form, form.replace("/", "\\/"), html.escape(form))


def _split(text: str) -> Parts:
    text = text.strip()
    match = _ADDRESS.match(text)
    start = match.group() if match else ""
    return split(start, text[len(start) :])


def _file(text: str, rest: str) -> str:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise UserError(shown(text), "is a file of another machine", "give its path on this one")
    return "/" + urllib.parse.unquote(path)


def _kaggle(text: str) -> str:
    """The canonical text of a name on Kaggle, or of a page's address; empty where it is neither."""
    path, _, query = re.sub(r"^https?://", "", text, flags=re.I).partition("#")[0].partition("?")
    host, _, page = path.partition("/")
    forms, path = (_PAGES, page) if host.lower() in HOSTS else (_PAGES + _SHORT, path)
    match = next((found for form in forms if (found := form.fullmatch(path.strip("/")))), None)
    if match is None:
        return ""
    groups = match.groupdict()
    if "competition" in groups:
        return f"kaggle:competition/{groups['competition']}"
    asked = dict(urllib.parse.parse_qsl(query)).get("datasetVersionNumber", "")
    version = groups["version"] or (asked if asked.isdecimal() else "")
    return f"kaggle:{groups['owner']}/{groups['name']}" + (f"/versions/{int(version)}" if version else "")


def _not_on_kaggle(where: str) -> NoReturn:
    raise UserError(where, "names no data set or competition on Kaggle", "write kaggle:owner/dataset or kaggle:competition/NAME")
