"""The network between two servers: a TCP proxy that can be cut and mended."""

import contextlib
import socket
import threading


class Wire:
    """Listens at `address`, which the system chooses, and passes on to `target`."""

    def __init__(self, host):
        self.listener = socket.create_server((host, 0))
        self.address = self.listener.getsockname()
        self.target = None
        self._cut = False
        self._open = set()
        self._lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Ends all connections, and refuses new ones until `mend`."""
        with self._lock:
            self._cut = True
            ends = list(self._open)
        for end in ends:
            _shut(end)

    def mend(self):
        with self._lock:
            self._cut = False

    @contextlib.contextmanager
    def severed(self):
        self.cut()
        try:
            yield
        finally:
            self.mend()

    def _accept(self):
        while True:
            near, _ = self.listener.accept()
            with self._lock:
                refused = self._cut or self.target is None
            if refused:
                near.close()
                continue
            try:
                far = socket.create_connection(self.target, timeout=5)
            except OSError:
                near.close()
                continue
            far.settimeout(None)
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            _shut(end)
            with self._lock:
                self._open.discard(end)


def _shut(end):
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
