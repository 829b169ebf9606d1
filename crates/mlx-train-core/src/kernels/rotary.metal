// Rotations of the halves of heads against each other, by the position of their token times a frequency.
//
// A group of threads has one position in some of the rows of a batch: their angles are the same, and are taken once.

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
  for (int i = thread_index; i < HALF; i += THREADS) {
    float exponent = static_cast<float>(i) / static_cast<float>(HALF);
    float angle = static_cast<float>(position) * metal::exp2(-exponent * log2_base);
    cosines[i] = metal::precise::cos(angle);
    sines[i] = INVERSE ? -metal::precise::sin(angle) : metal::precise::sin(angle);
  }
  metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup);
  // All packs of all rows, so that no thread is left over.
  int num_packs = (num_rows - first_row + parts - 1) / parts * (H * PACKS);
  for (int index = thread_index; index < num_packs; index += THREADS) {
    int row = first_row + index / (H * PACKS) * parts, pack = index % (H * PACKS);
    int head = pack / PACKS, i = pack % PACKS * N;
    int left = metal::min(HALF - i, N);
    int64_t token = static_cast<int64_t>(row) * num_positions + position;
    int64_t at = (token * H + head) * D + i;
    Pack ones = load_pack(x + at, left);
    Pack others = load_pack(x + at + HALF, left);
    for (int j = 0; j < N; ++j) {
      float one = ones.at[j], other = others.at[j];
      float cosine = j < left ? cosines[i + j] : 0.0f, sine = j < left ? sines[i + j] : 0.0f;
      ones.at[j] = one * cosine - other * sine;
      others.at[j] = one * sine + other * cosine;
    }
    store_pack(result + at, ones, left);
    store_pack(result + at + HALF, others, left);
  }
}
