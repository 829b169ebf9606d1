// Sums of squares: each block of threads has a part of them.

template <int THREADS, typename T>
__device__ void sum_of_squares(
    const T* x, float* parts, int64_t rows, int64_t columns, int64_t of_row, int64_t of_column) {
  constexpr int N = Pack<T>::size;
  int64_t size = rows * columns;
  int64_t thread = static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x;
  int64_t threads = static_cast<int64_t>(gridDim.x) * THREADS;
  // Where the numbers lie side by side, their order does not matter.
  bool by_rows = (columns == 1 || of_column == 1) && (rows == 1 || of_row == columns);
  bool by_columns = (rows == 1 || of_row == 1) && (columns == 1 || of_column == rows);
  float sum = 0.0f;
  if (by_rows || by_columns) {
    bool at_once = begin_packs(x);
    for (int64_t at = thread * N; at < size; at += threads * N) {
      int left = size - at < N ? static_cast<int>(size - at) : N;
      Pack<T> pack = load_pack(x + at, left, at_once);
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float value = static_cast<float>(pack.at[j]);
        sum += value * value;
      }
    }
  } else {
    for (int64_t at = thread; at < size; at += threads) {
      float value = static_cast<float>(x[at / columns * of_row + at % columns * of_column]);
      sum += value * value;
    }
  }
  __shared__ float of_warps[THREADS / 32];
  for (int apart = 16; apart > 0; apart /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, apart);
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    float total = 0.0f;
    for (int warp = 0; warp < THREADS / 32; ++warp) total += of_warps[warp];
    parts[blockIdx.x] = total;
  }
}
