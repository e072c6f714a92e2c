"""Settings files, flags and the environment."""

from __future__ import annotations

import pytest

from infra.settings import Settings, SettingsError
from tests.malformed import DEEP, Case, Cases, file


def settings_files() -> Cases:
    bomb = "a: &a [1, 1]\n" + "".join(
        f"b{i}: &b{i} [{', '.join(['*a' if not i else f'*b{i - 1}'] * 9)}]\n" for i in range(9)
    )
    texts: dict[str, tuple[str, str | bytes, str]] = {
        "object": ("yaml", "name: !!python/object/apply:os.system ['touch owned']", "constructor"),
        "module": ("yaml", "name: !!python/name:os.system", "constructor"),
        "aliases that multiply": ("yaml", bomb, "alias"),
        "alias of itself": ("yaml", "store: &a {options: *a}", "alias"),
        "plain alias": ("yaml", "seed: &a 1\nplan: {images: *a}", "alias"),
        "key twice": ("yaml", "seed: 1\nseed: 2", "has a key twice"),
        "table twice": ("yaml", "plan: {images: 1}\nplan: {multi: 0}", "has a key twice"),
        "key twice in a table": ("yaml", "plan: {images: 1, images: 2}", "has a key twice"),
        "list": ("yaml", "- 1", "not a table of settings in YAML"),
        "word": ("yaml", "hello", "not a table of settings in YAML"),
        "number for a name": ("yaml", "1: 2", "not a table of settings in YAML"),
        "two documents": ("yaml", "seed: 1\n---\nseed: 2", "not a table of settings in YAML"),
        "tab": ("yaml", "plan:\n\timages: 1", "not a table of settings in YAML"),
        "open bracket": ("yaml", "classes: [car", "not a table of settings in YAML"),
        "NUL": ("yaml", "name: a\0b", "not a table of settings in YAML"),
        "not UTF-8": ("yaml", b"name: \xff\xfe", "not a table of settings in YAML"),
        "deep": ("yaml", "plan: " + "[" * 1000, "not a table of settings in YAML"),
        "lone surrogate": ("yaml", r'name: "\ud800"', "setting name"),
        "NaN": ("yaml", "plan: {multi: .nan}", "plan.multi"),
        "date for a name": ("yaml", "name: 2024-01-01", "setting name"),
        "null for a table": ("yaml", "plan:", "setting plan"),
        "list for a table": ("toml", "[[plan]]\nimages = 1", "setting plan"),
        "toml key twice": ("toml", "seed = 1\nseed = 2", "in TOML"),
        "toml deep": ("toml", "a = " + "[" * (DEEP // 5), "in TOML"),
        "toml of many bytes": ("toml", "#" * DEEP, "more than 32768"),
        "toml not UTF-8": ("toml", b"name = '\xff'", "in TOML"),
        "toml cut off": ("toml", "[plan", "in TOML"),
        "toml huge integer": ("toml", "seed = " + "9" * 5000, "in TOML"),
        "infinite": ("toml", "[train]\nlearning_rate = inf", "train.learning_rate"),
        "not a number": ("toml", "[plan]\nmulti = nan", "plan.multi"),
        "weight below nothing": ("toml", "[plan.budget]\ncar = -1", "plan.budget.car"),
        "infinite weight": ("toml", "[plan.budget]\ncar = inf", "plan.budget.car"),
        "way out in the name": ("toml", 'name = "../other"', "setting name"),
        "slash in the name": ("toml", 'name = "a/b"', "setting name"),
        "line break in the name": ("toml", 'name = "a\\nb"', "setting name"),
        "escape in the name": ("toml", 'name = "a\\u001b[31m"', "setting name"),
        "dot before the name": ("toml", 'name = ".a"', "setting name"),
        "long name": ("toml", f'name = "{"a" * 101}"', "setting name"),
        "shell in the runner": ("toml", '[compute]\nrunner = "sh -c reboot"', "compute.runner"),
        "device": ("toml", '[generator]\ndevice = "cuda:-1"', "generator.device"),
        "no images": ("toml", "[plan]\nimages = 0", "plan.images"),
        "unknown field": ("toml", "[plan]\npickle = 'x'", "plan.pickle"),
        "options that are text": ("toml", "[store]\noptions = 'x'", "store.options"),
    }
    for name, (suffix, text, words) in texts.items():
        yield (
            f"settings: {name}",
            Case(
                lambda d, s=suffix, t=text: Settings(_file=file(d / f"segmint.{s}", t)),
                SettingsError,
                words,
            ),
        )
    yield (
        "settings: other suffix",
        Case(
            lambda d: Settings(_file=file(d / "segmint.py", "")), SettingsError, r"ends in '\.py'"
        ),
    )
    yield (
        "settings: folder",
        Case(lambda d: Settings(_file=d), SettingsError, "no configuration file"),
    )


def settings_texts() -> Cases:
    flags = {
        "no value": ("plan.images", "plan.images"),
        "no field": ("=1", "FIELD=VALUE"),
        "open table": ("store.options={", "store"),
        "deep list": ("store.options=" + "[" * DEEP, "nested too deeply|store"),
        "deep table": ("plan.budget=" + '{"a":' * DEEP, "nested too deeply|plan"),
        "key twice": ('store.options={"a": 1, "a": 2}', "store"),
        "NaN": ('store.options={"a": NaN}', "store"),
        "overflow": ('store.options={"a": 1e999}', "store"),
        "field of many parts": ("a" + ".b" * 3000 + "=1", "setting"),
    }
    for name, (flag, words) in flags.items():
        yield f"flag: {name}", Case(lambda d, f=flag: Settings(_flags=[f]), SettingsError, words)
    variables = {
        "deep list": ("SEGMINT_STORE__OPTIONS", "[" * DEEP, "environment"),
        "deep table": ("SEGMINT_PLAN", '{"a":' * DEEP, "environment"),
        "key twice": ("SEGMINT_PLAN", '{"images": 1, "images": 2}', "environment"),
        "unknown field": ("SEGMINT_PLAN__PICKLE", "1", "SEGMINT_PLAN__PICKLE"),
    }
    for name, (variable, text, words) in variables.items():
        yield (
            f"environment: {name}",
            Case(lambda d, v=variable, t=text: with_environment(v, t), SettingsError, words),
        )


def with_environment(name: str, text: str) -> Settings:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name, text)
        return Settings()


def cases() -> Cases:
    """Yield all cases of this module."""
    yield from settings_files()
    yield from settings_texts()
