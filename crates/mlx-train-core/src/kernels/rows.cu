// What kernels of rows have in common: one block of threads has a row.

// How many elements of a row come before the first that 16 bytes can be read from.
template <typename T>
__device__ int before_packs(const T* row, int size) {
  int behind = static_cast<int>(reinterpret_cast<uintptr_t>(row) & 15);
  return min(((16 - behind) & 15) / static_cast<int>(sizeof(T)), size);
}

// Calls `f(elements as f32, index of the first)` for every element, packs or single ones.
template <int THREADS, typename T, typename F>
__device__ void read_row(const T* row, int size, F f) {
  constexpr int N = Pack<T>::size;
  constexpr int AT_ONCE = 4;
  int thread = threadIdx.x;
  int first = before_packs(row, size);
  int packs = (size - first) / N;
  int last = first + packs * N;
  for (int at = thread; at < first; at += THREADS) {
    float value[1] = {static_cast<float>(row[at])};
    f(value, at);
  }
  const Pack<T>* source = reinterpret_cast<const Pack<T>*>(row + first);
  for (int start = thread; start < packs; start += THREADS * AT_ONCE) {
    // All are on their way before one is used.
    Pack<T> pack[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      if (start + i * THREADS < packs) pack[i] = source[start + i * THREADS];
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      int at = start + i * THREADS;
      if (at < packs) {
        float values[N];
#pragma unroll
        for (int j = 0; j < N; ++j) values[j] = static_cast<float>(pack[i].at[j]);
        f(values, first + at * N);
      }
    }
  }
  for (int at = last + thread; at < size; at += THREADS) {
    float value[1] = {static_cast<float>(row[at])};
    f(value, at);
  }
}

// Writes what `f(elements as f32, index of the first)` makes of every element, packs or single ones, in their place.
template <int THREADS, typename T, typename F>
__device__ void map_row(const T* row, T* result, int size, F f) {
  constexpr int N = Pack<T>::size;
  int thread = threadIdx.x;
  // Rows that lie differently to 16 bytes are read and written one by one.
  bool alike = ((reinterpret_cast<uintptr_t>(row) ^ reinterpret_cast<uintptr_t>(result)) & 15) == 0;
  int first = alike ? before_packs(row, size) : size;
  int packs = (size - first) / N;
  int last = first + packs * N;
  auto map_one = [&](int at) {
    float value[1] = {static_cast<float>(row[at])};
    f(value, at);
    result[at] = static_cast<T>(value[0]);
  };
  for (int at = thread; at < first; at += THREADS) map_one(at);
  const Pack<T>* source = reinterpret_cast<const Pack<T>*>(row + first);
  Pack<T>* target = reinterpret_cast<Pack<T>*>(result + first);
#pragma unroll 2
  for (int at = thread; at < packs; at += THREADS) {
    Pack<T> pack = source[at];
    float values[N];
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = static_cast<float>(pack.at[j]);
    f(values, first + at * N);
#pragma unroll
    for (int j = 0; j < N; ++j) pack.at[j] = static_cast<T>(values[j]);
    target[at] = pack;
  }
  for (int at = last + thread; at < size; at += THREADS) map_one(at);
}
