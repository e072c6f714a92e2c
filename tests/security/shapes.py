"""Secrets of many shapes, as options of a store. Each has a needle: the text to search for."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

__all__ = ["LOGINS", "SHAPES", "merged", "needle", "toml"]

Options = dict[str, Any]


def needle(number: int) -> str:
    """Return the text to search for, which is in no other file of this machine."""
    return f"Zq7n{number:03d}k9WvX4"


def _numbered() -> Iterator[str]:
    number = 0
    while True:
        number += 1
        yield needle(number)


_next = _numbered()


def _pem(key: str) -> str:
    lines = "\n".join(f"{line}{key}{'ab' * 10}" for line in ("MIIE", "x9+/", "Qw=="))
    return f"-----BEGIN PRIVATE KEY-----\n{lines}\n-----END PRIVATE KEY-----\n"


def _basic(key: str) -> tuple[Options, str]:
    encoded = b64encode(f"me:{key}".encode()).decode()
    return {"headers_basic": {"Authorization": f"Basic {encoded}"}}, encoded


def _account(key: str) -> dict[str, str]:
    return {"type": "service_account", "client_email": "a@b.c", "private_key": _pem(key)}


_BUILD: dict[str, Any] = {
    "access key": lambda k: {"key": f"AKIA{k}"},
    "secret key": lambda k: {"secret": f"{k}/bPxRfiCYEXAMPLE+KEY"},
    "session token": lambda k: {"token": f"FwoGZXIvYXdzE{k}//////" + "a" * 300 + "=="},
    "keys by their long names": lambda k: {"client_kwargs": {"aws_secret_access_key": k}},
    "customer's key": lambda k: {"s3_additional_kwargs": {"SSECustomerKey": k}},
    "bearer header": lambda k: {"headers": {"Authorization": f"Bearer {k}"}},
    "basic header": _basic,
    "own header": lambda k: {"headers_own": {"X-Api-Key": k}},
    "passphrase": lambda k: {"passphrase": k},
    "passphrase of words": lambda k: {"pass_words": f"correct horse {k} staple"},
    "pair of user and password": lambda k: {"auth": ["me", k]},
    "table of cookies": lambda k: {"cookies": {"sid": k}},
    "cookie header": lambda k: {"cookie": f"theme=dark; sid={k}; Path=/; HttpOnly"},
    "SAS": lambda k: {"sas": f"sv=2024-01-01&ss=b&sp=rl&sig={k}%3D"},
    "SAS with a question mark": lambda k: {"sas_token": f"?sv=2024-01-01&sig={k}"},
    "URL with SAS": lambda k: {"container": f"https://acct.blob.core.windows.net/c?sig={k}"},
    "presigned S3": lambda k: {
        "presigned": f"https://b.s3.amazonaws.com/k?X-Amz-Expires=60&X-Amz-Signature={k}"
    },
    "presigned GCS": lambda k: {
        "signed": f"https://storage.googleapis.com/b/k?X-Goog-Signature={k}"
    },
    "URL with password": lambda k: {"http_url": f"https://me:{k}@host:9000/b"},
    "password with @": lambda k: {"at_url": f"https://me:p@{k}@host/b"},
    "password with /": lambda k: {"slash_url": f"https://me:p/{k}@host/b"},
    "password with ? and #": lambda k: {"hash_url": f"https://me:p?{k}#x@host/b"},
    "password in percent": lambda k: {"percent_url": f"https://me:{quote('p@/ ?')}{k}@host/b"},
    "token as user": lambda k: {"user_url": f"https://{k}@host/b"},
    "fragment": lambda k: {"fragment_url": f"https://host/b#access_token={k}"},
    "DSN": lambda k: {"dsn": f"postgresql+asyncpg://me:{k}@db:5432/prefect?sslmode=require"},
    "DSN of words": lambda k: {"libpq": f"host=db user=me password='{k}' dbname=prefect"},
    "DSN without a user": lambda k: {"redis": f"redis://:{k}@cache:6379/0"},
    "DSN of many hosts": lambda k: {"mongo": f"mongodb+srv://me:{k}@a.b.c,d.e.f/db?w=majority"},
    "connection string": lambda k: {
        "connection": f"DefaultEndpointsProtocol=https;AccountName=a;AccountKey={k}==;"
    },
    "webhook": lambda k: {"webhook": f"https://hooks.slack.com/services/T0/B0/{k}"},
    "PEM": lambda k: {"pem": _pem(k)},
    "service account": lambda k: {"account": _account(k)},
    "JSON in a text": lambda k: {"json_text": json.dumps(_account(k))},
    "JSON in JSON in a text": lambda k: {"json_twice": json.dumps({"a": json.dumps({"b": k})})},
    "nested lists": lambda k: {"lists": [[[k]], ["x", [[k]]]]},
    "list of tables": lambda k: {"tables": [{"user": "me", "pin": k}, {"deep": [{"er": k}]}]},
    "table of tables": lambda k: {"one": {"two": {"three": {"four": k}}}},
    "proxy": lambda k: {"config_kwargs": {"proxies": {"https": f"http://me:{k}@proxy:3128"}}},
    "unicode": lambda k: {"unicode": f"pässwörd-{k}-密码-🔑"},
    "quotes and backslashes": lambda k: {"quoted": f'a"b\'c\\{k}\\"`$(x)'},
    "line breaks and tabs": lambda k: {"broken": f"first\n\t{k}\r\nlast"},
    "blanks around": lambda k: {"blank": f" {k} "},
    "JWT": lambda k: {"jwt": f"eyJhbGciOiJIUzI1NiJ9.eyJ{k}.SflKxwRJSMeKKF2QT4"},
    "token of a forge": lambda k: {"forge": f"ghp_{k}"},
    "very long": lambda k: {"long": "x" * 5000 + k},
    "harmless name, URL with password": lambda k: {"endpoint_url": f"https://me:{k}@s3.local"},
    "harmless name, other content": lambda k: {"region_name": f"us-east-1 {k}"},
    "harmless name in a foreign table": lambda k: {"vault": {"profile": k}},
}


def _shapes() -> Iterator[tuple[str, tuple[Options, str]]]:
    for name, build in _BUILD.items():
        key = next(_next)
        built = build(key)
        yield name, built if isinstance(built, tuple) else (built, key)


SHAPES: dict[str, tuple[Options, str]] = dict(_shapes())

# URLs and logins, which somebody may give for any setting that is a text
LOGINS = {
    name: (value, key)
    for name, (options, key) in SHAPES.items()
    for value in options.values()
    if isinstance(value, str) and "://" in value and name != "webhook"
} | {"login without a scheme": (f"me:{needle(900)}@host/b", needle(900))}


def merged() -> Options:
    """Return all shapes as one table of options."""
    whole: Options = {}
    for options, _ in SHAPES.values():
        whole |= options
    return whole


def toml(value: Any) -> str:
    """Return a value in TOML's notation, tables as inline tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
