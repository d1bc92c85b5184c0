#!/usr/bin/env bash
# Runs a command with a Docker engine and the base of the stand-in images, on a Debian machine without a registry.
#
#     tests/docker/engine.sh make test-docker STAND_INS=1
#
# Needs root. What is there already is used as it is; an engine that was started here is stopped again, by its id.
set -euo pipefail
cd "$(dirname "$0")/../.."
base=python:3.11-slim-bookworm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

missing=()
command -v dockerd > /dev/null || missing+=(docker.io)
command -v docker-compose > /dev/null || docker compose version > /dev/null 2>&1 || missing+=(docker-compose)
command -v debootstrap > /dev/null || missing+=(debootstrap)
if ((${#missing[@]})); then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends "${missing[@]}"
fi

if ! docker info > /dev/null 2>&1; then
    log=$(mktemp /tmp/dockerd.XXXXXX.log)
    setsid dockerd > "$log" 2>&1 < /dev/null &
    engine=$!
    trap 'kill "$engine"; wait "$engine" || true; rm -rf "$work"' EXIT
    for _ in $(seq 60); do
        docker info > /dev/null 2>&1 && break
        kill -0 "$engine" || { tail -n 20 "$log"; exit 1; }
        sleep 1
    done
fi
docker info > /dev/null

if ! docker image inspect "$base" > /dev/null 2>&1; then
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$work/root" > "$work/log" \
        || { tail -n 20 "$work/log"; exit 1; }
    rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*
    # What this machine trusts, its image builds trust.
    cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
    tar -C "$work/root" -c . | docker import --change "ENV PIP_CERT=/etc/ssl/certs/ca-certificates.crt" - "$base"
fi

# Into the build context, for the index gives the CUDA build.
if ! compgen -G "deploy/images/wheels/torch-*.whl" > /dev/null; then
    make -s setup
    torch=$(sed -n 's/^TORCH=//p' tests/docker/stand-ins.env)
    fetch=(.venv/bin/pip download -q --no-deps --dest deploy/images/wheels "$torch")
    "${fetch[@]}" 2> /dev/null || "${fetch[@]}" --index-url https://download.pytorch.org/whl/cpu
fi

"$@"
