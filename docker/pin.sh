#!/usr/bin/env bash
# Prints the images that compose.yaml and docker/Dockerfile take from registries, with the digests under which this engine
# pulled them, as a file of settings:
#
#   docker/pin.sh                     those that this engine has
#   docker/pin.sh --pull              pulls what their tags are now, and then the same: to renew the digests
#
#   docker/pin.sh --pull >docker/images.env
#   docker compose --env-file docker/images.env up -d --wait
#   (set -a; source docker/images.env; docker/build.sh)
#
# To renew the digests that the files themselves name, put the printed ones there: in compose.yaml, and two of them in
# docker/Dockerfile as well. An image that was built or imported here has no digest; it is named on stderr.
set -euo pipefail
cd "$(dirname "$0")/.."
exec </dev/null
source docker/engine.sh

pull=
case ${1:-} in
    '') ;;
    --pull) pull=1 ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac

status=0
while IFS='=' read -r variable image; do
    name=${image%%@*}
    if [ -n "$pull" ]; then
        docker pull -q "$name" >/dev/null
    fi
    # By its tag, or, where it was pulled by a digest alone, by that.
    digests=$(docker image inspect --format '{{join .RepoDigests "\n"}}' "$name" 2>/dev/null ||
        docker image inspect --format '{{join .RepoDigests "\n"}}' "$image" 2>/dev/null || true)
    digest=$(sed -n "s|^${name%:*}@||p" <<<"$digests" | head -n 1)
    if [ -n "$digest" ]; then
        echo "$variable=$name@$digest"
    else
        echo "$variable: this engine has not pulled $name: docker/pin.sh --pull" >&2
        status=1
    fi
done < <(sed -n 's/.*\${\(CONCLAVE_[A-Z]*_IMAGE\):-\([^}]*\)}.*/\1=\2/p' compose.yaml)
exit "$status"
