// The gradients of norms of rows: of each row, and sums over rows of those of the weight and the bias.
//
// GROUP threads have a row and PACKS packs of it each, which they keep while they add up; a block has THREADS / GROUP
// rows at a time. A warp that has a row alone reads the next while it writes one; others have too few registers.

// Adds up over the threads of a row, which all have the result. What warps say goes to one half of the shared
// memory and then to the other: a warp that is ahead by one turn overwrites nothing.
template <int THREADS, int GROUP, int COUNT>
__device__ void add_up(float (&sums)[COUNT], int turn) {
#pragma unroll
  for (int lanes = 16; lanes > 0; lanes /= 2) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] += __shfl_xor_sync(0xffffffff, sums[i], lanes);
  }
  constexpr int WARPS = GROUP / 32;
  if constexpr (WARPS > 1) {
    __shared__ float of_warps[2][THREADS / 32][COUNT];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (lane == 0) {
#pragma unroll
      for (int i = 0; i < COUNT; ++i) of_warps[turn & 1][warp][i] = sums[i];
    }
    __syncthreads();
    int first = warp / WARPS * WARPS;
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      sums[i] = 0.0f;
#pragma unroll
      for (int k = 0; k < WARPS; ++k) sums[i] += of_warps[turn & 1][first + k][i];
    }
  }
}

// Writes the sums over the rows of a block.
template <int THREADS, int GROUP, int PACKS, int N>
__device__ void write_sums(const float (&sums)[PACKS][N], float* parts, int size) {
  constexpr int ROWS = THREADS / GROUP;
  int in_row = threadIdx.x % GROUP, group = threadIdx.x / GROUP;
  parts += static_cast<int64_t>(blockIdx.x) * size;
  if constexpr (ROWS == 1) {
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        int at = (in_row + i * GROUP) * N + j;
        if (at < size) parts[at] = sums[i][j];
      }
    }
    return;
  }
  __shared__ float columns[GROUP * PACKS * N];
  // Nobody reads those of an earlier call any more.
  __syncthreads();
  for (int k = 0; k < ROWS; ++k) {
    if (group == k) {
#pragma unroll
      for (int i = 0; i < PACKS; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) {
          float& column = columns[(in_row + i * GROUP) * N + j];
          column = k == 0 ? sums[i][j] : column + sums[i][j];
        }
      }
    }
    __syncthreads();
  }
  for (int at = threadIdx.x; at < size; at += THREADS) parts[at] = columns[at];
}

// Rows of one size: pointers to what is read of them and written.
template <typename T>
struct Gradients {
  const T* x;
  const T* weight;
  const T* cotangent;
  // What is added to the gradient, if there is something.
  const T* other;
  T* gradient;
  float* weight_parts;
  // Only where the mean of a row is taken off, there is a bias.
  float* bias_parts;
  int num_rows;
  int size;
  float epsilon;
};

