// The documentation, where it says what can be checked.
#pragma once

#include <doctest/doctest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace support {

/// A file of the repository, found beside this one.
inline std::filesystem::path repository_file(const char* name) {
  return std::filesystem::path(__FILE__).parent_path() / ".." / ".." / name;
}

/// Empty when there is no such file, as in a build whose paths were mapped away.
inline std::string contents(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// Should tests write the documentation they would check? With QUERN_UPDATE_DOCS=1.
inline bool updates_docs() { return std::getenv("QUERN_UPDATE_DOCS") != nullptr; }

/// Checks that a file has `text` between <!-- section: begin --> and <!-- section: end -->, or,
/// with QUERN_UPDATE_DOCS=1, puts it there.
inline void check_docs(const char* file, const std::string& section, const std::string& text) {
  const std::filesystem::path path = repository_file(file);
  const std::string docs = contents(path);
  if (docs.empty()) {
    MESSAGE(file << " not found: not checked");
    return;
  }
  const std::string begin = "<!-- " + section + ": begin -->\n",
                    end = "<!-- " + section + ": end -->";
  const std::size_t from = docs.find(begin), to = docs.find(end);
  REQUIRE(from != std::string::npos);
  REQUIRE(to != std::string::npos);
  const std::size_t start = from + begin.size();
  const bool same = docs.substr(start, to - start) == text;
  if (!same && updates_docs()) {
    std::ofstream(path, std::ios::binary) << docs.substr(0, start) << text << docs.substr(to);
    return;
  }
  CHECK_MESSAGE(same, file << ": run the tests once with QUERN_UPDATE_DOCS=1");
}

}  // namespace support
