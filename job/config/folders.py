"""Folders as options name them, on this machine or in a bucket. A slip in the address of a bucket must not make a local folder."""

from __future__ import annotations

import re

from job.errors import UserError

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.I)
_BUCKET = re.compile(r"(?:gs|s3)://", re.I)
_SLIPS = (  # what a bucket's address is mistaken for: its scheme, then what follows `://`
    (re.compile(r"(?:gs|gcs)(?::/*|//+)(?P<rest>.*)", re.I | re.S), "gs"),
    (re.compile(r"(?:s3[an]?)(?::/*|//+)(?P<rest>.*)", re.I | re.S), "s3"),
    (re.compile(r"arn:aws:s3:::(?P<rest>.*)", re.I | re.S), "s3"),
)
_PAGES = (  # as consoles and browsers show them
    (re.compile(r"https?://(?:storage\.googleapis\.com|storage\.cloud\.google\.com)/(?P<rest>[^?#]*)(?:[?#].*)?", re.I), "gs"),
    (re.compile(r"https?://console\.cloud\.google\.com/storage/browser/(?P<rest>[^?#;]*)(?:[?#;].*)?", re.I), "gs"),
    (re.compile(r"https?://(?P<bucket>[^/?#]+)\.storage\.googleapis\.com/?(?P<rest>[^?#]*)(?:[?#].*)?", re.I), "gs"),
    (re.compile(r"https?://s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com/(?P<rest>[^?#]*)(?:[?#].*)?", re.I), "s3"),
    (re.compile(r"https?://(?P<bucket>[^/?#]+)\.s3(?:[.-][a-z0-9-]+)?\.amazonaws\.com/?(?P<rest>[^?#]*)(?:[?#].*)?", re.I), "s3"),
)


def meant(text: str, patterns: tuple[tuple[re.Pattern[str], str], ...] = _SLIPS) -> str:
    """The address of a bucket that was mistyped so; empty where the text is one, or is nothing like one."""
    if _BUCKET.match(text):
        return ""
    for pattern, scheme in patterns:
        if found := pattern.fullmatch(text.strip()):
            parts = [part.strip("/") for part in found.groups()]  # the bucket, where it stands in the host, then the rest
            return f"{scheme}://" + ("/".join(filter(None, parts)) or "BUCKET/PREFIX")
    return ""


def refuse_slip(text: str, where: str) -> None:
    """Refuse what was meant as the address of a bucket.

    Args:
        where: the option or argument, for the error.

    Raises:
        UserError: it proposes the right one.
    """
    if right := meant(text):
        raise UserError(where, f"{text!r} is no address of a bucket", f"write {right}")


def folder_or_bucket(text: str, where: str) -> None:
    """Refuse what names neither a folder of this machine nor one of a bucket.

    Raises:
        UserError: it is an address of another kind.
    """
    if _BUCKET.match(text):
        return
    refuse_slip(text, where)
    if _ADDRESS.match(text):
        right = meant(text, _PAGES)
        fix = f"write {right}" if right else "name a folder, gs://BUCKET/PREFIX or s3://BUCKET/PREFIX"
        raise UserError(where, f"{text} is an address of another kind, to which nothing can be written", fix)


def folder(text: str, where: str) -> None:
    """Refuse what names no path of this machine.

    Raises:
        UserError: it is an address.
    """
    refuse_slip(text, where)
    if _ADDRESS.match(text):
        raise UserError(where, f"{text} is an address, and this stays on this machine", "name a path of this machine")
