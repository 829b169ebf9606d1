// `gate * sigmoid(gate) * up`, element by element.
//
// There are rows of `width` elements. Those of gates, ups and their gradients begin `stride` elements behind each
// other, and those of results and cotangents `width`. There are fewer than 2^31 packs. All of them are whole and lie as
// packs do if WHOLE.

// Within 2 units in the last place: an exact division takes longer than reading what is divided.
__device__ float sigmoid_of(float x) {
  return __fdividef(1.0f, 1.0f + power_of_2(-LOG2_E * x));
}

// Calls `f(where a pack is in a row of its own width, where among rows that are `stride` apart, how much it has)`.
template <int THREADS, int N, bool WHOLE, typename F>
__device__ void each_pack(unsigned num_rows, int64_t width, int64_t stride, F f) {
  unsigned packs = static_cast<unsigned>((width + N - 1) / N);
  unsigned first = blockIdx.x * THREADS + threadIdx.x;
  for (unsigned index = first; index < num_rows * packs; index += gridDim.x * THREADS) {
    unsigned row = index / packs;
    int64_t column = static_cast<int64_t>(index - row * packs) * N;
    int left = WHOLE || width - column >= N ? N : static_cast<int>(width - column);
    f(row * width + column, row * stride + column, left);
  }
}

template <int N>
__device__ bool are_whole(unsigned num_rows, int64_t width, int64_t stride) {
  return width % N == 0 && (num_rows == 1 || stride % N == 0);
}

template <int THREADS, bool WHOLE, typename T>
__device__ void values_of(
    const T* gate, const T* up, T* result, unsigned num_rows, int64_t width, int64_t stride) {
  constexpr int N = Pack<T>::size;
  each_pack<THREADS, N, WHOLE>(num_rows, width, stride, [=](int64_t at, int64_t wide, int left) {
    Pack<T> gates = load_pack(gate + wide, left, WHOLE);
    Pack<T> ups = load_pack(up + wide, left, WHOLE);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x = static_cast<float>(gates.at[j]);
      ups.at[j] = static_cast<T>(x * sigmoid_of(x) * static_cast<float>(ups.at[j]));
    }
    store_pack(result + at, ups, left, WHOLE);
  });
}

template <int THREADS, typename T>
__device__ void swiglu(
    const T* gate, const T* up, T* result, unsigned num_rows, int64_t width, int64_t stride) {
  if (are_whole<Pack<T>::size>(num_rows, width, stride) && begin_packs(gate, up, result)) {
    values_of<THREADS, true>(gate, up, result, num_rows, width, stride);
  } else {
    values_of<THREADS, false>(gate, up, result, num_rows, width, stride);
  }
}

template <int THREADS, bool WITH_RESULT, bool WHOLE, typename T>
__device__ void gradients_of(
    const T* gate,
    const T* up,
    const T* cotangent,
    T* of_gate,
    T* of_up,
    T* result,
    unsigned num_rows,
    int64_t width,
    int64_t stride) {
  constexpr int N = Pack<T>::size;
  each_pack<THREADS, N, WHOLE>(num_rows, width, stride, [=](int64_t at, int64_t wide, int left) {
    Pack<T> gates = load_pack(gate + wide, left, WHOLE);
    Pack<T> ups = load_pack(up + wide, left, WHOLE);
    Pack<T> slopes = load_pack(cotangent + at, left, WHOLE);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x = static_cast<float>(gates.at[j]), y = static_cast<float>(ups.at[j]);
      float slope = static_cast<float>(slopes.at[j]);
      float sigmoid = sigmoid_of(x);
      float of_silu = sigmoid * (1.0f + x * (1.0f - sigmoid));
      gates.at[j] = static_cast<T>(slope * y * of_silu);
      ups.at[j] = static_cast<T>(slope * x * sigmoid);
      slopes.at[j] = static_cast<T>(x * sigmoid * y);
    }
    store_pack(of_gate + wide, gates, left, WHOLE);
    store_pack(of_up + wide, ups, left, WHOLE);
    if (WITH_RESULT) store_pack(result + at, slopes, left, WHOLE);
  });
}

// The result is written too if WITH_RESULT.
template <int THREADS, bool WITH_RESULT, typename T>
__device__ void swiglu_gradient(
    const T* gate,
    const T* up,
    const T* cotangent,
    T* of_gate,
    T* of_up,
    T* result,
    unsigned num_rows,
    int64_t width,
    int64_t stride) {
  // A null pointer lies as packs do.
  if (are_whole<Pack<T>::size>(num_rows, width, stride) &&
      begin_packs(gate, up, cotangent, of_gate, of_up, result)) {
    gradients_of<THREADS, WITH_RESULT, true>(
        gate, up, cotangent, of_gate, of_up, result, num_rows, width, stride);
  } else {
    gradients_of<THREADS, WITH_RESULT, false>(
        gate, up, cotangent, of_gate, of_up, result, num_rows, width, stride);
  }
}
