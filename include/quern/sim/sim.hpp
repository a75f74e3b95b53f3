// The accelerator simulator: everything but the readers of files.
#pragma once

#include "quern/sim/conv.hpp"
#include "quern/sim/gemm.hpp"
