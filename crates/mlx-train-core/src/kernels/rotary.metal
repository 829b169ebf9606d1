// Rotations of the halves of heads against each other, by the position of their token times a frequency.
//
// A group of threads has one position in some of the rows of a batch: their angles are the same, and are taken once.

// The angles of one position, the other way around if INVERSE, for all threads.
template <int THREADS, int HALF, bool INVERSE>
void take_angles(
    int position,
    float log2_base,
    int thread_index,
    threadgroup float* cosines,
    threadgroup float* sines) {
  for (int i = thread_index; i < HALF; i += THREADS) {
    float exponent = static_cast<float>(i) / static_cast<float>(HALF);
    float angle = static_cast<float>(position) * metal::exp2(-exponent * log2_base);
    cosines[i] = metal::precise::cos(angle);
    sines[i] = INVERSE ? -metal::precise::sin(angle) : metal::precise::sin(angle);
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
}

// Features from `i` on of the first half of a head, and those of the second half.
struct Halves {
  Pack ones;
  Pack others;
};

Halves turned(
    Halves halves, threadgroup const float* cosines, threadgroup const float* sines, int i, int left) {
  for (int j = 0; j < Pack::size; ++j) {
    float one = halves.ones.at[j], other = halves.others.at[j];
    float cosine = j < left ? cosines[i + j] : 0.0f, sine = j < left ? sines[i + j] : 0.0f;
    halves.ones.at[j] = one * cosine - other * sine;
    halves.others.at[j] = one * sine + other * cosine;
  }
  return halves;
}

// `x` is (rows, num_positions, H, D). The other way around if INVERSE. `cosines` and `sines` have room for D / 2.
template <int THREADS, int H, int D, bool INVERSE, typename T, typename X>
void rotary(
    X x,
    device T* result,
    int num_rows,
    int num_positions,
    float log2_base,
    int block,
    int num_blocks,
    int thread_index,
    threadgroup float* cosines,
    threadgroup float* sines) {
  constexpr int N = Pack::size;
  constexpr int HALF = D / 2;
  constexpr int PACKS = (HALF + N - 1) / N;
  int position = block % num_positions;
  int first_row = block / num_positions, parts = num_blocks / num_positions;
  take_angles<THREADS, HALF, INVERSE>(position, log2_base, thread_index, cosines, sines);
  // All packs of all rows, so that no thread is left over.
  int num_packs = (num_rows - first_row + parts - 1) / parts * (H * PACKS);
  for (int index = thread_index; index < num_packs; index += THREADS) {
    int row = first_row + index / (H * PACKS) * parts, pack = index % (H * PACKS);
    int head = pack / PACKS, i = pack % PACKS * N;
    int left = metal::min(HALF - i, N);
    int64_t token = static_cast<int64_t>(row) * num_positions + position;
    int64_t at = (token * H + head) * D + i;
    Halves halves = {load_pack(x + at, left), load_pack(x + at + HALF, left)};
    halves = turned(halves, cosines, sines, i, left);
    store_pack(result + at, halves.ones, left);
    store_pack(result + at + HALF, halves.others, left);
  }
}

// `all` is (rows, num_positions, H + 2 K, D): the heads of queries, those of keys and those of values. From there to
// `queries` (rows, num_positions, H, D), `keys` and `values` (rows, num_positions, K, D), all but values rotated; or
// from them to `all`, rotated the other way around, if INVERSE. `cosines` and `sines` have room for D / 2.
template <int THREADS, int H, int K, int D, bool INVERSE, typename T>
void rotary_joined(
    device T* all,
    device T* queries,
    device T* keys,
    device T* values,
    int num_rows,
    int num_positions,
    float log2_base,
    int block,
    int num_blocks,
    int thread_index,
    threadgroup float* cosines,
    threadgroup float* sines) {
  constexpr int N = Pack::size;
  constexpr int HALF = D / 2;
  constexpr int PACKS = (HALF + N - 1) / N;
  constexpr int HEADS = H + 2 * K;
  int position = block % num_positions;
  int first_row = block / num_positions, parts = num_blocks / num_positions;
  take_angles<THREADS, HALF, INVERSE>(position, log2_base, thread_index, cosines, sines);
  int num_packs = (num_rows - first_row + parts - 1) / parts * (HEADS * PACKS);
  for (int index = thread_index; index < num_packs; index += THREADS) {
    int row = first_row + index / (HEADS * PACKS) * parts, pack = index % (HEADS * PACKS);
    int head = pack / PACKS, i = pack % PACKS * N;
    int left = metal::min(HALF - i, N);
    int64_t token = static_cast<int64_t>(row) * num_positions + position;
    device T* joined = all + (token * HEADS + head) * D + i;
    device T* apart = head < H ? queries + (token * H + head) * D + i
        : head < H + K         ? keys + (token * K + head - H) * D + i
                               : values + (token * K + head - H - K) * D + i;
    device T* from = INVERSE ? apart : joined;
    device T* to = INVERSE ? joined : apart;
    Halves halves = {load_pack(from, left), load_pack(from + HALF, left)};
    if (head < H + K) halves = turned(halves, cosines, sines, i, left);
    store_pack(to, halves.ones, left);
    store_pack(to + HALF, halves.others, left);
  }
}
