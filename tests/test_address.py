"""What addresses say: one text for each source, and no secret where others read."""

from __future__ import annotations

import errno
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from job import cli
from job.data.sources.address import canonical, credentials, identity, last_part, redacted, shown
from job.errors import MachineError, UserError, from_os_error

DATASET, COMPETITION = "kaggle:owner/some-name", "kaggle:competition/NAME"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (DATASET, DATASET),
        ("kaggle:datasets/owner/some-name", DATASET),
        ("KAGGLE:owner/some-name/", DATASET),
        ("kaggle:owner/some-name/versions/2", DATASET + "/versions/2"),
        ("kaggle:owner/some-name/versions/02/", DATASET + "/versions/2"),
        (COMPETITION, COMPETITION),
        ("kaggle:competitions/NAME/", COMPETITION),
        ("kaggle:c/NAME", COMPETITION),
        ("kaggle:https://www.kaggle.com/datasets/owner/some-name?select=x", DATASET),
        ("kaggle:www.kaggle.com/datasets/owner/some-name", DATASET),
        ("https://www.kaggle.com/datasets/owner/some-name", DATASET),
        (" HTTPS://WWW.Kaggle.com/datasets/owner/some-name/\n", DATASET),
        ("http://kaggle.com/datasets/owner/some-name/data#about", DATASET),
        ("https://www.kaggle.com/datasets/owner/some-name/discussion/12345", DATASET),
        ("https://www.kaggle.com/datasets/owner/some-name/versions/3/data", DATASET + "/versions/3"),
        ("www.kaggle.com/datasets/owner/some-name", DATASET),
        ("kaggle.com/c/NAME", COMPETITION),
        ("https://www.kaggle.com/c/NAME/data", COMPETITION),
        ("https://www.kaggle.com/competitions/NAME", COMPETITION),
        ("https://www.kaggle.com/api/v1/datasets/download/owner/some-name", DATASET),
        ("https://www.kaggle.com/api/v1/datasets/download/owner/some-name?datasetVersionNumber=4", DATASET + "/versions/4"),
        ("https://www.kaggle.com/api/v1/competitions/data/download-all/NAME", COMPETITION),
        # one file of a data set is a file of the web as any other
        ("https://www.kaggle.com/api/v1/datasets/download/owner/n/a.zip", "https://www.kaggle.com/api/v1/datasets/download/owner/n/a.zip"),
        ("www.kaggle.com/api/v1/x", "https://www.kaggle.com/api/v1/x"),
        ("HTTPS://Example.com/A.zip?B=C#d", "https://Example.com/A.zip?B=C#d"),
        ("http://127.0.0.1:8000/datasets/owner/name", "http://127.0.0.1:8000/datasets/owner/name"),
        ("https://kaggle.com.example.com/datasets/a/b", "https://kaggle.com.example.com/datasets/a/b"),
        ("file:///data/my%20pets.zip", "/data/my pets.zip"),
        ("FILE://localhost/data/pets", "/data/pets"),
        (" GS://bucket/my pets/a;b=c%20d.zip/\n", "gs://bucket/my pets/a;b=c%20d.zip"),
        ("S3://bucket/", "s3://bucket"),
        ("data/pets", "data/pets"),
        (" a folder ", " a folder "),
        ("C:\\pets", "C:\\pets"),
        ("", ""),
    ],
)
def test_one_text_for_each_source(text: str, wanted: str) -> None:
    assert canonical(text) == wanted
    assert canonical(wanted) == wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("gs://anna:s3cr3t@bucket/pets.zip", "no valid bucket name"),
        ("gs://bucket/pets.zip?token=s3cr3t", "gs://bucket/pets.zip?token=...: an address of a bucket has no ?"),
        ("s3://bucket/pets.zip#s3cr3t", "no #"),
        ("s3://", "no bucket is named"),
        ("hf://datasets/someone/pets", "hf download"),
        ("ftp://anna:s3cr3t@host/pets.zip", "ftp://host/pets.zip: is an address of an unknown kind, ftp://; download it first"),
        ("file://server/pets.zip", "is a file of another machine"),
        ("kaggle:", "kaggle:owner/dataset"),
        ("kaggle:datasets/owner", "kaggle:owner/dataset"),
        ("kaggle:competition/a/b", "kaggle:owner/dataset"),
        ("kaggle:a/b/versions/new", "kaggle:owner/dataset"),
        ("kaggle:../x", "kaggle:owner/dataset"),
        ("kaggle:https://anna:s3cr3t@example.com/a", "kaggle:https://example.com/a: names no data set"),
        ("https://www.kaggle.com/datasets/owner/name/versions/new", "kaggle:owner/dataset"),
        ("https://www.kaggle.com/code/owner/name", "kaggle:owner/dataset"),
        ("https://www.kaggle.com/code/owner/name?token=s3cr3t", "name?token=...: names no"),
        ("https://www.kaggle.com", "kaggle:owner/dataset"),
        ("www.kaggle.com/owner/name", "kaggle:owner/dataset"),
    ],
)
def test_what_is_not_read(text: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        canonical(text)
    assert words in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_called_like_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("www.kaggle.com/owner").mkdir(parents=True)
    assert canonical("www.kaggle.com/owner") == "www.kaggle.com/owner"


SHA256 = 64 * "a"


@pytest.mark.parametrize(
    ("text", "public", "compared"),
    [
        ("https://host/a.zip", "https://host/a.zip", "https://host/a.zip"),
        ("https://HOST/A.zip?download=1&ID=x-1", "https://HOST/A.zip?download=1&ID=x-1", "https://host/A.zip?download=1&ID=x-1"),
        ("https://anna:s3cr3t@host:8000/a.zip", "https://host:8000/a.zip", "https://host:8000/a.zip"),
        ("https://anna@example.com:s3cr3t@host/a", "https://host/a", "https://host/a"),
        ("https://anna:s3/c?r3#t@host/a", "https://host/a", "https://host/a"),
        ("https://anna:12/3@host/a", "https://host/a", "https://host/a"),
        ("https://anna:s3cr3t/a", "https://anna:.../a", "https://anna:.../a"),
        ("https:/anna:s3cr3t@host/a", "https:/host/a", "https:/host/a"),
        ("https://[::1/a.zip", "https://[:.../a.zip", "https://[:.../a.zip"),
        ("https://[::1]:80/a.zip", "https://[::1]:80/a.zip", "https://[::1]:80/a.zip"),
        ("https://host/@scope/a.zip", "https://host/@scope/a.zip", "https://host/@scope/a.zip"),
        ("http://127.0.0.1:80/a@1/b?id=3", "http://127.0.0.1:80/a@1/b?id=3", "http://127.0.0.1:80/a@1/b?id=3"),
        ("https://host/a?X-Amz-Signature=s3cr3t&id=1&Expires=9&AWSAccessKeyId=k", None, "https://host/a?id=1"),
        ("https://host/a?%73ig=s3cr3t", "https://host/a?%73ig=...", "https://host/a"),
        ("https://host/a?rlkey=s3cr3t&dl=1", "https://host/a?rlkey=...&dl=1", "https://host/a?rlkey=sha256:4e738ca5563c&dl=1"),
        ("https://host/a?s3cr3t==", "https://host/a?...", None),
        ("https://host/a?id=1;token=s3cr3t", "https://host/a?id=1&token=...", "https://host/a?id=1"),
        ("https://host/a?file=https%3A%2F%2Fx%3Fsig%3Ds3cr3t", "https://host/a?file=...", None),
        (f"https://host/a#sha256={SHA256}", f"https://host/a#sha256={SHA256}", f"https://host/a#sha256={SHA256}"),
        ("https://host/a#access=s3cr3t", "https://host/a#...", "https://host/a"),
        ("https://host/a.zip;token=s3cr3t", "https://host/a.zip;token=...", "https://host/a.zip"),
        ("https://host/a;v=s3cr3t/b.zip", "https://host/a;v=.../b.zip", "https://host/a;v=sha256:4e738ca5563c/b.zip"),
        ("https://host/web/https://anna:s3cr3t@other/a", "https://host/web/https://other/a", None),
        ("gs://anna:s3cr3t@bucket/a", "gs://bucket/a", "gs://bucket/a"),
        ("gs://bucket/a b@2x/c%20d", "gs://bucket/a b@2x/c%20d", "gs://bucket/a b@2x/c%20d"),
        ("s3://bucket/a;v=1/b", None, "s3://bucket/a;v=1/b"),
        ("pets?token=1", "pets?token=1", "pets?token=1"),
        ("kaggle:owner/name", "kaggle:owner/name", "kaggle:owner/name"),
        ("a@b:c/d", "a@b:c/d", "a@b:c/d"),
    ],
)
def test_what_is_shown_and_compared(text: str, public: str | None, compared: str | None) -> None:
    assert public is None or shown(text) == public
    assert compared is None or identity(text) == compared
    if public != text:
        assert "s3cr3t" not in shown(text) + identity(text)
    assert shown(shown(text)) == shown(text)
    assert identity(identity(text)) == identity(text)


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("'http://anna:s3cr3t@host/x'", "'http://host/x'"),
        ("<http://anna:s3cr3t@host/x?id=1>", "<http://host/x?id=1>"),
        ("wget http://anna:s3cr3t@host/x?sig=s3cr3t -O x", "wget http://host/x?sig=... -O x"),
        ("-http://anna:s3cr3t@host", "-http://host"),
        ("1http://anna:s3cr3t@host", "1http://host"),
        ("--data=HTTP:/anna:s3cr3t@host/x", "--data=HTTP:/host/x"),
        ("http://anna:my s3cr3t word@host/x now", "http://host/x now"),
        ("see https://host/a?id=1 https://anna:s3cr3t@host/b", "see https://host/a?id=1 https://host/b"),
        ('{"url": "https://host/a?sig=s3cr3t"}', '{"url": "https://host/a?sig=..."}'),
        ("anna:s3cr3t@host/x", "...@host/x"),
        ("anna:x@s3cr3t@host/x?token=s3cr3t", "...@host/x?token=..."),
        ("anna:s3cr3t@host:/x", "...@host:/x"),
        ("//anna:s3cr3t@host", "//...@host"),
        ("http:anna:s3cr3t@host/x", "http:host/x"),
        ("'anna:s3cr3t@127.0.0.1:80/x' is", "'...@127.0.0.1:80/x' is"),
        ("kaggle:https://anna:s3cr3t@host/x", "kaggle:https://host/x"),
        ("example.com/pets.zip?id=1&sig=s3cr3t", "example.com/pets.zip?id=1&sig=..."),
        ("127.0.0.1:80/pets.zip?sig=s3cr3t", "127.0.0.1:80/pets.zip?sig=..."),
        ("http://anna:s3cr3t", "http://anna:..."),
    ],
)
def test_no_secret_of_an_address_within_a_text(text: str, public: str) -> None:
    for kind, error in ((UserError, UserError(text, text, text)), (MachineError, MachineError(text, text, ""))):
        assert isinstance(error, kind)
        assert "s3cr3t" not in str(error)
    assert shown(text) == public
    assert shown(public) == public
    assert str(UserError(text, text, text)) == f"{public}: {public}; {public}"