// With the mean of a row taken off if it is CENTRED, and something added if it is ADDED. All packs of a group are whole and
// lie as packs do if WHOLE.
template <int THREADS, int GROUP, int PACKS, bool CENTRED, bool ADDED, bool WHOLE, typename T>
__device__ void gradients_of(const Gradients<T>& rows) {
  constexpr int N = Pack<T>::size;
  constexpr int ROWS = THREADS / GROUP;
  int in_row = threadIdx.x % GROUP, group = threadIdx.x / GROUP;
  int num_rows = rows.num_rows, size = rows.size;
  bool at_once = WHOLE ||
      (size % N == 0 && begin_packs(rows.x, rows.weight, rows.cotangent, rows.other, rows.gradient));
  Pack<T> scales[PACKS];
  int lefts[PACKS];
#pragma unroll
  for (int i = 0; i < PACKS; ++i) {
    int at = (in_row + i * GROUP) * N;
    // Not `max(min(size - at, N), 0)`: NVRTC 13 wrote a pack then that begins at the end of the row.
    lefts[i] = WHOLE ? N : at < size ? min(size - at, N) : 0;
    scales[i] = load_pack(rows.weight + at, lefts[i], at_once);
  }
  float of_weight[PACKS][N] = {};
  float of_bias[CENTRED ? PACKS : 1][N] = {};
  Pack<T> values[PACKS], slopes[PACKS], others[ADDED ? PACKS : 1];
  // Threads without a row go along, with zeros.
  auto load = [&](int64_t row) {
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
      int64_t at = row * size + (in_row + i * GROUP) * N;
      int left = row < num_rows ? lefts[i] : 0;
      values[i] = load_pack(rows.x + at, left, at_once);
      slopes[i] = load_pack(rows.cotangent + at, left, at_once);
      if constexpr (ADDED) others[i] = load_pack(rows.other + at, left, at_once);
    }
  };
  int64_t start = static_cast<int64_t>(blockIdx.x) * ROWS;
  int64_t step = static_cast<int64_t>(gridDim.x) * ROWS;
  constexpr bool EARLY = GROUP == 32;
  if (EARLY) load(start + group);
  for (int turn = 0; start < num_rows; start += step, ++turn) {
    if (!EARLY) load(start + group);
    float mean = 0.0f;
    if constexpr (CENTRED) {
      float sum[1] = {0.0f};
#pragma unroll
      for (int i = 0; i < PACKS; ++i) {
#pragma unroll
        for (int j = 0; j < N; ++j) sum[0] += static_cast<float>(values[i].at[j]);
      }
      add_up<THREADS, GROUP>(sum, turn);
      mean = sum[0] / size;
    }
    // Of squares, of products with the gradient, and of the gradient.
    float sums[CENTRED ? 3 : 2] = {};
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float value = static_cast<float>(values[i].at[j]);
        if constexpr (CENTRED) value = j < lefts[i] ? value - mean : 0.0f;
        float slope = static_cast<float>(scales[i].at[j]) * static_cast<float>(slopes[i].at[j]);
        sums[0] += value * value;
        sums[1] += value * slope;
        if constexpr (CENTRED) sums[2] += slope;
      }
    }
    add_up<THREADS, GROUP>(sums, turn);
    float inverse = rsqrtf(sums[0] / size + rows.epsilon);
    float along = sums[1] / size * inverse * inverse;
    float level = 0.0f;
    if constexpr (CENTRED) level = sums[2] / size;
    Pack<T> results[PACKS];
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float value = static_cast<float>(values[i].at[j]) - mean;
        float cotangent_of = static_cast<float>(slopes[i].at[j]);
        float slope = static_cast<float>(scales[i].at[j]) * cotangent_of;
        float result = inverse * (slope - level - value * along);
        if constexpr (ADDED) result += static_cast<float>(others[i].at[j]);
        results[i].at[j] = static_cast<T>(result);
        of_weight[i][j] += cotangent_of * value * inverse;
        if constexpr (CENTRED) of_bias[i][j] += cotangent_of;
      }
    }
    int64_t row = start + group;
    if (EARLY && start + step < num_rows) load(row + step);
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
      T* to = rows.gradient + row * size + (in_row + i * GROUP) * N;
      store_pack(to, results[i], row < num_rows ? lefts[i] : 0, at_once);
    }
  }
  write_sums<THREADS, GROUP>(of_weight, rows.weight_parts, size);
  if constexpr (CENTRED) write_sums<THREADS, GROUP>(of_bias, rows.bias_parts, size);
}

template <int THREADS, int GROUP, int PACKS, bool CENTRED, bool ADDED, typename T>
__device__ void norm_gradient(const Gradients<T>& rows) {
  if (rows.size == GROUP * PACKS * Pack<T>::size &&
      begin_packs(rows.x, rows.weight, rows.cotangent, rows.other, rows.gradient)) {
    gradients_of<THREADS, GROUP, PACKS, CENTRED, ADDED, true>(rows);
  } else {
    gradients_of<THREADS, GROUP, PACKS, CENTRED, ADDED, false>(rows);
  }
}
