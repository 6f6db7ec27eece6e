#!/bin/bash
# Makes the real images that tests/images.rs pulls, as root: Debian, Python, numpy and MPI from their
# packages, in layers by those who write layers in the field.
#   recipe.sh DIR      makes DIR/oci, an OCI image layout with the tags base, plain, stack and
#                      sparse; and DIR/sparse, the files that the last one is made of
#
# layer       what                                          whose archive
# debian      debootstrap, minbase                          umoci (Go, PAX)
# python      apt-get install python3 python3-pip           umoci
# numpy       pip install, by the image's own pip           umoci
# mpi         apt-get install mpich                         umoci
# slim        what an image's author removes again          umoci: whiteouts
# replaced    directories and files that change their type  buildah (Go, overlayfs): opaque ones
# gnu         an application, with all that archives know   GNU tar, format gnu
# pax         the same                                      GNU tar, format pax
# bsd         the same                                      libarchive
# tarfile     the same                                      Python
#
# plain ends with "replaced", all of it as buildah writes it: not compressed.
set -euo pipefail
cd "$1"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=$PATH:/usr/sbin:/sbin
umask 022

tree=$PWD/bundle/rootfs
buildah=(buildah --root "$PWD/buildah" --runroot "$PWD/buildah.run" --storage-driver overlay)
# Small indices, no caches.
apt=(apt-get -qq -o Dpkg::Use-Pty=0 -o Acquire::GzipIndexes=true -o Dir::Cache::pkgcache=
    -o Dir::Cache::srcpkgcache=)

packages() { chroot "$tree" "${apt[@]}" "$@" </dev/null >/dev/null; }
install() { packages install -y --no-install-recommends "$@" && packages clean; }
repack() { umoci repack --refresh-bundle --image "oci:$1" bundle; }

# The release and the mirror are the machine's own.
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    "Release: $release" "Created-By: Packages" "Component: main" | sed -n 1p)
umoci init --layout oci
umoci new --image oci:base
umoci unpack --image oci:base bundle
debootstrap --variant=minbase "$release" "$tree" ${mirror:+"$mirror"} >debootstrap.log
repack base

packages update
install python3 python3-pip
repack python

