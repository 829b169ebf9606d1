// What mlx-rs expects and mlx-c leaves out away from Apple's platforms.
//
// - mlx-c declares the half-precision accessors for Arm compilers only; mlx-rs links them everywhere.
// - mlx-rs seeds its default random state from `mach_approximate_time`, a call of Apple's kernel.

#include <chrono>
#include <cstdint>
#include <exception>

#include "mlx/c/array.h"
#include "mlx/c/error.h"
#include "mlx/c/mlx.h"
#include "mlx/c/private/mlx.h"

extern "C" uint64_t mach_approximate_time() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(now).count();
}

#ifndef HAS_FLOAT16

namespace {

// MLX's own half types hold exactly their 16 bits, so the bits are what crosses the boundary.
template <typename Half>
int item_bits(uint16_t* bits, const mlx_array arr) {
  static_assert(sizeof(Half) == sizeof(uint16_t));
  try {
    const Half value = mlx_array_get_(arr).item<Half>();
    __builtin_memcpy(bits, &value, sizeof value);
    return 0;
  } catch (std::exception& error) {
    mlx_error(error.what());
    return 1;
  }
}

template <typename Half>
const uint16_t* data_bits(const mlx_array arr) {
  try {
    return reinterpret_cast<const uint16_t*>(mlx_array_get_(arr).data<Half>());
  } catch (std::exception& error) {
    mlx_error(error.what());
    return nullptr;
  }
}

} // namespace

extern "C" int mlx_array_item_float16(uint16_t* bits, const mlx_array arr) {
  return item_bits<mlx::core::float16_t>(bits, arr);
}

extern "C" int mlx_array_item_bfloat16(uint16_t* bits, const mlx_array arr) {
  return item_bits<mlx::core::bfloat16_t>(bits, arr);
}

extern "C" const uint16_t* mlx_array_data_float16(const mlx_array arr) {
  return data_bits<mlx::core::float16_t>(arr);
}

extern "C" const uint16_t* mlx_array_data_bfloat16(const mlx_array arr) {
  return data_bits<mlx::core::bfloat16_t>(arr);
}

#endif
