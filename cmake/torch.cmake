# Finds LibTorch and leaves TORCH_LIBRARIES. Included by src/ when LONGSTRIDE_TORCH is on, and by the installed package.
# Order: Torch_DIR or CMAKE_PREFIX_PATH as the caller set them; the checkout's own .venv; the torch of `python3`.
# A torch built for CUDA refuses find_package on a machine without a whole CUDA toolkit, though its CPU half is all that
# is used: then the libraries of that half are named here by hand.

function(longstride_torch_root out)
  foreach(python ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/../.venv/bin/python python3)
    execute_process(
      COMMAND ${python} -c "import importlib.util as u; print(u.find_spec('torch').submodule_search_locations[0])"
      OUTPUT_VARIABLE root OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE failed)
    if(NOT failed AND EXISTS ${root}/share/cmake/Torch/TorchConfig.cmake)
      set(${out} ${root} PARENT_SCOPE)
      return()
    endif()
  endforeach()
  set(${out} "" PARENT_SCOPE)
endfunction()

if(NOT TARGET torch AND NOT TARGET longstride_torch_cpu)
  set(longstride_torch_root "")
  if(Torch_DIR AND EXISTS ${Torch_DIR}/TorchConfig.cmake)
    get_filename_component(longstride_torch_root ${Torch_DIR}/../../.. ABSOLUTE)
  else()
    foreach(prefix ${CMAKE_PREFIX_PATH})
      if(EXISTS ${prefix}/share/cmake/Torch/TorchConfig.cmake)
        set(longstride_torch_root ${prefix})
        break()
      endif()
    endforeach()
  endif()
  if(NOT longstride_torch_root)
    longstride_torch_root(longstride_torch_root)
  endif()
  if(NOT longstride_torch_root)
    message(FATAL_ERROR "LibTorch not found. Run tools/setup, or set CMAKE_PREFIX_PATH to a torch folder "
                        "(the one that holds share/cmake/Torch), or configure with -DLONGSTRIDE_TORCH=OFF.")
  endif()

  set(LONGSTRIDE_TORCH_ROOT ${longstride_torch_root} CACHE INTERNAL "the torch folder in use")

  if(EXISTS ${longstride_torch_root}/lib/libtorch_cuda.so)
    message(STATUS "torch at ${longstride_torch_root} is built for CUDA: linking its CPU libraries")
    foreach(part torch_cpu c10)
      add_library(longstride_${part} SHARED IMPORTED GLOBAL)
      set_target_properties(longstride_${part} PROPERTIES
        IMPORTED_LOCATION ${longstride_torch_root}/lib/lib${part}.so
        INTERFACE_INCLUDE_DIRECTORIES
          "${longstride_torch_root}/include;${longstride_torch_root}/include/torch/csrc/api/include")
    endforeach()
    # The CUDA libraries that libtorch_cpu.so itself needs are found by its own run path, not by the linker.
    target_link_options(longstride_torch_cpu INTERFACE -Wl,--allow-shlib-undefined)
    set(TORCH_LIBRARIES longstride_torch_cpu longstride_c10)
  else()
    # The tests link to the same targets from a sibling folder.
    set(CMAKE_FIND_PACKAGE_TARGETS_GLOBAL TRUE)
    # TorchConfig warns of libraries that a wheel never ships; what is missing for us fails at the link.
    find_package(Torch REQUIRED PATHS ${longstride_torch_root} NO_DEFAULT_PATH)
  endif()
endif()
