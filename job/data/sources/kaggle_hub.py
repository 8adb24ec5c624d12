"""A data set or a competition of Kaggle, through Kaggle's own package: `kaggle:owner/dataset`, `kaggle:competition/NAME`.

The package retries and resumes; it checks no content, prints at will and leaves through SystemExit. Here its words
are kept from the terminal, its faults are worded, and what it brought is tested before anyone reads it.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from job.console import console
from job.errors import JobError, MachineError, UserError
from job.storage import local

TIMEOUT = 60.0  # seconds without a byte
_TEXT = re.compile(r"kaggle:([\w-]+)/([\w-]+)")
_TOKEN = "make a token on kaggle.com under Settings, API, and put it in KAGGLE_API_TOKEN, ~/.kaggle/access_token or kaggle.json"
_AGAIN = "run the same command again: the download goes on where it stopped"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)  # RuntimeError: a bit flipped in a header


def download(text: str, scratch: Path) -> Path:
    """Fetch the archive of a data set or a competition into `scratch`, or find it there.

    Raises:
        UserError: the text, the package, the token or its rights are not in order, or the archive is damaged.
        MachineError: Kaggle or the network stays away, or the disk is too small.
    """
    match = _TEXT.fullmatch(text)
    if not match:
        raise UserError(text, "names nothing on Kaggle", "write kaggle:owner/dataset or kaggle:competition/NAME")
    owner, name = match.groups()
    target = scratch / "kaggle" / owner / f"{name}.zip"  # the owner's folder tells equal names apart
    if target.exists() and not _marker(target).exists():
        if _is_whole(target):
            console.log(f"{text} was downloaded before: SHA-256 {local.sha256_of(target)}")
            return target
        target.unlink()
    local.make_folder(target.parent)
    console.log(f"downloading {text}")
    _fetch(text, owner, name, target)
    if not target.exists():
        raise MachineError(text, "Kaggle sent no zip archive", f"download it by hand from {_page(owner, name)} and give the file")
    if not _is_whole(target):
        _discard(target)
        raise UserError(text, "the archive is damaged and was deleted", "download it again with the same command")
    console.log(f"downloaded {local.size(target.stat().st_size)}, SHA-256 {local.sha256_of(target)}")
    return target


def _fetch(text: str, owner: str, name: str, target: Path) -> None:
    with _kept_quiet():
        package = _package(text)
        import requests
        import urllib3

        with _bounded(requests.Session):
            try:
                api = _signed_in(text, package)
                _check_space_in(api)
                if owner == "competition":
                    api.competition_download_files(name, path=str(target.parent), quiet=True)
                else:
                    api.dataset_download_files(f"{owner}/{name}", path=str(target.parent), quiet=True)
            except requests.HTTPError as error:
                raise _refusal(text, owner, name, error.response.status_code if error.response is not None else 0) from None
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise MachineError(text, f"Kaggle can't be reached ({type(error).__name__})", f"check the network and {_AGAIN}") from None
            except ValueError:  # its word for another size; a retry may have written an error page into the file
                _discard(target)
                raise MachineError(text, "what Kaggle sent has not the size that it announced", "run the same command again") from None


def _package(text: str) -> Any:
    try:
        import requests

        with _bounded(requests.Session):
            from kaggle import KaggleApi  # it signs in on import, so not before it is needed
    except ImportError:
        raise UserError(text, "the kaggle package is not installed", "run: pip install 'twofold[kaggle]'") from None
    except OSError as error:
        what = f"the kaggle package can't make its folder {error.filename}"
        raise UserError(text, what, "set KAGGLE_CONFIG_DIR to a folder that can be written") from None
    return KaggleApi


def _signed_in(text: str, package: Any) -> Any:
    """Kaggle's client with the user's credentials; without any it would go out all the same, as nobody."""
    import requests
    from kagglesdk.kaggle_env import get_access_token_from_env

    api = package()
    try:
        token, _ = get_access_token_from_env()
        with suppress(SystemExit):
            api.authenticate()
    except requests.RequestException:
        raise
    except (OSError, ValueError):  # their words hold the token
        raise UserError(text, "the Kaggle token can't be read, or holds a stray character", _TOKEN) from None
    values = api.config_values
    if values.get(api.CONFIG_NAME_TOKEN) or (values.get(api.CONFIG_NAME_USER) and values.get(api.CONFIG_NAME_KEY)):
        return api
    if token:
        raise UserError(text, "Kaggle refuses the token", _TOKEN)
    raise UserError(text, "no Kaggle credentials found", _TOKEN)


def _check_space_in(api: Any) -> None:
    """Have the client look for room before it writes: the size is known only then."""
    fetch = api.download_file

    def checked(response: Any, outfile: str, *rest: Any) -> None:
        path = Path(outfile)
        have = path.stat().st_size if path.exists() else 0
        local.require_space(path.parent, int(response.headers.get("Content-Length") or 0) - have, "the download")
        fetch(response, outfile, *rest)

    api.download_file = checked


def _refusal(text: str, owner: str, name: str, status: int) -> JobError:
    page = _page(owner, name)
    if status == 401:
        return UserError(text, "Kaggle refuses the credentials (401)", _TOKEN)
    if status == 403 and owner == "competition":
        return UserError(text, "Kaggle wants its rules accepted first (403)", f"open {page}/rules and accept")
    if status in (403, 404):
        return UserError(text, f"Kaggle shows your account nothing of this name ({status})", f"check that {page} opens")
    if status == 429 or status >= 500:
        return MachineError(text, f"Kaggle answers {status}", f"wait a while and {_AGAIN}")
    return UserError(text, f"Kaggle refuses the request ({status})", f"check that {page} opens")


def _page(owner: str, name: str) -> str:
    return f"https://www.kaggle.com/competitions/{name}" if owner == "competition" else f"https://www.kaggle.com/datasets/{owner}/{name}"


def _marker(target: Path) -> Path:
    """What the kaggle package keeps beside a download that has not ended."""
    return target.with_name(target.name + ".kaggle-partial")


def _discard(target: Path) -> None:
    target.unlink(missing_ok=True)
    _marker(target).unlink(missing_ok=True)


def _is_whole(target: Path) -> bool:
    try:
        with zipfile.ZipFile(target) as archive:
            return archive.testzip() is None
    except _DAMAGE:
        return False


@contextmanager
def _kept_quiet() -> Iterator[None]:
    stdin, sys.stdin = sys.stdin, io.StringIO()  # exit(), which the package calls, closes it
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        sys.stdin = stdin


@contextmanager
def _bounded(session: Any) -> Iterator[None]:
    """The package waits for ever on a connection gone silent, and leaves those that failed open: bound both."""
    send, answers = session.send, []

    def limited(self: Any, request: Any, **options: Any) -> Any:
        answers.append(send(self, request, **{**options, "timeout": options.get("timeout") or TIMEOUT}))
        return answers[-1]

    session.send = limited
    try:
        yield
    finally:
        session.send = send
        for answer in answers:
            answer.close()
