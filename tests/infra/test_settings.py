import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from infra.blocks import open_store
from infra.explain import fields_of
from infra.settings import (
    LabellerSettings,
    Settings,
    SettingsError,
    check_drawn,
    check_same_run,
)
from infra.settings.document import document
from infra.settings.identity import hash_samples, in_identity

SECRET = "correct-horse-battery"
FLOW = "generator.path=semflow:flow-1"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("SEGMINT_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    file = tmp_path / "segmint.toml"
    file.write_text(
        'name = "from-file"\nseed = 1\n[plan]\nimages = 10\nmulti = 0.1\n[plan.budget]\ncar = 2\n'
    )
    return file


def test_flags_win_over_environment_over_file_over_defaults(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMINT_PLAN__IMAGES", "20")
    monkeypatch.setenv("SEGMINT_PLAN__MULTI", "0.2")
    settings = Settings(_file=toml, _flags=["plan.images=30"])
    assert (settings.plan.images, settings.plan.multi, settings.seed) == (30, 0.2, 1)
    assert settings.plan.shard_size == Settings().plan.shard_size


def test_values_given_in_code_win_over_flags() -> None:
    assert Settings(_flags=["seed=1"], seed=2).seed == 2


def test_yaml_reads_as_toml_does(toml: Path, tmp_path: Path) -> None:
    yaml = tmp_path / "segmint.yaml"
    yaml.write_text(
        "name: from-file\nseed: 1\nplan:\n  images: 10\n  multi: 0.1\n  budget:\n    car: 2\n"
    )
    assert Settings(_file=yaml) == Settings(_file=toml)


def test_tables_merge_across_sources_field_by_field(
    toml: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGMINT_PLAN__BUDGET__TREE", "3")
    assert Settings(_file=toml, _flags=["plan.budget.bus=4"]).plan.budget == {
        "car": 2,
        "tree": 3,
        "bus": 4,
    }


def test_text_is_read_as_what_the_field_holds() -> None:
    flags = ["name=1.10", "plan.budget=null", "classes=car, tree", "store.options.anon=false"]
    settings = Settings(_flags=flags, plan={})
    assert (settings.name, settings.plan.budget, settings.classes) == (
        "1.10",
        None,
        ("car", "tree"),
    )
    assert settings.store.options == {"anon": False}


@pytest.mark.parametrize("text", ["car, tree", '["car", "tree"]'])
def test_a_list_in_a_section_is_names_with_commas_or_json(text: str) -> None:
    settings = Settings(_flags=["train.protocol=zero-shot", f"train.unseen={text}"])
    assert settings.train.unseen == ("car", "tree")


def test_an_unknown_flag_names_the_nearest_setting() -> None:
    with pytest.raises(
        SettingsError, match=r"'plan.imges' \(from --set plan.imges\): did you mean 'plan.images'"
    ):
        Settings(_flags=["plan.imges=3"])


def test_a_setting_given_without_its_table_is_found_in_it() -> None:
    with pytest.raises(SettingsError, match=r"'shard_size'.*did you mean 'plan.shard_size'"):
        Settings(_flags=["shard_size=3"])


def test_an_unknown_name_far_from_all_lists_what_there_is() -> None:
    with pytest.raises(SettingsError, match=r"'qqq'.*valid names are name, seed, .*compute"):
        Settings(_flags=["qqq=3"])


@pytest.mark.parametrize("variable", ["SEGMINT_PLN__IMAGES", "SEGMINT_PLAN__IMGES"])
def test_an_unknown_environment_variable_is_an_error(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "3")
    with pytest.raises(
        SettingsError, match=r"from SEGMINT_PL.* in the environment\): did you mean 'plan"
    ):
        Settings()


def test_an_unknown_field_of_a_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "night.toml"
    file.write_text("[generator]\nguidance = 3\n")
    with pytest.raises(
        SettingsError,
        match=r"night.toml, generator.guidance\): did you mean 'generator.guidance_scale'",
    ):
        Settings(_file=file)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        (
            "plan.images=-3",
            r"plan.images = '-3' \(from --set plan.images\): "
            "Input should be greater than or equal to 1",
        ),
        ("plan.images=many", r"plan.images = 'many' .* valid integer"),
        ("plan.budget.car=-1", r"plan.budget.car = '-1' .* greater than or equal to 0"),
        ("plan.budget.car=nan", r"plan.budget.car = 'nan' .* finite number"),
        ("generator.device=gpu", r"generator.device = 'gpu' .* auto, cpu, mps, cuda or cuda:N"),
        (
            "compute.runner=ray",
            r"compute.runner = 'ray' .* threads, dask-local, dask-kubernetes or dask://HOST:PORT",
        ),
        ("name=a/b", r"name = 'a/b' .* letters, digits"),
        ("plan.multi=0.99", r"multi 0.99 \+ negatives 0.05 is more than 1; lower one"),
        (
            "train.class_weights.car=0",
            r"car = '0' .*from 0.1 to 10; to leave a version",
        ),
        ("train.version_weights.a=2", r"names a, but versions is 'newest', a single one; name sev"),
        ("compare.minutes=3", r"minutes is 3, but models is empty.*; name the models"),
        ("compare.models=segformer,segformer", r"name each model once"),
        ("promote.margin=0", r"promote.margin = '0' .* greater than 0"),
        ("plan={3", r'"plan"; write a table or list as JSON'),
        ("plan.images", r"'plan.images' is not FIELD=VALUE; write"),
    ],
)
def test_a_wrong_value_gets_field_value_and_remedy(flag: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(_flags=[flag])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "seed = = 3", "a.toml is not a table of settings in TOML: .*line 1"),
        ("a.yaml", "seed: [3", "a.yaml is not a table of settings in YAML"),
        ("a.json", "{}", "ends in '.json'; give a file that ends in .toml or .yaml"),
        (
            "a.toml",
            "name = 'caf\udce9'",
            "a.toml is not a table of settings in TOML: byte 11 is not UTF-8",
        ),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(SettingsError, match=message):
        Settings(_file=tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no configuration file .*none.toml"):
        Settings(_file=tmp_path / "none.toml")


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().plan.images = 3


@pytest.mark.parametrize(
    "flag",
    [
        "name=x",
        "store.url=elsewhere",
        "store.options.anon=true",
        "compute.workers=4",
        "compute.runner=dask-local",
        "watch.metrics=out",
        "watch.lines=-",
        "plan.shard_size=7",
        "generator.batch_size=3",
        "generator.device=cuda",
        "train.steps=3",
        "evaluate.images=3",
        "promote.margin=0.01",
        "compare.models=segformer,mask2former",
    ],
)
def test_what_cannot_change_a_sample_leaves_the_identity(flag: str) -> None:
    assert Settings(_flags=[flag]).identity == Settings().identity


@pytest.mark.parametrize(
    "flag",
    [
        "seed=1",
        "classes=car,tree",
        "plan.images=7",
        "plan.multi=0.2",
        "plan.budget.car=2",
        "generator.path=sd",
        "generator.guidance_scale=4",
        "generator.guidance_rescale=0",
        "generator.dtype=float16",
        "generator.attention=names",
        "generator.labels=v1",
        "generator.labels_digest=ab12",
        "generator.layouts=composed",
        "refine.pamr_iterations=9",
        "select.min_area=0.1",
        "select.max_ignored=1",
        "select.min_largest=0",
        "select.folds=2",
        "select.keep=auto",
        "compose.images=3",
        "compose.spliced=0",
    ],
)
def test_what_can_change_a_sample_changes_the_identity(flag: str) -> None:
    assert Settings(_flags=[flag]).identity != Settings().identity


def test_fields_added_since_leave_the_identity_of_older_runs_alone() -> None:
    samples = Settings().sample_settings()
    added = {"attention", "labels", "labels_digest", "layouts"}
    assert not added & samples["generator"].keys() and "guidance_scale" in samples["generator"]
    assert (
        Settings(generator={"attention": "names"}).sample_settings()["generator"]["attention"]
        == "names"
    )


# computed before the settings were split into sections; runs in users' stores rely on them
IDENTITIES: list[tuple[dict[str, object], str]] = [
    ({}, "89b6f9a4778d6413ae4563673c14a9d6ba30a2a5bd95756cf6792e8d76b8e83d"),
    (
        {
            "seed": 7,
            "name": "fixed",
            "classes": ("car", "tree"),
            "plan": {"images": 120, "multi": 0.2, "budget": {"car": 2.0}},
            "generator": {"attention": "names", "dtype": "float32", "num_inference_steps": 10},
            "refine": {"method": "diffumask"},
            "compose": {"images": 30},
            "select": {"folds": 2, "keep": "auto", "pixel_loss": 5.0},
        },
        "5a3d39eb1ac26ce15a791220d9f973bfd0e110f8351f53a235460d8566c98053",
    ),
]


@pytest.mark.parametrize(("values", "identity"), IDENTITIES)
def test_the_identity_of_given_settings_never_changes(
    values: dict[str, Any], identity: str
) -> None:
    settings = Settings(**values)
    assert settings.identity == identity
    record = settings.record()
    assert (record["identity"], record["settings"]) == (identity, settings.resolved())
    assert hash_samples(record["sample_settings"]) == identity


def test_settings_marked_as_identity_are_exactly_those_that_are_hashed() -> None:
    hashed = set()
    for name, value in Settings().sample_settings().items():
        inner = value if isinstance(value, dict) and name != "vocabulary" else None
        hashed |= {f"{name}.{field}" for field in inner} if inner is not None else {name}
    hashed |= {"classes"}  # by the vocabulary
    # at their defaults left out
    hashed |= {f"generator.{name}" for name in ("attention", "labels", "labels_digest", "layouts")}
    hashed |= {f"plan.{name}" for name in ("backgrounds", "counts", "sizes", "subclasses")}
    hashed |= {"refine.labellers"}
    hashed |= {f"refine.labellers.{name}" for name in LabellerSettings.model_fields}
    leaves = {name for name in dict(fields_of(Settings)) if name not in Settings.model_fields}
    leaves |= {"name", "seed", "vocabulary", "classes"}
    assert {name for name in leaves if in_identity(name)} == hashed


def test_the_document_of_the_settings_is_current() -> None:
    stored = Path(__file__).parents[2] / "docs/settings.md"
    assert stored.read_text() == document(), (
        "run python -m infra.settings.document > docs/settings.md"
    )


def test_the_document_has_every_setting_with_its_description() -> None:
    lines = document().splitlines()
    for name, field in fields_of(Settings):
        if f"## {name}" not in lines:  # a section has a heading, its fields have rows
            (line,) = (line for line in lines if line.startswith(f"| `{name}` |"))
            assert line.count(" | ") == 4 and line.endswith(" |") and field.description
            if name == "plan.images":
                assert line == (
                    "| `plan.images` | integer ≥ 1 | `2000` | yes "
                    "| Images to generate. Selection keeps a part of them. |"
                )


@pytest.mark.parametrize("keep", [0, 1.5, "most", None, float("nan")])
def test_a_share_to_keep_is_a_share_or_auto(keep: object) -> None:
    assert (
        Settings(select={"keep": "0.5"}).select.keep == 0.5
        and Settings(select={"keep": "auto"}).select.keep == "auto"
    )
    with pytest.raises(
        SettingsError, match=r"select\.keep = .*: .*give a share over 0 and up to 1, or auto"
    ):
        Settings(select={"keep": keep})


def test_the_identity_is_of_the_vocabulary_s_content_not_its_path(tmp_path: Path) -> None:
    vocabulary = Settings().load_vocabulary()
    copy = tmp_path / "copy.json"
    copy.write_text(vocabulary.model_dump_json())
    settings = Settings(vocabulary=str(copy))
    assert settings.identity == Settings().identity
    copy.write_text(vocabulary.model_copy(update={"sizes": ("tiny",)}).model_dump_json())
    assert settings.identity != Settings().identity


def test_resolved_settings_read_back_as_the_same() -> None:
    settings = Settings(seed=3, classes=("car",), plan={"budget": {"car": 2}})
    assert Settings(**json.loads(json.dumps(settings.resolved()))) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert Settings.model_validate(settings.resolved()).identity == settings.identity


def test_credentials_of_the_environment_reach_the_store_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SEGMINT_STORE__OPTIONS__SECRET", SECRET)
    monkeypatch.setenv(
        "SEGMINT_STORE__OPTIONS__CLIENT_KWARGS",
        json.dumps({"aws_secret_access_key": SECRET, "verify": 1}),
    )
    settings = Settings(store={"url": "s3://bucket/night", "options": {"anon": False}})
    assert open_store(settings.store).options == {
        "secret": SECRET,
        "client_kwargs": {"aws_secret_access_key": SECRET, "verify": 1},
        "anon": False,
    }
    assert settings.resolved()["store"] == {
        "url": "s3://bucket/night",
        "options": {"anon": False},
        "block": None,
    }
    assert Settings(**settings.resolved()) == settings == pickle.loads(pickle.dumps(settings))
    for shown in (
        repr(settings),
        str(settings.store),
        settings.model_dump_json(),
        json.dumps(settings.record()),
    ):
        assert SECRET not in shown


@pytest.mark.parametrize("value", ["not json {", '{"secret": 1', "[]"])
def test_no_error_shows_a_credential(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMINT_STORE__OPTIONS", value + SECRET)
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert SECRET not in str(caught.value)
    assert caught.value.__context__ is None  # Prefect would store it


@pytest.mark.parametrize(
    "setting", [{"options": {"secret": SECRET}}, {"url": f"s3://me:{SECRET}@bucket"}]
)
def test_a_credential_in_a_file_or_a_flag_is_refused(
    setting: dict[str, object], tmp_path: Path
) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(json.dumps({"store": setting}))
    for given in (
        {"_file": file},
        {"_flags": [f"store={json.dumps(setting)}"]},
        {"store": setting},
    ):
        with pytest.raises(SettingsError, match="set it in the environment") as caught:
            Settings(**given)
        assert SECRET not in str(caught.value)


def test_the_same_run_goes_on_and_another_of_its_name_gets_the_differences() -> None:
    record = json.loads(json.dumps(Settings(seed=1, plan={"images": 10}).record()))
    check_same_run(
        record, Settings(seed=1, plan={"images": 10, "shard_size": 3}, compute={"workers": 5})
    )
    with pytest.raises(
        SettingsError,
        match=r"run 'nightly' .* plan.images was 10, is 20; seed was 1, is 0.*another name",
    ):
        check_same_run(record, Settings(plan={"images": 20}))
    with pytest.raises(SettingsError, match=r"other settings: vocabulary has other content"):
        check_same_run(record, Settings(seed=1, plan={"images": 10}, classes=("car", "bus")))


def test_every_setting_is_explained_in_one_line() -> None:
    explained = dict(fields_of(Settings))
    assert [
        name
        for name, field in explained.items()
        if not field.description or "\n" in field.description
    ] == []


LABELLER = {"kind": "clipseg", "path": "/models/clipseg"}
BOXES = {"kind": "grounded-sam2", "path": "/models/sam2", "detector": "/models/dino"}


def test_a_labeller_comes_from_any_source_and_changes_the_identity(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = Settings(refine={"method": "labeller", "labellers": [LABELLER]})
    file = tmp_path / "night.toml"
    file.write_text(
        '[refine]\nmethod = "labeller"\n'
        'labellers = [{kind = "clipseg", path = "/models/clipseg"}]\n'
    )
    assert Settings(_file=file) == given
    method = "refine.method=labeller"
    assert Settings(_flags=[method, f"refine.labellers={json.dumps([LABELLER])}"]) == given
    monkeypatch.setenv("SEGMINT_REFINE__LABELLERS", json.dumps([LABELLER]))
    assert Settings(_flags=[method]) == given
    digested = Settings(
        refine={"method": "labeller", "labellers": [{**LABELLER, "digest": "ab12"}]}
    )
    assert (
        len({each.identity for each in (Settings(refine={"labellers": []}), given, digested)}) == 3
    )


@pytest.mark.parametrize(
    ("refine", "message"),
    [
        ({"method": "labeller"}, r"labellers has 0 tables; give the one labeller that decides"),
        ({"method": "labeller", "labellers": [LABELLER, BOXES]}, r"labellers has 2 tables; give"),
        ({"labellers": [LABELLER]}, r"method is 'colour', which uses none; set method to 'label"),
        ({"labellers": LABELLER}, r"refine\.labellers .*: give a list of tables, such as \[\{kind"),
        ({"labellers": [{**LABELLER, "kind": "sam"}]}, r"labellers\.0\.kind = 'sam' .*'sam3', "),
        ({"labellers": [{"kind": "sam3"}]}, r"labellers\.0\.path .*required"),
        (
            {"labellers": [{**LABELLER, "pth": "x"}]},
            r"'refine\.labellers\.0\.pth' .* mean .*\.path'",
        ),
        ({"labellers": [{**LABELLER, "detector": "x"}]}, r"'clipseg' and detector is set; ground"),
        ({"labellers": [{**BOXES, "detector": None}]}, r"'grounded-sam2' and detector is not set"),
    ],
)
def test_labellers_that_cannot_label_are_refused(refine: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Settings(refine=refine)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["generator.labels=v1"], r"generator\.labels = 'v1' has no effect on .*'embedded'; leave"),
        (["generator.layouts=composed"], r"generator\.layouts = 'composed' has no effect"),
        ([FLOW], r"generator\.labels is not set; give the label maps"),
        ([FLOW, "generator.labels=v1", "generator.height=64"], r"width None; give both"),
        ([FLOW, "generator.labels=v1", "plan.multi=0.5"], r"plan\.multi = 0\.5 has no effect on"),
        ([FLOW, "generator.labels=v1", "plan.captions=x"], r"plan\.captions = 'x' has no effect"),
        ([FLOW, "generator.labels=v1", "plan.budget.car=2"], r"plan\.budget = .* has no effect"),
        ([FLOW, "generator.labels=v1", "generator.excitation=0"], r"excitation = 0\.0 has no"),
        ([FLOW, "generator.labels=v1", "generator.dtype=float16"], r"dtype = 'float16' has no"),
        ([FLOW, "generator.labels=v1", "refine.method=diffumask"], r"refine\.method = .* has no"),
        ([FLOW, "generator.labels=v1", "select.min_contrast=0"], r"min_contrast = 0\.0 has no"),
    ],
)
def test_settings_without_effect_on_the_generator_are_refused(
    flags: list[str], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check_drawn(Settings(_flags=flags))


def test_settings_of_one_generator_go_together() -> None:
    check_drawn(Settings())
    check_drawn(Settings(refine={"method": "diffumask"}, plan={"multi": 0.5}))
    size = ["generator.height=64", "generator.width=96"]
    chosen = Settings(_flags=[FLOW, "generator.labels=v1", "generator.layouts=composed", *size])
    check_drawn(chosen)
    assert (chosen.generator.flow, Settings().generator.flow) == ("flow-1", None)
