"""Conan 2 recipe: header-only, needs Highway.

    conan create . -s compiler.cppstd=20 --build=missing

For static dispatch define QUERN_STATIC_DISPATCH in your own build.
"""

import os
import re

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeDeps, CMakeToolchain, cmake_layout
from conan.tools.files import copy, load, rmdir


class QuernConan(ConanFile):
    name = "quern"
    description = "Quantized tensor kernels for C++20"
    license = "Apache-2.0"
    topics = ("simd", "gemm", "quantization", "int8", "header-only")
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    implements = ["auto_header_only"]  # one package, whatever the settings
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*"
    no_copy_source = True
    test_package_folder = "packaging/conan/test_package"

    def set_version(self):
        header = load(self, os.path.join(self.recipe_folder, "include", "quern", "version.hpp"))
        self.version = ".".join(re.findall(r"#define QUERN_VERSION_\w+ (\d+)", header))

    def layout(self):
        cmake_layout(self)

    def requirements(self):
        self.requires("highway/[>=1.0.3 <2]", transitive_headers=True, transitive_libs=True)

    def validate(self):
        check_min_cppstd(self, 20)

    def generate(self):
        toolchain = CMakeToolchain(self)
        for part in ("TESTS", "BENCHMARKS", "EXAMPLES"):
            toolchain.cache_variables[f"QUERN_BUILD_{part}"] = False
        toolchain.generate()
        # The public Highway recipe sets no CMake names; without these, find_package(hwy) fails.
        deps = CMakeDeps(self)
        deps.set_property("highway", "cmake_file_name", "hwy")
        deps.set_property("highway::hwy", "cmake_target_name", "hwy::hwy")
        deps.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        copy(self, "LICENSE", self.source_folder, os.path.join(self.package_folder, "licenses"))
        CMake(self).install()
        rmdir(self, os.path.join(self.package_folder, "share"))  # Conan's generators write their own

    def package_info(self):
        self.cpp_info.bindirs = self.cpp_info.libdirs = []
        self.cpp_info.requires = ["highway::hwy"]  # or users would link hwy_contrib and hwy_test too
        self.cpp_info.set_property("cmake_file_name", "quern")
        self.cpp_info.set_property("cmake_target_name", "quern::quern")
        self.cpp_info.set_property("pkg_config_name", "quern")
        if self.settings.get_safe("os") in ("Linux", "FreeBSD"):
            self.cpp_info.system_libs = ["pthread"]
