"""Nothing that a checkpoint, a config or a pipeline names is unpickled, fetched or run.

The attacks are real: each file makes a folder when it is opened the way mmsegmentation opens it.
"""

from __future__ import annotations

import http.server
import json
import os
import pickle
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mmengine
import pytest
import torch

from infra.store import Store, StoreError
from models.guard import GuardError, guarded
from models.segmenters import Segmenter, build_segmenter, checks, pack_segmenter, unpack_segmenter
from models.segmenters.openmmlab import MODELS, isolated
from tasks.train.checkpoints import load_folder, write_folder
from tests.models.test_segmenters import TINY, Squares

CLASSES = ("ground", "car")


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "owned"


@pytest.fixture
def files(tmp_path: Path, mark: Path) -> dict[str, str]:
    """Harmful files by kind: what mmengine and torch unpickle, and YAML that calls."""
    made = {"pickle": tmp_path / "w.pkl", "yaml": tmp_path / "w.yaml", "torch": tmp_path / "w.pth"}
    made["pickle"].write_bytes(pickle.dumps(Harm(mark)))
    made["yaml"].write_text(f"!!python/object/apply:os.mkdir ['{mark}']")
    torch.save(Harm(mark), made["torch"])
    return {kind: str(path) for kind, path in made.items()}


