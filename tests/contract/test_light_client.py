"""The base install is the client and the command line: importing them needs none of the servers' packages."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("numpy", "torch", "dbos", "minio", "cv2", "sqlalchemy", "tritonclient", "opentelemetry", "diffusers")


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, flawsmith.cli.main; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_api_servers_import_no_training_stack() -> None:
    code = (
        "import sys, importlib\n"
        "for name in ('assembly', 'augmentation', 'classification', 'generation'):\n"
        "    importlib.import_module(f'flawsmith.{name}.service')\n"
        "print([name for name in ('torch', 'diffusers', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
