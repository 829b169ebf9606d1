// Force-included before every mlx-c source when the compiler's library has no <format> (GCC 12).
//
// mlx-c uses std::format in `private/io.h` only, with plain `{}` placeholders and arguments that
// can be streamed. This is that much of it and no more.
#pragma once

#if __has_include(<format>)
#include <format>
#endif

#if !defined(__cpp_lib_format)
#include <sstream>
#include <string>
#include <string_view>

namespace std {

inline string format(string_view pattern) {
  return string(pattern);
}

template <typename First, typename... Rest>
string format(string_view pattern, const First& first, const Rest&... rest) {
  const auto hole = pattern.find("{}");
  if (hole == string_view::npos) {
    return string(pattern);
  }
  ostringstream text;
  text << pattern.substr(0, hole) << first;
  return text.str() + format(pattern.substr(hole + 2), rest...);
}

} // namespace std
#endif
