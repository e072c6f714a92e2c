"""Secrets of many shapes are given in every way, and are found in nothing that leaves the process.

Ways in: environment, Prefect block, file, flag, parameter, and the URLs of other settings. Ways
out: what is stored and sent of the settings, errors of settings, of parsers and of libraries, log
records, the command line that is shown; and after a real run, Prefect's database, the store, the
logs and all output.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import traceback
from base64 import b64decode
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import cloudpickle  # type: ignore[import-untyped]
import pytest
from fastapi.encoders import jsonable_encoder
from prefect.logging.formatters import JsonFormatter
from pydantic import BaseModel
from tblib import pickling_support  # type: ignore[import-untyped]

from infra.blocks import open_store
from infra.config_files import SettingsError
from infra.credentials import public, remember, scrub
from infra.logs import located
from infra.parsing import checked, parse_json
from infra.settings import Settings, StoreSettings
from infra.sources import read_flat
from infra.store import Store, StoreError
from infra.vocabulary import Vocabulary, load_vocabulary
from segmint.__main__ import shown_command
from tests.security.shapes import LOGINS, SHAPES, merged, toml

OWN = "Zq7nOWNk"  # longer than what is in a database's random base64 by chance
PROJECT = Path(__file__).parents[2]
VARIABLE = "SEGMINT_STORE__OPTIONS"
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES)
TEXT_SETTINGS = (
    "store.url",
    "store.block",
    "watch.metrics",
    "watch.links",
    "compute.runner",
    "compute.kubernetes.image",
    "alarm.notify",
    "generator.path",
    "generator.labels",
    "plan.captions",
    "evaluate.voc",
    "train.real",
    "vocabulary",
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("SEGMINT_", "AWS_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr("infra.credentials._known", set())


def whole(error: BaseException) -> str:
    """Return an error with its traceback and as Prefect stores it: pickled, with its context."""
    pickling_support.install(error)
    stored: str = cloudpickle.dumps(error).decode(errors="replace")
    return "".join(traceback.format_exception(error)) + stored


def test_there_are_more_than_forty_shapes() -> None:
    assert len(SHAPES) > 40 and len({found for _, found in SHAPES.values()}) == len(SHAPES)


@EVERY_SHAPE
@pytest.mark.parametrize("way", ["one variable", "a variable each", "variable of the section"])
def test_the_environment_reaches_the_store_unchanged_and_nothing_else(
    shape: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options, secret = SHAPES[shape]
    if way == "one variable":
        monkeypatch.setenv(VARIABLE, json.dumps(options))
    elif way == "variable of the section":
        monkeypatch.setenv("SEGMINT_STORE", json.dumps({"options": options}))
    else:
        for name, value in options.items():
            text = value if isinstance(value, str) else json.dumps(value)
            monkeypatch.setenv(f"{VARIABLE}__{name.upper()}", text)
    settings = Settings(store={"url": "s3://bucket/night"})
    if way != "a variable each" or "JSON" not in shape:  # as a variable, JSON is a table
        assert open_store(settings.store).options == options
    shown = [
        repr(settings),
        str(settings.store),
        str(settings.model_dump()),
        settings.model_dump_json(),
        json.dumps(settings.record()),
        json.dumps(jsonable_encoder(settings)),  # as Prefect stores parameters
        repr(open_store(settings.store)),
    ]
    assert not [text for text in shown if secret in text]
    assert settings.identity == Settings(store={"url": "other"}).identity
    assert Settings(**settings.resolved()) == settings  # the same worker starts it again
    monkeypatch.setenv("SEGMINT_PLAN__IMAGES", secret)
    with pytest.raises(SettingsError) as error:
        Settings()
    assert secret not in whole(error.value)


@EVERY_SHAPE
def test_files_flags_and_parameters_are_refused_by_the_field(shape: str, tmp_path: Path) -> None:
    options, secret = SHAPES[shape]
    files = {"a.yaml": json.dumps({"store": {"options": options}})}
    files["a.toml"] = f"[store]\noptions = {toml(options)}\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    name, value = next(iter(options.items()))
    text = value if isinstance(value, str) else json.dumps(value)
    ways: list[dict[str, Any]] = [
        *({"_file": tmp_path / name} for name in files),
        {"_flags": [f"store.options.{name}={text}"]},
        {"_flags": [f"store={json.dumps({'options': options})}"]},
        {"store": {"options": options}},
    ]
    for way in ways:
        with pytest.raises(SettingsError, match=rf"store\.options\.{name}.*environment") as error:
            Settings(**way)
        assert secret not in whole(error.value)
    words = ["run", "--set", f"store.options.{name}={text}", f"--set=store={json.dumps(options)}"]
    assert secret not in shown_command(words)


@EVERY_SHAPE
def test_options_given_in_code_are_hidden(shape: str) -> None:
    options, secret = SHAPES[shape]
    chosen = StoreSettings(url="s3://bucket", options=options)
    assert open_store(chosen).options == options
    assert secret not in f"{chosen!r} {chosen.model_dump()} {chosen.model_dump_json()}"


@EVERY_SHAPE
@pytest.mark.parametrize("broken", ["{value}: [", "{value}\n\t- x", "!!{value} x", "*{value}", ""])
def test_no_parser_quotes_the_file(shape: str, broken: str, tmp_path: Path) -> None:
    options, secret = SHAPES[shape]
    text = broken.format(value=json.dumps(options)[1:-1]) if broken else secret
    (tmp_path / "a.yaml").write_text(f"store:\n  options:\n    {text}")
    (tmp_path / "a.toml").write_text(f"[store]\noptions = {toml(options)} {text}")
    (tmp_path / "a.json").write_text(json.dumps(options) + text)
    ways: list[Any] = [
        lambda: Settings(_file=tmp_path / "a.yaml"),
        lambda: Settings(_file=tmp_path / "a.toml"),
        lambda: Settings(_flags=[text]),
        lambda: Settings(_flags=[f"store={json.dumps(options)}{text}"]),
        lambda: load_vocabulary(str(tmp_path / "a.json")),
        lambda: parse_json(json.dumps(options) + text),
        lambda: checked({"classes": options, "name": [text]}, Vocabulary),
    ]
    for way in ways:
        with pytest.raises(ValueError) as error:
            way()
        assert secret not in whole(error.value)


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("field", TEXT_SETTINGS)
def test_a_url_with_a_password_or_a_query_is_refused_in_every_setting(
    login: str, field: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    value, secret = LOGINS[login]
    variable = f"SEGMINT_{field.upper().replace('.', '__')}"
    with pytest.raises(SettingsError, match=field) as error:
        Settings(_flags=[f"{field}={value}"])
    assert secret not in whole(error.value)
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable) as error:
        Settings()
    assert secret not in whole(error.value)
    assert secret not in shown_command(["run", "--set", f"{field}={value}"])


@pytest.mark.parametrize("login", [name for name in LOGINS if "scheme" not in name])
def test_a_url_in_a_text_is_parsed(login: str) -> None:
    value, secret = LOGINS[login]
    for text in (value, f"cannot reach {value}: refused", f'("{value}", 3)', f"['{value}']"):
        assert secret not in public(text)
    with pytest.raises(StoreError) as error:
        Store.open(value)
    assert secret not in whole(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("s3://bucket/a@b/c", "s3://bucket/a@b/c"),
        ("abfs://box@acct.dfs.core.windows.net/a", "abfs://box@acct.dfs.core.windows.net/a"),
        ("http://[::1]:9000/a, then", "http://[::1]:9000/a, then"),
        ("is http://HOST:PORT.", "is http://HOST:PORT."),
        ("file:///data/a#1?x", "file:///data/a#1?x"),
        ("s3://me:p@ss@bucket/a", "s3://***@bucket/a"),
        ("s3://me:p/ss@bucket/a", "s3://***@bucket/a"),
        ("https://h/a?sig=x&sv=1#f.", "https://h/a?sig=***&sv=***#***."),
        ("https://h/a?x", "https://h/a?***"),
        ("simplecache::https://me:x@h", "simplecache::https://***@h"),
    ],
)
def test_what_is_no_credential_stays(url: str, shown: str) -> None:
    assert public(url) == shown


@EVERY_SHAPE
def test_errors_and_logs_of_libraries_show_none_that_is_in_use(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    options, secret = SHAPES[shape]
    remember(options)
    (value,) = options.values()
    texts = [str(value), repr(value), json.dumps(value), f"{options}", f"{json.dumps(options)}"]
    texts += [quote(str(value)), quote_plus(str(value)), quote(str(value), safe="")]
    assert not [text for text in texts if secret in scrub(text)]
    with located(run="night"):
        logging.getLogger("segmint.test").warning("%s %r", value, options)
        try:
            raise OSError(f"cannot use {value}")
        except OSError:
            logging.getLogger("segmint.test").exception("failed")
    formats = (logging.Formatter(), JsonFormatter("default", "%(message)s", "%H:%M"))
    written = [each.format(record) for each in formats for record in caplog.records]
    assert len(written) == 4 and not [text for text in written if secret in text]


def test_a_store_that_cannot_be_reached_shows_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real s3fs and botocore, at an address where nobody listens."""
    secrets = {"key": f"AKIA{OWN}A", "secret": f"{OWN}B/+x", "token": f"{OWN}C=="}
    monkeypatch.setenv("AWS_SESSION_TOKEN", f"{OWN}D")
    login = f"me:{OWN}E@127.0.0.1:9/?t={OWN}F"
    for host, shown in (("127.0.0.1:9", True), (login, False)):
        options = {**secrets, "endpoint_url": f"http://{host}", "retry_seconds": 0}
        with pytest.raises(StoreError) as error:
            Store.open("s3://bucket", options).probe()
        assert OWN not in whole(error.value)
        assert ("http://127.0.0.1:9" in str(error.value)) == shown


