"""What passes from the guest to passt."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger.net.relay import FRAME_MAX, FrameFilter, may_pass
from tests.unit.net.card import ARP, IPV4, ethernet, ipv4, tcp_syn, udp

GOOD = (
    ethernet(ARP, b"\0" * 28),
    ethernet(IPV4, tcp_syn("10.0.2.15", "192.0.2.7", 80, source_port=1)),
    ethernet(IPV4, udp("0.0.0.0", "255.255.255.255", 67, b"dhcp", source_port=68)),
    ethernet(IPV4, udp("10.0.2.15", "10.0.2.3", 53, b"query", source_port=5)),
    ethernet(IPV4, ipv4("10.0.2.15", "1.127.0.0", 1, b"")),
)
BAD = (
    ethernet(IPV4, tcp_syn("10.0.2.15", "127.0.0.1", 80, source_port=1)),
    ethernet(IPV4, tcp_syn("10.0.2.15", "127.255.0.53", 80, source_port=1)),
    ethernet(IPV4, tcp_syn("10.0.2.15", "0.0.0.0", 80, source_port=1)),
    ethernet(IPV4, udp("10.0.2.15", "0.1.2.3", 53, b"", source_port=1)),
    ethernet(IPV4, udp("127.0.0.1", "192.0.2.7", 53, b"", source_port=1)),
    ethernet(IPV4, ipv4("10.0.2.15", "127.0.0.1", 17, b"a fragment")),
    ethernet(IPV4, b"\x45\0\0"),
    ethernet(b"\x86\xdd", b"\x60" + b"\0" * 60),
    ethernet(b"\x81\x00", b"\0\x01" + IPV4 + tcp_syn("10.0.2.15", "127.0.0.1", 80, source_port=1)),
    ethernet(b"\x88\xa8", b"\0" * 60),
    b"short",
    b"x",
)


def framed(frame: bytes) -> bytes:
    return struct.pack("!I", len(frame)) + frame


@pytest.mark.parametrize("frame", GOOD)
def test_ordinary_traffic_passes(frame: bytes) -> None:
    assert may_pass(frame)


@pytest.mark.parametrize("frame", BAD)
def test_what_could_reach_the_host_s_loopback_does_not(frame: bytes) -> None:
    assert not may_pass(frame)


@given(st.lists(st.sampled_from(GOOD + BAD)), st.lists(st.integers(1, 200)))
def test_the_good_frames_come_out_whole_however_the_stream_is_cut(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(framed, frames))
    filter_, out = FrameFilter(), b""
    for size in [*cuts, len(stream) + 1]:
        piece, stream = stream[:size], stream[size:]
        out += filter_.feed(piece)
    assert out == b"".join(framed(frame) for frame in frames if frame in GOOD)


@given(st.binary(max_size=300))
def test_any_bytes_are_frames_or_refused(untrusted: bytes) -> None:
    filter_ = FrameFilter()
    try:
        out = filter_.feed(untrusted)
    except ValueError:
        return
    assert len(out) <= len(untrusted)


@pytest.mark.parametrize("length", [0, FRAME_MAX + 1, 0xFFFFFFFF])
def test_a_length_that_no_frame_has_ends_the_stream(length: int) -> None:
    with pytest.raises(ValueError, match="a frame of"):
        FrameFilter().feed(struct.pack("!I", length))


def test_the_longest_frame_passes() -> None:
    longest = ethernet(ARP, b"\0" * (FRAME_MAX - 14))
    assert FrameFilter().feed(framed(longest)) == framed(longest)
