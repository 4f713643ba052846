"""JSON over HTTP, asked again with growing pauses while the other side fails in a way that may pass."""

import asyncio
import random
import time
from typing import Any

import httpx

from pipeline.errors import StepFailed

READ_TIMEOUT_SECONDS = 1800.0
"""For one answer, waiting in the server's queue included."""
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.25, 30.0


class JsonClient:
    """Requests to one server. Raises StepFailed when it refuses one, or fails for `patience_seconds` on end.

    `trust_env=False` keeps a proxy of the environment from standing between us and a server of our own.
    """

    def __init__(self, base_url: str, api_key: str | None, patience_seconds: float, trust_env: bool) -> None:
        self.url = base_url
        self._patience_seconds = patience_seconds
        self._http = httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(30.0, read=READ_TIMEOUT_SECONDS, pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=trust_env,
        )

    async def __aenter__(self) -> "JsonClient":
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON answer."""
        failing_since, pause = None, FIRST_PAUSE_SECONDS
        while True:
            wait = pause
            try:
                response = await self._http.request(method, path, json=body)
                if response.is_success:
                    return response.json()
                if not _may_pass(response.status_code):
                    raise Refused(self.url, response)
                problem = f"HTTP {response.status_code}: {response.text[:300]}"
                wait = max(pause, _retry_after_seconds(response))
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
            except ValueError as error:
                problem = f"no JSON: {error}"
            failing_since = failing_since or time.monotonic()
            if time.monotonic() - failing_since + wait > self._patience_seconds:
                raise StepFailed(
                    f"{self.url}: the model server stopped answering ({problem}); "
                    "a rerun continues with the answers that are missing"
                )
            await asyncio.sleep(wait * random.uniform(0.75, 1.25))  # so that many waiting requests do not come together
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class Refused(StepFailed):
    """The server understood the request and declined it: asking again would not help."""

    def __init__(self, url: str, response: httpx.Response) -> None:
        self.body = response.text
        super().__init__(
            f"{url}: the model server refused a request: HTTP {response.status_code}: {response.text[:500]}"
        )


def _may_pass(status_code: int) -> bool:
    return status_code in (408, 409, 429) or status_code >= 500


def _retry_after_seconds(response: httpx.Response) -> float:
    """What the server asks to wait, in seconds; a date or nothing counts as 0."""
    try:
        return float(response.headers.get("retry-after", 0))
    except ValueError:
        return 0.0
