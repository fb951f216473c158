from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.api import types as t
from banger.api.codec import decode_error, decode_reply, decode_request, encode, encode_error, encode_line, error_body, raw
from banger.model.errors import BY_CODE, BadRequest, BadVersion, BangerError, NotRunning
from banger.model.records import VMRecord, VMRuntime, VMSpec, VMState


def test_an_empty_body_stands_for_the_defaults() -> None:
    assert decode_request(t.StartVM, b"") == decode_request(t.StartVM, b"{}") == t.StartVM(wait="ready")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_bad_request(untrusted: bytes) -> None:
    try:
        assert isinstance(decode_request(t.CreateVM, untrusted), t.CreateVM)
    except BadRequest as error:
        assert error.message and error.hint


def test_records_survive_the_wire() -> None:
    record = VMRecord(
        id="a" * 32,
        name="box",
        image_id="b",
        image_name="debian-bookworm",
        state=VMState.RUNNING,
        created_at=1.5,
        updated_at=2.5,
        touched_at=3.5,
        spec=VMSpec(vcpu_count=2, memory_mib=512, system_overlay_bytes=1 << 40, work_disk_bytes=0, nat=True),
        runtime=VMRuntime(accelerator="tcg", booted=True),
        remove=True,
    )
    again = decode_reply(VMRecord, encode(record))
    assert again == record and again.state is VMState.RUNNING
    assert decode_reply(tuple[VMRecord, ...], encode([record])) == (record,)
    event = decode_reply(t.Event, encode_line(t.Event(done=True, result=raw(record))))
    assert decode_reply(VMRecord, event.result) == record


def test_a_reply_of_another_contract_is_a_version_error() -> None:
    for body in (b'{"id": 1}', b"nope", b"", b"\xff"):
        with pytest.raises(BadVersion):
            decode_reply(t.Lease, body)


@pytest.mark.parametrize("kind", [BY_CODE[code] for code in sorted(BY_CODE)])
def test_errors_keep_their_class_and_their_words(kind: type[BangerError]) -> None:
    error = decode_error(encode_error(error_body(kind("what", hint="do", vm="box"), "op-1")))
    assert type(error) is kind
    assert (error.message, error.hint, error.op_id, error.vm) == ("what", "do", "op-1", "box")


def test_an_error_that_quotes_an_odd_file_name_can_be_sent() -> None:
    body = encode_error(error_body(NotRunning("cannot read \udcff"), "op-1"))
    assert decode_error(body).message == "cannot read \\udcff"


def test_an_error_keeps_the_op_id_it_has() -> None:
    assert error_body(BangerError("x", op_id="op-old"), "op-new").op_id == "op-old"
