#include <memory>
#include <string>

#include "quern/core/error.hpp"
#include "support.hpp"

using namespace quern;

TEST_CASE("an Error is false when nothing went wrong") {
  const Error e;
  CHECK_FALSE(e);
  CHECK(e.code() == Code::ok);
  CHECK(std::string(e.what()).empty());
}

TEST_CASE("an Error carries a code and a sentence with the numbers") {
  const Error e = Error::make(Code::bad_shape, "b has %d rows but k is %d", 512, 768);
  CHECK(e);
  CHECK(e.code() == Code::bad_shape);
  CHECK(std::string(e.what()) == "b has 512 rows but k is 768");
}

TEST_CASE("a long sentence is cut, not overrun") {
  const std::string longer(1000, 'x');
  const Error e = Error::make(Code::bad_value, "%s", longer.c_str());
  CHECK(std::string(e.what()) == longer.substr(0, 223));
}

TEST_CASE("making, copying and reading an Error allocates nothing") {
  const Index before = support::allocations();
  const Error e = Error::make(Code::bad_value, "scale is %g at %d", 0.0, 7);
  const Error copy = e;
  const bool same = copy.code() == e.code();
  CHECK(support::allocations() == before);
  CHECK(same);
}

TEST_CASE("every code has a name") {
  CHECK(std::string(name(Code::ok)) == "ok");
  CHECK(std::string(name(Code::no_memory)) == "no_memory");
  CHECK(std::string(name(Code::bad_packed)) == "bad_packed");
}

TEST_CASE("a Result holds a value or an Error") {
  Result<int> good = 7;
  CHECK(good);
  CHECK(*good == 7);
  CHECK(good.value() == 7);
  CHECK_FALSE(good.error());

  const Result<int> bad = Error::make(Code::unsupported, "no");
  CHECK_FALSE(bad);
  CHECK(bad.error().code() == Code::unsupported);
}

TEST_CASE("a Result carries values that only move, and destroys them once") {
  const auto alive = std::make_shared<int>(1);
  {
    Result<std::shared_ptr<int>> r = std::shared_ptr<int>(alive);
    Result<std::shared_ptr<int>> moved = std::move(r);
    CHECK(alive.use_count() == 2);
    CHECK(**moved == 1);
  }
  CHECK(alive.use_count() == 1);

  Result<std::unique_ptr<int>> only = std::make_unique<int>(3);
  const std::unique_ptr<int> taken = std::move(only).value();
  CHECK(*taken == 3);
}

#if QUERN_EXCEPTIONS
TEST_CASE("value() without a value throws the Error's sentence") {
  Result<int> bad = Error::make(Code::bad_data, "a is null");
  CHECK_THROWS_WITH_AS(bad.value(), "a is null", Exception);
  try {
    bad.value();
  } catch (const Exception& e) {
    CHECK(e.error().code() == Code::bad_data);
  }
}
#endif
