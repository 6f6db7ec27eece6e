/* The same from C++, by MPI's own bindings for it, which only libraries of MPICH's kin still have:
 *   rank 0/1 sum=1 version=MPICH Version: 4.0.2
 *   loads /usr/lib/x86_64-linux-gnu/libmpichcxx.so.12.2.2 */
#include <fstream>
#include <iostream>
#include <mpi.h>
#include <set>
#include <string>

int main(int argc, char **argv)
{
    MPI::Init(argc, argv);
    double mine = MPI::COMM_WORLD.Get_rank() + 1, sum;
    MPI::COMM_WORLD.Allreduce(&mine, &sum, 1, MPI::DOUBLE, MPI::SUM);
    char version[MPI_MAX_LIBRARY_VERSION_STRING];
    int length;
    MPI_Get_library_version(version, &length);
    std::string line = version;
    std::cout << "rank " << MPI::COMM_WORLD.Get_rank() << "/" << MPI::COMM_WORLD.Get_size()
              << " sum=" << sum << " version=" << line.substr(0, line.find('\n')) << "\n";
    std::ifstream maps("/proc/self/maps");
    std::set<std::string> loaded;
    while (std::getline(maps, line))
        if (line.find("/libmpi") != std::string::npos)
            loaded.insert(line.substr(line.find('/')));
    for (const std::string &path : loaded)
        std::cout << "loads " << path << "\n";
    MPI::Finalize();
}
