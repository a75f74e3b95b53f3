# Install rules, CMake package and pkg-config files.
#
# Without the compiled library nothing depends on the architecture: everything goes to include/ and
# share/, and 32- and 64-bit users can share it. With it, the package description moves to lib/.

include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(targets quern_headers quern quern_static)
if(QUERN_BUILD_COMPILED)
  list(APPEND targets quern_compiled)
  set(package_root ${CMAKE_INSTALL_LIBDIR})
  set(arch "")
else()
  set(package_root ${CMAKE_INSTALL_DATADIR})
  set(arch ARCH_INDEPENDENT)
endif()
set(package_dir ${package_root}/cmake/quern)

install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/quern DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
        FILES_MATCHING PATTERN "*.hpp")
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/quern)
install(TARGETS ${targets} EXPORT quernTargets)
install(EXPORT quernTargets NAMESPACE quern:: DESTINATION ${package_dir})

# While the version is 0.x, a minor step may break users: 0.1 does not serve a request for 0.2.
write_basic_package_version_file(quernConfigVersion.cmake COMPATIBILITY SameMinorVersion ${arch})
configure_package_config_file(cmake/quernConfig.cmake.in quernConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
install(FILES ${PROJECT_BINARY_DIR}/quernConfig.cmake ${PROJECT_BINARY_DIR}/quernConfigVersion.cmake
        DESTINATION ${package_dir})

# pkg-config: one file a way of use. The prefix is found from the file's own place, because
# `cmake --install --prefix` may choose another one than the configure step knew.
set(pc_dir ${package_root}/pkgconfig)
file(RELATIVE_PATH pc_to_prefix /${pc_dir} /)
string(REGEX REPLACE "/$" "" pc_to_prefix "${pc_to_prefix}")

# A static library leaves its own libraries to the final link.
get_target_property(type quern_compiled TYPE)
set(compiled_requires Requires)
if(type STREQUAL "SHARED_LIBRARY")
  set(compiled_requires Requires.private)
endif()

set(pc_cflags "-I\${includedir} -pthread")
if(QUERN_DISABLED_TARGETS)
  string(APPEND pc_cflags " '-DHWY_DISABLED_TARGETS=${QUERN_DISABLED_TARGETS}'")
endif()

function(quern_pkg_config name summary lines)
  configure_file(cmake/quern.pc.in ${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${pc_dir})
endfunction()

quern_pkg_config(quern "instruction set chosen at run time"
"Requires: libhwy >= 1.0.3
Libs: -pthread
Cflags: ${pc_cflags}")

# Requires.private gives Highway's include directories without its library.
quern_pkg_config(quern-static "instruction set chosen by the compiler's flags"
"Requires.private: libhwy >= 1.0.3
Libs: -pthread
Cflags: ${pc_cflags} -DQUERN_STATIC_DISPATCH")

if(QUERN_BUILD_COMPILED)
  quern_pkg_config(quern-compiled "compiled library"
"${compiled_requires}: libhwy >= 1.0.3
Libs: -L\${prefix}/${CMAKE_INSTALL_LIBDIR} -lquern -pthread
Cflags: ${pc_cflags} -DQUERN_COMPILED")
endif()
