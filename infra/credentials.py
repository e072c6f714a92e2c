"""What may be shown: options known to be harmless, and texts without credentials.

Everything else is hidden. `infra.hidden` has the values that the settings keep hidden.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

__all__ = [
    "HARMLESS",
    "MASK",
    "holds_credential",
    "is_harmless",
    "leaves",
    "public",
    "remember",
    "scrub",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Options of fsspec, s3fs, gcsfs, adlfs and botocore that are known to be no credentials, with the
# tables that hold them. A name that is missing here is hidden.
HARMLESS = _names(
    """
    access account_name addressing_style anon api_version auto_mkdir block_size cache_regions
    cache_type check_connection checksum_algorithm client_kwargs config_kwargs connect_timeout
    connection_timeout consistency default_block_size default_cache_type
    default_fill_cache default_location endpoint_url fixed_upload_size host listings_expiry_time
    max_attempts max_concurrency max_paths max_pool_connections mode parameter_validation
    payload_signing_enabled port profile project read_timeout region region_name
    request_checksum_calculation requester_pays requests_timeout response_checksum_validation
    retries retry_seconds s3 s3_additional_kwargs signature_version skip_instance_cache
    tcp_keepalive timeout total_max_attempts use_accelerate_endpoint use_dualstack_endpoint
    use_fips_endpoint use_listings_cache use_ssl verify version_aware
    ACL ServerSideEncryption StorageClass
    """
)
# A word, a path, a host or a URL. Without @ ? & = % and spaces it holds no user and no parameter.
_PLAIN = re.compile(r"[A-Za-z0-9._:/\[\]-]{0,255}")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_AFTER_URL = "'\"`)>]},.;:?!"  # what a sentence may put behind a URL
# user:password@host without a scheme; an image's digest is no host
_LOGIN = re.compile(r"[^/\s:@]+:[^/\s]+@(?!sha256:)")
_CONTAINER_SCHEMES = {"abfs", "abfss", "wasb", "wasbs"}  # of Azure: container@account
_FILE_SCHEMES = {"file", "local"}
MASK = "***"

_SHORTEST = 4  # characters of a value that `scrub` looks for; shorter ones are parts of words
_PIECE = re.compile(r"[^\s\"'{}\[\]():;,&=@/?#]{8,}")  # a part of a value that a message may quote
_VARIABLES = ("AWS_", "AZURE_", "GOOGLE_")  # the clouds' own variables
_HARMLESS_VARIABLES = _names(
    """
    AWS_CA_BUNDLE AWS_CONFIG_FILE AWS_DEFAULT_OUTPUT AWS_DEFAULT_PROFILE AWS_DEFAULT_REGION
    AWS_EC2_METADATA_DISABLED AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 AWS_MAX_ATTEMPTS AWS_PAGER
    AWS_PROFILE AWS_REGION AWS_REQUEST_CHECKSUM_CALCULATION AWS_RESPONSE_CHECKSUM_VALIDATION
    AWS_RETRY_MODE AWS_ROLE_ARN AWS_ROLE_SESSION_NAME AWS_SHARED_CREDENTIALS_FILE
    AWS_STS_REGIONAL_ENDPOINTS AWS_WEB_IDENTITY_TOKEN_FILE AZURE_STORAGE_ACCOUNT_NAME
    GOOGLE_APPLICATION_CREDENTIALS GOOGLE_CLOUD_PROJECT
    """
)
# of Prefect, whose other variables are settings
_PREFECT_VARIABLES = (
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
    "PREFECT_API_DATABASE_PASSWORD",
    "PREFECT_CLIENT_CUSTOM_HEADERS",
    "PREFECT_SERVER_API_AUTH_STRING",
    "PREFECT_SERVER_DATABASE_PASSWORD",
)
_known: set[str] = set()  # credentials that this process uses, as messages may spell them


def is_harmless(path: Sequence[str], value: Any) -> bool:
    """Whether the option at `path` of `store.options` may be written in files and shown."""
    if not all(name in HARMLESS for name in path):
        return False
    if isinstance(value, (list, tuple)):
        return all(is_harmless(path, inner) for inner in value)
    if isinstance(value, str):
        return bool(_PLAIN.fullmatch(value))
    return value is None or isinstance(value, (bool, int, float))


def holds_credential(text: str) -> bool:
    """Whether a text holds user:password@host, or a URL with a user, a query or a fragment."""
    return public(text) != text or bool(_LOGIN.match(text))


def public(text: str) -> str:
    """Return `text` with *** for the user, password, query values and fragment of every URL."""
    return _URL.sub(lambda found: _public_url(found[0]), text)


def _public_url(found: str) -> str:
    url = found.rstrip(_AFTER_URL)
    scheme, _, rest = url.partition("://")
    if scheme.lower() in _FILE_SCHEMES:
        return found
    user, rest = _without_user(scheme.lower(), rest)
    try:
        parts = urlsplit(f"//{rest}")
    except ValueError:  # a bracket that belongs to no address
        return f"{scheme}://{MASK}"
    query = "&".join(_parameter(pair) for pair in parts.query.split("&") if pair)
    shown = f"{scheme}://{user}{parts.netloc}{parts.path}"
    shown += f"?{query}" if query else ""
    return shown + (f"#{MASK}" if parts.fragment else "") + found[len(url) :]


def _without_user(scheme: str, rest: str) -> tuple[str, str]:
    """Return what to show for the user of a URL, and the URL from its host on.

    A password may hold @, /, ? and # if nobody encoded it. So after user: all is the password, up
    to the last @.
    """
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    login = host.rpartition("@")[0]
    if scheme in _CONTAINER_SCHEMES and ":" not in host:
        return "", rest
    if "@" in rest and ":" in (login or host):
        return f"{MASK}@", rest.rpartition("@")[2]
    return (f"{MASK}@", rest[len(login) + 1 :]) if login else ("", rest)


def _parameter(pair: str) -> str:
    named = parse_qsl(pair, keep_blank_values=True) if "=" in pair else []
    return f"{pair.partition('=')[0]}={MASK}" if named else MASK


def remember(options: Mapping[str, Any]) -> None:
    """Let `scrub` remove the credentials among the options of a store, in this process."""
    for path, value in leaves(options):
        if isinstance(value, bytes):
            value = value.decode(errors="replace")
        if isinstance(value, str) and not is_harmless(path, value):
            _known.update(_spellings(value))


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and value of everything in nested values that is no table and no list."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, (*path, str(name)))
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from leaves(inner, path)
    else:
        yield path, value


def _spellings(value: str) -> Iterator[str]:
    """Yield a credential and its parts as they stand in URLs, JSON, reprs and headers."""
    for text in {value, *_PIECE.findall(value)}:
        if len(text) >= _SHORTEST:
            yield text
            yield quote(text, safe="")
            yield quote_plus(text)
            yield repr(text)[1:-1]
            yield json.dumps(text)[1:-1]
            yield json.dumps(text, ensure_ascii=False)[1:-1]
            yield b64encode(text.encode(errors="replace")).decode()


def _in_environment() -> Iterator[str]:
    for name, value in os.environ.items():
        cloud = name.startswith(_VARIABLES) and name not in _HARMLESS_VARIABLES
        if cloud or name in _PREFECT_VARIABLES:
            yield from _spellings(value)


def scrub(text: str) -> str:
    """Return `text`, such as the error of a library, with *** for every credential in it.

    These are what `public` masks, and the credentials that this process uses.
    """
    for secret in sorted(_known.union(_in_environment()), key=len, reverse=True):
        text = text.replace(secret, MASK)
    return public(text)
