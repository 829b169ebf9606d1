// `gate * sigmoid(gate) * up`, element by element.

__device__ float sigmoid_of(float x) {
  return 1.0f / (1.0f + __expf(-x));
}

template <int THREADS, typename T>
__device__ void swiglu(const T* gate, const T* up, T* result, int64_t size) {
  constexpr int N = Pack<T>::size;
  bool at_once = begin_packs(gate, up, result);
  int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * N;
  for (int64_t at = first; at < size; at += static_cast<int64_t>(gridDim.x) * THREADS * N) {
    int left = size - at < N ? static_cast<int>(size - at) : N;
    Pack<T> gates = load_pack(gate + at, left, at_once);
    Pack<T> ups = load_pack(up + at, left, at_once);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x = static_cast<float>(gates.at[j]);
      ups.at[j] = static_cast<T>(x * sigmoid_of(x) * static_cast<float>(ups.at[j]));
    }
    store_pack(result + at, ups, left, at_once);
  }
}

template <int THREADS, typename T>
__device__ void swiglu_gradient(
    const T* gate, const T* up, const T* cotangent, T* of_gate, T* of_up, int64_t size) {
  constexpr int N = Pack<T>::size;
  bool at_once = begin_packs(gate, up, cotangent, of_gate, of_up);
  int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * N;
  for (int64_t at = first; at < size; at += static_cast<int64_t>(gridDim.x) * THREADS * N) {
    int left = size - at < N ? static_cast<int>(size - at) : N;
    Pack<T> gates = load_pack(gate + at, left, at_once);
    Pack<T> ups = load_pack(up + at, left, at_once);
    Pack<T> slopes = load_pack(cotangent + at, left, at_once);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float x = static_cast<float>(gates.at[j]);
      float slope = static_cast<float>(slopes.at[j]);
      float sigmoid = sigmoid_of(x);
      float of_silu = sigmoid * (1.0f + x * (1.0f - sigmoid));
      gates.at[j] = static_cast<T>(slope * static_cast<float>(ups.at[j]) * of_silu);
      ups.at[j] = static_cast<T>(slope * x * sigmoid);
    }
    store_pack(of_gate + at, gates, left, at_once);
    store_pack(of_up + at, ups, left, at_once);
  }
}
