"""Ask a server with the OpenAI API which models it serves."""

import http.client
import json
from urllib.parse import urlsplit


def served_models(url: str, key: str | None, timeout_seconds: float) -> list[str]:
    """The names in GET /v1/models. No proxy of the environment comes between.

    Raises OSError when nobody answers in time (or not with 200), ValueError when the answer is something else.
    """
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=timeout_seconds)
    try:
        connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        if response.status != http.client.OK:
            raise ConnectionError(f"{url}/v1/models: HTTP {response.status}")
        return [model["id"] for model in json.load(response)["data"]]
    except (http.client.HTTPException, KeyError, TypeError) as error:
        raise ValueError(f"{url}/v1/models: {error!r}") from error
    finally:
        connection.close()
