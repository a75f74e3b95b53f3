# What quern's own programs (tests, benchmarks, examples) are built with; never reaches users.

set(quern_warnings -Wall -Wextra -Wconversion -Wno-sign-conversion)
if(QUERN_WERROR)
  list(APPEND quern_warnings -Werror)
endif()

if(QUERN_DISPATCH STREQUAL "dynamic")
  set(quern_in_use quern::quern)
elseif(QUERN_DISPATCH MATCHES "^(static|compiled)$")
  set(quern_in_use quern::${QUERN_DISPATCH})
else()
  message(FATAL_ERROR "QUERN_DISPATCH is '${QUERN_DISPATCH}', but must be dynamic, static or compiled")
endif()

# Links quern in the way that QUERN_DISPATCH says, and turns the warnings on.
function(quern_program target)
  target_link_libraries(${target} PRIVATE ${quern_in_use})
  target_compile_options(${target} PRIVATE ${quern_warnings})
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
endfunction()

if(PROJECT_IS_TOP_LEVEL)
  target_compile_options(quern_compiled PRIVATE ${quern_warnings})

  # Benchmarks of an unoptimised build would mislead. Only for quern's own build, and only here.
  get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
  if(NOT multi_config AND NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
  endif()
endif()
