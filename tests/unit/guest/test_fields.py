"""Fields and what is made of them, against bytes that nobody can be trusted to send."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.guest.fields import Fields, i64, nested, pack, text, u8, u32, u64
from banger.guest.messages import decode_hello, decode_listeners, decode_stats, decode_time, exec_request
from banger.guest.outcome import ExecOutcome, decode_refusal, encode_refusal
from banger.model.errors import BadRequest, BadVersion, ChannelLost, GuestError


def test_layout() -> None:
    assert pack((0x1234, b"ab"), (1, b"")) == b"\x34\x12\x02\0\0\0ab" + b"\x01\0\0\0\0\0"


@given(st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63 - 1), st.text(max_size=50))
def test_round_trip(a: int, b: int, c: int, d: int, words: str) -> None:
    try:
        encoded = text(words)
    except BadRequest:
        assert any(char == "\0" or 0xD800 <= ord(char) <= 0xDFFF for char in words)
        return
    fields = Fields.parse(pack((1, u8(a)), (2, u32(b)), (3, u64(c)), (4, i64(d)), (5, encoded), (6, encoded), (6, b"x"), (7, nested((1, u8(a))))))
    assert (fields.u8(1), fields.u32(2), fields.u64(3), fields.i64(4)) == (a, b, c, d)
    if words.isprintable():
        assert fields.text(5) == words.encode("utf-8", "surrogateescape").decode(errors="replace")
        assert fields.texts(6) == (fields.text(5), "x")
    assert [one.u8(1) for one in fields.nested(7, at_most=1)] == [a]


def test_bytes_that_are_not_text_go_out_as_they_came_in() -> None:
    assert text(b"caf\xe9".decode(errors="surrogateescape")) == b"caf\xe9"
    assert Fields.parse(pack((1, b"caf\xe9"))).text(1) == "caf\N{REPLACEMENT CHARACTER}"


def test_text_is_bounded() -> None:
    assert Fields.parse(pack((1, b"x" * 9000))).text(1, limit=10) == "x" * 10


@pytest.mark.parametrize("words", ["a\0b", "\ud800"])
def test_text_that_cannot_be_passed_is_the_callers_fault(words: str) -> None:
    with pytest.raises(BadRequest):
        text(words)


@pytest.mark.parametrize(
    "untrusted",
    [b"\x01", pack((1, b"abc"))[:-1], struct.pack("<HI", 1, 0xFFFFFFFF), pack((1, b"\0\0\0")), pack((1, u64(1))), pack((1, u32(1)), (1, u32(1))), b""],
)
def test_a_malformed_number_is_refused(untrusted: bytes) -> None:
    with pytest.raises(GuestError, match="malformed"):
        Fields.parse(untrusted).u32(1)


def test_defaults_and_unknown_tags() -> None:
    fields = Fields.parse(pack((99, b"future")))
    assert (fields.u32(1, 5), fields.text(2, "none"), fields.texts(3), fields.nested(4, at_most=0)) == (5, "none", (), ())


def test_lists_are_bounded() -> None:
    with pytest.raises(GuestError, match="at most 512"):
        decode_listeners(Fields.parse(pack(*[(16, b"")] * 513)))


@pytest.mark.parametrize(
    "decode",
    [
        decode_hello,
        ExecOutcome.decode,
        lambda raw: decode_listeners(Fields.parse(raw)),
        lambda raw: decode_stats(Fields.parse(raw)),
        lambda raw: decode_time(Fields.parse(raw)),
    ],
)
@given(st.data())
def test_decoders_raise_nothing_but_our_errors(decode: Callable[[bytes], object], data: st.DataObject) -> None:
    values = st.one_of(st.binary(max_size=12), st.integers(0, 3).map(u8), st.integers(0, 70000).map(u32), st.integers(0, 2**64 - 1).map(u64))
    leaf = st.lists(st.tuples(st.integers(0, 24), values), max_size=12).map(lambda fields: pack(*fields))
    raw = data.draw(st.one_of(st.binary(max_size=60), leaf, st.lists(st.tuples(st.integers(16, 20), leaf), max_size=4).map(lambda fields: pack(*fields))))
    try:
        decode(raw)
    except (GuestError, BadVersion) as error:
        assert error.message


def test_listeners_and_stats_are_decoded() -> None:
    one = nested((1, b"tcp6"), (2, b"::"), (3, u32(22)), (4, u32(7)), (5, b"sshd"), (6, b"/usr/sbin/sshd -D"))
    (listener,) = decode_listeners(Fields.parse(pack((16, one))))
    assert (listener.protocol, listener.address, listener.port, listener.pid, listener.process) == ("tcp6", "::", 22, 7, "sshd")
    with pytest.raises(GuestError, match="port 70000"):
        decode_listeners(Fields.parse(pack((16, nested((1, b"tcp"), (2, b""), (3, u32(70000)))))))
    file_system = nested((1, b"/"), (2, u64(10)), (3, u64(4)))
    stats = decode_stats(Fields.parse(pack((16, u64(1)), (17, u64(2)), (18, u64(3)), (19, u32(1500)), (20, file_system), (21, u32(9)))))
    assert (stats.load, stats.processes, stats.file_systems[0].available) == (1.5, 9, 4)


@pytest.mark.parametrize(
    ("kind", "number", "message", "status"),
    [
        (0, 0, "", 0),
        (0, 255, "", 255),
        (1, 9, "", 137),
        (1, 2, "", 130),
        (2, 2, "exec nothere: No such file or directory", 127),
        (2, 20, "exec /etc/passwd/x: Not a directory", 127),
        (2, 13, "exec /etc/passwd: Permission denied", 126),
        (2, 2, "chdir /nowhere: No such file or directory", 126),
    ],
)
def test_exit_status(kind: int, number: int, message: str, status: int) -> None:
    assert ExecOutcome.decode(pack((16, u8(kind)), (17, u32(number)), (18, text(message)))).exit_status == status


@pytest.mark.parametrize(("kind", "number"), [(0, 256), (1, 65), (3, 0), (2, 5000)])
def test_an_impossible_outcome_is_refused(kind: int, number: int) -> None:
    with pytest.raises(GuestError, match="malformed"):
        ExecOutcome.decode(pack((16, u8(kind)), (17, u32(number))))


def test_refusals() -> None:
    refusal = decode_refusal(encode_refusal("not_found", "/nope: No such file or directory"))
    assert (refusal.guest_code, refusal.message, refusal.code) == ("not_found", "/nope: No such file or directory", "guest_error")
    assert isinstance(decode_refusal(encode_refusal("channel_lost", "gone")), ChannelLost)
    assert "malformed" in decode_refusal(b"\xff").message


def request(**words: object) -> bytes:
    plain: dict[str, object] = {"argv": ("true",), "env": {}, "cwd": "", "user": "", "tty": False, "rows": 24, "columns": 80, "stdin": False}
    return exec_request(**(plain | words))  # type: ignore[arg-type]


def test_exec_request() -> None:
    fields = Fields.parse(request(argv=("a", "", "ü"), env={"K": "v=w"}, cwd="/tmp", user="root", tty=True, stdin=True))
    assert fields.texts(16) == ("a", "", "ü")
    assert fields.texts(17) == ("K=v=w",)
    assert (fields.text(18), fields.text(19), fields.u8(20), fields.u32(21), fields.u32(22), fields.u8(23)) == ("/tmp", "root", 1, 24, 80, 1)
    assert Fields.parse(request(argv=())).texts(16) == ()


@pytest.mark.parametrize("words", [{"argv": ("a\0",)}, {"env": {"": "x"}}, {"env": {"A=B": "x"}}, {"rows": -1}, {"columns": 1 << 20}, {"argv": ("x" * 65500,)}])
def test_bad_exec_request(words: dict[str, object]) -> None:
    with pytest.raises(BadRequest):
        request(**words)
