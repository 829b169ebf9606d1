// `gate * sigmoid(gate) * up`, element by element.
//
// There are rows of `width` elements. Those of gates, ups and their gradients begin `stride` elements behind each
// other, and those of results and cotangents `width`. There are fewer than 2^31 packs.

float sigmoid_of(float x) {
  return 1.0f / (1.0f + metal::exp(-x));
}

template <int THREADS, typename T, typename Gate, typename Up>
void swiglu(
    Gate gate,
    Up up,
    device T* result,
    uint num_rows,
    int64_t width,
    int64_t stride,
    uint block,
    uint num_blocks,
    uint thread_index) {
  constexpr int N = Pack::size;
  uint packs = static_cast<uint>((width + N - 1) / N);
  for (uint index = block * THREADS + thread_index; index < num_rows * packs; index += num_blocks * THREADS) {
    uint row = index / packs;
    int64_t column = static_cast<int64_t>(index - row * packs) * N;
    int64_t at = row * stride + column;
    int left = width - column < N ? static_cast<int>(width - column) : N;
    Pack gates = load_pack(gate + at, left);
    Pack ups = load_pack(up + at, left);
    for (int j = 0; j < N; ++j) {
      float x = gates.at[j];
      ups.at[j] = x * sigmoid_of(x) * ups.at[j];
    }
    store_pack(result + row * width + column, ups, left);
  }
}

// The result is written too if WITH_RESULT.
template <int THREADS, bool WITH_RESULT, typename T, typename Gate, typename Up, typename Cotangent>
void swiglu_gradient(
    Gate gate,
    Up up,
    Cotangent cotangent,
    device T* of_gate,
    device T* of_up,
    device T* result,
    uint num_rows,
    int64_t width,
    int64_t stride,
    uint block,
    uint num_blocks,
    uint thread_index) {
  constexpr int N = Pack::size;
  uint packs = static_cast<uint>((width + N - 1) / N);
  for (uint index = block * THREADS + thread_index; index < num_rows * packs; index += num_blocks * THREADS) {
    uint row = index / packs;
    int64_t column = static_cast<int64_t>(index - row * packs) * N;
    int64_t at = row * stride + column, narrow_at = row * width + column;
    int left = width - column < N ? static_cast<int>(width - column) : N;
    Pack gates = load_pack(gate + at, left);
    Pack ups = load_pack(up + at, left);
    Pack slopes = load_pack(cotangent + narrow_at, left);
    for (int j = 0; j < N; ++j) {
      float x = gates.at[j], y = ups.at[j];
      float slope = slopes.at[j];
      float sigmoid = sigmoid_of(x);
      float of_silu = sigmoid * (1.0f + x * (1.0f - sigmoid));
      gates.at[j] = slope * y * of_silu;
      ups.at[j] = slope * x * sigmoid;
      slopes.at[j] = x * sigmoid * y;
    }
    store_pack(of_gate + at, gates, left);
    store_pack(of_up + at, ups, left);
    if (WITH_RESULT) store_pack(result + narrow_at, slopes, left);
  }
}
