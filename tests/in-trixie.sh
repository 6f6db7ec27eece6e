#!/bin/bash
# Runs a program in a Debian 13, whose Slurm is 24.11, as root: so the tests of Slurm, by
# tests/setup.sh's packages or by these, pass on both releases with the same files.
#   tests/in-trixie.sh PROGRAM ARGS..
# This checkout, /tmp and /dev are the machine's, all else is the Debian's. It is made at the first
# use, in target/, from the machine's own mirror.
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
target=${CARGO_TARGET_DIR:-$here/target}
release=trixie
root=$target/tmp/$release
packages=slurmctld,slurmd,slurm-client,munge,docker-registry,busybox-static,passwd
packages+=,attr,findutils,util-linux,procps,squashfs-tools,squashfuse,libmpich12
# debootstrap cannot find the order in which what these need is configured.
later=skopeo
made_of=$packages,$later

make_root() {
    mirror=$(apt-get indextargets --format '$(REPO_URI)' \
        "Release: $(. /etc/os-release && echo "$VERSION_CODENAME")" "Created-By: Packages" \
        "Component: main" | sed -n 1p)
    rm -rf --one-file-system "$root" "$root.new"
    echo "in-trixie: making a Debian 13 in $root" >&2
    # However it ends, nothing stays mounted.
    unshare --mount debootstrap --variant=minbase --include="$packages" "$release" "$root.new" \
        ${mirror:+"$mirror"} >"$root.log" 2>&1 || { tail -n 20 "$root.log" >&2; exit 1; }
    chroot "$root.new" apt-get install -y --no-install-recommends ${later//,/ } \
        >>"$root.log" 2>&1 </dev/null || { tail -n 20 "$root.log" >&2; exit 1; }
    rm -f "$root.new"/var/cache/apt/archives/*.deb
    echo "$made_of" >"$root.new/packages"
    mv "$root.new" "$root"
}

mkdir -p "$target/tmp"
exec 9>"$root.lock"
flock 9
[ "$(cat "$root/packages" 2>/dev/null)" = "$made_of" ] || make_root
exec 9>&-

# Slurm's job_container/tmpfs mounts the namespaces of jobs. The kernel allows it in a namespace with
# a lower number alone, and since Linux 6.18 each processor has numbers of its own to give: ours is
# made on the one that has the lowest. Before 6.11 nobody can ask, nor needs to.
lowest=$(python3 - <<'PYTHON'
import ctypes, fcntl, os
CLONE_NEWNS, NS_GET_MNTNS_ID = 0x20000, 0x8008B705
def number(processor):
    os.sched_setaffinity(0, {processor})
    ctypes.CDLL(None).unshare(CLONE_NEWNS)
    try:
        with open("/proc/self/ns/mnt") as namespace:
            return int.from_bytes(fcntl.ioctl(namespace, NS_GET_MNTNS_ID, bytes(8)), "little")
    except OSError:
        return 0
print(min(os.sched_getaffinity(0), key=number))
PYTHON
)
all=$(taskset --cpu-list --pid $$)

# The mounts go with the process. A chroot would not do: there the kernel gives nobody a user
# namespace.
export root here target all=${all##* } cwd=$PWD
exec taskset --cpu-list "$lowest" unshare --mount --propagation private bash -euc '
    taskset --cpu-list --pid "$all" $$ >/dev/null
    mount --bind "$root" "$root"
    for dir in /proc /sys /dev /tmp "$here" "$target"; do
        mkdir -p "$root$dir"
        mount --rbind "$dir" "$root$dir"
    done
    # slurmctld looks for srun by the name of the machine.
    touch "$root/etc/hosts"
    mount --bind /etc/hosts "$root/etc/hosts"
    cd "$root"
    pivot_root . .
    umount -l .
    cd "$cwd"
    exec "$@"' in-trixie "$@"
