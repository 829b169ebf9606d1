// Sums of squares: each group of threads has a part of them.

template <int THREADS, typename X>
void sum_of_squares(
    X x,
    device float* parts,
    int64_t rows,
    int64_t columns,
    int64_t of_row,
    int64_t of_column,
    int block,
    int num_blocks,
    int thread_index,
    threadgroup float* of_simds) {
  constexpr int N = Pack::size;
  int64_t size = rows * columns;
  int64_t first = static_cast<int64_t>(block) * THREADS + thread_index;
  int64_t threads = static_cast<int64_t>(num_blocks) * THREADS;
  // Where the numbers lie side by side, their order does not matter.
  bool by_rows = (columns == 1 || of_column == 1) && (rows == 1 || of_row == columns);
  bool by_columns = (rows == 1 || of_row == 1) && (columns == 1 || of_column == rows);
  float sum = 0.0f;
  if (by_rows || by_columns) {
    for (int64_t at = first * N; at < size; at += threads * N) {
      int left = size - at < N ? static_cast<int>(size - at) : N;
      Pack pack = load_pack(x + at, left);
      for (int j = 0; j < N; ++j) sum += pack.at[j] * pack.at[j];
    }
  } else {
    for (int64_t at = first; at < size; at += threads) {
      float value = static_cast<float>(x[at / columns * of_row + at % columns * of_column]);
      sum += value * value;
    }
  }
  sum = metal::simd_sum(sum);
  if (thread_index % 32 == 0) of_simds[thread_index / 32] = sum;
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  if (thread_index == 0) {
    float total = 0.0f;
    for (int simd = 0; simd < THREADS / 32; ++simd) total += of_simds[simd];
    parts[block] = total;
  }
}
