// The one place that states quern's version: CMake, Conan and the vcpkg port read it from here.
#pragma once

#define QUERN_VERSION_MAJOR 0
#define QUERN_VERSION_MINOR 1
#define QUERN_VERSION_PATCH 0
