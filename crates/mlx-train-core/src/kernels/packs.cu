// What kernels have in common: elements are read and written 16 bytes at a time.

constexpr float LOG2_E = 1.44269504088896340736f;

// 2^x within 2 units in the last place, and 0 below the smallest normal number: one instruction.
__device__ float power_of_2(float x) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
}

// As many elements as are read and written at once.
template <typename T>
struct alignas(16) Pack {
  static constexpr int size = 16 / sizeof(T);
  T at[size];
};

// Whether a pack begins at each of these addresses.
template <typename... P>
__device__ bool begin_packs(const P*... at) {
  return ((... | reinterpret_cast<uintptr_t>(at)) & 15) == 0;
}

// The first `left` elements of a pack, and zeros after them; at once if it is whole, and lies as packs do.
template <typename T>
__device__ Pack<T> load_pack(const T* from, int left, bool at_once) {
  if (at_once && left == Pack<T>::size) return *reinterpret_cast<const Pack<T>*>(from);
  Pack<T> pack;
#pragma unroll
  for (int j = 0; j < Pack<T>::size; ++j) {
    pack.at[j] = j < left ? from[j] : static_cast<T>(0.0f);
  }
  return pack;
}

// Writes the first `left` elements of a pack.
template <typename T>
__device__ void store_pack(T* to, const Pack<T>& pack, int left, bool at_once) {
  if (at_once && left == Pack<T>::size) {
    *reinterpret_cast<Pack<T>*>(to) = pack;
    return;
  }
#pragma unroll
  for (int j = 0; j < Pack<T>::size; ++j) {
    if (j < left) to[j] = pack.at[j];
  }
}
