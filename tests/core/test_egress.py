"""The door for requests to tenants' URLs, against real servers: where it lets nothing through, and when it gives up."""

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from receivers import HOST, Certificates, receiving, status

from app.config import Settings
from app.egress import Egress, Refused, Unanswered, look_up, open_egress

LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def knows(**names: list[str]) -> Callable[[str, float], list[str]]:
    """A resolver that knows some names."""
    return lambda name, _: names.get(name.replace(".", "_"), [])


def nobody(name: str, _: float) -> list[str]:
    raise AssertionError(f"{name} must not be looked up")


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls(certificates: Certificates) -> Egress:
    """A door that lets https to loopback through, under the name of the certificates."""
    return Egress(networks=LOOPBACK, authorities=str(certificates.path), resolve=knows(hooks_example_com=["127.0.0.1"]))


PLAIN = Egress(loopback_http=True, resolve=nobody)


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"], ["10.1.2.3"], ["169.254.169.254"], ["::1"], ["::ffff:127.0.0.1"], ["64:ff9b::a9fe:a9fe"],
        ["fe80::1%2"], ["100.64.0.1"], ["93.184.216.34", "10.0.0.1"], ["10.0.0.1", "93.184.216.34"], ["0.0.0.0"],
        ["93.184.216.34", "::1"], ["168.63.129.16"],
    ],
)  # fmt: skip
def test_a_name_that_leads_inside_is_refused_if_only_one_address_does(addresses: list[str]) -> None:
    egress = Egress(resolve=knows(inside_example=addresses))
    for attempt in (egress.check, lambda url: egress.post(url, b"", {})):
        with pytest.raises(Refused, match="public internet"):
            attempt("https://inside.example/hook")


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1", "https://10.0.0.1/", "https://169.254.169.254/latest/meta-data/", "https://[::1]/",
        "https://[::ffff:169.254.169.254]/", "https://[64:ff9b::7f00:1]/", "https://100.64.0.1", "https://0.0.0.0",
        "https://[fd00:ec2::254]/", "https://224.0.0.1", "https://[fe80::1]", "https://192.168.1.1:443",
        "http://93.184.216.34", "http://127.0.0.1", "ftp://93.184.216.34", "https://93.184.216.34:22",
        "https://93.184.216.34:8443", "https://u:p@93.184.216.34", "https://2130706433", "https://93.184.216.34#x",
    ],
)  # fmt: skip
def test_a_url_that_is_refused_without_a_look_up(url: str) -> None:
    egress = Egress(resolve=nobody)
    for attempt in (egress.check, lambda url: egress.post(url, b"", {})):
        with pytest.raises(Refused):
            attempt(url)


def test_a_public_url_passes() -> None:
    egress = Egress(ports=frozenset({443, 8443}), resolve=knows(out_example=["93.184.216.34", "2606:4700::1"]))
    for url in ("https://out.example/hook", "https://out.example:8443", "https://8.8.8.8", "https://[2606:4700::1]/x"):
        egress.check(url)


def test_a_name_that_nobody_knows_yet_passes_the_check_but_gets_nothing() -> None:
    egress = Egress(resolve=knows())
    egress.check("https://new.example")
    with pytest.raises(Unanswered) as caught:
        egress.post("https://new.example", b"", {})
    assert caught.value.code == "name_not_resolved"


def test_https_goes_to_the_judged_address_with_the_name_in_sni_and_host(
    tls: Egress, certificates: Certificates
) -> None:
    with receiving(tls=certificates.server(HOST)) as receiver:
        egress = replace(tls, ports=frozenset({receiver.port}))
        reply = egress.post(receiver.url, b'{"a":1}', {"Content-Type": "application/json", "X-Own": "1"})
    assert (reply.status, reply.body) == (200, b"ok")
    (arrived,) = receiver.requests
    assert receiver.names == [HOST]
    assert arrived.line == "POST /hook HTTP/1.1"
    assert arrived.body == b'{"a":1}'
    assert arrived.headers == {
        "host": f"{HOST}:{receiver.port}", "content-type": "application/json", "x-own": "1", "content-length": "7",
        "connection": "close", "accept-encoding": "identity",
    }  # fmt: skip


