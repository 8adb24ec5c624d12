"""A bucket of S3, or of a store that speaks as S3 does, over boto3."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from job.errors import MachineError, UserError
from job.storage import transfer
from job.storage.bucket import Conflict, Missing, Stat, Unavailable

LOG_IN = "run aws sso login, set AWS_PROFILE, or attach a role (IRSA)"

_PASSING = (  # whatever their status
    "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded", "InternalError", "ServiceUnavailable",
    "OperationAborted", "ConditionalRequestConflict", "IncompleteBody",
)  # fmt: skip
_WRONG_HASH = ("BadDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch", "InvalidDigest")
_CREDENTIALS = (
    "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken", "InvalidAccessKeyId", "SignatureDoesNotMatch",
    "UnrecognizedClientException", "InvalidClientTokenId",
)  # fmt: skip
_REGION = ("PermanentRedirect", "TemporaryRedirect", "Redirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException")
_PERMISSIONS = {"read": "s3:GetObject", "write": "s3:PutObject", "delete": "s3:DeleteObject", "list": "s3:ListBucket"}
_MD5 = re.compile("[0-9a-f]{32}")
_TAGGED = ("head_object", "get_object", "put_object")  # operations whose answer has the version


class S3Bucket:
    """Versions are ETags: equal bytes have equal ones, so that a version says what is there and not who wrote it."""

    def __init__(self, bucket: str, prefix: str) -> None:
        import boto3  # noqa: F401  where it is not installed, it is better known now

        self._bucket, self._start = bucket, f"{prefix}/" if prefix else ""
        self.address = f"s3://{bucket}/{prefix}".rstrip("/")
        self._lock = threading.Lock()
        self._made: Any = None
        self._anonymous = False
        self._seen = False  # whether the bucket is known to exist

    def stat(self, name: str) -> Stat | None:
        try:
            found = self._call("read", name, "head_object", Key=self._start + name)
        except Missing:
            if not self._seen:  # the answer to HEAD has no body that would tell a missing bucket from a missing object
                self._call("list", "", "list_objects_v2", MaxKeys=1, Prefix=self._start)
            return None
        return Stat(name, found["ContentLength"], _bare(found["ETag"]), found["Metadata"].get("sha256", ""))

    def read(self, name: str, start: int = 0, length: int | None = None, version: str = "") -> bytes:
        if length == 0:
            return b""
        asked = transfer.range_header(start, length)
        try:
            found = self._get(name, version, asked)
        except _PastEnd:
            return b""
        with found["Body"] as raw:
            if asked:
                transfer.check_range(found.get("ContentRange", ""), start, length)
            content = b"".join(transfer.pieces(raw, found["ContentLength"]))
        if not asked:
            _check(found, hashlib.sha256(content).hexdigest(), lambda: _md5(io.BytesIO(content)))
        return content

    def fetch(self, name: str, path: Path, version: str = "") -> Stat:
        found = self._get(name, version, {})
        with found["Body"] as raw, transfer.arriving(path) as file:
            sha256 = hashlib.sha256()
            for piece in transfer.pieces(raw, found["ContentLength"]):
                sha256.update(piece)
                file.write(piece)
            file.seek(0)
            _check(found, sha256.hexdigest(), lambda: _md5(file))
        return Stat(name, found["ContentLength"], _bare(found["ETag"]), found["Metadata"].get("sha256", ""))

    def put(self, name: str, content: bytes | Path, sha256: str = "") -> str:
        return self._write(name, content, sha256, IfNoneMatch="*")

    def replace(self, name: str, content: bytes | Path, version: str, sha256: str = "") -> str:
        return self._write(name, content, sha256, IfMatch=f'"{version}"')

    def delete(self, name: str, version: str) -> None:
        try:
            self._call("delete", name, "delete_object", Key=self._start + name, IfMatch=f'"{version}"')
        except Missing:
            pass
        except Conflict:  # some stores say so of an object that is gone
            if self.stat(name) is not None:
                raise

    def list(self, prefix: str = "", after: str = "") -> Iterator[Stat]:
        asked: dict[str, Any] = {"Prefix": self._start + prefix, "MaxKeys": transfer.PAGE}
        if after:
            asked["StartAfter"] = self._start + after
        while True:
            found = self._call("list", prefix, "list_objects_v2", **asked)
            for item in found.get("Contents", ()):
                name = item["Key"][len(self._start) :]
                if name:
                    yield Stat(name, item["Size"], _bare(item["ETag"]))
            if not found.get("IsTruncated"):
                return
            asked["ContinuationToken"] = found["NextContinuationToken"]

    def _get(self, name: str, version: str, asked: dict[str, str]) -> Any:
        pinned = {"IfMatch": f'"{version}"'} if version else {}
        try:
            return self._call("read", name, "get_object", Key=self._start + name, **pinned, **asked)
        except Conflict:
            raise Missing from None

    def _write(self, name: str, content: bytes | Path, sha256: str, **condition: str) -> str:
        sha256 = sha256 or transfer.hash_of(content)
        with transfer.Outgoing(content) as outgoing:
            # what is small goes along with the header; what is not waits for the store's word that it may
            body = outgoing if len(outgoing) > transfer.SENT_PIECE else outgoing.read()
            try:
                written = self._call(
                    "write", name, "put_object", Key=self._start + name, Body=body, ContentLength=len(outgoing),
                    Metadata={"sha256": sha256}, ChecksumSHA256=base64.b64encode(bytes.fromhex(sha256)).decode(), **condition,
                )  # fmt: skip
            except Unavailable:
                if outgoing.failed is not None:
                    raise outgoing.failed from None
                raise
            except Missing:  # what was to be replaced
                raise Conflict from None
        return _bare(written["ETag"])

    def _call(self, verb: str, name: str, operation: str, **arguments: Any) -> Any:
        import botocore.exceptions as errors
        from botocore.parsers import ResponseParserError

        try:
            answer = getattr(self._client(), operation)(Bucket=self._bucket, **arguments)
        except errors.ClientError as error:
            if error.operation_name.startswith("AssumeRole"):
                raise UserError(self.address, f"cannot {verb}: the role cannot be assumed ({_line(str(error))})", LOG_IN) from error
            raise self._error(verb, name, error.response) from error
        except ResponseParserError as error:
            raise Unavailable("unreadable answer") from error
        except (errors.ConnectionError, errors.HTTPClientError) as error:
            raise Unavailable(transfer.fault(error, self.address)) from error
        except (errors.MetadataRetrievalError, errors.CredentialRetrievalError) as error:
            raise Unavailable("no credentials yet: their source does not answer") from error
        except (errors.NoCredentialsError, errors.PartialCredentialsError, errors.SSOError, errors.TokenRetrievalError) as error:
            raise UserError(self.address, f"cannot {verb}: the credentials are missing or expired", LOG_IN) from error
        except (errors.BotoCoreError, ValueError) as error:
            raise UserError(self.address, f"cannot {verb}: {_line(str(error))}", "correct the address or the AWS settings") from error
        self._seen = True
        if operation in _TAGGED and "ETag" not in answer:  # seen after a process slept for minutes, with another answer's body
            with self._lock:
                self._made = None  # its connections too
            raise Unavailable("unreadable answer")
        return answer

    def _error(self, verb: str, name: str, answer: Any) -> Exception:
        """What an answer that is no success means."""
        where = f"{self.address}/{name}".rstrip("/")
        code, message = answer["Error"].get("Code", ""), _line(answer["Error"].get("Message", ""))
        metadata = answer["ResponseMetadata"]
        number, headers = metadata.get("HTTPStatusCode", 0), metadata.get("HTTPHeaders", {})
        if code in _WRONG_HASH:
            return Unavailable(transfer.WRONG_HASH)
        if transfer.passes(number) or code in _PASSING:
            return Unavailable(transfer.status(number) if transfer.passes(number) else code, transfer.retry_after(headers))
        if code == "NoSuchBucket":
            return UserError(f"s3://{self._bucket}", "the bucket does not exist", "correct the name or create it first")
        if number == 404:
            return Missing()
        if number == 412:
            return Conflict()
        if number == 416:
            return _PastEnd()
        if code == "RequestTimeTooSkewed":
            return MachineError(where, f"cannot {verb}: the clock of this machine is wrong", "set it and rerun")
        if code in _REGION or number in (301, 307):
            return UserError(where, f"cannot {verb}: the bucket is in another region", "set AWS_REGION to the region of the bucket")
        if number in (401, 403) and self._anonymous:
            return UserError(self.address, f"cannot {verb}: no credentials were found", LOG_IN)
        if code in _CREDENTIALS or number == 401:
            return UserError(self.address, f"cannot {verb}: the credentials were refused ({code})", LOG_IN)
        if number == 403:
            also = ", or an access key that the store does not know" if code == "403" else ""  # no body said which
            return UserError(self.address, f"cannot {verb}: permission denied{also}", f"allow {_PERMISSIONS[verb]} on s3://{self._bucket}")
        return UserError(
            where, f"cannot {verb}: {transfer.status(number)} ({message})", "correct the address or the settings of the bucket"
        )

    def _client(self) -> Any:
        """One client, made at the first request: looking for credentials may take requests itself."""
        with self._lock:
            if self._made is None:
                self._made = self._connect()
            return self._made

    def _connect(self) -> Any:
        import boto3
        from botocore import UNSIGNED
        from botocore.config import Config

        session = boto3.Session()
        self._anonymous = session.get_credentials() is None
        config = Config(
            connect_timeout=transfer.CONNECT_SECONDS, read_timeout=transfer.READ_SECONDS, tcp_keepalive=True,
            max_pool_connections=transfer.CONNECTIONS, retries={"mode": "standard", "total_max_attempts": 1},
            signature_version=UNSIGNED if self._anonymous else None,
            # hashes of ours are sent and checked; those that boto3 would add by itself are not understood by every store
            request_checksum_calculation="when_required", response_checksum_validation="when_required",
        )  # fmt: skip
        return session.client("s3", config=config)


class _PastEnd(Exception):
    """The object ends before what was asked for."""


def _check(answer: Any, sha256: str, md5: Callable[[], str]) -> None:
    """Hold a whole object to what its writer noted of it; where it is another, or nothing is noted, to what the store knows.

    What is stored otherwise than its writer meant is no fault of the way: it arrives, and who knows better refuses it. The ETag
    is the MD5 of what was put in one piece, except where it is encrypted with a key of the user's.
    """
    noted = answer["Metadata"].get("sha256", "")
    if sha256 == noted:
        return
    etag = _bare(answer["ETag"])
    known = _MD5.fullmatch(etag) and answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer
    if (known and md5() != etag) or (noted and not known):
        raise Unavailable(transfer.WRONG_HASH)


def _md5(file: io.BufferedRandom | io.BytesIO) -> str:
    return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _bare(etag: str) -> str:
    return etag.strip('"')


def _line(text: str) -> str:
    return " ".join(text.split())[:200]
