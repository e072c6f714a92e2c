"""The bucket of infra/compose: a worker's key opens its bucket and nothing else.

The attacks run against the real server, started by the command of the compose file.
"""

import json
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import botocore.session
import psutil
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from infra.store import Store
from testbed.seaweed import VERSION, Seaweed
from tests.security.deployed import environment, made_secrets
from tests.security.grpc import called

pytestmark = [pytest.mark.server, pytest.mark.debian, pytest.mark.slow]

OTHER = ("other-key", "other-secret")


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As secrets.sh makes them, and an owner of all other buckets, whom nothing protects here."""
    folder = made_secrets(tmp_path_factory.mktemp("compose") / "compose")
    config = json.loads((folder / "s3.json").read_text())
    key = {"accessKey": OTHER[0], "secretKey": OTHER[1]}
    config["identities"].append({"name": "other", "credentials": [key], "actions": ["Admin"]})
    (folder / "s3.json").chmod(0o644)
    (folder / "s3.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def server(
    secrets: Path, services: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("seaweed"), services["s3"], secrets)
    server.start()
    # as the service "bucket" does it, with the worker's key
    words = services["bucket"]["command"]
    given = environment(services["bucket"], secrets) | {"AWS_ENDPOINT_URL": server.endpoint}
    for _ in range(2):
        subprocess.run([sys.executable, *words[1:]], env=given, check=True)
    other = client(server, OTHER)
    for name in ("other", "segmint-2", "segmintx"):
        other.create_bucket(Bucket=name)
        other.put_object(Bucket=name, Key="secret", Body=b"not yours")
    yield server
    server.stop()


def client(server: Seaweed, key: tuple[str, str] | None = None, kind: str = "s3") -> Any:
    access, secret = key or (server.access_key, server.secret_key)
    return botocore.session.get_session().create_client(
        kind,
        endpoint_url=server.endpoint,
        aws_access_key_id=access,
        aws_secret_access_key=secret,
        region_name="us-east-1",
        config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
    )


def refusal(call: Callable[[], object]) -> int:
    """The HTTP status with which the server refuses a call; 200 if it does not."""
    try:
        call()
    except ClientError as error:
        return int(error.response["ResponseMetadata"]["HTTPStatusCode"])
    return 200


def test_the_image_has_the_version_that_is_attacked_here(services: dict[str, Any]) -> None:
    assert services["s3"]["image"] == f"chrislusf/seaweedfs:{VERSION}"


def test_a_worker_s_key_does_all_that_a_store_needs(server: Seaweed) -> None:
    Store.open("s3://segmint/store", server.options).probe()
    worker = client(server)
    worker.put_object(Bucket="segmint", Key="large", Body=bytes(9 << 20))
    assert worker.list_objects_v2(Bucket="segmint", Prefix="large")["KeyCount"] == 1
    worker.delete_objects(Bucket="segmint", Delete={"Objects": [{"Key": "large"}]})


def test_of_four_that_create_an_object_at_once_one_succeeds(server: Seaweed) -> None:
    workers = [client(server) for _ in range(4)]

    def created(number: int, key: str) -> bool:
        body = str(number).encode()
        put = workers[number].put_object
        return refusal(lambda: put(Bucket="segmint", Key=key, Body=body, IfNoneMatch="*")) == 200

    with ThreadPoolExecutor(4) as at_once:
        for attempt in range(50):
            key = f"race/{attempt}"
            won = list(at_once.map(created, range(4), [key] * 4))
            body = workers[0].get_object(Bucket="segmint", Key=key)["Body"].read()
            assert sum(won) == 1 and body == str(won.index(True)).encode()


@pytest.mark.parametrize("bucket", ["other", "segmint-2", "segmintx"])
def test_a_worker_s_key_does_not_open_other_buckets(server: Seaweed, bucket: str) -> None:
    worker = client(server)
    source = {"Bucket": bucket, "Key": "secret"}
    calls: list[Callable[[], object]] = [
        lambda: worker.list_objects_v2(Bucket=bucket),
        lambda: worker.get_object(**source),
        lambda: worker.put_object(**source, Body=b"mine"),
        lambda: worker.delete_object(**source),
        lambda: worker.delete_bucket(Bucket=bucket),
        lambda: worker.copy_object(Bucket="segmint", Key="stolen", CopySource=source),
        lambda: worker.copy_object(
            Bucket="segmint", Key="stolen", CopySource=f"segmint/../{bucket}/secret"
        ),
        lambda: worker.copy_object(
            Bucket="segmint", Key="stolen", CopySource=f"segmint/%2e%2e/{bucket}/secret"
        ),
        lambda: worker.get_object(Bucket="segmint", Key=f"../{bucket}/secret"),
        lambda: worker.put_object(Bucket="segmint", Key=f"../{bucket}/secret", Body=b"mine"),
    ]
    assert not [number for number, call in enumerate(calls) if refusal(call) not in (400, 403, 404)]
    assert client(server, OTHER).get_object(**source)["Body"].read() == b"not yours"


def test_a_worker_s_key_manages_nothing(server: Seaweed) -> None:
    worker = client(server)
    public = {"Effect": "Allow", "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [public]})
    expiry = {"ID": "x", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}
    origins = {"CORSRules": [{"AllowedMethods": ["GET"], "AllowedOrigins": ["*"]}]}
    bucket = {"Bucket": "segmint"}
    assert [
        refusal(lambda: worker.create_bucket(Bucket="mine")),
        refusal(lambda: worker.delete_bucket(**bucket)),
        refusal(lambda: worker.put_bucket_policy(**bucket, Policy=policy)),
        refusal(lambda: worker.put_bucket_acl(**bucket, ACL="public-read")),
        refusal(lambda: worker.put_bucket_cors(**bucket, CORSConfiguration=origins)),
        refusal(
            lambda: worker.put_bucket_lifecycle_configuration(
                **bucket, LifecycleConfiguration={"Rules": [expiry]}
            )
        ),
        refusal(
            lambda: worker.put_bucket_versioning(
                **bucket, VersioningConfiguration={"Status": "Enabled"}
            )
        ),
    ] == [403] * 7
    assert {each["Name"] for each in worker.list_buckets()["Buckets"]} <= {"segmint"}


@pytest.mark.parametrize("path", ["/", "/segmint", "/segmint/store", "/other/secret", "/metrics"])
def test_nobody_gets_anything_without_a_key(server: Seaweed, path: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(server.endpoint + path)


def test_no_port_but_s3_and_its_grpc_leaves_the_container(server: Seaweed) -> None:
    (process,) = server.servers
    open_to_all = {
        connection.laddr.port
        for connection in psutil.Process(process.pid).net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip != "127.0.0.1"
    }
    assert open_to_all == {server.port, server.grpc}


def test_the_grpc_port_makes_nobody_an_administrator(server: Seaweed) -> None:
    """Without security.toml it answers OK and takes the new key."""
    evil = (1, [(1, b"evil"), (2, [(1, b"evil-key"), (2, b"evil-secret")]), (3, b"Admin")])
    answer = called(server.grpc, "/messaging_pb.SeaweedS3IamCache/PutIdentity", [evil])
    assert answer["grpc-status"] == "16", answer  # unauthenticated
    assert refusal(client(server, ("evil-key", "evil-secret")).list_buckets) == 403
