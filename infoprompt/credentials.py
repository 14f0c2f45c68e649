"""Passwords and tokens in addresses: left out of whatever is shown or saved. Imports nothing of ours."""

import os
import re
from collections.abc import Mapping
from typing import Any

# The last @ ends the credentials, for a password may hold @ and, not quite legally, / itself; `host:5000/a@b` has none.
_USER = re.compile(r"""://(?:[^/\s:@"'<>]*:(?!\d+[/?#])[^\s"'<>]*|[^/\s"'<>]*)@""")
_ADDRESS = re.compile(r"[a-zA-Z][\w.+-]*://\S+", re.DOTALL)
_SETTING = re.compile(r"^(-*tracking\.uri\s*=\s*)(.*)$", re.DOTALL)
_QUERY = re.compile(
    r"(?i)([?&;][^=&;\s]*(?:password|passwd|passphrase|pwd|token|secret|key|auth|credential|signature|sig)[^=&;\s]*=)"
    r"[^&;\s\"']+"
)


def shown_uri(uri: str) -> str:
    """A URI, or a text with URIs, without its credentials: `http://me:pw@host` becomes `http://***@host`."""
    return _QUERY.sub(r"\1***", _USER.sub("://***@", uri))


def without_credentials(values: Any) -> Any:
    """Nested plain values with every address in them shown without its credentials; anything else stays as it is."""
    if isinstance(values, Mapping):
        return {key: without_credentials(value) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return [without_credentials(value) for value in values]
    if not isinstance(values, str):
        return values
    setting = _SETTING.match(values)
    if setting:  # an override
        return setting[1] + shown_uri(setting[2])
    return shown_uri(values) if _ADDRESS.fullmatch(values) else values


def full_uri(shown: str) -> str | None:
    """The address with the credentials that a saved one lacks, from the environment; None if they are not there.

    MLFLOW_TRACKING_URI may be the whole address. Beside MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or
    MLFLOW_TRACKING_TOKEN, MLflow itself signs in to a server, whose address needs none then.
    """
    if "***" not in shown:
        return shown
    from_environment = os.environ.get("MLFLOW_TRACKING_URI", "")
    if shown_uri(from_environment) == shown:
        return from_environment
    bare = shown.replace("://***@", "://")
    signs_in = any(os.environ.get(f"MLFLOW_TRACKING_{name}") for name in ("USERNAME", "TOKEN"))
    return bare if signs_in and bare.startswith("http") and "***" not in bare else None
