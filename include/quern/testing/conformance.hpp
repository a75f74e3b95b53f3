// The conformance suite: does a backend compute what the reference defines, and keep the promises
// that come with it? For any backend, an operation at a time, without a test framework:
//
//   const auto report = quern::testing::conformance_gemm(MyBackend());
//   for (const std::string& line : report.failures) std::puts(line.c_str());
//   return report.ok() ? 0 : 1;
//
// Whatever run() gets is in the backend's memory, and nothing here reads or writes it there:
// matrices, images and heads go by upload() and come back by download().
#pragma once

#include "quern/testing/conformance_attention.hpp"
#include "quern/testing/conformance_conv.hpp"
#include "quern/testing/conformance_gemm.hpp"
#include "quern/testing/conformance_kv_append.hpp"
