/* Says what the library is that it runs on, after it has used it:
 *   rank 0/4 sum=10 left=3 lib=/usr/lib/x86_64-linux-gnu/libmpich.so.12 version=MPICH Version: 4.0.2
 * A megabyte goes by process_vm_readv(2) between ranks of a node, where the library can. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <mpi.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    static char big[1 << 20];
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int rank, size, length;
    double mine, sum;
    Dl_info library;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &size);
    mine = rank + 1;
    MPI_Allreduce(&mine, &sum, 1, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    memset(big, rank, sizeof big);
    MPI_Sendrecv_replace(big, sizeof big, MPI_CHAR, (rank + 1) % size, 7, (rank + size - 1) % size,
                         7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    MPI_Get_library_version(version, &length);
    version[strcspn(version, "\n")] = 0;
    dladdr((void *)MPI_Init, &library);
    printf("rank %d/%d sum=%g left=%d lib=%s version=%s\n", rank, size, sum, big[sizeof big - 1],
           library.dli_fname, version);
    MPI_Finalize();
    return 0;
}
