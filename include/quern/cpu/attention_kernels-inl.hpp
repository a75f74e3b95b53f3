// Fragment, compiled per target after those of products and of rows: all that attention adds.
#include "quern/cpu/target_macros-inl.hpp"
#include "quern/cpu/attention-inl.hpp"
#include "quern/cpu/attention_stream-inl.hpp"
#include "quern/cpu/attention_int8-inl.hpp"
#include "quern/cpu/attention_table-inl.hpp"
