"""A data set or a competition of Kaggle: `kaggle:owner/dataset`, `kaggle:owner/dataset/versions/2`, `kaggle:competition/NAME`.

Kaggle's own package signs in and asks where the archive is; it prints at will, waits for ever and leaves through
SystemExit, so it is kept from the terminal and asked in a thread. The archive itself comes as any other from the web,
resumed and stoppable, and is tested before anyone reads it.
"""

from __future__ import annotations

import io
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from job.console import console
from job.data.sources import web
from job.data.sources.address import canonical
from job.errors import JobError, MachineError, UserError
from job.shutdown import Stop
from job.storage import local

TIMEOUT = 60.0  # seconds without an answer
_TOKEN = "make a token on kaggle.com under Settings, API, and put it in KAGGLE_API_TOKEN, ~/.kaggle/access_token or kaggle.json"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError)  # RuntimeError: a bit flipped in a header


def download(text: str, scratch: Path, stop: Stop) -> Path:
    """Fetch the archive of a data set or a competition into `scratch`, or find it there.

    Raises:
        UserError: the text, the package, the token or its rights are not in order, or the archive is corrupt.
        MachineError: Kaggle or the network does not answer, or the disk is too small.
        Interrupted: `stop` was set; the same call resumes.
    """
    text = canonical(text)
    owner, name, *version = text.removeprefix("kaggle:").split("/")  # `versions` and a number, or nothing
    target = scratch / "kaggle" / Path(owner, *version, f"{name}.zip")  # the folders tell equal names apart
    if target.exists():
        if _is_whole(target):
            console.log(f"{text} is already downloaded: SHA-256 {local.sha256_of(target)}")
            return target
        target.unlink()
    local.make_folder(target.parent)
    console.log(f"downloading {text}")
    part = target.with_name(f"{name}.zip.part")
    web.fetch(_address(text, owner, name, version[-1] if version else "", stop), part, text, stop)
    if not _is_whole(part):
        web.discard(part)
        raise UserError(text, "the archive is corrupt and was deleted", "rerun to download it again")
    console.log(f"downloaded {local.size(part.stat().st_size)}, SHA-256 {local.sha256_of(part)}")
    local.rename(part, target)
    web.discard(part)
    return target


def _address(text: str, owner: str, name: str, version: str, stop: Stop) -> str:
    """Where the archive is, as Kaggle tells it to this user; the address is signed, so it is for no eye."""
    if find_spec("kaggle") is None:
        raise UserError(text, "the kaggle package is not installed", "run: pip install 'twofold[kaggle]'")
    import requests
    import urllib3

    with _kept_quiet():
        try:
            with closing(web.watched(lambda: [_ask(text, owner, name, version)], stop, TIMEOUT)) as asked:
                hops = next(asked)
        except requests.HTTPError as error:
            status = error.response.status_code if error.response is not None else 0
            raise _refusal(text, owner, name, status) from None
        except (requests.RequestException, urllib3.exceptions.HTTPError, TimeoutError) as error:
            what = f"Kaggle cannot be reached ({type(error).__name__})"
            raise MachineError(text, what, "check the network and rerun to resume") from None
    for old, new in pairwise(hops):
        web.refuse_downgrade(text, old, new)
    if owner == "competition" and not hops[-1].partition("?")[0].endswith(".zip"):
        raise MachineError(text, "Kaggle sent no zip archive", f"download it by hand from {_page(owner, name)} and give the file")
    return hops[-1]


def _ask(text: str, owner: str, name: str, version: str) -> list[str]:
    """The addresses that lead to the archive: those of the answer that Kaggle's client would download itself."""
    try:
        from kaggle.api.kaggle_api_extended import KaggleApi  # the package goes to the network as soon as it is imported
    except OSError as error:
        what = f"the kaggle package cannot make its folder {error.filename}"
        raise UserError(text, what, "set KAGGLE_CONFIG_DIR to a folder that can be written") from None
    api = _signed_in(text, KaggleApi)
    answers: list[Any] = []
    api.download_file = lambda response, *_: answers.append(response)
    if owner == "competition":
        api.competition_download_files(name, path="", force=True)
    else:
        api.dataset_download_files(f"{owner}/{name}" + (f"/{version}" if version else ""), path="", force=True)
    with answers[0] as answer:
        return [hop.url for hop in (*answer.history, answer)]


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
        raise UserError(text, "the Kaggle token cannot be read, or holds a stray character", _TOKEN) from None
    values = api.config_values
    if values.get(api.CONFIG_NAME_TOKEN) or (values.get(api.CONFIG_NAME_USER) and values.get(api.CONFIG_NAME_KEY)):
        return api
    if token:
        raise UserError(text, "Kaggle refuses the token", _TOKEN)
    raise UserError(text, "no Kaggle credentials found", _TOKEN)


def _refusal(text: str, owner: str, name: str, status: int) -> JobError:
    page = _page(owner, name)
    if status == 401:
        return UserError(text, "Kaggle refuses the credentials (401)", _TOKEN)
    if status == 403 and owner == "competition":
        return UserError(text, "Kaggle wants its rules accepted first (403)", f"open {page}/rules and accept")
    if status in (403, 404):
        return UserError(text, f"Kaggle shows your account nothing of this name ({status})", f"check that {page} opens")
    if status == 429 or status >= 500:
        return MachineError(text, f"Kaggle answers {status}", "wait a while and rerun to resume")
    return UserError(text, f"Kaggle refuses the request ({status})", f"check that {page} opens")


def _page(owner: str, name: str) -> str:
    return f"https://www.kaggle.com/competitions/{name}" if owner == "competition" else f"https://www.kaggle.com/datasets/{owner}/{name}"


def _is_whole(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
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
