"""Webhook: sends alerts to an address that only the settings know."""

from collections.abc import Mapping
from typing import Any

import httpx
import structlog
from pydantic import SecretStr
from tenacity import Retrying, stop_after_attempt, wait_exponential

log = structlog.get_logger()

#: Seconds that one attempt may take, how many attempts there are, and the longest pause between two.
TIMEOUT, ATTEMPTS, PAUSE = 5.0, 3, 2.0


class Webhook:
    """Posts JSON to a URL. The URL may hold a secret, so it is in no log and in no error.

    A failure is logged and nothing else: whoever has something to tell must not stumble over it.
    """

    def __init__(self, url: SecretStr) -> None:
        self._url = url

    def send(self, document: Mapping[str, Any]) -> bool:
        """Post a document, up to `ATTEMPTS` times; return whether the other side took it."""
        pause = wait_exponential(0.25, max=PAUSE)
        try:
            for attempt in Retrying(stop=stop_after_attempt(ATTEMPTS), wait=pause, reraise=True):
                with attempt:
                    answer = httpx.post(self._url.get_secret_value(), json=dict(document), timeout=TIMEOUT)
                    answer.raise_for_status()
        except Exception as error:  # texts of httpx's errors have the URL in them: only their kind is told
            status = error.response.status_code if isinstance(error, httpx.HTTPStatusError) else None
            log.warning("webhook failed", error=type(error).__name__, status=status, attempts=ATTEMPTS)
            return False
        return True
