#!/bin/bash
# Makes what the table of MPI measures:
#   mpi.sh DIR         takes DIR/pingpong.c; makes DIR/host, a prefix with MPICH from its wheel, and
#                      DIR/image, the tree of an image: the same MPICH, the machine's C library, and
#                      the same program
set -euo pipefail
cd "$1"
umask 022
pip=(python3 -m pip --quiet --disable-pip-version-check)
"${pip[@]}" download --only-binary=:all: --no-deps --dest wheels 'mpich~=5.0'
"${pip[@]}" install --no-index --no-deps --break-system-packages --root-user-action=ignore \
    --ignore-installed --prefix=host wheels/*.whl
mkdir -p image/opt image/bin image/etc
cp -a host image/opt/mpich
# By RUNPATH beside itself, so that one program serves both.
gcc -O2 -o host/pingpong pingpong.c -Ihost/include -Lhost/lib -lmpi \
    -Wl,--enable-new-dtags,-rpath,'$ORIGIN/lib'
cp host/pingpong image/opt/mpich/
ldd host/pingpong host/lib/libmpi.so.12 | awk '$2 == "=>" {print $3} $1 ~ "^/" && NF == 2 {print $1}' |
    grep -v "^$PWD" | sort -u | xargs cp --dereference --parents --target-directory=image
ldconfig -r image
rm -r wheels
