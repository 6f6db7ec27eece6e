/* What a program for another machine gets through a shim: greet() of the library that the shim names.
 *   GREETING     the library           else the program, which says what greet() returns */
#ifdef GREETING
int greet(void)
{
    return 42;
}
#else
#include <stdio.h>

int greet(void);

int main(void)
{
    printf("%d\n", greet());
    return 0;
}
#endif
