"""What goes wrong at endpoints, and what of it may be told."""

from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from time import time
from urllib.parse import urlsplit

from stretto.errors import StrettoError


class EndpointError(StrettoError):
    """An endpoint cannot be reached, refuses a request, or does not answer."""


class PassingError(Exception):
    """Worth another try, after so many seconds if the endpoint said so."""

    def __init__(self, told: str, seconds: float | None = None) -> None:
        super().__init__(told)
        self.seconds = seconds


class RefusedError(Exception):
    """The endpoint does not take the request as it is."""


class Hidden:
    """What must not be seen: the key, and a password within the address.

    Attributes:
        key: may be empty.
        address: as it is used.
        url: the address as it may be shown.
    """

    def __init__(self, key: str, url: str) -> None:
        self.key, self.address = key, url
        self._login = urlsplit(url).netloc.rpartition("@")[0]
        self.url = self.clean(url)

    def __repr__(self) -> str:
        return "[hidden]"

    def clean(self, text: str) -> str:
        """The text without them."""
        for secret, name in ((self.key, "[key]"), (self._login, "[login]")):
            text = text.replace(secret, name) if secret else text
        return text


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds an endpoint asks to wait, given as a number or a date."""
    if (told := headers.get("retry-after-ms")) is not None:
        try:
            return max(0.0, float(told) / 1000)
        except ValueError:
            return None
    told = headers.get("retry-after", "")
    try:
        return max(0.0, float(told))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(told).timestamp() - time())
    except ValueError:
        return None
