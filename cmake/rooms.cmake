# One target a room. A room's sources see include/ and src/; who may include whom is checked by tools/check_layers.py.
include(GoogleTest)

set(LONGSTRIDE_WARNINGS -Wall -Wextra -Wno-missing-field-initializers)
set(LONGSTRIDE_SANITIZE_FLAGS "")
if(LONGSTRIDE_SANITIZE)
  set(LONGSTRIDE_SANITIZE_FLAGS -fsanitize=${LONGSTRIDE_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_compile_options(${LONGSTRIDE_SANITIZE_FLAGS})
  add_link_options(${LONGSTRIDE_SANITIZE_FLAGS})
  add_compile_definitions(LONGSTRIDE_SANITIZED)
endif()

# Code that calls other code and has no hot loop: it is compiled in half the time, LibTorch's headers above all.
set(LONGSTRIDE_CALLERS $<$<CONFIG:Release>:-O1>)

# What is read of LibTorch once for all: precompiled for the rooms, and with GoogleTest for their tests. Its parts, since
# torch/torch.h, all of it, costs every file three seconds more.
set(LONGSTRIDE_PRECOMPILED <ATen/ATen.h> <torch/csrc/autograd/custom_function.h> <torch/library.h> <torch/nn/cloneable.h>
    <torch/nn/modules/container/modulelist.h> <torch/nn/modules/dropout.h> <torch/nn/modules/embedding.h>
    <torch/nn/modules/linear.h> <torch/nn/modules/normalization.h> <torch/nn/pimpl.h> <torch/optim/adamw.h>
    <torch/utils.h> <fmt/format.h> <nlohmann/json.hpp>)

# longstride_room(NAME [DEPS targets...] [CALLER]): a static library longstride_NAME of all *.cc in this folder. CALLER: it
# has no hot loop.
function(longstride_room name)
  cmake_parse_arguments(ROOM "CALLER" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*.cc)
  if(NOT sources)
    add_library(longstride_${name} INTERFACE)
    target_link_libraries(longstride_${name} INTERFACE ${ROOM_DEPS})
    return()
  endif()
  add_library(longstride_${name} STATIC ${sources})
  target_include_directories(longstride_${name} PUBLIC ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
  target_compile_options(longstride_${name} PRIVATE ${LONGSTRIDE_WARNINGS} $<$<BOOL:${ROOM_CALLER}>:${LONGSTRIDE_CALLERS}>)
  target_link_libraries(longstride_${name} PUBLIC ${ROOM_DEPS})
endfunction()

# longstride_test(NAME [DEPS targets...] [WHOLE]): test executable NAME_test of all *_test.cc in this folder, and every test
# in it for ctest. WHOLE: one ctest entry for the executable (for those that take long to start, as with LibTorch).
function(longstride_test name)
  cmake_parse_arguments(TEST "WHOLE" "" "DEPS" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/*_test.cc)
  add_executable(${name}_test ${sources})
  target_include_directories(${name}_test PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${name}_test PRIVATE ${LONGSTRIDE_WARNINGS} ${LONGSTRIDE_CALLERS})
  target_link_libraries(${name}_test PRIVATE ${TEST_DEPS} GTest::gtest GTest::gmock GTest::gtest_main)
  if(TEST_WHOLE)
    add_test(NAME ${name} COMMAND ${name}_test)
  else()
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST)
  endif()
endfunction()