@pytest.mark.parametrize(
    "text",
    [
        "runs/a:b@2x/photo.png", "C:\\pets@home", "//server/share/pets?", "a@b:c/d", "kaggle:owner/name@3", "who: a@b.org", "/a;b=c/d.png",
        "write https://host/file.zip, with %20 for a space", "ends at 12:30", "pets?token=1", "data/pets.zip;v=1", "http", "plain http: no",
        "'/data/my pets: cats, dogs' has 1:2, a=b; c", "https://...#sha256=...", "kaggle:owner/dataset, kaggle:competition/NAME or https://...",
    ],
)  # fmt: skip
def test_other_text_is_as_it_was(text: str) -> None:
    assert shown(text) == text
    assert str(UserError(text, text, "")) == f"{text}: {text}"


@given(st.text().filter(lambda text: not set("@?") & set(text) and "://" not in text and "http" not in text.lower()))
def test_text_without_an_address_is_as_it_was(text: str) -> None:
    assert shown(text) == text


@given(st.lists(st.sampled_from(["http://", "//", "a", ":", "@", "/", "?", "=", " ", "'", ";", "#", "https:", "example.com", "..."])))
def test_what_is_hidden_stays_so(words: list[str]) -> None:
    once = str(UserError("".join(words), "", ""))
    assert str(UserError(once.removesuffix(": "), "", "")) == once


