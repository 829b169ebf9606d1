// Rotations of the halves of heads against each other, by the position of their token times a frequency.
//
// A block has one position in some of the rows of a batch: their angles are the same, and are taken once.

// The angles of one position, the other way around if INVERSE, for all threads.
template <int THREADS, int HALF, bool INVERSE>
__device__ void take_angles(int position, float log2_base, float* cosines, float* sines) {
  for (int i = threadIdx.x; i < HALF; i += THREADS) {
    float exponent = static_cast<float>(i) / static_cast<float>(HALF);
    float angle = static_cast<float>(position) * exp2f(-exponent * log2_base);
    cosines[i] = cosf(angle);
    sines[i] = INVERSE ? -sinf(angle) : sinf(angle);
  }
  __syncthreads();
}

// Features from `i` on of the first half of a head, and those of the second half.
template <typename T>
struct Halves {
  Pack<T> ones, others;

  __device__ void turn(const float* cosines, const float* sines, int i, int left) {
#pragma unroll
    for (int j = 0; j < Pack<T>::size; ++j) {
      float one = static_cast<float>(ones.at[j]), other = static_cast<float>(others.at[j]);
      float cosine = j < left ? cosines[i + j] : 0.0f, sine = j < left ? sines[i + j] : 0.0f;
      ones.at[j] = static_cast<T>(one * cosine - other * sine);
      others.at[j] = static_cast<T>(one * sine + other * cosine);
    }
  }
};

// Where features of a head come from and go to, and whether they are turned on the way.
template <typename T>
struct Way {
  const T* from;
  T* to;
  bool turns;
};

// Turns the heads of a block's position in its rows: feature `i` of a head of a token goes `way_of(token, head, i)`. All
// packs are whole and lie as packs do if WHOLE.
template <int THREADS, int HEADS, int D, bool WHOLE, typename T, typename F>
__device__ void turn_heads(
    int num_rows, int num_positions, const float* cosines, const float* sines, F way_of) {
  constexpr int N = Pack<T>::size;
  constexpr int HALF = D / 2;
  constexpr int PACKS = (HALF + N - 1) / N;
  constexpr int AT_ONCE = 2;
  int position = blockIdx.x % num_positions;
  int first_row = blockIdx.x / num_positions, parts = gridDim.x / num_positions;
  // All packs of all rows, so that no thread is left over.
  int num_packs = (num_rows - first_row + parts - 1) / parts * (HEADS * PACKS);
  for (int start = threadIdx.x; start < num_packs; start += THREADS * AT_ONCE) {
    // All are on their way before one is turned.
    Halves<T> halves[AT_ONCE];
    Way<T> ways[AT_ONCE];
    int features[AT_ONCE];
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      int index = start + k * THREADS;
      if (index >= num_packs) break;
      int row = first_row + index / (HEADS * PACKS) * parts, pack = index % (HEADS * PACKS);
      int head = pack / PACKS, i = pack % PACKS * N;
      int left = WHOLE ? N : min(HALF - i, N);
      ways[k] = way_of(static_cast<int64_t>(row) * num_positions + position, head, i);
      features[k] = i;
      halves[k].ones = load_pack(ways[k].from, left, WHOLE);
      halves[k].others = load_pack(ways[k].from + HALF, left, WHOLE);
    }
#pragma unroll
    for (int k = 0; k < AT_ONCE; ++k) {
      if (start + k * THREADS >= num_packs) break;
      int left = WHOLE ? N : min(HALF - features[k], N);
      if (ways[k].turns) halves[k].turn(cosines, sines, features[k], left);
      store_pack(ways[k].to, halves[k].ones, left, WHOLE);
      store_pack(ways[k].to + HALF, halves[k].others, left, WHOLE);
    }
  }
}

// `x` is (rows, num_positions, H, D). The other way around if INVERSE.
template <int THREADS, int H, int D, bool INVERSE, typename T>
__device__ void rotary(
    const T* x, T* result, int num_rows, int num_positions, float log2_base) {
  constexpr int HALF = D / 2;
  __shared__ float cosines[HALF];
  __shared__ float sines[HALF];
  take_angles<THREADS, HALF, INVERSE>(blockIdx.x % num_positions, log2_base, cosines, sines);
  auto way_of = [=](int64_t token, int head, int i) {
    int64_t at = (token * H + head) * D + i;
    return Way<T>{x + at, result + at, true};
  };
  if (HALF % Pack<T>::size == 0 && begin_packs(x, result)) {
    turn_heads<THREADS, H, D, true, T>(num_rows, num_positions, cosines, sines, way_of);
  } else {
    turn_heads<THREADS, H, D, false, T>(num_rows, num_positions, cosines, sines, way_of);
  }
}

// `all` is (rows, num_positions, H + 2 K, D): the heads of queries, those of keys and those of values. From there to
// `queries` (rows, num_positions, H, D), `keys` and `values` (rows, num_positions, K, D), all but values rotated; or
// from them to `all`, rotated the other way around, if INVERSE.
template <int THREADS, int H, int K, int D, bool INVERSE, typename T>
__device__ void rotary_joined(
    T* all, T* queries, T* keys, T* values, int num_rows, int num_positions, float log2_base) {
  constexpr int HALF = D / 2;
  constexpr int HEADS = H + 2 * K;
  __shared__ float cosines[HALF];
  __shared__ float sines[HALF];
  take_angles<THREADS, HALF, INVERSE>(blockIdx.x % num_positions, log2_base, cosines, sines);
  auto way_of = [=](int64_t token, int head, int i) {
    T* joined = all + (token * HEADS + head) * D + i;
    T* apart = head < H ? queries + (token * H + head) * D + i
        : head < H + K  ? keys + (token * K + head - H) * D + i
                        : values + (token * K + head - H - K) * D + i;
    return INVERSE ? Way<T>{apart, joined, head < H + K} : Way<T>{joined, apart, head < H + K};
  };
  if (HALF % Pack<T>::size == 0 && begin_packs(all, queries, keys, values)) {
    turn_heads<THREADS, HEADS, D, true, T>(num_rows, num_positions, cosines, sines, way_of);
  } else {
    turn_heads<THREADS, HEADS, D, false, T>(num_rows, num_positions, cosines, sines, way_of);
  }
}
