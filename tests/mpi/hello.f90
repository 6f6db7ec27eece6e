! The same from Fortran, with the module that MODULE says:
!   rank 0/1 sum= 1 version=MPICH Version: 4.0.2
!   loads /usr/lib/x86_64-linux-gnu/libmpichfort.so.12.2.2
program hello
  use MODULE
  implicit none
  character(len=MPI_MAX_LIBRARY_VERSION_STRING) :: version
  character(len=1024) :: line, last
  integer :: rank, size, length, ierror, status, at
  double precision :: mine, total

  call MPI_Init(ierror)
  call MPI_Comm_rank(MPI_COMM_WORLD, rank, ierror)
  call MPI_Comm_size(MPI_COMM_WORLD, size, ierror)
  mine = rank + 1
  call MPI_Allreduce(mine, total, 1, MPI_DOUBLE_PRECISION, MPI_SUM, MPI_COMM_WORLD, ierror)
  call MPI_Get_library_version(version, length, ierror)
  at = index(version, new_line('a'))
  if (at > 0) length = at - 1
  print '(a,i0,a,i0,a,i0,2a)', 'rank ', rank, '/', size, ' sum=', nint(total), &
    ' version=', version(1:length)
  open(10, file='/proc/self/maps', action='read')
  last = ''
  do
    read(10, '(a)', iostat=status) line
    if (status /= 0) exit
    at = index(line, '/')
    if (index(line, '/libmpi') == 0) cycle
    if (line(at:) /= last) print '(2a)', 'loads ', trim(line(at:))
    last = line(at:)
  end do
  call MPI_Finalize(ierror)
end program hello
