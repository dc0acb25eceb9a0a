#!/usr/bin/env bash
# Builds the images conclave/server, conclave/dns, conclave/cli and conclave/chaos, all from one compilation,
# and conclave/prometheus and conclave/alertmanager (for compose.offline.yaml) where the bases are local.
#
#   docker/build.sh [TARGET...]        server, dns, cli, chaos, prometheus, alertmanager
#
# From the environment:
#   CONCLAVE_TAG [dev]                 the images' tag
#   CONCLAVE_BASES [auto]              published: rust and debian from a registry; local: what
#                                      docker/base-images.sh makes (and is made if missing);
#                                      auto: local ones if they are there, else published
#   CONCLAVE_RUST_IMAGE, CONCLAVE_RUNTIME_IMAGE
#                                      other published bases than those of docker/Dockerfile, such as docker/pin.sh prints
#   CONCLAVE_CA                        a file of CA certificates for the way to the crate registry
#   CONCLAVE_PROGRAMS                  a folder with conclave, conclave-check and conclave-chaos, such as target/release:
#                                      they are put into the images, without debug information, and nothing is compiled.
#                                      They are taken for programs of this checkout: its bill of materials goes in with them
#   CARGO_PROFILE [release]            dev builds in a tenth of the time, for tries
#   CARGO_AUDITABLE                    a version of cargo-auditable: puts the list of dependencies into the programs, too
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
source docker/engine.sh

targets=("$@")
tag=${CONCLAVE_TAG:-dev}
bases=${CONCLAVE_BASES:-auto}

options=(
    --build-arg "CARGO_PROFILE=${CARGO_PROFILE:-release}"
    --build-arg "CARGO_AUDITABLE=${CARGO_AUDITABLE:-}"
    --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)"
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
)
if [ "$bases" = auto ]; then
    bases=published
    if docker image inspect conclave-base/rust:bookworm conclave-base/debian:bookworm-slim >/dev/null 2>&1; then
        bases=local
    fi
fi
if [ "$bases" = local ]; then
    if [ -n "${CONCLAVE_PROGRAMS:-}" ]; then docker/base-images.sh debian; else docker/base-images.sh; fi
    options+=(--build-arg RUST_IMAGE=conclave-base/rust:bookworm)
    options+=(--build-arg RUNTIME_IMAGE=conclave-base/debian:bookworm-slim)
else
    [ -z "${CONCLAVE_RUST_IMAGE:-}" ] || options+=(--build-arg "RUST_IMAGE=$CONCLAVE_RUST_IMAGE")
    [ -z "${CONCLAVE_RUNTIME_IMAGE:-}" ] || options+=(--build-arg "RUNTIME_IMAGE=$CONCLAVE_RUNTIME_IMAGE")
fi
if [ -n "${CONCLAVE_CA:-}" ]; then
    options+=(--secret "id=ca,src=$CONCLAVE_CA")
fi

if [ "${#targets[@]}" = 0 ]; then
    targets=(server dns cli chaos)
    [ "$bases" != local ] || targets+=(prometheus alertmanager)
fi

# The context is made once: a file that changes meanwhile would make the targets differ, and the programs would be
# compiled for each target.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
context=$scratch/context
if [ -n "${CONCLAVE_PROGRAMS:-}" ]; then
    mkdir "$scratch/programs"
    for program in conclave conclave-check conclave-chaos; do
        strip --strip-debug -o "$scratch/programs/$program" "$CONCLAVE_PROGRAMS/$program"
    done
    for program in cli check chaos; do
        docker/sbom.sh "conclave-$program" >"$scratch/programs/conclave-$program.cdx.json"
    done
    options+=(--build-arg PROGRAMS=given)
    tar -c LICENSE docker/Dockerfile docker/needed-files.sh -C "$scratch" programs >"$context"
else
    tar -c Cargo.toml Cargo.lock LICENSE crates proto docker/Dockerfile docker/needed-files.sh docker/sbom.sh >"$context"
fi
for target in "${targets[@]}"; do
    echo "==> conclave/$target:$tag"
    if [ -f "docker/$target.Dockerfile" ]; then
        docker build "${options[@]}" -t "conclave/$target:$tag" - <"docker/$target.Dockerfile"
    else
        docker build "${options[@]}" -f docker/Dockerfile --target "$target" -t "conclave/$target:$tag" - <"$context"
    fi
done
for target in "${targets[@]}"; do
    docker image inspect --format "conclave/$target:$tag {{.Size}} bytes" "conclave/$target:$tag"
done
