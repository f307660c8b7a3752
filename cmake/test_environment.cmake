# Read by ctest before it runs the tests. Threads of OpenMP that wait for work spin by default; beside another process on
# the same cores they take what it needs: beside a build on 2 cores factory_test took 76 s for 20.
if(NOT DEFINED ENV{OMP_WAIT_POLICY})
  set(ENV{OMP_WAIT_POLICY} passive)
endif()
