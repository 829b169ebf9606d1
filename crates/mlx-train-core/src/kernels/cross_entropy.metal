// How many neighbours a thread reads at once.
constant constexpr int AT_ONCE = 4;

// The maximum of some logits, and sums over them.
struct Sums {
  float maximum;
  // Of the exponentials of the logits less the maximum.
  float exponentials;
  float logits;
};

// What logits with this maximum are reduced by: nothing where all are -inf.
float reference(float maximum) {
  return maximum == -INFINITY ? 0.0f : maximum;
}

Sums both(Sums a, Sums b) {
  float maximum = metal::max(a.maximum, b.maximum);
  float by = reference(maximum);
  float of_a = a.exponentials * metal::exp(a.maximum - by);
  float of_b = b.exponentials * metal::exp(b.maximum - by);
  return {maximum, of_a + of_b, a.logits + b.logits};
}

Sums both_lanes(Sums sums) {
  for (ushort lanes = 16; lanes > 0; lanes /= 2) {
    Sums other = {
        metal::simd_shuffle_xor(sums.maximum, lanes),
        metal::simd_shuffle_xor(sums.exponentials, lanes),
        metal::simd_shuffle_xor(sums.logits, lanes)};
    sums = both(sums, other);
  }
  return sums;
}

// The sums of a row, for all threads of its group; `of_simds` has room for 32.
template <int THREADS, typename Row>
Sums sums_of(Row row, int size, int thread_index, threadgroup Sums* of_simds) {
  Sums sums = {-INFINITY, 0.0f, 0.0f};
  int whole = size / AT_ONCE * AT_ONCE;
  for (int start = thread_index * AT_ONCE; start < whole; start += THREADS * AT_ONCE) {
    float values[AT_ONCE];
    for (int i = 0; i < AT_ONCE; ++i) values[i] = static_cast<float>(row[start + i]);
    float largest = values[0];
    for (int i = 1; i < AT_ONCE; ++i) largest = metal::max(largest, values[i]);
    if (largest > sums.maximum) {
      sums.exponentials *= metal::exp(sums.maximum - largest);
      sums.maximum = largest;
    }
    float by = reference(sums.maximum);
    for (int i = 0; i < AT_ONCE; ++i) {
      sums.exponentials += metal::exp(values[i] - by);
      sums.logits += values[i];
    }
  }
  for (int at = whole + thread_index; at < size; at += THREADS) {
    float value = static_cast<float>(row[at]);
    sums = both(sums, Sums{value, value == -INFINITY ? 0.0f : 1.0f, value});
  }
  int simd = thread_index / 32, lane = thread_index % 32;
  sums = both_lanes(sums);
  if (lane == 0) of_simds[simd] = sums;
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (lane < THREADS / 32) {
    sums = of_simds[lane];
  } else {
    sums = {-INFINITY, 0.0f, 0.0f};
  }
  return both_lanes(sums);
}

float log_z_of(Sums sums) {
  if (sums.maximum == INFINITY) return INFINITY;
  return reference(sums.maximum) + metal::log(sums.exponentials);
}

// SMOOTHING and Z_LOSS are the bits of numbers.
template <int SMOOTHING, int Z_LOSS, typename Row>
float loss_of(Row row, int size, int target, Sums sums, float log_z) {
  if (target < 0 || target >= size) return NAN;
  float smoothing = as_type<float>(SMOOTHING);
  float loss = log_z - (1.0f - smoothing) * static_cast<float>(row[target]);
  if (SMOOTHING != 0) loss -= smoothing * (sums.logits / size);
  if (Z_LOSS != 0) loss += as_type<float>(Z_LOSS) * log_z * log_z;
  return loss;
}

// The gradient of a row's loss, times `scale`.
template <typename T, int THREADS, int SMOOTHING, int Z_LOSS, typename Row>
void write_gradient(
    Row row, device T* result, int size, int target, float log_z, float scale, int thread_index) {
  float smoothing = as_type<float>(SMOOTHING);
  float slope = Z_LOSS != 0 ? scale * (1.0f + 2.0f * as_type<float>(Z_LOSS) * log_z) : scale;
  float spread = scale * smoothing / size;
  float at_target = scale * (1.0f - smoothing);
  for (int start = thread_index * AT_ONCE; start < size; start += THREADS * AT_ONCE) {
    for (int at = start; at < metal::min(start + AT_ONCE, size); ++at) {
      float gradient = slope * metal::exp(static_cast<float>(row[at]) - log_z) - spread;
      if (at == target) gradient -= at_target;
      // Also where logits are not finite: nothing of the row counts.
      result[at] = static_cast<T>(scale == 0.0f ? 0.0f : gradient);
    }
  }
}
