# The module fastflow._cuda, where a CUDA compiler is found, and its twin for tests on the host.

set(FASTFLOW_CUDA_OLDEST 12.0) # the first that knows sm_90
# Code for sm_80 and sm_90; later devices compile the latter's PTX.
set(FASTFLOW_CUDA_ARCHITECTURES 80-real 90 CACHE STRING "What the CUDA module is compiled for")
set(FASTFLOW_CUDA_SOURCES csrc/cuda/backward.cu csrc/cuda/forward.cu) # the one that takes longest first

# fastflow_find_cuda(RESULT) enables CUDA if its compiler works. What isn't there, too old or broken only makes RESULT false,
# unless FASTFLOW_CUDA is ON: the rest of the package doesn't depend on it.
function(fastflow_find_cuda result)
  set(${result} FALSE PARENT_SCOPE)
  if(NOT FASTFLOW_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "FASTFLOW_CUDA must be AUTO, ON or OFF, got '${FASTFLOW_CUDA}'")
  elseif(FASTFLOW_CUDA STREQUAL "OFF")
    return()
  endif()
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    execute_process(COMMAND ${CMAKE_CUDA_COMPILER} --version OUTPUT_VARIABLE text ERROR_QUIET)
    string(REGEX MATCH "release ([0-9.]+)" text "${text}")
    set(version "${CMAKE_MATCH_1}")
    if(version VERSION_GREATER_EQUAL FASTFLOW_CUDA_OLDEST)
      set(CMAKE_CUDA_COMPILER ${CMAKE_CUDA_COMPILER} PARENT_SCOPE)
      set(${result} TRUE PARENT_SCOPE)
      return()
    endif()
    set(reason "${CMAKE_CUDA_COMPILER} is CUDA ${version}, and the module needs ${FASTFLOW_CUDA_OLDEST} or newer")
  else()
    set(reason "no working CUDA compiler was found: put nvcc on PATH, or its path into CUDACXX")
  endif()
  if(FASTFLOW_CUDA STREQUAL "ON")
    message(FATAL_ERROR "FASTFLOW_CUDA is ON, but ${reason}")
  endif()
  message(STATUS "Building without the CUDA module: ${reason}")
endfunction()

# fastflow_add_cuda_module(NAME SOURCES...) builds the bindings over an implementation of csrc/cuda/launch.hpp.
function(fastflow_add_cuda_module name)
  nanobind_add_module(${name} STABLE_ABI NB_STATIC NB_DOMAIN ${name} ${keep_symbols} csrc/cuda/bindings.cpp ${ARGN})
  target_include_directories(${name} PRIVATE csrc)
  target_compile_options(${name} PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
  target_compile_definitions(${name} PRIVATE FASTFLOW_CUDA_MODULE=${name} FASTFLOW_VERSION="${PROJECT_VERSION}")
  install(TARGETS ${name} LIBRARY DESTINATION fastflow)
endfunction()

fastflow_find_cuda(has_cuda)
if(has_cuda)
  set(CMAKE_CUDA_ARCHITECTURES ${FASTFLOW_CUDA_ARCHITECTURES})
  set(CMAKE_CUDA_STANDARD 17)
  set(CMAKE_CUDA_STANDARD_REQUIRED ON)
  set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
  # In the module itself: it then loads on a machine that has neither CUDA nor a driver, and says so when it is used.
  set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
  enable_language(CUDA)
  fastflow_add_cuda_module(_cuda ${FASTFLOW_CUDA_SOURCES})
  string(REPLACE ";" ", " architectures "${FASTFLOW_CUDA_ARCHITECTURES}")
  target_compile_definitions(_cuda PRIVATE "FASTFLOW_CUDA_ARCHITECTURES=\"${architectures}\"")
endif()

if(FASTFLOW_CUDA_EMULATION)
  fastflow_add_cuda_module(_cuda_emulated tests/cuda/emulator.cpp)
  # Optimised in every build, or the emulation takes minutes.
  target_compile_options(_cuda_emulated PRIVATE -O2 -Wno-unknown-pragmas)
endif()