class Recipe(BaseModel):
    """Settings without tables, as those of pretraining are."""

    folder: str = "out"


def test_settings_without_tables_take_no_url_with_a_password() -> None:
    value, secret = LOGINS["URL with password"]
    with pytest.raises(SettingsError, match="folder") as error:
        read_flat(Recipe, None, [f"folder={value}"])
    assert secret not in whole(error.value)


def readable(file: Path) -> bytes:
    """Return the bytes of a file, and those that it holds as base64, as Prefect's pickles do."""
    data = file.read_bytes()
    with suppress(ValueError):
        return data + b64decode(b"".join(data.split()), validate=True)
    return data


PROGRAM = """
import os
import sys
from pathlib import Path
from prefect.blocks.system import Secret
from prefect.settings import PREFECT_API_URL
from pydantic import SecretStr
from infra.local_server import prefect_api
from infra.settings import Settings
from flows.nightly import nightly

folder, block = sys.argv[1], sys.stdin.read()
with prefect_api():
    Secret(value=SecretStr(block)).save("store")
    settings = Settings(
        _file=Path("tests/tiny.toml"), store={"url": f"{folder}/store", "block": "store"}
    )
    nightly(settings)
    for options in (os.environ["SEGMINT_STORE__OPTIONS"], sys.argv[2]):
        os.environ["SEGMINT_STORE__OPTIONS"] = options
        away = Settings(store={"url": "s3://b", "options": {"retry_seconds": 0.1}}).store
        lost = settings.model_copy(update={"store": away})
        try:
            nightly(lost)
        except Exception as error:
            print(type(error).__name__, error)
"""


