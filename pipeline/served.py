"""Ask a server on this machine something short. No proxy of the environment comes between."""

import http.client
import json
from urllib.parse import urlsplit


def fetch(url: str, path: str, key: str | None, timeout_seconds: float) -> bytes:
    """The body of GET `path`.

    Raises OSError when nobody answers in time (or not with 200), ValueError when the answer is no HTTP.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_seconds)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ConnectionError(f"{url}{path}: HTTP {response.status}")
        return response.read()
    except http.client.HTTPException as error:
        raise ValueError(f"{url}{path}: {error!r}") from error
    finally:
        connection.close()


def served_models(url: str, key: str | None, timeout_seconds: float) -> list[str]:
    """The names in GET /v1/models of the OpenAI API. Raises as `fetch`, and ValueError for what is no such list."""
    body = fetch(url, "/v1/models", key, timeout_seconds)
    try:
        return [model["id"] for model in json.loads(body)["data"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{url}/v1/models: {error!r}") from error