def test_a_name_that_is_too_long_is_cut_behind_its_secrets() -> None:
    error = from_os_error(OSError(errno.ENAMETOOLONG, "", f"'https://anna:{50 * '1'}@host/{300 * 'x'}"))
    assert error is not None
    assert str(error).startswith("'https://host/xxx")


def test_two_hidden_values_are_two_sources() -> None:
    one, two = (identity(f"https://host/a?rlkey={value}") for value in ("one", "two"))
    assert one != two


SECRET = st.text(min_size=6, max_size=40).filter(lambda text: text.isprintable() and not text.isspace())
NAME = st.from_regex(r"[A-Za-z][A-Za-z0-9_.-]{0,12}", fullmatch=True)
PLAIN = ("id", "download", "dl", "format", "file", "filename", "name", "version", "export", "confirm", "raw", "ref", "path")


@given(secret=SECRET, name=NAME, quote=st.booleans(), place=st.sampled_from(["password", "user", "value", "lone", "fragment"]))
@example(secret="s3/c@r3#t?", name="x", quote=False, place="password")
def test_no_secret_is_shown_or_kept(secret: str, name: str, quote: bool, place: str) -> None:
    if not quote:  # then it may end its part of the address, and what follows is another
        assume(place == "password" or not set(secret) & set("&;#@/?=") or place == "fragment")
        # a password before the end of the host is none: https://anna:a@example.com/d@host/ goes to example.com
        assume(place != "password" or "@" not in secret)
    assume(name.lower() not in PLAIN and secret.lower() not in PLAIN)
    written = urllib.parse.quote(secret, safe="") if quote else secret
    text = {
        "password": f"https://anna:{written}@example.com/pets.zip?id=7",
        "user": f"https://{written}@example.com/pets.zip",
        "value": f"https://example.com/pets.zip?id=7&{name}={written}&dl=1",
        "lone": f"https://example.com/pets.zip?{written}",
        "fragment": f"https://example.com/pets.zip#{name}={written}",
    }[place]
    rest = "https://example.com/pets.zip?id=7&&dl=1#sha256:0123456789abcdef" + name
    for made in (shown(text), identity(text)):
        for form in (secret, written):
            assert form not in made or form in rest or form.strip("0123456789abcdef") == ""
        assert made.startswith("https://example.com/pets.zip")
    assert identity(identity(text)) == identity(text)
    assert shown(identity(text)) == shown(text) or place != "user"


