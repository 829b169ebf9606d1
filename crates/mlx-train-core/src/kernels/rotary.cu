// Rotations of the halves of heads against each other, by the position of their token times a frequency.
//
// A block has one position in some of the rows of a batch: their angles are the same, and are taken once.

// `x` is (rows, num_positions, H, D). The other way around if INVERSE.
template <int THREADS, int H, int D, bool INVERSE, typename T>
__device__ void rotary(
    const T* x, T* result, int num_rows, int num_positions, float log2_base) {
  constexpr int N = Pack<T>::size;
  constexpr int HALF = D / 2;
  constexpr int PACKS = (HALF + N - 1) / N;
  __shared__ float cosines[PACKS * N];
  __shared__ float sines[PACKS * N];
  int position = blockIdx.x % num_positions;
  int first_row = blockIdx.x / num_positions, parts = gridDim.x / num_positions;
  for (int i = threadIdx.x; i < HALF; i += THREADS) {
    float exponent = static_cast<float>(i) / static_cast<float>(HALF);
    float angle = static_cast<float>(position) * exp2f(-exponent * log2_base);
    cosines[i] = cosf(angle);
    sines[i] = INVERSE ? -sinf(angle) : sinf(angle);
  }
  __syncthreads();
  bool at_once = HALF % N == 0 && begin_packs(x, result);
  // All packs of all rows, so that no thread is left over.
  int num_packs = (num_rows - first_row + parts - 1) / parts * (H * PACKS);
  for (int index = threadIdx.x; index < num_packs; index += THREADS) {
    int row = first_row + index / (H * PACKS) * parts, pack = index % (H * PACKS);
    int head = pack / PACKS, i = pack % PACKS * N;
    int left = min(HALF - i, N);
    int64_t token = static_cast<int64_t>(row) * num_positions + position;
    int64_t at = (token * H + head) * D + i;
    Pack<T> ones = load_pack(x + at, left, at_once);
    Pack<T> others = load_pack(x + at + HALF, left, at_once);
#pragma unroll
    for (int j = 0; j < N; ++j) {
      float one = static_cast<float>(ones.at[j]), other = static_cast<float>(others.at[j]);
      float cosine = j < left ? cosines[i + j] : 0.0f, sine = j < left ? sines[i + j] : 0.0f;
      ones.at[j] = static_cast<T>(one * cosine - other * sine);
      others.at[j] = static_cast<T>(one * sine + other * cosine);
    }
    store_pack(result + at, ones, left, at_once);
    store_pack(result + at + HALF, others, left, at_once);
  }
}
