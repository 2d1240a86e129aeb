"""The processes of a run meet, agree and end together; each is a group in a thread here."""

import contextlib
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from deberta_jax.errors import InputError, PeerError
from deberta_jax.processes.group import ProcessGroup

TIMEOUT = 3.0


class Ends:
    """Records how the watching threads end their processes."""

    def __init__(self):
        self.ends = {}
        self.changed = threading.Condition()

    def of(self, index):
        def end(message, code):
            with self.changed:
                self.ends[index] = (message, code, time.monotonic())
                self.changed.notify_all()

        return end

    def wait(self, indices, seconds=3 * TIMEOUT):
        """The message and the code that ended each process."""
        with self.changed:
            assert self.changed.wait_for(lambda: set(indices) <= self.ends.keys(), seconds), self.ends
            return {index: self.ends[index][:2] for index in indices}


@pytest.fixture
def ends():
    return Ends()


@pytest.fixture
def groups(ends):
    """Make connected groups of some processes of a run; all are closed at the end."""
    made = []

    def make(indices, count, address=None, timeout=TIMEOUT):
        address = address or free_address()
        groups = [ProcessGroup(index, count, address, timeout, ends.of(index)) for index in indices]
        made.extend(groups)
        return groups

    yield make
    for group in made:
        silence(group)
        for connection in (*group._peers.values(), *group._strangers):
            connection.close()
        if group._listener:
            group._listener.close()


def free_address():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


def in_parallel(function, groups):
    """The results, or the errors, of a function of each group."""

    def run(group):
        try:
            return function(group)
        except Exception as error:
            return error

    with ThreadPoolExecutor(len(groups)) as pool:
        return list(pool.map(run, groups))


def meet(groups):
    assert in_parallel(ProcessGroup.meet, groups) == [None] * len(groups)
    deadline = time.monotonic() + TIMEOUT
    while not groups[0]._is_complete() and time.monotonic() < deadline:
        time.sleep(0.01)
    return groups


def silence(group):
    """Stop a process: it holds its connections, but sends nothing."""
    group._is_closed = True
    if group._watcher.is_alive() and group._watcher is not threading.current_thread():
        group._watcher.join(TIMEOUT)


def die(group):
    """Kill a process: the system closes its connections."""
    silence(group)
    for connection in group._peers.values():
        connection.close()


def test_processes_agree_share_results_and_leave_together(groups, ends):
    everyone = meet(groups(range(4), 4))

    def run(group):
        group.agree({"--steps": 3, "--folder": "x"})
        results = [group.from_first(lambda k=k: f"result {k} of {group.index}") for k in range(3)]
        group.agree({})
        time.sleep(0.1 * group.index)
        group.leave()
        return results

    assert in_parallel(run, everyone) == [[f"result {k} of 0" for k in range(3)]] * 4
    assert not ends.ends


def test_a_value_that_differs_ends_all_and_is_named_with_both_values(groups, ends):
    everyone = meet(groups(range(3), 3))
    threads = [threading.Thread(target=in_parallel, args=(lambda g: g.agree({"--b": 8, "--c": 1}), [everyone[1]]))]
    threads.append(threading.Thread(target=in_parallel, args=(lambda g: g.agree({"--b": 9, "--d": 1}), [everyone[2]])))
    for thread in threads:
        thread.start()
    with pytest.raises(InputError) as caught:
        everyone[0].agree({"--b": 8, "--c": 1})
    host = socket.gethostname()
    message = str(caught.value)
    assert f"--b is 8 in process 0 ({host}) and 9 in process 2 ({host})" in message
    assert f"--c is 1 in process 0 ({host}) and absent in process 2 ({host})" in message
    assert f"--d is absent in process 0 ({host}) and 1 in process 2 ({host})" in message
    everyone[0].fail(message, 2)
    expected = f"process 0 ({host}): {message}", 2
    assert ends.wait([1, 2]) == {1: expected, 2: expected}
    assert 0 not in ends.ends  # it reports its error itself


def test_the_error_of_any_process_ends_all_with_its_message_and_code(groups, ends):
    everyone = meet(groups(range(3), 3))
    everyone[2].fail("data.csv: no such file", 2)
    expected = f"process 2 ({socket.gethostname()}): data.csv: no such file", 2
    assert ends.wait([0, 1]) == {0: expected, 1: expected}
    assert 2 not in ends.ends


def test_a_process_that_fails_before_it_joined_tells_those_that_come_later(groups, ends):
    first, second, third = groups(range(3), 3, timeout=2 * TIMEOUT)
    first.connect()
    failing = threading.Thread(target=first.fail, args=("no option --stepz", 2))
    failing.start()
    for group in (second, third):
        time.sleep(0.3)
        group.connect()
    failing.join(2)
    assert not failing.is_alive()
    expected = f"process 0 ({socket.gethostname()}): no option --stepz", 2
    assert ends.wait([1, 2]) == {1: expected, 2: expected}


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_dead_process_is_noticed_at_once_by_all(groups, ends, victim):
    everyone = meet(groups(range(3), 3, timeout=60.0))
    start = time.monotonic()
    die(everyone[victim])
    others = {0, 1, 2} - {victim}
    for message, code in ends.wait(others).values():
        assert code == 1
        assert message.startswith(f"process {victim} (") and "\n" not in message
        assert "ended or lost its connection; to resume, run the same command again in all processes" in message
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("victim", [0, 1])
def test_a_suspended_process_is_noticed_within_the_timeout(groups, ends, victim):
    everyone = meet(groups(range(3), 3))
    start = time.monotonic()
    silence(everyone[victim])
    others = {0, 1, 2} - {victim}
    for message, code in ends.wait(others, 5 * TIMEOUT).values():
        assert (message.startswith(f"process {victim} ("), code) == (True, 1)
        assert "did not respond for 3 s" in message
    assert TIMEOUT - 0.5 < time.monotonic() - start < 3 * TIMEOUT


