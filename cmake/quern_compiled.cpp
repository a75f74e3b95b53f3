// The one translation unit of quern::compiled: everything that its users only see declared.
#define QUERN_COMPILED_BUILD
#include "quern/cpu/attention_kernels.hpp"
#include "quern/cpu/rowwise_kernels.hpp"
#include "quern/quern.hpp"
