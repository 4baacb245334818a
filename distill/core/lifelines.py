"""Connections between the ranks of a launch that carry nothing: one breaks when its process has ended.

The system closes the sockets of a process that ends, however it ends and whatever it was doing, so
the others know at once, on any machine. Rank 0 listens at the address where the ranks have met.
"""

import secrets
import selectors
import socket
import threading
from contextlib import suppress

# what a rank says that leaves: its work is done, a signal has stopped it, or it has told its user
# what is to be mended (the same command would end there again)
WORDS = DONE, STOPPED, REFUSED = b"done\n", b"stopped\n", b"refused\n"
HELLO_BYTES = 64
SECONDS = 10.0  # that a connection may take
# a machine that vanishes says nothing: its silence ends the connection after 10 + 4 x 5 seconds
KEEP_ALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4}


class Lifelines:
    """The connections of one rank: rank 0 has one to each other, these have one to rank 0."""

    def __init__(self) -> None:
        self._ends: dict[int, socket.socket] = {}
        self._listener: socket.socket | None = None
        self._selector = selectors.DefaultSelector()
        self._token = ""
        self._left: dict[int, bytes] = {}  # what each rank said that has left; b"": nothing
        self._lock = threading.RLock()

    def listen(self) -> str:
        """Open rank 0's end; return what the others need to `join`."""
        self._token = secrets.token_hex(8)
        both = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if both else socket.AF_INET
        listener = socket.create_server(("", 0), family=family, backlog=128, dualstack_ipv6=both)
        listener.setblocking(False)
        self._listener = listener
        return f"{listener.getsockname()[1]} {self._token}"

    def join(self, address: str, listening: str, rank: int) -> None:
        """Connect to rank 0. Raises OSError where it cannot be reached."""
        port, token = listening.split()
        end = socket.create_connection((address, int(port)), timeout=SECONDS)
        end.sendall(f"{token} {rank}\n".encode().ljust(HELLO_BYTES))
        self._keep(0, end)

    def gone(self) -> set[int]:
        """Return the ranks that have ended without a word, as far as this rank can see."""
        with self._lock:
            while self._listener is not None and (end := self._accepted(self._listener)):
                self._greet(end)
            for key, _ in self._selector.select(0) if self._ends else []:
                self._hear(key.data)
            return self._that_said(b"")

    def stopped(self) -> set[int]:
        """Return the ranks that have left because of a signal."""
        return self._that_said(STOPPED)

    def refused(self) -> set[int]:
        """Return the ranks that have left after they told what is to be mended."""
        return self._that_said(REFUSED)

    def num_met(self) -> int:
        """Return with how many ranks this one has had a connection."""
        self.gone()
        with self._lock:
            return len(self._ends.keys() | self._left.keys())

    def leave(self, word: bytes) -> None:
        """Tell the others why this rank leaves (DONE, STOPPED or REFUSED), and close."""
        with self._lock:
            for end in self._ends.values():
                with suppress(OSError):
                    end.send(word)
            self.close()

    def close(self) -> None:
        with self._lock:
            for rank in list(self._ends):
                self._drop(rank)
            if self._listener is not None:
                self._listener.close()
                self._listener = None

    @staticmethod
    def _accepted(listener: socket.socket) -> socket.socket | None:
        try:
            return listener.accept()[0]
        except OSError:  # nobody more
            return None

    def _greet(self, end: socket.socket) -> None:
        """Take a rank's connection, and none of a stranger."""
        end.settimeout(1.0)
        try:
            token, rank = end.recv(HELLO_BYTES, socket.MSG_WAITALL).decode().split()
            number = int(rank)
        except (OSError, ValueError):
            end.close()
            return
        if not secrets.compare_digest(token.encode(), self._token.encode()):
            end.close()
            return
        self._keep(number, end)

    def _keep(self, rank: int, end: socket.socket) -> None:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEP_ALIVE.items():
            if hasattr(socket, name):  # not every system has all
                end.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        end.setblocking(False)
        with self._lock:
            self._ends[rank] = end
            self._selector.register(end, selectors.EVENT_READ, rank)

    def _hear(self, rank: int) -> None:
        try:
            said = self._ends[rank].recv(HELLO_BYTES)
        except BlockingIOError:
            return
        except OSError:  # reset, or silent for too long
            said = b""
        self._drop(rank)
        self._left[rank] = next((word for word in WORDS if said.startswith(word)), b"")

    def _that_said(self, word: bytes) -> set[int]:
        with self._lock:
            return {rank for rank, said in self._left.items() if said == word}

    def _drop(self, rank: int) -> None:
        end = self._ends.pop(rank)
        self._selector.unregister(end)
        end.close()
