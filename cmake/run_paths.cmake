# Where installed files look for libraries: the program for liblongstride.so beside it, wherever the two are moved, and
# both for LibTorch where the build found it. A torch elsewhere is found through the program that is linked with it, or
# through LD_LIBRARY_PATH. Whoever sets CMAKE_INSTALL_RPATH is obeyed.
include(GNUInstallDirs)

if(NOT DEFINED CMAKE_INSTALL_RPATH)
  file(RELATIVE_PATH longstride_beside ${CMAKE_INSTALL_FULL_BINDIR} ${CMAKE_INSTALL_FULL_LIBDIR})
  set(CMAKE_INSTALL_RPATH $ORIGIN/${longstride_beside} ${LONGSTRIDE_TORCH_ROOT}/lib)
  # Other libraries may lie in folders that the system does not search.
  set(CMAKE_INSTALL_RPATH_USE_LINK_PATH ON)
endif()
