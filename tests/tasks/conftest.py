"""A small packed dataset, made by hand so that the rooms can be tested apart."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tasks.artifacts import sha256_bytes
from tasks.config import DataConfig, RunConfig
from tasks.evaluate.score import Scores
from tasks.finetune.worker import Job
from tasks.index import ImageRecord, write_index
from tasks.outputs import chosen
from tasks.pretrained.load import load_pretrained
from tasks.values import Backbone, InputSpec, PackedSplit, PreparedDataset, SplitName

SPEC = InputSpec(
    resize=16, crop=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4), interpolation="bilinear"
)
CLASSES = ("blue", "green", "red")


def pack(folder: Path, name: SplitName, n: int, seed: int) -> PackedSplit:
    """Pack ``n`` noisy images whose brightest channel is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % len(CLASSES)
    images = rng.integers(0, 120, size=(n, SPEC.crop, SPEC.crop, 3), dtype=np.uint8)
    images[np.arange(n), :, :, 2 - labels] += 60
    (folder / f"{name}.u8").write_bytes(images.tobytes())
    np.save(folder / f"{name}.labels.npy", labels)
    records = [
        ImageRecord(f"{name}/{i}.png", int(k), name, "", sha256_bytes(images[i].tobytes()))
        for i, k in enumerate(labels)
    ]
    write_index(folder / f"{name}.index.csv", records)
    return PackedSplit(
        name=name,
        images=folder / f"{name}.u8",
        labels=folder / f"{name}.labels.npy",
        index=folder / f"{name}.index.csv",
        n=n,
        height=SPEC.crop,
        width=SPEC.crop,
        counts=tuple(int((labels == k).sum()) for k in range(len(CLASSES))),
        digest=sha256_bytes(images.tobytes() + labels.tobytes()),
    )


@pytest.fixture
def prepared(tmp_path: Path) -> PreparedDataset:
    """Return 61 + 30 + 33 images of three classes that a small network can learn."""
    folder = tmp_path / "prepared"
    folder.mkdir()
    train, val, test = (
        pack(folder, name, n, seed)
        for seed, (name, n) in enumerate((("train", 61), ("val", 30), ("test", 33)))
    )
    return PreparedDataset(
        folder=folder,
        classes=CLASSES,
        input=SPEC,
        train=train,
        val=val,
        test=test,
        skipped=(),
        warnings=(),
        raw_digest=train.digest,
        digest=train.digest,
    )


@pytest.fixture
def make_config(tmp_path: Path) -> Callable[..., RunConfig]:
    """Return a maker of small configurations; sections are given as mappings."""

    def make(**sections: dict[str, object]) -> RunConfig:
        model = {"architecture": "graft_tiny", "weights": None} | sections.pop("model", {})
        training = {
            "epochs": 2,
            "batch_size": 20,
            "learning_rate": 0.01,
            "precision": "float32",
        } | sections.pop("training", {})
        strategy = sections.pop("strategy", {"kind": "scratch"})
        return RunConfig.model_validate(
            {
                "data": DataConfig(kind="digits").model_dump(),
                "model": model,
                "training": training,
                "strategy": strategy,
                "output": {"cache": tmp_path / "cache"},
                **sections,
            }
        )

    return make


@pytest.fixture
def backbone(make_config: Callable[..., RunConfig], tmp_path: Path) -> Backbone:
    """Return graft_tiny with random weights."""
    return load_pretrained(make_config(), CLASSES, None, tmp_path / "cache")


@pytest.fixture
def make_job(
    prepared: PreparedDataset,
    backbone: Backbone,
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
) -> Callable[..., Job]:
    """Return a function that makes the job of a training process, with changes."""
    plain = {"folder": tmp_path, "teacher": None, "address": None, "scratch": tmp_path}

    def make(training: dict[str, object] | None = None, **changes: object) -> Job:
        config = make_config(training=training or {})
        given = {"config": config, "prepared": prepared, "backbone": backbone}
        return Job.model_validate(given | plain | changes)

    return make


def scores_of(probabilities: object, labels: object) -> Scores:
    """Return scores of given probabilities and labels; rows of labels mean several an image."""
    probabilities_nc = np.asarray(probabilities, dtype=np.float32)
    labels_n = np.asarray(labels, dtype=np.int64)
    multi_label = labels_n.ndim > 1
    return Scores(
        probabilities_nc=probabilities_nc,
        labels_n=labels_n,
        predictions_n=chosen(probabilities_nc, multi_label),
        seconds=1.0,
        energy_n=np.zeros(len(labels_n)),
        multi_label=multi_label,
    )


@pytest.fixture(name="scores_of")
def _scores_of() -> Callable[..., Scores]:
    return scores_of


@pytest.fixture
def random_scores() -> Callable[..., Scores]:
    """Return a maker of scores of n images and c classes, right more often than by chance.

    ``decimals`` rounds the probabilities, so that many are equal.
    """

    def make(n: int, c: int, multi_label: bool = False, seed: int = 0, decimals: int = 7) -> Scores:
        rng = np.random.default_rng(seed)
        if multi_label:
            labels = (rng.random((n, c)) < rng.uniform(0.05, 0.6, c)).astype(np.int64)
            p = 0.3 * labels + 0.7 * rng.beta(0.8, 0.8, (n, c))
        else:
            labels = rng.integers(0, c, n)
            logits = rng.normal(size=(n, c)) + 1.5 * np.eye(c)[labels]
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        return scores_of(p.round(decimals).clip(0.001, 0.999), labels)

    return make


def certificate(folder: Path, host: x509.GeneralName) -> Path:
    """Write a self-signed certificate for a host of this machine with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(host.value))])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([host]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def serving(pages: type[BaseHTTPRequestHandler], pem: Path) -> Iterator[int]:
    """Serve ``pages`` by https on a free port of this machine."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), pages)
    httpd.socket = context.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        yield httpd.server_address[1]
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()


ServeHttps = Callable[[type[BaseHTTPRequestHandler], str], tuple[int, Path]]


@pytest.fixture(scope="module")
def serve_https(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServeHttps]:
    """Return a function that serves pages for a host, and gives its port and certificate."""
    with ExitStack() as servers:

        def serve(pages: type[BaseHTTPRequestHandler], host: str) -> tuple[int, Path]:
            try:
                named: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
            except ValueError:
                named = x509.DNSName(host)
            pem = certificate(tmp_path_factory.mktemp("certificate"), named)
            return servers.enter_context(serving(pages, pem)), pem

        yield serve
