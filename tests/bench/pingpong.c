/* Two ranks on a node: how long a message takes, and how many bytes a second go by. A line for each
 * size, of the best of many batches, which nothing else on the machine has interrupted:
 *   BYTES MICROSECONDS MEGABYTES_PER_SECOND
 * Each rank keeps to a core of its own: the kernel's choice of them is not what is measured. */
#define _GNU_SOURCE
#include <mpi.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

enum { LARGEST = 4 << 20, BATCHES = 50, WINDOW = 16, BYTES = 8 << 20, MOST = 200 };
static const int sizes[] = {8, 128, 2 << 10, 32 << 10, 512 << 10, LARGEST};

static char out[LARGEST], in[LARGEST];

static void keep_to_core(int rank)
{
    cpu_set_t all, one;
    sched_getaffinity(0, sizeof all, &all);
    rank %= CPU_COUNT(&all);
    for (int core = 0; core < CPU_SETSIZE; core++)
        if (CPU_ISSET(core, &all) && rank-- == 0) {
            CPU_ZERO(&one);
            CPU_SET(core, &one);
            sched_setaffinity(0, sizeof one, &one);
            return;
        }
}

/* Seconds for a message there, which comes back as long. */
static double pingpong(int rank, int size, int times)
{
    double start = MPI_Wtime();
    for (int i = 0; i < times; i++) {
        if (rank == 0)
            MPI_Send(out, size, MPI_CHAR, 1, 1, MPI_COMM_WORLD);
        MPI_Recv(in, size, MPI_CHAR, 1 - rank, 1, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        if (rank == 1)
            MPI_Send(out, size, MPI_CHAR, 0, 1, MPI_COMM_WORLD);
    }
    return (MPI_Wtime() - start) / times / 2;
}

/* Seconds for a message of many that are on their way at the same time. */
static double stream(int rank, int size, int times)
{
    MPI_Request requests[WINDOW];
    double start = MPI_Wtime();
    for (int i = 0; i < times; i++) {
        for (int j = 0; j < WINDOW; j++)
            if (rank == 0)
                MPI_Isend(out, size, MPI_CHAR, 1, 2, MPI_COMM_WORLD, &requests[j]);
            else
                MPI_Irecv(in, size, MPI_CHAR, 0, 2, MPI_COMM_WORLD, &requests[j]);
        MPI_Waitall(WINDOW, requests, MPI_STATUSES_IGNORE);
        if (rank == 0)
            MPI_Recv(in, 1, MPI_CHAR, 1, 3, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        else
            MPI_Send(out, 1, MPI_CHAR, 0, 3, MPI_COMM_WORLD);
    }
    return (MPI_Wtime() - start) / times / WINDOW;
}

static double best(double (*measure)(int, int, int), int rank, int size, int times)
{
    double least = measure(rank, size, times);
    for (int batch = 0; batch < BATCHES; batch++) {
        double seconds = measure(rank, size, times);
        if (seconds < least)
            least = seconds;
    }
    return least;
}

int main(int argc, char **argv)
{
    int rank, ranks;

    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (ranks != 2) {
        fprintf(stderr, "%d ranks, and not 2\n", ranks);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    keep_to_core(rank);
    memset(out, rank, sizeof out);
    memset(in, rank, sizeof in);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int size = sizes[i], times = BYTES / size < MOST ? BYTES / size : MOST;
        double latency = best(pingpong, rank, size, times);
        double each = best(stream, rank, size, times / WINDOW + 1);
        if (rank == 0)
            printf("%d %.3f %.1f\n", size, latency * 1e6, size / each / 1e6);
    }
    MPI_Finalize();
    return 0;
}
