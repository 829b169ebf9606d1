// The gradients of norms of rows: of each row, and sums over rows of those of the weight and the bias.
//
// GROUP threads have a row and PACKS packs of it each, which they keep while they add up and write; a block has
// THREADS / GROUP rows at a time.

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

// With the mean of a row taken off if it is CENTRED; only then there is a bias.
template <int THREADS, int GROUP, int PACKS, bool CENTRED, typename T>
__device__ void norm_gradient(
    const T* x,
    const T* weight,
    const T* cotangent,
    T* gradient,
    float* weight_parts,
    float* bias_parts,
    int num_rows,
    int size,
    float epsilon) {
  constexpr int N = Pack<T>::size;
  constexpr int ROWS = THREADS / GROUP;
  int in_row = threadIdx.x % GROUP, group = threadIdx.x / GROUP;
  bool at_once = size % N == 0 && begin_packs(x, weight, cotangent, gradient);
  Pack<T> scales[PACKS];
  int lefts[PACKS];
#pragma unroll
  for (int i = 0; i < PACKS; ++i) {
    int at = (in_row + i * GROUP) * N;
    lefts[i] = max(min(size - at, N), 0);
    scales[i] = load_pack(weight + at, lefts[i], at_once);
  }
  float of_weight[PACKS][N] = {};
  float of_bias[CENTRED ? PACKS : 1][N] = {};
  int turn = 0;
  for (int64_t start = static_cast<int64_t>(blockIdx.x) * ROWS; start < num_rows;
       start += static_cast<int64_t>(gridDim.x) * ROWS, ++turn) {
    // Threads without a row go along, with zeros.
    bool is_row = start + group < num_rows;
    int64_t row = (start + group) * size;
    Pack<T> values[PACKS], slopes[PACKS];
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
      int64_t at = row + (in_row + i * GROUP) * N;
      int left = is_row ? lefts[i] : 0;
      values[i] = load_pack(x + at, left, at_once);
      slopes[i] = load_pack(cotangent + at, left, at_once);
    }
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
    float inverse = rsqrtf(sums[0] / size + epsilon);
    float along = sums[1] / size * inverse * inverse;
    float level = 0.0f;
    if constexpr (CENTRED) level = sums[2] / size;
#pragma unroll
    for (int i = 0; i < PACKS; ++i) {
      Pack<T> result;
#pragma unroll
      for (int j = 0; j < N; ++j) {
        float value = static_cast<float>(values[i].at[j]) - mean;
        float cotangent_of = static_cast<float>(slopes[i].at[j]);
        float slope = static_cast<float>(scales[i].at[j]) * cotangent_of;
        result.at[j] = static_cast<T>(inverse * (slope - level - value * along));
        of_weight[i][j] += cotangent_of * value * inverse;
        if constexpr (CENTRED) of_bias[i][j] += cotangent_of;
      }
      store_pack(gradient + row + (in_row + i * GROUP) * N, result, is_row ? lefts[i] : 0, at_once);
    }
  }
  write_sums<THREADS, GROUP>(of_weight, weight_parts, size);
  if constexpr (CENTRED) write_sums<THREADS, GROUP>(of_bias, bias_parts, size);
}
