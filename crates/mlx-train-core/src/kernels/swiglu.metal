// `gate * sigmoid(gate) * up`, element by element.

float sigmoid_of(float x) {
  return 1.0f / (1.0f + metal::exp(-x));
}

template <int THREADS, typename T, typename Gate, typename Up>
void swiglu(
    Gate gate, Up up, device T* result, int64_t size, int block, int num_blocks, int thread_index) {
  constexpr int N = Pack::size;
  int64_t first = (static_cast<int64_t>(block) * THREADS + thread_index) * N;
  for (int64_t at = first; at < size; at += static_cast<int64_t>(num_blocks) * THREADS * N) {
    int left = size - at < N ? static_cast<int>(size - at) : N;
    Pack gates = load_pack(gate + at, left);
    Pack ups = load_pack(up + at, left);
    for (int j = 0; j < N; ++j) {
      float x = gates.at[j];
      ups.at[j] = x * sigmoid_of(x) * ups.at[j];
    }
    store_pack(result + at, ups, left);
  }
}

template <int THREADS, typename T, typename Gate, typename Up, typename Cotangent>
void swiglu_gradient(
    Gate gate,
    Up up,
    Cotangent cotangent,
    device T* of_gate,
    device T* of_up,
    int64_t size,
    int block,
    int num_blocks,
    int thread_index) {
  constexpr int N = Pack::size;
  int64_t first = (static_cast<int64_t>(block) * THREADS + thread_index) * N;
  for (int64_t at = first; at < size; at += static_cast<int64_t>(num_blocks) * THREADS * N) {
    int left = size - at < N ? static_cast<int>(size - at) : N;
    Pack gates = load_pack(gate + at, left);
    Pack ups = load_pack(up + at, left);
    Pack slopes = load_pack(cotangent + at, left);
    for (int j = 0; j < N; ++j) {
      float x = gates.at[j];
      float slope = slopes.at[j];
      float sigmoid = sigmoid_of(x);
      float of_silu = sigmoid * (1.0f + x * (1.0f - sigmoid));
      gates.at[j] = slope * ups.at[j] * of_silu;
      ups.at[j] = slope * x * sigmoid;
    }
    store_pack(of_gate + at, gates, left);
    store_pack(of_up + at, ups, left);
  }
}