@pytest.mark.server
@pytest.mark.slow
def test_after_real_runs_nothing_is_in_database_store_logs_and_output(tmp_path: Path) -> None:
    """One run that ends well, with all shapes at once, and two that cannot open their bucket.

    The error of the second quotes a URL with a password.
    """
    own = {
        VARIABLE: json.dumps(merged()),
        "AWS_ACCESS_KEY_ID": f"AKIA{OWN}AWS",
        "AWS_SECRET_ACCESS_KEY": f"{OWN}/AWS+secret",
        "AWS_SESSION_TOKEN": f"{OWN}AWStoken==",
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_LOGGING_LEVEL": "DEBUG",
        "PREFECT_LOGGING_TO_API_ENABLED": "true",
        "PYTHONPATH": str(PROJECT),
        "OMP_NUM_THREADS": "1",
    }
    unset = ("PREFECT_API_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
    environment = {name: text for name, text in os.environ.items() if name not in unset} | own
    url = f"http://me:{OWN}URL@127.0.0.1:9/?t={OWN}QUERY"
    away = {"endpoint_url": url, "key": f"{OWN}KEY", "secret": f"{OWN}END"}
    block = json.dumps(merged() | {"more": f"{OWN}BLOCK"})
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), json.dumps(away)],
        input=block.encode(),
        cwd=PROJECT,
        env=environment,
        capture_output=True,
    )
    output = done.stdout + done.stderr
    (tmp_path / "output").write_bytes(output)
    assert done.returncode == 0, output.decode()[-4000:]
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    contents = {str(file.relative_to(tmp_path)): readable(file) for file in files}
    database = b"".join(data for name, data in contents.items() if "prefect.db" in name)
    assert database.count(b"num_inference_steps") and database.count(b"Custom endpoint `***`")
    assert b"tiny" in contents["store/runs/tiny/settings.json"] and len(contents) > 10
    needles = [secret.encode() for _, secret in SHAPES.values()] + [OWN.encode()]
    found = [(name, n) for name, data in contents.items() for n in needles if n in data]
    assert not found
