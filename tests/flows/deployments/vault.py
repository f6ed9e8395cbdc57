"""An https server that gives images and weights to those who send the right key, and no others."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509

from tests.flows.deployments.site import REPOSITORY
from tests.tasks.conftest import certificate, serving

HOST = "127.0.0.1"
# what is looked for afterwards in all that is left; each is planted in another place
IN_BLOCK = "pl4nt3d-in-a-block"
IN_ENVIRONMENT = "pl4nt3d-in-the-environment"


@dataclass
class Vault:
    """What is served, and what was asked for."""

    pem: Path
    files: dict[str, bytes]
    port: int = 0
    given: list[str] = field(default_factory=list)  # paths asked for with the right key

    @property
    def environment(self) -> dict[str, str]:
        """What a worker needs to get in."""
        trusted = {"SSL_CERT_FILE": str(self.pem), "NO_PROXY": HOST}
        return trusted | {"GRAFT_SECRET_WEIGHTS_KEY": IN_ENVIRONMENT}

    def address(self, name: str) -> str:
        return f"https://{HOST}:{self.port}/{name}"

    def sha256(self, name: str) -> str:
        return hashlib.sha256(self.files[name]).hexdigest()


@contextmanager
def open_vault(folder: Path, photos: Path) -> Iterator[Vault]:
    """Serve ``photos`` as a zip, and the shipped weights, until the block ends."""
    archive = Path(shutil.make_archive(str(folder / "photos"), "zip", photos))
    weights = REPOSITORY / "tasks" / "pretrained" / "shipped" / "graft_tiny_cifar10.safetensors"
    vault = Vault(
        certificate(folder, x509.IPAddress(ip_address(HOST))),
        {"photos.zip": archive.read_bytes(), "tiny.safetensors": weights.read_bytes()},
    )
    keys = {"photos.zip": IN_BLOCK, "tiny.safetensors": IN_ENVIRONMENT}

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, query = self.path.removeprefix("/").partition("?key=")
            if query != keys.get(name):
                self.send_error(403)
                return
            vault.given.append(name)
            self.send_response(200)
            self.send_header("Content-Length", str(len(vault.files[name])))
            self.end_headers()
            self.wfile.write(vault.files[name])

        def log_message(self, *_: object) -> None:
            pass

    with serving(Pages, vault.pem) as vault.port:
        yield vault
