#!/usr/bin/env bash
# Makes the two base images of docker/Dockerfile where no image registry can be reached: an
# air-gapped site, or a CI machine. From Debian's packages and this machine's own Rust toolchain,
# so needs a Debian mirror, root (or sudo), and for the second image rustup with the toolchain of
# rust-toolchain.toml.
#
#   docker/base-images.sh             what is missing of both
#   docker/base-images.sh debian      only the runtime base
#   docker/base-images.sh --force     also what is there already
#
# CONCLAVE_DEBIAN_MIRROR [http://deb.debian.org/debian] says where the packages are.
#
# The names are our own, so that nothing that another project builds is based on them by accident:
#   conclave-base/debian:bookworm-slim     in the place of debian:bookworm-slim
#   conclave-base/rust:bookworm            in the place of rust:1.95-bookworm
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null

debian=conclave-base/debian:bookworm-slim
rust=conclave-base/rust:bookworm
mirror=${CONCLAVE_DEBIAN_MIRROR:-http://deb.debian.org/debian}
force=
wanted=()

for argument in "$@"; do
    case $argument in
        --force) force=1 ;;
        debian | rust) wanted+=("$argument") ;;
        *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
[ "${#wanted[@]}" -gt 0 ] || wanted=(debian rust)

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

source docker/engine.sh

wants() { case " ${wanted[*]} " in *" $1 "*) true ;; *) false ;; esac; }
# An image that is not there, or that is to be made again.
is_due() { ! docker image inspect "$2" >/dev/null 2>&1 || { [ -n "$force" ] && wants "$1"; }; }

# Debian without what nobody reads in a container, as the slim images are.
make_debian() {
    if ! command -v debootstrap >/dev/null; then
        as_root apt-get update -qq
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap
    fi
    as_root /usr/sbin/debootstrap --variant=minbase --include=ca-certificates bookworm "$scratch/root" "$mirror" \
        >"$scratch/log" 2>&1 || { tail -n 20 "$scratch/log" >&2; return 1; }
    as_root rm -rf "$scratch"/root/usr/share/{doc,man,info,locale,lintian,groff,linda} \
        "$scratch"/root/var/lib/apt/lists "$scratch"/root/var/cache/{apt,debconf} "$scratch"/root/var/log/{apt,*.log} \
        "$scratch"/root/dev/*
    as_root mkdir -p "$scratch"/root/var/lib/apt/lists/partial "$scratch"/root/var/cache/apt/archives/partial
    as_root tar -C "$scratch/root" --numeric-owner -c . |
        docker import --change 'CMD ["bash"]' --change 'LABEL org.conclave.made-by=docker/base-images.sh' - "$debian"
}

# The compiler, the standard library, a linker. At the paths that the official image has.
make_rust() {
    local sysroot version
    sysroot=$(rustc --print sysroot)
    version=$(rustc --version)
    echo "with $version"
    cat >"$scratch/Dockerfile" <<END
FROM $debian
ENV CARGO_HOME=/usr/local/cargo PATH=/usr/local/cargo/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY bin /usr/local/bin
COPY lib /usr/local/lib
RUN rustc --version && cargo --version
LABEL org.conclave.made-by=docker/base-images.sh
END
    docker build -t "$rust" -f "$scratch/Dockerfile" "$sysroot"
}

scratch=$(mktemp -d)
trap 'as_root rm -rf "$scratch"' EXIT

if is_due debian "$debian"; then
    echo "==> $debian"
    make_debian
fi
if wants rust && is_due rust "$rust"; then
    echo "==> $rust"
    make_rust
fi
for image in "$debian" "$rust"; do
    docker image inspect --format "$image {{.Size}} bytes" "$image" 2>/dev/null || true
done