# The wheel comes by the machine's own pip, which knows the machine's index.
version=$(chroot "$tree" python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')
python3 -m pip download -q --only-binary=:all: --python-version "$version" --dest wheels 'numpy<3'
cp -r wheels "$tree/tmp/wheels"
chroot "$tree" pip install -q --no-index --find-links=/tmp/wheels --break-system-packages \
    --root-user-action=ignore numpy
rm -r "$tree/tmp/wheels"
repack numpy

install mpich
repack mpi

packages purge -y python3-pip
packages autoremove --purge -y
rm -rf "$tree"/usr/share/{doc,man,locale} "$tree"/var/lib/apt/lists/* "$tree"/var/log/apt
repack slim

# To overlayfs, a directory that is removed and made again is opaque.
container=$("${buildah[@]}" from --pull-never oci:oci:slim 2>/dev/null)
over=$("${buildah[@]}" mount "$container")
rm -r "$over"/usr/share/{perl5,zoneinfo} "$over"/etc/{logrotate.d,skel,motd}
mkdir -p "$over"/usr/share/perl5/again "$over"/etc/logrotate.d "$over"/etc/motd
echo again >"$over/usr/share/perl5/again/file"
echo 'a file where a directory was' >"$over/etc/skel"
echo 'a directory where a file was' >"$over/etc/motd/README"
ln -s ../lib/zoneinfo "$over/usr/share/zoneinfo"
"${buildah[@]}" commit -q --format oci "$container" oci:oci:plain >/dev/null
"${buildah[@]}" umount "$container" >/dev/null

# The last layer of the image with this tag.
last_layer() {
    python3 - "$1" <<'PYTHON'
import json, sys
def load(path):
    with open("oci/" + path) as file:
        return json.load(file)
name = "org.opencontainers.image.ref.name"
image, = (m for m in load("index.json")["manifests"] if m["annotations"][name] == sys.argv[1])
blob = lambda descriptor: "blobs/sha256/" + descriptor["digest"].split(":")[1]
print("oci/" + blob(load(blob(image))["layers"][-1]))
PYTHON
}

app() {
    local dir=$1/opt/$1 long
    long=$(printf 'component-%03d/' {1..30})
    mkdir -p "$dir/bin" "$dir/empty" "$dir/$long"
    echo deep >"$dir/$long/file"
    echo long >"$dir/$(printf 'x%.0s' {1..200})"
    echo "$1" >"$dir/bin/tool"
    ln "$dir/bin/tool" "$dir/bin/hard"
    ln "$dir/bin/tool" "$dir/$long/harder"
    ln -s "../$long/file" "$dir/bin/deep"
    ln "$dir/bin/deep" "$dir/bin/deeper" -P
    ln -s /usr/lib "$dir/absolute"
    touch "$dir/bin/suid" "$dir/bin/sgid" "$dir/closed"
    mkfifo "$dir/fifo"
    mknod "$dir/zero" c 1 5
    echo utf-8 >"$dir/"$'caf\xc3\xa9 \xe6\xbc\xa2\xe5\xad\x97\n'
    echo latin-1 >"$dir/"$'caf\xe9'
    chown 1000:1001 "$dir/bin/tool"
    chown 3000000:3000001 "$dir/closed"
    chmod 4755 "$dir/bin/suid"
    chmod 2755 "$dir/bin/sgid"
    chmod 0 "$dir/closed"
    chmod 1777 "$dir/empty"
    chmod 0555 "$dir/bin"
    setfattr -n user.color -v blue "$dir/bin/tool"
    setfattr -n user.binary -v 0s/wAKPQ== "$dir/$long"
    setcap cap_net_raw+ep "$dir/bin/sgid"
    touch -d '1969-07-20 20:17:40 UTC' "$dir/bin/suid"
    touch -d '2040-01-01 00:00:00.5 UTC' "$dir/fifo"
    touch -h -d '1999-12-31 23:59:59.123456789 UTC' "$dir/absolute"
    touch -d '2001-02-03 UTC' "$dir/bin" "$dir"
}
# Adds a layer on top of one image, and gives the result a tag.
add() { umoci raw add-layer --image "oci:$1" --tag "$2" "$3"; }

for writer in gnu pax bsd tarfile; do app $writer; done
everything=(--xattrs --xattrs-include='*' --numeric-owner)
tar --format=gnu --numeric-owner -C gnu -cf gnu.tar .
tar --format=pax "${everything[@]}" -C pax -cf pax.tar .
bsdtar --format=pax --xattrs --numeric-owner -C bsd -cf bsd.tar .
python3 - <<'PYTHON'
import os, tarfile
def attributes(info):
    path = os.path.join("tarfile", info.name)
    for name in [] if info.issym() else os.listxattr(path):
        value = os.getxattr(path, name).decode("utf-8", "surrogateescape")
        info.pax_headers["SCHILY.xattr." + name] = value
    return info
with tarfile.open("tarfile.tar", "w", format=tarfile.PAX_FORMAT) as archive:
    archive.add("tarfile", arcname=".", filter=attributes)
PYTHON
add slim stack "$(last_layer plain)"
for writer in gnu pax bsd tarfile; do add stack stack $writer.tar; done

# Holes: at the beginning, at the end, between, nothing else, and more than one header has room for.
holes() {
    mkdir -p "$1"
    truncate -s 10000001 "$1/nothing"
    truncate -s 5M "$1/end" && echo begin | dd of="$1/end" conv=notrunc status=none
    truncate -s 5M "$1/begin" && echo end >>"$1/begin"
    truncate -s 40M "$1/many"
    for i in {1..40}; do
        echo "$i" | dd of="$1/many" bs=1M seek=$((i - 1)) conv=notrunc status=none
    done
    seq 100000 >"$1/none"
}
umoci new --image oci:sparse
for format in gnu pax-0.0 pax-0.1 pax-1.0 bsd; do
    holes sparse/$format
    case $format in
    gnu) tar --format=gnu --sparse -C sparse -cf sparse.tar $format ;;
    bsd) bsdtar --format=pax -C sparse -cf sparse.tar $format ;;
    *) tar --format=pax --sparse --sparse-version=${format#pax-} -C sparse -cf sparse.tar $format ;;
    esac
    add sparse sparse sparse.tar
done