@given(st.text())
def test_any_text_has_a_form(text: str) -> None:
    for start in ("", "https://", "https:/", "kaggle:", "https://a:b@"):
        shown(start + text)
        identity(start + text)
        last_part(start + text)


@given(user=st.text(max_size=20), password=st.text(max_size=20))
def test_user_info_becomes_a_header(user: str, password: str) -> None:
    import base64

    quoted = urllib.parse.quote(user, safe=""), urllib.parse.quote(password, safe="")
    bare, header = credentials(f"https://{quoted[0]}:{quoted[1]}@host/a@b?c@d")
    assert bare == "https://host/a@b?c@d"
    assert base64.b64decode(header.removeprefix("Basic ")).decode() == f"{user}:{password}"
    assert credentials(bare) == (bare, "")


def test_last_part() -> None:
    assert last_part("https://host/a/my%20pets.zip?sig=s3cr3t#x") == "my pets.zip"
    assert last_part("https://host/a;v=1/pets.zip;token=s3cr3t") == "pets.zip"
    assert last_part("https://host") == ""
    assert last_part("data/pets/") == "pets"
    assert last_part("gs://bucket/a/my%20pets;v=1.zip") == "my%20pets;v=1.zip"


def test_what_a_server_repeats() -> None:
    url = "https://anna:s3%2Ft@host/a?token=T&id=7"
    assert redacted("anna s3/t s3%2Ft 7", url) == "... ... ... 7"
    assert redacted("s3%2ft s3\\/t YW5uYTpzMy90 t", url) == "... ... ... ..."
    assert redacted("a+b=% a%2Bb%3D%25 TWO anna", "https://host/?sig=a%2Bb%3D%25", "https://host/a;k=two", url) == "... ... ... ..."
    assert redacted("a", "https://host/b") == "a"


@pytest.mark.parametrize(
    "words", [(), ("train",), ("train", "--epochs"), ("prepare", "x", "--test"), ("smoke", "--data"), ("prepare", "--out")]
)
def test_an_address_in_the_wrong_place_of_a_command(words: tuple[str, ...], capfd: pytest.CaptureFixture[str]) -> None:
    assert cli._main([*words, "https://anna:s3cr3t@host/a.zip?sig=s3cr3t"]) == 2
    said = "".join(capfd.readouterr())
    assert said.startswith("twofold: ")
    assert "s3cr3t" not in said
