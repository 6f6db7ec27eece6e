/* A fake of libnvidia-ml. */
#include <stdio.h>

int nvmlSystemGetDriverVersion(char *version, unsigned length)
{
    snprintf(version, length, "535.54.03");
    return 0;
}
