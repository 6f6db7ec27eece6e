/* Opens the MPI library that it is told, as bindings of other languages do:
 *   dlopen libmpich.so.12
 *   lib=/usr/lib/x86_64-linux-gnu/libmpich.so.12 version=MPICH Version: 4.0.2 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv)
{
    char text[8192];
    int length;
    Dl_info found;
    void *library = dlopen(argv[argc - 1], RTLD_NOW | RTLD_GLOBAL);
    int (*version)(char *, int *) =
        library ? (int (*)(char *, int *))dlsym(library, "MPI_Get_library_version") : NULL;

    if (!version) {
        fprintf(stderr, "%s\n", dlerror());
        return 1;
    }
    version(text, &length);
    text[strcspn(text, "\n")] = 0;
    dladdr((void *)version, &found);
    printf("lib=%s version=%s\n", found.dli_fname, text);
    return 0;
}
