#!/usr/bin/env bash
# Makes what the tests of the image need, and only what is missing: Debian's packages, a stand-in for the base image, the
# wheels, and the image itself, built without a network. Usage: tests/containers/setup.sh [cpu|gpu]
set -euo pipefail

variant=${1:-cpu}
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/twofold-containers
base=localhost/python:3.12-slim-bookworm
image=localhost/twofold:$variant
export CONTAINERS_CONF=$here/containers.conf

if [ "$(id -u)" != 0 ] || [ ! -e /etc/debian_version ]; then
    echo "setup.sh: the tests of the image need Debian and root; build it as docs/containers.md says" >&2
    exit 69
fi

missing=()
for package in buildah podman runc crun netavark aardvark-dns golang-github-containers-common mmdebstrap iptables uidmap catatonit; do
    dpkg-query --show --showformat '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
if [ ${#missing[@]} != 0 ]; then
    echo "installing with apt-get: ${missing[*]}"
    apt-get update -qq || echo "going on with the lists of packages that are there" >&2
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends "${missing[@]}"
fi
mkdir -p "$cache/wheels"

# The base image: Debian with pyenv's Python 3.12 in /usr/local, or with its own Python where there is none.
if ! podman image exists "$base"; then
    python=$(find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -maxdepth 1 -type d -name '3.12.*' 2>/dev/null | sort --version-sort | tail -1 || true)
    if [ -n "$python" ]; then
        packages=netbase,tzdata,libbz2-1.0,libexpat1,libffi8,liblzma5,libncursesw6,libreadline8,libsqlite3-0,libssl3,libuuid1,zlib1g
        rootfs=$cache/debian.tar
    else
        packages=python3,python3-pip,python3-venv
        rootfs=$cache/debian-python.tar
    fi
    echo "making $base from Debian and ${python:-its own Python}: a minute or two"
    [ -e "$rootfs" ] || { mmdebstrap --quiet --variant=minbase --include="ca-certificates,$packages" bookworm "$cache/new.tar" && mv "$cache/new.tar" "$rootfs"; }
    container=$(buildah from scratch)
    mount=$(buildah mount "$container")
    tar -C "$mount" -xf "$rootfs" --exclude='./dev/*'
    if [ -n "$python" ]; then
        tar -C "$python" --exclude=site-packages --exclude=__pycache__ --exclude=test --exclude='*.a' -c bin include lib | tar -C "$mount/usr/local" -x
        chroot "$mount" sh -c 'rm -f /usr/local/bin/pip* && ldconfig && python3.12 -m ensurepip >/dev/null 2>&1 && ln -sf python3.12 /usr/local/bin/python3'
    fi
    buildah config --env PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd python3 "$container"
    buildah umount "$container" >/dev/null
    buildah commit --quiet --rm --format docker "$container" "$base" >/dev/null
fi

# The wheels, taken by the very Python that will install them, with this machine's certificates and package index.
locks=("$root/requirements/$variant.txt" "$root/requirements/image.txt")
stamp=$cache/wheels/.$variant
now=$(cat "${locks[@]}" | sha256sum; podman image inspect "$base" --format '{{.Id}}')
if [ "$(cat "$stamp" 2>/dev/null)" != "$now" ]; then
    echo "downloading the wheels of $variant"
    index=${PIP_INDEX_URL:-$(python3 -m pip config get global.index-url 2>/dev/null || true)}
    certificates=${PIP_CERT:-${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}}
    environment=()
    for name in PIP_DEFAULT_TIMEOUT PIP_TRUSTED_HOST HTTPS_PROXY https_proxy NO_PROXY no_proxy; do
        [ -z "${!name:-}" ] || environment+=(--env "$name")
    done
    podman run --rm --pull=never --network host "${environment[@]}" ${index:+--env PIP_INDEX_URL="$index"} \
        --env PIP_CERT=/certificates.crt --volume "$certificates:/certificates.crt:ro" \
        --volume "$root/requirements:/requirements:ro" --volume "$cache/wheels:/wheels" "$base" \
        python3 -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
        --only-binary=:all: --require-hashes -r "/requirements/$variant.txt" -r /requirements/image.txt -d /wheels
    echo "$now" >"$stamp"
fi
printf '[global]\nno-index = true\nfind-links = /wheels\n' >"$cache/pip.conf"

echo "building $image: two to four minutes, seconds where nothing has changed"
before=$(podman image inspect "$image" --format '{{.Id}}' 2>/dev/null || true)
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' "$root/pyproject.toml")
buildah bud --quiet --isolation oci --network none --pull=never --layers --format docker \
    --ulimit nofile=16384:16384 --ulimit nproc=4096:4096 \
    --secret id=pipconf,src="$cache/pip.conf" --volume "$cache/wheels:/wheels:ro" \
    --build-arg BASE_IMAGE="$base" --build-arg VARIANT="$variant" --build-arg VERSION="$version" \
    --tag "$image" "$root" >/dev/null
if [ -n "$before" ] && [ "$before" != "$(podman image inspect "$image" --format '{{.Id}}')" ]; then
    podman rmi "$before" >/dev/null || echo "the image before this one is still in use, and kept" >&2
fi
