// The smallest program that uses quern. With SECOND_UNITS, two more translation units use it too.
#include "quern/quern.hpp"

#include "consumer.hpp"

int highway_first();
int contrib_after();

int main() {
#if defined(SECOND_UNITS)
  if (highway_first() != 0 || contrib_after() != 0) return 1;
#endif
  return consumer::run("main");
}
