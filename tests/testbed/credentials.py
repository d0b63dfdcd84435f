"""Who may talk to the API server: fixed users by token file, and a kubeconfig for each."""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from .processes import run


@dataclass(frozen=True, slots=True)
class User:
    """A user of the token file. The groups decide what RBAC allows; `system:masters` is allowed everything."""

    name: str
    groups: tuple[str, ...]
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)


def write_token_file(path: Path, users: Sequence[User]) -> None:
    """The file for `kube-apiserver --token-auth-file`: token, user, uid, groups."""
    path.write_text("".join(f'{user.token},{user.name},{user.name},"{",".join(user.groups)}"\n' for user in users))
    path.chmod(0o600)


def write_certificate(certificate: Path, key: Path, addresses: Sequence[str], names: Sequence[str]) -> None:
    """Makes a certificate that is its own authority, and its key (which also signs the tokens of ServiceAccounts)."""
    alternatives = ",".join([*(f"IP:{address}" for address in addresses), *(f"DNS:{name}" for name in names)])
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]  # made in an instant, unlike RSA
    subject = ["-subj", "/CN=hpo-testbed", "-days", "30", "-addext", f"subjectAltName={alternatives}"]
    run(["openssl", "req", "-x509", *curve, *subject, "-keyout", key, "-out", certificate])


def write_kubeconfig(path: Path, server: str, certificate: Path, token: str, namespace: str = "default") -> Path:
    """A kubeconfig with everything inside, so that it may be copied into a pod's volume."""
    authority = base64.b64encode(certificate.read_bytes()).decode()
    path.parent.mkdir(parents=True, exist_ok=True)
    configuration = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "testbed",
        "clusters": [{"name": "testbed", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "testbed", "user": {"token": token}}],
        "contexts": [{"name": "testbed", "context": {"cluster": "testbed", "user": "testbed", "namespace": namespace}}],
    }
    path.write_text(yaml.safe_dump(configuration))
    path.chmod(0o600)
    return path
