"""A scenario through toxiproxy-python, unchanged: what its users do, against the interface whose address is given.

Times are only ever compared with what a toxic asked for from below, so that a busy machine fails nothing.
"""

import contextlib
import socket
import socketserver
import sys
import threading
import time
from urllib.parse import urlsplit

from toxiproxy import Toxiproxy
from toxiproxy.api import APIConsumer
from toxiproxy.exceptions import InvalidToxic, NotFound, ProxyExists


class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        with contextlib.suppress(ConnectionError):
            while data := self.request.recv(4096):
                self.request.sendall(data)


def connect(proxy):
    host, port = proxy.listen.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=10)


def say(stream, text=b"hello"):
    """Sends `text`, waits for it to come back, and gives the seconds that took."""
    began = time.monotonic()
    stream.sendall(text)
    answer = b""
    while len(answer) < len(text):
        part = stream.recv(4096)
        if not part:
            raise ConnectionError("closed")
        answer += part
    assert answer == text, answer
    return time.monotonic() - began


def fails(expected, work):
    try:
        work()
    except expected as error:
        return error
    raise AssertionError(f"no {expected}")


def main(interface):
    address = urlsplit(interface)
    toxiproxy = Toxiproxy()
    toxiproxy.update_api_consumer(address.hostname, address.port)
    APIConsumer.base_url = interface  # Version 0.1.1 forgets to.
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    upstream = "127.0.0.1:%d" % server.server_address[1]

    assert toxiproxy.running() and b'"version"' in toxiproxy.version()
    proxy = toxiproxy.create(upstream=upstream, name="echo")
    assert proxy.enabled and not proxy.listen.endswith(":0"), proxy.listen
    fails(ProxyExists, lambda: APIConsumer.post("/proxies", json={"name": "echo", "upstream": upstream}))
    fails(NotFound, lambda: APIConsumer.get("/proxies/nobody"))

    # A toxic acts on a connection that was there before it, and lets it go again.
    stream = connect(proxy)
    say(stream)
    proxy.add_toxic(type="latency", attributes={"latency": 300, "jitter": 20})
    assert proxy.get_toxic("latency_downstream").attributes == {"latency": 300, "jitter": 20}
    assert say(stream) >= 0.28
    fails(ProxyExists, lambda: proxy.add_toxic(type="latency"))
    fails(InvalidToxic, lambda: proxy.add_toxic(type="thunderstorm"))
    fails(InvalidToxic, lambda: proxy.add_toxic(type="latency", name="x", stream="sideways"))
    assert proxy.destroy_toxic("latency_downstream") and proxy.toxics() == {}
    fails(NotFound, lambda: proxy.destroy_toxic("latency_downstream"))
    assert min(say(stream) for _ in range(5)) < 0.28

    with proxy.down():
        fails(ConnectionRefusedError, lambda: connect(proxy))
        assert stream.recv(1) == b"", "what ran is closed"
        assert not toxiproxy.get_proxy("echo").enabled
    say(connect(proxy))

    proxy.add_toxic(type="limit_data", stream="upstream", attributes={"bytes": 3})
    fails(ConnectionError, lambda: say(connect(proxy)))
    proxy.disable()
    assert toxiproxy.reset() and toxiproxy.get_proxy("echo").enabled
    say(connect(proxy))

    wanted = [{"name": "one", "upstream": upstream, "listen": "127.0.0.1:0"}, {"name": "two", "upstream": upstream}]
    assert [made.name for made in toxiproxy.populate(wanted[:1] + wanted[1:])] == ["one", "two"]
    assert set(toxiproxy.proxies()) == {"echo", "one", "two"}
    toxiproxy.destroy_all()
    assert toxiproxy.proxies() == {}


main(sys.argv[1])
print("toxiproxy-python: held")