def test_a_second_answer_of_the_name_server_is_never_asked_for(certificates: Certificates) -> None:
    """DNS rebinding: the first answer is harmless, every later one leads inside."""
    with receiving(tls=certificates.server(HOST)) as harmless, receiving(tls=certificates.server(HOST)) as inside:
        answers = [["127.0.0.2"], ["127.0.0.1"]]
        asked: list[str] = []

        def rebinding(name: str, _: float) -> list[str]:
            asked.append(name)
            return answers[min(len(asked), len(answers)) - 1]

        # 127.0.0.2 stands for the internet, 127.0.0.1 for inside; the sockets listen on the latter only.
        egress = Egress(
            ports=frozenset({inside.port}), networks=(ipaddress.ip_network("127.0.0.2/32"),),
            authorities=str(certificates.path), resolve=rebinding,
        )  # fmt: skip
        with pytest.raises(Unanswered) as caught:
            egress.post(inside.url, b"", {})
        assert caught.value.code == "connection_failed"
        assert asked == [HOST]
        with pytest.raises(Refused):  # the next attempt asks again, and judges again
            egress.post(inside.url, b"", {})
        assert inside.connections == harmless.connections == 0


def test_another_address_is_tried_if_the_first_does_not_answer(tls: Egress, certificates: Certificates) -> None:
    with receiving(tls=certificates.server(HOST)) as receiver:
        networks = (*LOOPBACK, ipaddress.ip_network("::1/128"))
        for addresses in (["127.0.0.9", "127.0.0.1"], [*["::1"] * 5, "127.0.0.9", "127.0.0.1"]):
            resolve = knows(hooks_example_com=addresses)
            egress = replace(tls, ports=frozenset({receiver.port}), networks=networks, resolve=resolve)
            assert egress.post(receiver.url, b"", {}).status == 200


