"""The system's Highway as a Conan package, so that quern's recipe can be tested without a remote."""

from conan import ConanFile


class SystemHighway(ConanFile):
    name = "highway"

    def package_info(self):
        self.cpp_info.includedirs = self.cpp_info.libdirs = self.cpp_info.bindirs = []
        hwy = self.cpp_info.components["hwy"]
        hwy.includedirs = hwy.libdirs = hwy.bindirs = []
        hwy.system_libs = ["hwy"]
