"""The embedded stores' processes: SecantusDB as MongoDB, and the whole service as a child process."""

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from pymongo import MongoClient
from pymongo.errors import PyMongoError
from tenacity import Retrying, stop_after_delay, wait_fixed

from improvement.errors import Unavailable

#: Seconds the child gets to answer its first ping.
START_SECONDS = 30.0
#: Seconds in which a predecessor that was killed may still be closing the folder.
RELEASE_SECONDS = 5.0


def free_port() -> int:
    """Return a loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EmbeddedMongo:
    """A SecantusDB server (MongoDB's wire protocol on WiredTiger) on a folder of its own.

    It is GPL and runs as a separate process, reached over a loopback socket only.
    """

    def __init__(self, folder: Path) -> None:
        program = shutil.which("secantusd-py", path=sysconfig.get_path("scripts")) or shutil.which(
            "secantusd-py"
        )
        if program is None:
            raise Unavailable(
                "no MONGO_URL is set and SecantusDB is not installed: pip install '.[embedded]'"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._program, self._folder = program, folder
        self._log = (folder / "secantusd.log").open("ab")
        try:
            for attempt in Retrying(
                stop=stop_after_delay(RELEASE_SECONDS), wait=wait_fixed(0.5), reraise=True
            ):
                with attempt:
                    self._start()
        except BaseException:
            self._log.close()
            raise

    def _start(self) -> None:
        port = free_port()
        # The child of our child: `watch` ends it when our end of the pipe closes, even by SIGKILL.
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "improvement.embedded", self._program, "--port", str(port), "--standalone",
             "--storage-path", str(self._folder / "db")],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self.url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        try:
            self._wait()
        except BaseException:
            self._end()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        client: MongoClient[dict[str, object]] = MongoClient(self.url, serverSelectionTimeoutMS=200)
        with client:
            while True:
                try:
                    client.admin.command("ping")
                    return
                except PyMongoError as error:
                    if self._watcher.poll() is not None or time.monotonic() > deadline:
                        raise Unavailable(
                            f"the embedded MongoDB did not start; see {self._log.name}"
                        ) from error

    def stop(self) -> None:
        """Stop the server and wait until its files are closed."""
        self._end()
        self._log.close()

    def _end(self) -> None:
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait(timeout=START_SECONDS)


@contextmanager
def running_service(
    data_dir: Path, domains: Sequence[str], port: int = 0, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run `python -m improvement serve` on a folder and yield its address once it is ready.

    Args:
        domains: plugins as `module:attribute`.
        port: 0 takes a free one.
        environment: further settings; without them every store is embedded and no key is asked for.

    Raises:
        Unavailable: it did not become ready in time.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    address = f"http://127.0.0.1:{port}"
    own = {"DOMAINS": ",".join(domains), "DATA_DIR": str(data_dir)}
    unset = {"MONGO_URL": "", "REDIS_URL": "", "QDRANT_URL": "", "ENVIRONMENT": "development",
             "API_CLIENT_KEYS": "", "API_OPERATOR_KEYS": ""}  # fmt: skip
    with (data_dir / "service.log").open("ab") as log:
        service = subprocess.Popen(
            [sys.executable, "-m", "improvement", "serve", "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | unset | own | dict(environment or {}),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 2 * START_SECONDS
            while not _answers(f"{address}/readyz"):
                if service.poll() is not None or time.monotonic() > deadline:
                    raise Unavailable(f"the service did not start; see {log.name}")
                time.sleep(0.1)
            yield address
        finally:
            service.terminate()
            service.wait(timeout=START_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def watch(command: list[str]) -> int:
    """Run a command until it ends or standard input closes, which is when our parent is gone."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def end_with_parent() -> None:
        while os.read(0, 4096):  # not sys.stdin, whose lock a thread still reading holds at exit
            pass
        child.terminate()

    threading.Thread(target=end_with_parent, daemon=True).start()
    return child.wait()


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
