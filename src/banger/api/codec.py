"""JSON of the contract: the one module that knows how msgspec encodes and decodes it."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeVar

import msgspec

from ..model.errors import BadRequest, BadVersion, BangerError, from_code
from .messages import Request
from .types import ErrorBody

R = TypeVar("R", bound=Request)

_encoder = msgspec.json.Encoder()


@cache
def _decoder(kind: Any) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def encode(value: object) -> bytes:
    """``value`` (a request, a reply or a record of the model) as JSON."""
    return _encoder.encode(value)


def raw(value: object) -> msgspec.Raw:
    """``value`` as JSON that can be put into another value without encoding it twice."""
    return msgspec.Raw(encode(value))


def encode_line(value: object) -> bytes:
    """``value`` as one line of NDJSON."""
    return _encoder.encode(value) + b"\n"


def decode_request(kind: type[R], untrusted: bytes) -> R:
    """The request in this body; an empty body stands for ``{}``. Raises BadRequest naming the first field that is wrong."""
    try:
        request: R = _decoder(kind).decode(untrusted or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"the request is not understood: {error}", hint="banger help VERB shows the options") from error
    return request


def decode_reply(kind: Any, untrusted: bytes | memoryview) -> Any:
    """The reply of type ``kind`` in this body. Raises BadVersion when it does not fit: the daemon speaks another contract."""
    try:
        return _decoder(kind).decode(untrusted)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadVersion(f"the daemon's answer is not understood: {error}", hint="banger daemon stop, then try again") from error


def clean(text: str) -> str:
    """``text`` as something that JSON can hold: file names may carry lone surrogates (PEP 383)."""
    return text if text.isascii() else text.encode(errors="backslashreplace").decode()


def error_body(error: BangerError, op_id: str) -> ErrorBody:
    """What the client is told about this error."""
    return ErrorBody(code=error.code, message=clean(error.message), hint=clean(error.hint), op_id=error.op_id or op_id, vm=clean(error.vm))


def error_from_body(body: ErrorBody) -> BangerError:
    """The error that this body stands for."""
    return from_code(body.code, body.message, hint=body.hint, op_id=body.op_id, vm=body.vm)


class _Failure(msgspec.Struct):
    error: ErrorBody


def encode_error(body: ErrorBody) -> bytes:
    """The body of a failed reply."""
    return encode(_Failure(body))


def decode_error(untrusted: bytes) -> BangerError:
    """The error in the body of a failed reply; BadVersion when the body is none."""
    failure: _Failure = decode_reply(_Failure, untrusted)
    return error_from_body(failure.error)
