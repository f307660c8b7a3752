# liblongstride: the rooms as one shared library, and how it is installed. Included by src/ once the rooms are known.
#
# A shared library, because loading it registers the torch operators: a static one would leave that object out of every
# program that names nothing in it. find_package(longstride) gives the target longstride::longstride.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

# longstride_kernels(ROOMS names...): the kernels and no more, which know LibTorch's stable ABI alone, as one library that
# every LibTorch from 2.10 on loads.
function(longstride_kernels)
  cmake_parse_arguments(LIBRARY "" "" "ROOMS" ${ARGN})
  add_library(longstride_kernels SHARED)
  foreach(room ${LIBRARY_ROOMS})
    target_sources(longstride_kernels PRIVATE $<TARGET_OBJECTS:longstride_${room}>)
    target_link_libraries(longstride_kernels PRIVATE longstride_${room})
  endforeach()
  set_target_properties(longstride_kernels PROPERTIES LINKER_LANGUAGE CXX)
  if(NOT LONGSTRIDE_SANITIZE)
    target_link_options(longstride_kernels PRIVATE -Wl,--no-undefined)
  endif()
  if(LONGSTRIDE_PYTHON)
    # Into the package's folder, with Highway and fmt beside it where they are shared libraries. LibTorch is not searched
    # for: the process has loaded it.
    set_target_properties(longstride_kernels PROPERTIES INSTALL_RPATH $ORIGIN INSTALL_RPATH_USE_LINK_PATH OFF)
    install(TARGETS longstride_kernels
            RUNTIME_DEPENDENCIES PRE_INCLUDE_REGEXES "^lib(hwy|fmt)[.]" PRE_EXCLUDE_REGEXES "."
            LIBRARY DESTINATION longstride COMPONENT python NAMELINK_SKIP)
  endif()
endfunction()

# longstride_library(ROOMS names...)
function(longstride_library)
  cmake_parse_arguments(LIBRARY "" "" "ROOMS" ${ARGN})
  set(objects "")
  foreach(room ${LIBRARY_ROOMS})
    get_target_property(kind longstride_${room} TYPE)
    if(NOT kind STREQUAL "INTERFACE_LIBRARY")
      list(APPEND objects $<TARGET_OBJECTS:longstride_${room}>)
    endif()
  endforeach()
  add_library(longstride SHARED ${objects})
  add_library(longstride::longstride ALIAS longstride)
  list(TRANSFORM LIBRARY_ROOMS PREPEND longstride_ OUTPUT_VARIABLE rooms)
  # For what the rooms link to outside; their own archives add nothing, since every object is there already.
  target_link_libraries(longstride PRIVATE ${rooms} PUBLIC longstride::torch)
  target_include_directories(longstride PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                               $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_compile_features(longstride PUBLIC cxx_std_20)
  set_target_properties(longstride PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION ${PROJECT_VERSION_MAJOR}
                                              LINKER_LANGUAGE CXX)

  install(TARGETS longstride EXPORT longstrideTargets)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/longstride TYPE INCLUDE)
  string(REGEX MATCH "^[0-9]+[.][0-9]+" longstride_torch_series "${longstride_torch_version}")
  set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/longstride)
  install(EXPORT longstrideTargets NAMESPACE longstride:: DESTINATION ${package_dir})
  configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/longstrideConfig.cmake.in
                                ${PROJECT_BINARY_DIR}/longstrideConfig.cmake INSTALL_DESTINATION ${package_dir})
  write_basic_package_version_file(${PROJECT_BINARY_DIR}/longstrideConfigVersion.cmake COMPATIBILITY SameMinorVersion)
  install(FILES ${PROJECT_BINARY_DIR}/longstrideConfig.cmake ${PROJECT_BINARY_DIR}/longstrideConfigVersion.cmake
                ${PROJECT_SOURCE_DIR}/cmake/torch.cmake DESTINATION ${package_dir})
endfunction()
