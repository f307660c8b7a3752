# Finds LibTorch and makes longstride::torch of it: what the rooms link to, and what the installed package's users do.
# Included by src/ when LONGSTRIDE_TORCH is on, and by longstrideConfig.cmake. Where there is no LibTorch, or none that
# serves, there is no such target, and longstride_torch_missing says why.
#
# Order: what find_package(Torch) is told (Torch_DIR, Torch_ROOT, CMAKE_PREFIX_PATH; as variables or in the environment);
# the checkout's own .venv; the torch of `python3`; the system's folders.

# The torch folder in use: the one that holds share/cmake/Torch, or "".
function(longstride_find_torch out out_version)
  # TorchConfig.cmake is not to be run (see below): CMake looks for the file beside it, which says the version and no more.
  set(search QUIET CONFIG NAMES Torch CONFIGS TorchConfigVersion.cmake)
  find_package(Torch ${search} NO_SYSTEM_ENVIRONMENT_PATH NO_CMAKE_SYSTEM_PATH)
  if(NOT Torch_FOUND)
    foreach(python ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../.venv/bin/python python3)
      # Not where a folder named torch may lie, which Python would take for the package.
      execute_process(
        COMMAND ${python} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
        WORKING_DIRECTORY ${CMAKE_CURRENT_FUNCTION_LIST_DIR}
        OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
      if(NOT failed)
        find_package(Torch ${search} PATHS ${root} NO_DEFAULT_PATH)
      endif()
      if(Torch_FOUND)
        break()
      endif()
    endforeach()
  endif()
  if(NOT Torch_FOUND)
    find_package(Torch ${search})
  endif()
  set(root "")
  if(Torch_FOUND)
    get_filename_component(root ${Torch_DIR}/../../.. ABSOLUTE)
  endif()
  set(${out} ${root} PARENT_SCOPE)
  set(${out_version} "${PACKAGE_VERSION}" PARENT_SCOPE)
endfunction()

# The targets longstride_torch_cpu and longstride_c10 of the torch in `root`, and longstride::torch of both. TorchConfig is
# not asked: it ends the configuration where it lacks something that only it needs (a CUDA toolkit, say), and adds a
# library that forwards to these and the folders of an MKL that is already linked in.
function(longstride_torch_targets root)
  set(scope "")
  if(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL)
    set(scope GLOBAL)
  endif()
  # LibTorch's headers must see what LibTorch was compiled with.
  set(definitions "")
  if(EXISTS ${root}/share/cmake/Caffe2/Caffe2Targets.cmake)
    file(READ ${root}/share/cmake/Caffe2/Caffe2Targets.cmake text)
    string(REGEX MATCH "set_target_properties\\(torch_cpu PROPERTIES[^)]*" properties "${text}")
    string(REGEX MATCH "INTERFACE_COMPILE_DEFINITIONS \"([A-Za-z0-9_;=]*)\"" line "${properties}")
    set(definitions ${CMAKE_MATCH_1})
  endif()
  foreach(part torch_cpu c10)
    add_library(longstride_${part} SHARED IMPORTED ${scope})
    set_target_properties(longstride_${part} PROPERTIES
      IMPORTED_LOCATION ${root}/lib/lib${part}.so
      INTERFACE_COMPILE_DEFINITIONS "${definitions}"
      INTERFACE_INCLUDE_DIRECTORIES "${root}/include;${root}/include/torch/csrc/api/include")
  endforeach()
  if(EXISTS ${root}/lib/libtorch_cuda.so)
    # The CUDA libraries that libtorch_cpu.so itself needs are found by its own run path, not by the linker.
    target_link_options(longstride_torch_cpu INTERFACE -Wl,--allow-shlib-undefined)
  endif()
  # A program that uses longstride needs these two by name, whatever it calls: liblongstride.so then gets the torch that
  # the program was linked with, not the one at the place that it was built with.
  string(JOIN "," needed -Wl --push-state --no-as-needed "\"${root}/lib/libtorch_cpu.so\"" "\"${root}/lib/libc10.so\""
                         --pop-state)
  add_library(longstride::torch INTERFACE IMPORTED ${scope})
  set_property(TARGET longstride::torch PROPERTY INTERFACE_LINK_LIBRARIES ${needed} longstride_torch_cpu longstride_c10)
  set(LONGSTRIDE_TORCH_ROOT ${root} CACHE INTERNAL "the torch folder in use")
endfunction()

if(NOT TARGET longstride::torch)
  longstride_find_torch(longstride_torch_root longstride_torch_version)
  if(NOT longstride_torch_root)
    set(longstride_torch_missing "LibTorch was not found; set CMAKE_PREFIX_PATH or Torch_ROOT to a torch folder (the one \
that holds share/cmake/Torch), or have a python3 that imports torch")
  elseif(NOT EXISTS ${longstride_torch_root}/lib/libtorch_cpu.so OR NOT EXISTS ${longstride_torch_root}/lib/libc10.so)
    set(longstride_torch_missing "the LibTorch at ${longstride_torch_root} has no lib/libtorch_cpu.so and lib/libc10.so; \
set CMAKE_PREFIX_PATH or Torch_ROOT to one with shared libraries")
  else()
    longstride_torch_targets(${longstride_torch_root})
  endif()
endif()