@pytest.fixture
def address(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """An address of this machine that serves the harmful files, and the requests that it got."""
    asked: list[str] = []

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (http.server's)
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def opened_by_a_loss(file: str) -> None:
    with isolated():
        MODELS.build({"type": "CrossEntropyLoss", "class_weight": file})


@pytest.mark.parametrize("kind", ["pickle", "yaml"])
def test_the_files_harm_whoever_opens_them_as_mmsegmentation_does(
    kind: str, files: dict[str, str], mark: Path
) -> None:
    opened_by_a_loss(files[kind])
    assert mark.is_dir()


def test_an_address_harms_whoever_opens_it_as_mmsegmentation_does(
    address: tuple[str, list[str]], files: dict[str, str], mark: Path
) -> None:
    opened_by_a_loss(f"{address[0]}/w.pkl")
    assert mark.is_dir() and address[1] == ["/w.pkl"]


Change = Callable[[dict[str, Any], str], None]
CHANGES: dict[str, Change] = {
    "class weights": lambda m, f: m["decode_head"]["loss_decode"].update(class_weight=f),
    "class weights of Tversky": lambda m, f: m["decode_head"].update(
        loss_decode={"type": "TverskyLoss", "class_weight": f}
    ),
    "class weights of one of several losses": lambda m, f: m["decode_head"].update(
        loss_decode=[{"type": "DiceLoss"}, {"type": "CrossEntropyLoss", "class_weight": f}]
    ),
    "class weights in a list": lambda m, f: m["decode_head"]["loss_decode"].update(
        class_weight=[f, f]
    ),
    "class weights of an auxiliary head": lambda m, f: m.update(
        auxiliary_head=[
            {**m["decode_head"], "loss_decode": {"type": "CrossEntropyLoss", "class_weight": f}}
        ]
    ),
    "weights of an initialiser": lambda m, f: m["backbone"].update(
        init_cfg=[{"type": "Kaiming"}, {"type": "Pretrained", "prefix": "a", "checkpoint": f}]
    ),
    "embeddings": lambda m, f: m.update(
        backbone={"type": "VPD", "class_embed_path": f, "diffusion_cfg": {"checkpoint": f}}
    ),
    "weights of a backbone": lambda m, f: m["backbone"].update(
        type="ResNet", depth=18, pretrained=f
    ),
    "a file for a word": lambda m, f: m["test_cfg"].update(mode=f),
    "a key that nobody has": lambda m, f: m["decode_head"].update(evil={"deep": [f]}),
}


def changed(folder: Path, change: Change, file: str) -> dict[str, bytes]:
    """Return a checkpoint's files with a changed config."""
    (folder / "tiny.py").write_text(TINY)
    files = pack_segmenter(build_segmenter(str(folder / "tiny.py"), CLASSES))
    config = json.loads(files["config.json"])
    change(config["model"], file)
    return {**files, "config.json": json.dumps(config).encode()}


@pytest.mark.parametrize("kind", ["pickle", "yaml", "torch", "address"])
@pytest.mark.parametrize("name", CHANGES)
def test_a_checkpoint_s_config_opens_no_file(
    name: str,
    kind: str,
    files: dict[str, str],
    address: tuple[str, list[str]],
    tmp_path: Path,
    mark: Path,
) -> None:
    file = f"{address[0]}/w.pkl" if kind == "address" else files[kind]
    with pytest.raises(ValueError, match="config"):
        unpack_segmenter(changed(tmp_path, CHANGES[name], file))
    assert not mark.exists() and not address[1]


@pytest.mark.parametrize("loss", ["CrossEntropyLoss", "TverskyLoss"])
@pytest.mark.parametrize("kind", ["pickle", "yaml"])
def test_a_config_file_s_class_weights_are_numbers(
    loss: str, kind: str, files: dict[str, str], tmp_path: Path, mark: Path
) -> None:
    (tmp_path / "evil.py").write_text(
        TINY.replace(
            'type="CrossEntropyLoss", use_sigmoid=False',
            f'type="{loss}", class_weight="{files[kind]}"',
        )
    )
    with pytest.raises(ValueError, match=r"class_weight is .*; give a number for each class"):
        build_segmenter(str(tmp_path / "evil.py"), CLASSES)
    assert not mark.exists()


def test_a_forged_store_s_checkpoint_fetches_nothing(
    files: dict[str, str], address: tuple[str, list[str]], tmp_path: Path, mark: Path
) -> None:
    """With checksums that fit, as whoever can write to the bucket makes them."""
    (tmp_path / "tiny.py").write_text(TINY)
    segmenter = build_segmenter(str(tmp_path / "tiny.py"), CLASSES)
    config = json.loads(json.dumps(segmenter.config))
    CHANGES["class weights"](config["model"], f"{address[0]}/w.pkl")
    store = Store.open(str(tmp_path / "store"))
    forged = Segmenter(segmenter.network, config, CLASSES)
    meta = write_folder(store, "checkpoints/c", forged, {})
    with pytest.raises(StoreError, match="class_weight"):
        load_folder(store, "checkpoints/c", meta)
    assert not mark.exists() and not address[1]


@pytest.mark.parametrize("kind", ["pickle", "yaml", "address"])
def test_a_key_that_the_checks_miss_is_stopped_by_the_guard(
    kind: str,
    files: dict[str, str],
    address: tuple[str, list[str]],
    tmp_path: Path,
    mark: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.segmenters.networks.check_model", lambda model: None)
    file = f"{address[0]}/w.pkl" if kind == "address" else files[kind]
    with pytest.raises(ValueError, match=r"cannot build the config's model .*it led to"):
        unpack_segmenter(changed(tmp_path, CHANGES["class weights"], file))
    assert not mark.exists() and not address[1]


def test_a_training_s_initialisers_load_nothing(
    files: dict[str, str], tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.segmenters import TrainingRecipe, train_segmenter

    def poisoned(config: str, classes: Any) -> Segmenter:
        segmenter = build_segmenter(config, classes)
        part: Any = segmenter.network.get_submodule("backbone")
        part.init_cfg = {"type": "Pretrained", "checkpoint": files["torch"]}
        return segmenter

    monkeypatch.setattr("models.segmenters.running.build_segmenter", poisoned)
    (tmp_path / "tiny.py").write_text(TINY)
    recipe = TrainingRecipe(str(tmp_path / "tiny.py"), 1, 2, 1e-3, precision="fp32")
    with pytest.raises(GuardError):
        train_segmenter(Squares(4), ("ground", "red", "blue"), recipe)
    assert not mark.exists()


ACTIONS: dict[str, Callable[[dict[str, str], str], object]] = {
    "mmengine.load of a pickle": lambda f, url: mmengine.load(f["pickle"]),
    "mmengine.load of YAML": lambda f, url: mmengine.load(f["yaml"]),
    "mmengine.load of an address": lambda f, url: mmengine.load(f"{url}/w.yaml"),
    "mmengine's fileio": lambda f, url: mmengine.fileio.get(f["yaml"]),
    "mmengine's checkpoints": lambda f, url: mmengine.runner.CheckpointLoader.load_checkpoint(
        f["torch"], "cpu"
    ),
    "mmengine's checkpoints of an address": lambda f, url: (
        mmengine.runner.CheckpointLoader.load_checkpoint(f"{url}/w.pth", "cpu")
    ),
    "torch.load": lambda f, url: torch.load(f["torch"], weights_only=False),
    "torch.hub": lambda f, url: torch.hub.load_state_dict_from_url(f"{url}/w.pth"),
    "pickle of bytes": lambda f, url: pickle.loads(pickle.dumps(Path)),
    "a connection": lambda f, url: socket.create_connection(("127.0.0.1", 9)),
    "a name's address": lambda f, url: socket.getaddrinfo("localhost", 80),
    "a program": lambda f, url: subprocess.run(["true"], check=True),
    "a shell": lambda f, url: os.system("true"),
    "a fork": lambda f, url: os.fork() or os._exit(0),
    "a file of the machine": lambda f, url: Path("/etc/passwd").read_text(),
    "a file written": lambda f, url: Path(f["yaml"]).write_text("a"),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_inside_the_guard_nothing_is_loaded_fetched_or_run(
    name: str, files: dict[str, str], address: tuple[str, list[str]], mark: Path
) -> None:
    with guarded(), pytest.raises(GuardError, match="it led to"):
        ACTIONS[name](files, address[0])
    assert not mark.exists() and not address[1]


def test_the_guard_ends_and_other_threads_do_not_notice_it(files: dict[str, str]) -> None:
    found: list[str] = []
    with guarded():
        thread = threading.Thread(target=lambda: found.append(Path(files["yaml"]).read_text()))
        thread.start()
        thread.join()
    assert found == [Path(files["yaml"]).read_text()]


def test_the_guard_opens_the_folders_that_it_is_given_and_packages(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "inside" / "config.json").write_text("{}")
    (tmp_path / "inside" / "out.json").symlink_to("/etc/passwd")
    with guarded(tmp_path / "inside"):
        assert (tmp_path / "inside" / "config.json").read_text() == "{}"
        assert Path(torch.__file__).read_bytes()
        with pytest.raises(GuardError):
            (tmp_path / "inside" / "out.json").read_text()


@pytest.mark.parametrize(("cache", "opens"), [("models--org--name", True), ("elsewhere", False)])
def test_the_guard_opens_the_blobs_of_a_hugging_face_cache(
    tmp_path: Path, cache: str, opens: bool
) -> None:
    snapshot, blobs = tmp_path / cache / "snapshots" / "1a2b", tmp_path / cache / "blobs"
    (snapshot / "unet").mkdir(parents=True)
    blobs.mkdir()
    (blobs / "3c4d").write_text("{}")
    (snapshot / "unet" / "config.json").symlink_to("../../../blobs/3c4d")
    (blobs / "out").symlink_to("/etc/passwd")
    (snapshot / "out.json").symlink_to("../../blobs/out")
    with guarded(snapshot / "unet"):
        if opens:
            assert (snapshot / "unet" / "config.json").read_text() == "{}"
        else:
            with pytest.raises(GuardError):
                (snapshot / "unet" / "config.json").read_text()
        with pytest.raises(GuardError):
            (snapshot / "out.json").read_text()


def test_text_stands_only_under_keys_that_are_known() -> None:
    assert not checks._TEXTS & {"class_weight", "checkpoint", "pretrained", "class_embed_path"}
