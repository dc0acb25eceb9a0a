# shellcheck shell=bash
# Sourced by the scripts that use Docker: which client, and BuildKit.
#
# `docker` becomes the first client on the machine that can build with BuildKit: some have two, and
# one without its buildx plugin cannot build at all. DOCKER names one.

export DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1 BUILDKIT_PROGRESS=plain
# Not the legacy builder, which does not know mounts.
docker_client() {
    local client version
    for client in ${DOCKER:-$(type -aP docker)}; do
        # Clients before 23 carry BuildKit themselves, later ones are given it by a plugin.
        version=$("$client" version --format '{{.Client.Version}}' 2>/dev/null) || continue
        if [ "${version%%.*}" -lt 23 ] || "$client" buildx version >/dev/null 2>&1; then
            echo "$client"
            return
        fi
    done
    echo "no docker client here reaches an engine and can build with BuildKit" >&2
    return 1
}

DOCKER=$(docker_client)
export DOCKER
docker() { command "$DOCKER" "$@"; }
