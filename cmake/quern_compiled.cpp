// The one translation unit of quern::compiled: everything that its users only see declared.
#define QUERN_COMPILED_BUILD
#include "quern/quern.hpp"
