"""Which URLs and addresses requests of tenants may go to: many spellings of places that are nobody's business."""

import ipaddress

import pytest

from app.addresses import InvalidUrl, is_public, parse

INSIDE = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1 127.255.255.254
168.63.129.16 169.254.0.1 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1 192.0.0.192 192.0.2.1
192.88.99.1 192.168.0.1 192.168.255.255 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.255
240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:8.8.8.8 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1
64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b::808:808 64:ff9b:1::1 100::1 2001::1 2001:0:4136:e378:8000:63bf:3fff:fdd2
2001:10::1 2001:20::1 2001:db8::1 2002:7f00:1::1 2002:a9fe:a9fe::1 3fff::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254
fe80::1 fe80::1%eth0 febf::1 fec0::1 ff02::1 ff0e::1
"""

OUTSIDE = """
1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.1 100.63.255.255 100.128.0.1 126.255.255.255 128.0.0.1 168.63.129.15
169.253.255.255 169.255.0.1 172.15.255.255 172.32.0.1 192.167.255.255 192.169.0.1 198.17.255.255 198.20.0.1
223.255.255.255 2606:4700:4700::1111 2001:4860:4860::8888 2a00:1450:4001::1 2003::1 3ffe::1
"""


@pytest.mark.parametrize("text", INSIDE.split())
def test_an_address_that_is_not_on_the_internet(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", OUTSIDE.split())
def test_an_address_on_the_internet(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "url",
    [
        # Not a URL at all, or of another kind.
        "", " ", "example.com", "//example.com", "https:", "https:/example.com", "https://", "https:///hook",
        "ftp://example.com", "file:///etc/passwd", "gopher://example.com", "javascript:alert(1)", "data:,x",
        "unix:///run/x.sock", "ws://example.com", "jar:https://example.com", "HTTPS", "https//example.com",
        # Somebody's name and password.
        "https://user@example.com", "https://user:pass@example.com", "https://example.com:pass@10.0.0.1",
        "https://@example.com", "https://user%40example.com",
        # Where two readers would find two hosts.
        "https://example.com\\@10.0.0.1", "https://example.com\\.evil", "https://example.com#@10.0.0.1",
        "https://10.0.0.1\\.example.com", "https:\\\\example.com", "https://example.com%00.evil", "https://exa%6dple.com",
        "https://example.com\t/", "https://exam\tple.com", "https://example.com\r\nHost: x", "https://example.com/ x",
        " https://example.com", "https://example.com\n", "https://example.com/\x00", "https://example.com/\x7f",
        "https://例え.jp", "https://ⓔxample.com", "https://example。com", "https://example.com/ü", "https://exa\u200bmple.com",
        "https://example.com#fragment", "https://example.com/#", "https://example.com/\"<>", "https://example.com/[x]",
        # No names.
        "https://.example.com", "https://example..com", "https://example.com.", "https://-a.com", "https://a-.com",
        "https://" + "a" * 64 + ".com", "https://" + ".".join(["a" * 49] * 6) + ".com", "https://*.example.com",
        "https://exa mple.com", "https://example.com,evil.com", "https://a;b.com", "https://$(id).com",
        # Addresses in spellings that only some readers take for one.
        "https://2130706433", "https://0x7f000001", "https://017700000001", "https://127.1", "https://127.0.1",
        "https://0177.0.0.1", "https://0x7f.0.0.1", "https://0x7f.1", "https://127.0.0.0x1", "https://127.0.0.01",
        "https://127.0.0.1.", "https://1.1.1.1.1", "https://256.1.1.1", "https://1.1.1.1111", "https://a.1",
        "https://0", "https://00000000.0.0.0", "https://1..1", "https://0x", "https://0x7f.0x0.0x0.0x1",
        "https://[", "https://[]", "https://[::1", "https://::1", "https://[::1%25eth0]", "https://[fe80::1%eth0]",
        "https://[v1.x]", "https://[1.1.1.1]", "https://[1.1.1.1]:443:443", "https://[::1]x", "https://[:::1]", "https://[1:2:3:4:5:6:7:8:9]",
        # Ports.
        "https://example.com:", "https://example.com:0", "https://example.com:65536", "https://example.com:99999",
        "https://example.com:443x", "https://example.com:-1", "https://example.com:+443", "https://example.com: 443",
        "https://example.com:0x1bb", "https://example.com:443:443", "https://example.com:000443",
        # Too long.
        "https://example.com/" + "a" * 2048,
    ],
)  # fmt: skip
def test_a_text_that_is_no_url(url: str) -> None:
    with pytest.raises(InvalidUrl):
        parse(url)


@pytest.mark.parametrize(
    ("text", "host", "port", "target", "authority"),
    [
        ("https://example.com", "example.com", 443, "/", "example.com"),
        ("HTTPS://EXAMPLE.com:443/Hook?a=b&c=%20", "example.com", 443, "/Hook?a=b&c=%20", "example.com"),
        ("https://a_b.xn--e1afmkfd.x:8443/", "a_b.xn--e1afmkfd.x", 8443, "/", "a_b.xn--e1afmkfd.x:8443"),
        ("https://example.com?a", "example.com", 443, "/?a", "example.com"),
        ("https://example.com/@x:y/;p=1", "example.com", 443, "/@x:y/;p=1", "example.com"),
        ("https://[2606:4700:4700:0:0::1111]", "2606:4700:4700::1111", 443, "/", "[2606:4700:4700::1111]"),
        ("https://[::FFFF:7f00:1]:444/", "::ffff:127.0.0.1", 444, "/", "[::ffff:127.0.0.1]:444"),
        ("https://8.8.8.8:443", "8.8.8.8", 443, "/", "8.8.8.8"),
        ("http://127.0.0.1:8000/x", "127.0.0.1", 8000, "/x", "127.0.0.1:8000"),
        ("http://localhost", "localhost", 80, "/", "localhost"),
        ("https://4chan.1a", "4chan.1a", 443, "/", "4chan.1a"),
    ],
)
def test_a_url_taken_apart(text: str, host: str, port: int, target: str, authority: str) -> None:
    url = parse(text)
    assert ipaddress.ip_address(url.host) == ipaddress.ip_address(host) if url.address else url.host == host
    assert (url.port, url.target) == (port, target)
    assert url.authority.lower() in {authority, authority.replace("::ffff:127.0.0.1", "::ffff:7f00:1")}