def test_processes_that_do_not_appear_are_named_with_the_address(groups, ends):
    first, second = groups((0, 2), 4)
    results = in_parallel(ProcessGroup.meet, [first, second])
    assert isinstance(results[0], PeerError)
    assert str(results[0]) == (f"processes 1, 3 of 4 did not appear at {first.address} within 3 s; start all processes")
    first.fail(str(results[0]), 1)
    assert ends.wait([2])[2] == (f"process 0 ({socket.gethostname()}): {results[0]}", 1)


def test_a_first_process_that_does_not_appear_is_named_with_its_address(groups):
    (second,) = groups((1,), 2)
    with pytest.raises(PeerError, match=r"process 0 did not answer at 127.0.0.1:\d+ within 3 s \(Connection refused\)"):
        second.meet()
    start = time.monotonic()
    second.fail("no first process", 1)  # there is nobody to tell
    assert time.monotonic() - start < 1


def test_stray_connections_do_not_disturb_a_run(groups, ends):
    first, second = groups(range(2), 2)
    host, port = first.address.split(":")
    meeting = threading.Thread(target=first.meet)
    meeting.start()
    with contextlib.ExitStack() as stack:
        for content in (
            b"GET / HTTP/1.1\r\n\r\n",
            b'{"kind": "hello", "index": "x"}\n',
            b'{"kind": "hello", "index": 7, "count": 2}\n',
            b"\xff\x00\n",
            b"[1]\n",
            b"",
            b"{",
        ):
            time.sleep(0.05)
            stray = stack.enter_context(socket.create_connection((host, int(port))))
            stray.sendall(content)
        second.meet()
        meeting.join(TIMEOUT)
        stack.enter_context(socket.create_connection((host, int(port)))).sendall(b"\x16\x03\x01\n" * 1000)
        assert in_parallel(lambda group: group.from_first(lambda: 7), [first, second]) == [7, 7]
        # Another process of the same index is told, and the run goes on.
        late = ProcessGroup(1, 2, first.address, TIMEOUT, ends.of("late"))
        late.meet()
        assert ends.wait(["late"])["late"] == (f"the run at {first.address} has 2 processes already", 2)
        time.sleep(TIMEOUT + 1)  # strangers that say nothing are dropped after the timeout
        assert not first._strangers
        assert in_parallel(ProcessGroup.leave, [first, second]) == [None, None]
    assert ends.ends.keys() == {"late"}


@pytest.mark.parametrize(
    ("index", "count", "message"),
    [(1, 3, "two processes have index 1: process 1"), (2, 4, "--processes.count is 3 in process 0 and 4 on")],
)
def test_processes_that_do_not_fit_end_all(groups, ends, index, count, message):
    first, second = groups((0, 1), 3)
    threading.Thread(target=in_parallel, args=(ProcessGroup.meet, [first])).start()
    second.meet()
    time.sleep(0.5)
    wrong = ProcessGroup(index, count, first.address, TIMEOUT, ends.of("wrong"))
    wrong.meet()
    for reason, code in ends.wait([0, 1, "wrong"], 4 * TIMEOUT).values():
        assert (message in reason, code) == (True, 2)


def test_an_error_that_a_dead_process_may_have_caused_is_not_the_reason(groups, ends):
    everyone = meet(groups(range(3), 3))
    suspecting = threading.Thread(
        target=everyone[1].fail, args=("Gloo AllReduce failed", 1), kwargs={"suspected": True}
    )
    suspecting.start()
    time.sleep(0.3)
    assert not ends.ends
    die(everyone[2])
    for message, _ in ends.wait([0, 1]).values():
        assert message.startswith("process 2 (")


def test_messages_after_a_failure_are_ignored(groups, ends):
    first, second = meet(groups(range(2), 2))
    with first._changed:
        for kind in ("failed", "alive", "answer"):
            first._peers[1].send({"kind": kind, "message": "why", "code": 2, "origin": 0, "answer": None})
    assert ends.wait([1])[1] == ("why", 2)


def test_a_suspected_error_is_the_reason_after_the_timeout(groups, ends):
    everyone = meet(groups(range(2), 2))
    start = time.monotonic()
    everyone[1].fail("Gloo AllReduce failed", 1, suspected=True)
    assert time.monotonic() - start < TIMEOUT + 5
    assert ends.wait([0])[0] == (f"process 1 ({socket.gethostname()}): Gloo AllReduce failed", 1)
    assert 1 not in ends.ends


def test_the_first_process_listens_at_its_address_only(groups):
    (first,) = groups((0,), 2)
    first.connect()
    port = int(first.address.split(":")[1])
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=2):
        pass


def test_a_host_that_is_no_address_of_this_machine_is_warned_about(groups, caplog):
    port = free_address().split(":")[1]
    (first,) = groups((0,), 2, f"192.0.2.1:{port}")  # reserved for documentation (RFC 5737)
    first.connect()
    assert caplog.messages == ["warning: 192.0.2.1 is no address of this machine: process 0 listens on all interfaces"]


@pytest.mark.parametrize("address", ["localhost", "localhost:x", ":80", "localhost:99999", "localhost:²"])
def test_a_malformed_address_is_refused(groups, address):
    for index in (0, 1):
        (group,) = groups((index,), 2, address)
        with pytest.raises(InputError, match="expected HOST:PORT"):
            group.connect()


def test_a_port_in_use_is_refused(groups):
    first, second = groups((0, 0), 2)
    first.connect()
    with pytest.raises(InputError, match=r"cannot listen at 127.0.0.1:\d+ \(Address already in use\); choose another"):
        second.connect()
