#!/usr/bin/env bash
# Regenerates services/flawsmith/<service>/v1 from protos/; CI runs it and fails when anything changes.
# Usage: protos/generate.sh [PYTHON]
set -euo pipefail
cd "$(dirname "$0")/.."
python=${1:-.venv/bin/python}
# google/api and google/rpc come from the googleapis-common-protos wheel; it lacks operations.proto under the
# name that its own generated code uses, so Google's file is vendored here.
common=$("$python" -c 'import google.api, os; print(os.path.dirname(os.path.dirname(list(google.api.__path__)[0])))')
files=$(cd protos && find flawsmith -name '*.proto' | sort)
# shellcheck disable=SC2086
"$python" -m grpc_tools.protoc -I protos -I "$common" --python_out=services --pyi_out=services $files
services=$(cd protos && grep -l '^service ' $files)
# shellcheck disable=SC2086
"$python" -m grpc_tools.protoc -I protos -I "$common" --grpc_python_out=services $services
for file in $files; do touch "services/$(dirname "$file")/__init__.py"; done
mkdir -p build
# shellcheck disable=SC2086
"$python" -m grpc_tools.protoc -I protos -I "$common" --include_imports --include_source_info -o build/protos.binpb $files
