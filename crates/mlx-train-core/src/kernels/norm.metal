// The gradients of norms of rows: of each row, and sums over rows of those of the weight and the bias.
//
// GROUP threads have a row and PACKS packs of it each, which they keep while they add up and write; a group of
// threads has THREADS / GROUP rows at a time.

// Adds up over the threads of a row, which all have the result. What SIMD groups say goes to one half of the shared
// memory and then to the other: one that is ahead by one turn overwrites nothing.
template <int THREADS, int GROUP, int COUNT>
void add_up(thread float* sums, int turn, int thread_index, threadgroup float* of_simds) {
  for (ushort lanes = 16; lanes > 0; lanes /= 2) {
    for (int i = 0; i < COUNT; ++i) sums[i] += metal::simd_shuffle_xor(sums[i], lanes);
  }
  constexpr int SIMDS = GROUP / 32;
  if (SIMDS > 1) {
    int simd = thread_index / 32, lane = thread_index % 32;
    threadgroup float* half_of = of_simds + (turn & 1) * (THREADS / 32) * COUNT;
    if (lane == 0) {
      for (int i = 0; i < COUNT; ++i) half_of[simd * COUNT + i] = sums[i];
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
    int first = simd / SIMDS * SIMDS;
    for (int i = 0; i < COUNT; ++i) {
      sums[i] = 0.0f;
      for (int k = 0; k < SIMDS; ++k) sums[i] += half_of[(first + k) * COUNT + i];
    }
  }
}

// Writes the sums over the rows of a group of threads, which `columns` has room for.
template <int THREADS, int GROUP, int PACKS>
void write_sums(
    thread float* sums,
    device float* parts,
    int size,
    int block,
    int thread_index,
    threadgroup float* columns) {
  constexpr int N = Pack::size;
  constexpr int ROWS = THREADS / GROUP;
  int in_row = thread_index % GROUP, group = thread_index / GROUP;
  parts += static_cast<int64_t>(block) * size;
  if (ROWS == 1) {
    for (int i = 0; i < PACKS; ++i) {
      for (int j = 0; j < N; ++j) {
        int at = (in_row + i * GROUP) * N + j;
        if (at < size) parts[at] = sums[i * N + j];
      }
    }
    return;
  }
  // Nobody reads those of an earlier call any more.
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  for (int k = 0; k < ROWS; ++k) {
    if (group == k) {
      for (int i = 0; i < PACKS; ++i) {
        for (int j = 0; j < N; ++j) {
          int at = (in_row + i * GROUP) * N + j;
          columns[at] = k == 0 ? sums[i * N + j] : columns[at] + sums[i * N + j];
        }
      }
    }
    metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  }
  for (int at = thread_index; at < size; at += THREADS) parts[at] = columns[at];
}

// With the mean of a row taken off if it is CENTRED; only then there is a bias. With `other` added to the gradient of rows
// if it is ADDED.
template <
    typename T,
    int THREADS,
    int GROUP,
    int PACKS,
    bool CENTRED,
    bool ADDED,
    typename X,
    typename Weight,
    typename Cotangent,
    typename Other>
void norm_gradient(
    X x,
    Weight weight,
    Cotangent cotangent,
    Other other,
    device T* gradient,
    device float* weight_parts,
    device float* bias_parts,
    int num_rows,
    int size,
    float epsilon,
    int block,
    int num_blocks,
    int thread_index,
    threadgroup float* of_simds,
    threadgroup float* columns) {
  constexpr int N = Pack::size;
  constexpr int ROWS = THREADS / GROUP;
  constexpr int COUNT = CENTRED ? 3 : 2;
  int in_row = thread_index % GROUP, group = thread_index / GROUP;
  Pack scales[PACKS];
  int lefts[PACKS];
  float of_weight[PACKS * N];
  float of_bias[CENTRED ? PACKS * N : 1];
  for (int i = 0; i < PACKS; ++i) {
    int at = (in_row + i * GROUP) * N;
    lefts[i] = metal::max(metal::min(size - at, N), 0);
    scales[i] = load_pack(weight + at, lefts[i]);
    for (int j = 0; j < N; ++j) {
      of_weight[i * N + j] = 0.0f;
      if (CENTRED) of_bias[i * N + j] = 0.0f;
    }
  }
  int turn = 0;
  for (int64_t start = static_cast<int64_t>(block) * ROWS; start < num_rows;
       start += static_cast<int64_t>(num_blocks) * ROWS, ++turn) {
    // Threads without a row go along, with zeros.
    bool is_row = start + group < num_rows;
    int64_t row = (start + group) * size;
    Pack values[PACKS], slopes[PACKS];
    for (int i = 0; i < PACKS; ++i) {
      int64_t at = row + (in_row + i * GROUP) * N;
      int left = is_row ? lefts[i] : 0;
      values[i] = load_pack(x + at, left);
      slopes[i] = load_pack(cotangent + at, left);
    }
    float mean = 0.0f;
    if (CENTRED) {
      float sum[1] = {0.0f};
      for (int i = 0; i < PACKS; ++i) {
        for (int j = 0; j < N; ++j) sum[0] += values[i].at[j];
      }
      // Behind the two halves of the sums below.
      add_up<THREADS, GROUP, 1>(sum, turn, thread_index, of_simds + 2 * (THREADS / 32) * COUNT);
      mean = sum[0] / size;
    }
    // Of squares, of products with the gradient, and of the gradient.
    float sums[COUNT];
    for (int i = 0; i < COUNT; ++i) sums[i] = 0.0f;
    for (int i = 0; i < PACKS; ++i) {
      for (int j = 0; j < N; ++j) {
        float value = values[i].at[j];
        if (CENTRED) value = j < lefts[i] ? value - mean : 0.0f;
        float slope = scales[i].at[j] * slopes[i].at[j];
        sums[0] += value * value;
        sums[1] += value * slope;
        if (CENTRED) sums[COUNT - 1] += slope;
      }
    }
    add_up<THREADS, GROUP, COUNT>(sums, turn, thread_index, of_simds);
    float inverse = metal::precise::rsqrt(sums[0] / size + epsilon);
    float along = sums[1] / size * inverse * inverse;
    float level = CENTRED ? sums[COUNT - 1] / size : 0.0f;
    for (int i = 0; i < PACKS; ++i) {
      int64_t at = row + (in_row + i * GROUP) * N;
      int left = is_row ? lefts[i] : 0;
      Pack result;
      if (ADDED) result = load_pack(other + at, left);
      for (int j = 0; j < N; ++j) {
        float value = values[i].at[j] - mean;
        float cotangent_of = slopes[i].at[j];
        float slope = scales[i].at[j] * cotangent_of;
        float gradient_of = inverse * (slope - level - value * along);
        result.at[j] = ADDED ? result.at[j] + gradient_of : gradient_of;
        of_weight[i * N + j] += cotangent_of * value * inverse;
        if (CENTRED) of_bias[i * N + j] += cotangent_of;
      }
      store_pack(gradient + at, result, left);
    }
  }
  write_sums<THREADS, GROUP, PACKS>(of_weight, weight_parts, size, block, thread_index, columns);
  if (CENTRED) {
    write_sums<THREADS, GROUP, PACKS>(of_bias, bias_parts, size, block, thread_index, columns);
  }
}
