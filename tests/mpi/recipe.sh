#!/bin/bash
# Makes images with several MPIs from their packages, and programs for each, as root:
#   recipe.sh DIR      makes DIR/oci, an OCI image layout with the tags mpi, openmpi and bullseye;
#                      takes the sources of the programs in DIR
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
# /opt/hello/cxx        Debian's MPICH, from C++      libmpichcxx.so.12
# /opt/hello/fortran    the same, from Fortran        libmpichfort.so.12
# /opt/hello/usempi     Debian's Open MPI, use mpi    libmpi_mpifh.so.40
# /opt/hello/usempif08  the same, use mpi_f08         libmpi_usempif08.so.40
# /opt/mpi4py           mpi4py's wheel, for python3: it opens libmpi.so.12 or libmpi.so.40
#
# openmpi has only Debian's Open MPI, bullseye the MPICH 3.4 and the glibc 2.31 of Debian 11, with
# /opt/hello/mpich. DIR/host has MPIs of wheels, as if a site had installed them:
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
install libmpich12 python3
rm -rf "$tree"/var/cache/apt/* "$tree"/var/lib/apt/lists/* "$tree"/usr/share/{doc,locale,man}

pip=(python3 -m pip --quiet --disable-pip-version-check)
for wheel in 'mpich~=5.0' 'mpich~=3.4' 'openmpi~=5.0' 'mpi4py~=4.1'; do
    "${pip[@]}" download --only-binary=:all: --no-deps --dest "wheels/$wheel" "$wheel"
done
unpack() {
    "${pip[@]}" install --no-index --no-deps --break-system-packages --root-user-action=ignore \
        --ignore-installed --prefix="$2" "wheels/$1"/*.whl
}
unpack 'mpich~=5.0' "$tree/opt/mpich5"
unpack 'openmpi~=5.0' "$tree/opt/openmpi5"
"${pip[@]}" install --no-index --no-deps --root-user-action=ignore --target="$tree/opt/mpi4py" \
    wheels/mpi4py*/*.whl
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
mpicxx.mpich -o "$tree/opt/hello/cxx" hello.cc
mpif90.mpich -cpp -DMODULE=mpi -o "$tree/opt/hello/fortran" hello.f90
mpif90.openmpi -cpp -DMODULE=mpi -o "$tree/opt/hello/usempi" hello.f90
mpif90.openmpi -cpp -DMODULE=mpi_f08 -o "$tree/opt/hello/usempif08" hello.f90
umoci repack --image oci:mpi bundle

# Unpacked is enough: what packages would configure, no program here asks for.
umoci new --image oci:bullseye
umoci unpack --image oci:bullseye old
tree=$PWD/old/rootfs
debootstrap --variant=minbase --foreign --include=libmpich12,libc6-dev bullseye "$tree" \
    ${mirror:+"$mirror"} >>debootstrap.log
for package in "$tree"/var/cache/apt/archives/*.deb; do
    dpkg-deb --extract "$package" "$tree"
done
rm -rf "$tree"/debootstrap "$tree"/var/cache/apt/* "$tree"/usr/share/{doc,locale,man}
ldconfig -r "$tree"
machine=$(gcc -print-multiarch)
lib=$tree/lib/$machine usr=$tree/usr/lib/$machine
# An absolute one leads out of the tree.
ln -sfn "../lib/$machine/ld-2.31.so" "$tree/lib64/ld-linux-x86-64.so.2"
mkdir -p "$tree/opt/hello"
gcc --sysroot="$tree" -B"$usr" -L"$usr" -L"$lib" -Wl,-rpath-link,"$usr:$lib" \
    $(mpicc.mpich -compile_info | tr ' ' '\n' | grep '^-I' | sort -u) \
    -o "$tree/opt/hello/mpich" hello.c "$usr/libmpich.so.12" "$lib/libdl.so.2"
umoci repack --refresh-bundle --image oci:bullseye old
