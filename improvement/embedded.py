"""The embedded MongoDB: SecantusDB as a child process that never outlives its parent."""

import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from improvement.errors import Unavailable

#: Seconds the child gets to answer its first ping.
START_SECONDS = 30.0


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
        port = free_port()
        self._log = (folder / "secantusd.log").open("ab")
        # The child of our child: `watch` ends it when our end of the pipe closes, even by SIGKILL.
        self._watcher = subprocess.Popen(
            [sys.executable, "-m", "improvement.embedded", program, "--port", str(port), "--standalone",
             "--storage-path", str(folder / "db")],
            stdin=subprocess.PIPE, stdout=self._log, stderr=self._log, start_new_session=True,
        )  # fmt: skip
        self.url = f"mongodb://127.0.0.1:{port}/?directConnection=true"
        try:
            self._wait()
        except BaseException:
            self.stop()
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
                            f"the embedded MongoDB did not start; see {self._log.name} ({error})"
                        ) from error

    def stop(self) -> None:
        """Stop the server and wait until its files are closed."""
        if self._watcher.stdin is not None:
            self._watcher.stdin.close()
        self._watcher.wait(timeout=START_SECONDS)
        self._log.close()


def watch(command: list[str]) -> int:
    """Run a command until it ends or standard input closes, which is when our parent is gone."""
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    sys.stdin.buffer.read()
    child.terminate()
    return child.wait()


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