def test_proxies_of_the_environment_are_not_used(
    tls: Egress, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving() as proxy, receiving(tls=certificates.server(HOST)) as receiver:
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        egress = replace(tls, ports=frozenset({receiver.port}))
        assert egress.post(receiver.url, b"", {}).status == 200
        assert proxy.connections == 0


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_are_answers_and_not_followed(code: int) -> None:
    with receiving() as other:
        with receiving(status(code, f"Location: {other.url}")) as receiver:
            assert PLAIN.post(receiver.url, b"", {}).status == code
        assert other.connections == 0


@pytest.mark.parametrize("code", [200, 204, 299, 400, 404, 410, 429, 500, 503])
def test_every_status_is_an_answer(code: int) -> None:
    with receiving(status(code, "Retry-After: 7")) as receiver:
        reply = PLAIN.post(receiver.url, b"", {})
    assert (reply.status, reply.retry_after) == (code, "7")


def untrusted(folder: Path) -> ssl.SSLContext:
    return Certificates(folder).server(HOST)


def test_a_certificate_of_an_unknown_authority_fails(tls: Egress, tmp_path: Path) -> None:
    with receiving(tls=untrusted(tmp_path)) as receiver:
        with pytest.raises(Unanswered) as caught:
            replace(tls, ports=frozenset({receiver.port})).post(receiver.url, b"secret", {})
    assert caught.value.code == "tls_failed"
    assert receiver.requests == []


def test_a_certificate_for_another_name_fails(tls: Egress, certificates: Certificates) -> None:
    with receiving(tls=certificates.server("other.example.com")) as receiver:
        with pytest.raises(Unanswered) as caught:
            replace(tls, ports=frozenset({receiver.port})).post(receiver.url, b"secret", {})
    assert caught.value.code == "tls_failed"
    assert receiver.requests == []


def test_plain_http_on_an_https_port_fails(tls: Egress) -> None:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(status(400))
            connection.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(Unanswered) as caught:
            replace(tls, ports=frozenset({port})).post(f"https://{HOST}:{port}/", b"", {})
        thread.join()
    assert caught.value.code == "tls_failed"


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_an_old_version_of_tls_fails(tls: Egress, certificates: Certificates) -> None:
    context = certificates.server(HOST)
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with receiving(tls=context) as receiver:
        with pytest.raises(Unanswered) as caught:
            replace(tls, ports=frozenset({receiver.port})).post(receiver.url, b"", {})
    assert caught.value.code == "tls_failed"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(Unanswered) as caught:
        PLAIN.post(f"http://127.0.0.1:{port}/", b"", {})
    assert caught.value.code == "connection_failed"


def drips(first: bytes, drop: bytes) -> Callable[[socket.socket, int], None]:
    """Answer with something, then with a few bytes again and again, until the other side has had enough."""

    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(first)
        while True:
            connection.sendall(drop)
            time.sleep(0.02)

    return answer


@pytest.mark.parametrize(
    ("first", "drop"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    ],
    ids=["silence", "headers", "continue", "body", "chunks"],
)
def test_a_slow_receiver_does_not_hold_us(first: bytes, drop: bytes) -> None:
    with receiving(drips(first, drop)) as receiver:
        with pytest.raises(Unanswered) as caught:
            replace(PLAIN, seconds=0.3).post(receiver.url, b"", {})
    assert caught.value.code == "timeout"


def test_a_silent_handshake_does_not_hold_us(tls: Egress) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:  # accepts in the kernel, and never says a word
        port = listener.getsockname()[1]
        with pytest.raises(Unanswered) as caught:
            replace(tls, ports=frozenset({port}), seconds=0.3).post(f"https://{HOST}:{port}/", b"", {})
    assert caught.value.code == "timeout"


def test_a_huge_answer_is_read_in_part() -> None:
    def answer(connection: socket.socket, _: int) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n")
        for _ in range(1000):
            connection.sendall(b"x" * 100_000)

    with receiving(answer) as receiver:
        reply = PLAIN.post(receiver.url, b"", {})
    assert (reply.status, len(reply.body)) == (200, 64 * 1024)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200_000 + b"\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 20x OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\x00\x01\x02\x03\r\n\r\n",
        b"",
    ],
    ids=["long header", "many headers", "ssh", "status", "short", "two lengths", "chunk", "binary", "nothing"],
)
def test_what_is_not_http_is_no_answer(answer: bytes) -> None:
    with receiving(answer) as receiver:
        with pytest.raises(Unanswered) as caught:
            PLAIN.post(receiver.url, b"", {})
    assert caught.value.code == "invalid_answer"


def test_plain_http_goes_to_this_machine_only() -> None:
    egress = Egress(
        loopback_http=True, resolve=knows(localhost=["127.0.0.1", "::1"], lan=["192.168.0.2"], out=["8.8.8.8"])
    )
    for url in ("http://localhost:8080/x", "http://127.0.0.1", "http://[::1]:99"):
        egress.check(url)
    for url in ("http://lan", "http://out", "http://8.8.8.8", "https://127.0.0.1", "http://[::ffff:127.0.0.1]"):
        with pytest.raises(Refused):
            egress.check(url)


def test_the_systems_resolver_is_asked_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(look_up("localhost", 5)) <= {"127.0.0.1", "::1"}
    assert look_up("no-such-host.invalid", 5) == []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: time.sleep(5) or [])
    assert look_up("slow.example", 0.05) == []


def test_the_settings_make_the_door(tmp_path: Path) -> None:
    egress = open_egress(
        Settings(webhook_ports=[443, 8443], webhook_networks=["10.0.0.0/8", "fd00::/8"], webhook_loopback_http=True)  # type: ignore[arg-type]
    )
    for url in ("https://10.1.1.1:8443", "https://[fd00::1]", "http://127.0.0.1:1"):
        egress.check(url)
    assert not open_egress(Settings()).loopback_http


def test_authorities_that_are_not_there_are_missed_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="webhook_authorities"):
        Settings(webhook_authorities=tmp_path / "none.pem")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "tunesmith.example"])
def test_plain_http_is_refused_where_others_can_call(host: str) -> None:
    with pytest.raises(ValueError, match="only this machine"):
        Settings(host=host, webhook_loopback_http=True)
