// The maximum of some logits, and sums over them.
struct Sums {
  float maximum;
  // Of the exponentials of the logits less the maximum.
  float exponentials;
  float logits;
};

// What logits with this maximum are reduced by: nothing where all are -inf.
__device__ float reference(float maximum) {
  return maximum == -INFINITY ? 0.0f : maximum;
}

__device__ Sums both(Sums a, Sums b) {
  float maximum = fmaxf(a.maximum, b.maximum);
  float by = reference(maximum);
  float of_a = a.exponentials * power_of_2(LOG2_E * (a.maximum - by));
  float of_b = b.exponentials * power_of_2(LOG2_E * (b.maximum - by));
  return {maximum, of_a + of_b, a.logits + b.logits};
}

__device__ Sums both_lanes(Sums sums) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
    Sums other = {
        __shfl_xor_sync(0xffffffff, sums.maximum, lanes),
        __shfl_xor_sync(0xffffffff, sums.exponentials, lanes),
        __shfl_xor_sync(0xffffffff, sums.logits, lanes)};
    sums = both(sums, other);
  }
  return sums;
}

// The sums of a row, for all threads of its block.
template <int THREADS, bool MEAN, typename T>
__device__ Sums sums_of(const T* row, int size) {
  Sums sums = {-INFINITY, 0.0f, 0.0f};
  read_row<THREADS>(row, size, [&](auto& values, int) {
    constexpr int N = sizeof(values) / sizeof(float);
    float largest = values[0];
#pragma unroll
    for (int i = 1; i < N; ++i) largest = fmaxf(largest, values[i]);
    if (largest > sums.maximum) {
      sums.exponentials *= power_of_2(LOG2_E * (sums.maximum - largest));
      sums.maximum = largest;
    }
    float by = LOG2_E * reference(sums.maximum);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      sums.exponentials += power_of_2(fmaf(LOG2_E, values[i], -by));
      if (MEAN) sums.logits += values[i];
    }
  });
  constexpr int WARPS = THREADS / 32;
  __shared__ Sums of_warps[WARPS];
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  sums = both_lanes(sums);
  if (lane == 0) of_warps[warp] = sums;
  __syncthreads();
  sums = lane < WARPS ? of_warps[lane] : Sums{-INFINITY, 0.0f, 0.0f};
  return both_lanes(sums);
}

__device__ float log_z_of(Sums sums) {
  if (sums.maximum == INFINITY) return INFINITY;
  return reference(sums.maximum) + logf(sums.exponentials);
}

// SMOOTHING and Z_LOSS are the bits of numbers.
template <int SMOOTHING, int Z_LOSS, typename T>
__device__ float loss_of(const T* row, int size, int target, Sums sums, float log_z) {
  if (target < 0 || target >= size) return NAN;
  float smoothing = __int_as_float(SMOOTHING);
  float loss = log_z - (1.0f - smoothing) * static_cast<float>(row[target]);
  if (SMOOTHING != 0) loss -= smoothing * (sums.logits / size);
  if (Z_LOSS != 0) loss += __int_as_float(Z_LOSS) * log_z * log_z;
  return loss;
}

// The gradient of a row's loss, times `scale`.
template <int THREADS, int SMOOTHING, int Z_LOSS, typename T>
__device__ void write_gradient(
    const T* row, T* result, int size, int target, float log_z, float scale) {
  // Also where logits are not finite: nothing of the row counts.
  if (scale == 0.0f) {
    map_row<THREADS>(row, result, size, [](auto& values, int) {
      for (float& value : values) value = 0.0f;
    });
    return;
  }
  float smoothing = __int_as_float(SMOOTHING);
  float slope = Z_LOSS != 0 ? scale * (1.0f + 2.0f * __int_as_float(Z_LOSS) * log_z) : scale;
  float spread = scale * smoothing / size;
  float at_target = scale * (1.0f - smoothing);
  float by = LOG2_E * log_z;
  map_row<THREADS>(row, result, size, [=](auto& values, int start) {
    constexpr int N = sizeof(values) / sizeof(float);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      values[i] = slope * power_of_2(fmaf(LOG2_E, values[i], -by));
      if (SMOOTHING != 0) values[i] -= spread;
    }
    if (target >= start && target < start + N) {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        if (start + i == target) values[i] -= at_target;
      }
    }
  });
}
