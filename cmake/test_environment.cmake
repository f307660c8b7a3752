# Read by ctest before it runs the tests. Threads of OpenMP that wait for work spin by default; beside another process on
# the same cores they take what it needs: 2 tests at a time on 2 cores took 10 times as long.
if(NOT DEFINED ENV{OMP_WAIT_POLICY})
  set(ENV{OMP_WAIT_POLICY} passive)
endif()
