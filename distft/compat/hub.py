"""huggingface_hub's HTTP client, to which distft adds timeouts."""

from typing import Any

from distft.compat.reach import Reach

REACHES = (
    Reach(
        "huggingface_hub.utils._http.default_client_factory",
        "huggingface_hub 1.33 to 2.4",
        "the client with the hub's own hooks; set_client_factory is public",
    ),
)


def default_client() -> Any:
    """Returns a new client as huggingface_hub makes it; imports the library."""
    from huggingface_hub.utils._http import default_client_factory

    return default_client_factory()
