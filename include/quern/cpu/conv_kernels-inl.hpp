// Fragment, compiled per target after those of products: all that convolutions add, in order.
#include "quern/cpu/target_macros-inl.hpp"
#include "quern/cpu/winograd-inl.hpp"
#include "quern/cpu/depthwise-inl.hpp"
#include "quern/cpu/conv_table-inl.hpp"
