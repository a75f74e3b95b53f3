// Fragment, compiled per target: all the others, in order.
#include "quern/cpu/target-inl.hpp"
#include "quern/cpu/tile-inl.hpp"
#include "quern/cpu/nibbles-inl.hpp"
#include "quern/cpu/pack-inl.hpp"
#include "quern/cpu/epilogue-inl.hpp"
#include "quern/cpu/table-inl.hpp"
