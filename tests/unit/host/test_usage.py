from __future__ import annotations

import os
import subprocess
import time

from banger.host.process import identify
from banger.host.usage import cpu_seconds, memory_use
from banger.model.records import ProcessIdentity


def test_cpu_time_of_another_process_grows_while_it_works() -> None:
    with subprocess.Popen(["sh", "-c", "while :; do :; done"]) as child:
        try:
            process = identify(child.pid)
            before, deadline = cpu_seconds(process), time.monotonic() + 20
            assert before is not None
            while (cpu_seconds(process) or 0.0) < before + 0.05:
                assert time.monotonic() < deadline
                time.sleep(0.01)
        finally:
            child.kill()


def test_our_own_memory() -> None:
    use = memory_use(identify(os.getpid()))
    assert use is not None
    assert 1 << 20 < use.rss < 1 << 34
    assert use.pss is None or 0 < use.pss <= use.rss


def test_a_process_that_is_gone_uses_nothing() -> None:
    with subprocess.Popen(["true"]) as child:
        gone = ProcessIdentity(pid=child.pid, start_time=1)
    reused = ProcessIdentity(pid=os.getpid(), start_time=1)
    for process in (gone, reused):
        assert cpu_seconds(process) is None
        assert memory_use(process) is None
