#!/bin/sh
# Installs what building, testing, showing and measuring shifter takes, on Debian 12:
#   tests/setup.sh GROUP..      groups: build test demo bench fuzz
# Does nothing when all of it is there. Needs root only when something is missing.
set -eu

for group in "${@:?which of build, test, demo, bench, fuzz?}"; do
    case $group in
    build) need="gcc libc6-dev make libclang1-14 nasm autoconf automake libtool" ;;
    demo) need="slurmctld slurmd slurm-client munge docker-registry busybox-static passwd" ;;
    test) need="slurmctld slurmd slurm-client munge docker-registry busybox-static passwd
        skopeo umoci bubblewrap apache2-utils openssl findutils util-linux
        attr libcap2-bin libarchive-tools buildah debootstrap python3 python3-pip
        podman btrfs-progs squashfs-tools squashfuse bzip2 xz-utils zstd shellcheck
        mpich libmpich-dev openmpi-bin libopenmpi-dev dpkg-dev rpm binutils
        g++ gfortran gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static
        iproute2" ;;
    bench) need="slurmctld slurmd slurm-client munge docker-registry busybox-static passwd
        skopeo umoci bubblewrap debootstrap curl openssl zstd python3 python3-pip
        podman charliecloud python3-lark python3-requests docker.io containerd
        nasm autoconf automake libtool cmake libssl-dev pkg-config squashfs-tools squashfuse
        iproute2 strace" ;;
    fuzz) need="g++" ;;
    *) echo "setup: $group: no such group: build, test, demo, bench or fuzz" >&2; exit 2 ;;
    esac
    packages="${packages-} $need"
done

if ! command -v apt-get >/dev/null; then
    echo "setup: not a Debian: install what corresponds to:" $packages >&2
    exit 1
fi
missing=
for package in $packages; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    case " $missing " in *" $package "*) continue ;; esac
    [ "$status" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ]; then
        echo "setup: missing:$missing" >&2
        echo "setup: run this as root, or install them" >&2
        exit 1
    fi
    echo "setup: installing:$missing"
    # The daemons are started by the tests, each with a configuration of its own. Debian would start
    # them now, and slurmd would fail for want of one.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e "$policy" ]; then
        trap 'rm -f "$policy"' EXIT
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends $missing >/dev/null
    # Nor at the next boot: docker-registry would listen to the whole network. Of docker nothing is
    # used: Debian's charliecloud wants it to be there.
    for unit in docker-registry munge slurmctld slurmd docker.io containerd podman; do
        case " $missing " in
        *" $unit "*)
            for kind in service socket; do
                systemctl --quiet disable "${unit%.io}.$kind" 2>/dev/null || true
            done ;;
        esac
    done
else
    echo "setup: $*: nothing to install"
fi

case " $* " in *" build "*)
    command -v cargo >/dev/null || {
        echo "setup: cargo not found: install Rust 1.89 or newer" >&2
        exit 1
    } ;;
esac
