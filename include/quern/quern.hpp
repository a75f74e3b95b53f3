// Everything a user of the default build needs: the operations and the CPU backend.
#pragma once

#include "quern/backend.hpp"
#include "quern/config.hpp"
#include "quern/core/dtype.hpp"
#include "quern/core/error.hpp"
#include "quern/core/executor.hpp"
#include "quern/core/memory.hpp"
#include "quern/core/rounding.hpp"
#include "quern/core/tensor.hpp"
#include "quern/core/thread_pool.hpp"
#include "quern/cpu/conv.hpp"
#include "quern/cpu/gemm.hpp"
#include "quern/ops/epilogue.hpp"
#include "quern/ops/gemm.hpp"
#include "quern/ops/gemm_reference.hpp"
