"""Writes the digests of the outside images beside their tags: `make pin-images`, with a container registry in reach.

`name:tag` becomes `name:tag@sha256:...`, in the compose files and in the Dockerfile; run again, it renews them.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILES = ("Dockerfile", "docker-compose.yml", "deploy/compose/gpu.yml", "deploy/compose/observability.yml")
# An image of a compose service, a default of a build argument in either file; ours have a variable for a tag.
_IMAGE = re.compile(
    r"^(?P<before>\s*image: |ARG \w+_IMAGE=|\s*\w+_IMAGE: \$\{\w+_IMAGE:-)"
    r"(?P<image>[\w./-]+:[\w.-]+)(?:@sha256:[0-9a-f]{64})?(?P<after>\}?)$",
    re.MULTILINE,
)


def pinned(text: str, digest: Callable[[str], str]) -> str:
    """A file's text with digests. digest: `sha256:...` of `name:tag`."""
    return _IMAGE.sub(lambda found: f"{found['before']}{found['image']}@{digest(found['image'])}{found['after']}", text)


def pulled_digest(image: str) -> str:
    """The registry's digest of an image, which is pulled."""
    docker = shutil.which("docker") or sys.exit("docker is not installed")
    subprocess.run([docker, "pull", "--quiet", image], check=True, stdout=sys.stderr)
    inspect = [docker, "image", "inspect", "--format", "{{index .RepoDigests 0}}", image]
    return subprocess.run(inspect, check=True, capture_output=True, text=True).stdout.strip().rpartition("@")[2]


def main() -> None:
    """Pin all files."""
    known: dict[str, str] = {}

    def digest(image: str) -> str:
        if image not in known:
            known[image] = pulled_digest(image)
            print(f"{image}@{known[image]}")
        return known[image]

    for name in FILES:
        path = ROOT / name
        path.write_text(pinned(path.read_text(), digest))


if __name__ == "__main__":
    main()
